// The pages in a real browser, over a running Millstream: what a person does, with script and without, and what axe says of every page.
//
// It is run by the test `pages` (tests/pages/main.rs), which gives it a JSON object in PAGES_TEST: `address` of a gateway with keys, the keys
// `office` and `store`, the programs `chromium` and `millstream`, the server's `nats`, and where
// wanted a folder for `pictures`, those of the README.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";
import axeCore from "axe-core";
import { chromium } from "playwright-core";

const given = JSON.parse(process.env.PAGES_TEST);
const { address, office, store } = given;
const DATE = "2026-03-14";
const STORES = ["2506", "2507", "2508", "2510", "2514"];
const PATIENCE = 60_000;

const step = async (name, act) => {
  const began = Date.now();
  try {
    const result = await act();
    console.log(`ok: ${name} (${Date.now() - began} ms)`);
    return result;
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
};

// Sends commands over HTTP, again and again until all are decided: a busy machine may not store them in time.
const send = async (commands) => {
  const named = commands.map((each) => ({ ...each, idempotency_key: randomUUID() }));
  for (let first = 0; first < named.length; first += 100) {
    const body = named.slice(first, first + 100).map((each) => JSON.stringify(each)).join("\n");
    const until = Date.now() + PATIENCE;
    for (;;) {
      const headers = { authorization: `Bearer ${office}`, "content-type": "application/jsonl", prefer: "wait=30" };
      const answer = await fetch(`${address}/v1/commands`, { method: "POST", headers, body });
      const text = await answer.text();
      const outcomes = answer.status === 200 ? text.trim().split("\n").map((line) => JSON.parse(line)) : [];
      if (outcomes.length > 0 && outcomes.every((outcome) => outcome.status === 200)) {
        break;
      }
      const isLate = (status) => status === 202 || status === 503;
      assert.ok(isLate(answer.status) || outcomes.every((outcome) => outcome.status === 200 || isLate(outcome.status)), text);
      assert.ok(Date.now() < until, text);
    }
  }
};

const command = (context, aggregate, id, name, body) => ({ context, aggregate, id, command: name, body });

// Over NATS, as a till does.
const overNats = (till, name, body) =>
  promisify(execFile)(given.millstream, ["send", "retail", "till", till, name, JSON.stringify(body)], {
    env: { ...process.env, NATS_URL: given.nats },
  });

const sale = (id, sku, quantity, price) => ({
  sale: id,
  currency: "USD",
  lines: [{ sku, quantity, unit_price: price }],
});

const days = (count) =>
  Array.from({ length: count }, (_, back) => {
    const date = new Date(`${DATE}T00:00:00Z`);
    date.setUTCDate(date.getUTCDate() - (count - 1 - back));
    return date.toISOString().slice(0, 10);
  });

const fill = async () => {
  const skus = [["tea", 450], ["mate", 520], ["cocoa", 610]];
  await send(skus.flatMap(([sku, price]) => [
    command("retail", "product", sku, "register", { name: sku[0].toUpperCase() + sku.slice(1), supplier: "acme" }),
    command("retail", "product", sku, "reprice", { unit_price: price, currency: "USD" }),
  ]));
  await send([command("retail", "stock", "web:tea", "receive", { quantity: 50 })]);
  const sales = [];
  for (const [day, date] of days(12).entries()) {
    for (const [place, name] of STORES.entries()) {
      const count = 2 + ((day * 7 + place * 5) % 6);
      for (let number = 1; number <= count; number += 1) {
        const [sku, price] = skus[(number + place) % skus.length];
        sales.push(command("retail", "till", `${name}_${date}`, "record-sale", sale(`S-${number}`, sku, 1 + ((number * 3 + day) % 5), price)));
      }
      if (date !== DATE) {
        sales.push(command("retail", "till", `${name}_${date}`, "close", {}));
      }
    }
  }
  await send(sales);
};

const signIn = async (page, key) => {
  await page.goto(`${address}/`);
  assert.match(page.url(), /\/sign-in\?/);
  await page.getByLabel("Key").fill("millstream_0000");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("This key is unknown").waitFor();
  await page.getByLabel("Key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
};

const withoutScript = new WeakSet();

// The state that an order's page shows; without script the page is opened again until it does.
const shows = async (page, state) => {
  const shown = page.locator('[data-part="row"]').getByText(state, { exact: true }).first();
  const until = Date.now() + PATIENCE;
  const withScript = !withoutScript.has(page);
  while (!(await shown.isVisible())) {
    assert.ok(Date.now() < until, `the order is never ${state}`);
    if (withScript) {
      await shown.waitFor({ timeout: PATIENCE });
    } else {
      await page.reload();
    }
  }
};

const give = async (page, name, fields) => {
  const details = page.locator("details", { has: page.locator("summary", { hasText: new RegExp(`^${name}$`) }) });
  await details.locator("summary").click();
  for (const [label, value] of Object.entries(fields)) {
    await details.getByLabel(label).fill(value);
  }
  await details.getByRole("button", { name, exact: true }).click();
};

const orderShipped = async (page, id) => {
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "orders" }).click();
  await page.getByRole("link", { name: "place order" }).click();
  await page.getByLabel("Id of the order").fill(id);
  await page.getByLabel("Customer").fill("anna");
  await page.getByLabel("Currency").fill("USD");
  await page.getByLabel("Location").fill("web");
  await page.getByLabel("Sku").fill("tea");
  await page.getByLabel("Quantity").fill("two");
  await page.getByLabel("Unit price").fill("450");
  await page.getByRole("button", { name: "One more entry" }).click();
  assert.equal(await page.getByLabel("Sku").count(), 2);
  await page.getByRole("button", { name: "Place", exact: true }).click();
  await page.getByText("two is no whole number.").waitFor();
  assert.equal(await page.getByLabel("Customer").inputValue(), "anna");
  await page.getByLabel("Quantity").first().fill("2");
  await page.getByRole("button", { name: "Place", exact: true }).click();
  await page.getByText("place took effect").waitFor();
  await shows(page, "reserved");
  await give(page, "Pay", { Payment: "P-1", Amount: "899", Currency: "USD" });
  await page.getByRole("alert").getByText("payment-amount-differs").waitFor();
  await page.getByLabel("Amount").fill("900");
  await page.getByRole("button", { name: "Pay", exact: true }).click();
  await page.getByText("pay took effect").waitFor();
  await shows(page, "paid");
  await give(page, "Ship", { Shipment: "V-1" });
  await page.getByText("ship took effect").waitFor();
  await shows(page, "shipped");
  await page.getByRole("heading", { name: "Order shipped" }).first().waitFor();
};

// The tables of the stage sql may be some moments behind.
const asksTopSellers = async (page) => {
  assert.equal(await page.getByLabel("From").inputValue(), "2000-01-01", "the default is filled in");
  await page.getByLabel("From").fill("2026-03-03");
  await page.getByLabel("Store").fill("2510");
  await page.getByRole("button", { name: "Ask" }).click();
  const until = Date.now() + PATIENCE;
  const cell = page.getByRole("table", { name: "Top sellers" }).getByRole("cell", { name: /^\d+\.\d\d$/ }).first();
  while (!(await cell.isVisible())) {
    assert.ok(Date.now() < until, "the rows are there in time");
    await page.reload();
  }
  assert.equal(await cell.getAttribute("class"), "number");
  assert.equal(new URL(page.url()).searchParams.get("store"), "2510", "the address has all of it");
};

const axe = async (page, what) => {
  // Evaluated and not added to the page, whose policy allows no script but its own.
  await page.evaluate(axeCore.source);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  const told = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
  assert.deepEqual(told, [], `axe of ${what}`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 0, `${what} is ${wide} px wider than its window`);
};

// What was set aside is decided again, and the next page says what became of it.
const retries = async (page, letter, product) => {
  await page.goto(`${address}/dead-letters?context=retail&code=rules-panicked`);
  await page.getByRole("link", { name: letter }).click();
  await page.getByText("rules of retail.product panicked").waitFor();
  await page.getByRole("button", { name: "Retry" }).click();
  await page.getByRole("heading", { name: "Dead letters" }).waitFor();
  await page.getByText(`${letter} was retried`).waitFor();
  const until = Date.now() + PATIENCE;
  const accepted = page.locator(".done").getByText("accepted", { exact: true });
  while (!(await accepted.isVisible())) {
    assert.ok(Date.now() < until, "it is decided in time");
    await page.reload();
  }
  assert.equal(await page.getByRole("link", { name: letter, exact: true }).count(), 0, "the next page shows it");
  await page.goto(`${address}/aggregates/retail/product/${product}`);
  await page.getByRole("heading", { name: "Product registered" }).waitFor();
};

const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox"] });
const origins = [];
const troubles = [];
const open = async (options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  if (options.javaScriptEnabled === false) {
    withoutScript.add(page);
  }
  page.on("console", (message) => {
    // A refused form is answered with 4xx, which the browser tells, too.
    if (message.type() === "error" && !/status of 4\d\d/.test(message.text())) {
      troubles.push(`${page.url()}: ${message.text()}`);
    }
  });
  page.on("request", (request) => {
    if (request.method() === "POST") {
      origins.push(request.allHeaders().then((headers) => headers.origin));
    }
  });
  page.on("pageerror", (error) => troubles.push(`${page.url()}: ${error.message}`));
  return page;
};

try {
  await step("stores have sold for some days", fill);
  const page = await open();
  await step("a key signs in, and a wrong one does not", () => signIn(page, office));
  await step("an order is placed, paid and shipped", () => orderShipped(page, "O-1"));

  const report = `${address}/reports/store-daily/${DATE}/2506`;
  await step("a sale over NATS appears in the open report by itself", async () => {
    await page.goto(report);
    const sales = page.locator(".figures li", { hasText: /^Sales/ }).locator(".value");
    const before = Number(await sales.textContent());
    await page.evaluate(() => {
      window.sameDocument = true;
    });
    await page.getByText(/^Live\./).waitFor();
    await overNats(`2506_${DATE}`, "record-sale", sale("N-1", "tea", 3, 450));
    await page.waitForFunction(
      (wanted) => [...document.querySelectorAll(".figures .value")].some((each) => each.textContent.trim() === wanted),
      String(before + 1),
    );
    assert.equal(await page.evaluate(() => window.sameDocument), true, "the page was loaded again");
  });

  await step("a sale after the close is a revision with its difference", async () => {
    await overNats(`2506_${DATE}`, "close", {});
    await overNats(`2506_${DATE}`, "record-sale", sale("LATE-1", "mate", 2, 520));
    await page.getByRole("heading", { name: "What revision 2 adds to revision 1" }).waitFor();
    const line = page.getByRole("row").filter({ hasText: "LATE-1" });
    assert.match(await line.textContent(), /10\.40/);
    await page.getByRole("link", { name: "Revision 1" }).click();
    await page.getByText("sealed").first().waitFor();
    assert.equal(await page.getByRole("heading", { name: /What revision/ }).count(), 0);
    await page.getByRole("link", { name: "Revision 2" }).click();
  });

  await step("a figure leads down to its sale, the command, and who sent it", async () => {
    const value = await page.locator(".figures li", { hasText: /^Net amount/ }).locator(".value").textContent();
    await page.getByRole("link", { name: /^Net amount/ }).click();
    const newest = page.getByRole("table", { name: "Postings, the newest first" }).getByRole("row").nth(1);
    const cells = await newest.locator("td").allTextContents();
    assert.equal(cells[0], "+10.40");
    assert.equal(`${cells[1]} USD`, value.trim(), "the postings come to the figure");
    await newest.getByRole("link").first().click();
    await page.getByRole("heading", { name: /Sale recorded/ }).waitFor();
    await page.getByText("LATE-1").first().waitFor();
    await page.getByRole("table", { name: "Commands" }).getByRole("link").first().click();
    await page.getByRole("heading", { name: "record-sale" }).waitFor();
    await page.getByRole("heading", { name: "What it said" }).waitFor();
    await page.getByText("accepted").first().waitFor();
    await page.goBack();
    await page.goBack();
    const ofOffice = page.getByRole("row").filter({ hasText: "office" });
    assert.ok((await ofOffice.count()) > 0, "who sent it is told");
  });

  await step("a report is there as CSV", async () => {
    await page.goto(report);
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "This row as CSV" }).click()]);
    assert.equal(download.suggestedFilename(), `store-daily-${DATE}-2506.csv`);
  });

  await step("a configured query is asked by its form, and is there as CSV", async () => {
    await page.goto(`${address}/`);
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Queries" }).click();
    await page.getByRole("link", { name: "Top sellers" }).click();
    await asksTopSellers(page);
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "CSV" }).click()]);
    assert.equal(download.suggestedFilename(), "retail-top-sellers.csv");
    assert.ok((await page.getByRole("cell", { name: /^\d+\.\d\d$/ }).locator("svg.chart").count()) > 1, "amounts have bars");
  });

  await step("a query shows a chart, and what is new in it without a reload where that is wanted", async () => {
    await page.goto(`${address}/queries/retail/by-day?store=2510`);
    await page.getByRole("img", { name: /^Amount by Business date, from 2026/ }).waitFor();
    await axe(page, "query with a chart");
    await page.goto(`${address}/queries/retail/top-sellers?store=2512`);
    await page.getByText("There are no rows.").waitFor();
    await page.evaluate(() => (window.isSame = true));
    await page.getByRole("link", { name: "Refresh every 10 seconds" }).click();
    await page.getByRole("status").getByText("Live").waitFor();
    await overNats(`2512_${DATE}`, "record-sale", sale("Q-1", "tea", 3, 450));
    await page.getByRole("table", { name: "Top sellers" }).getByRole("cell", { name: "13.50" }).waitFor();
    await page.getByRole("link", { name: "Do not refresh" }).click();
    await page.getByRole("link", { name: "Refresh every 10 seconds" }).waitFor();
    assert.equal(await page.evaluate(() => window.isSame), true, "the page is the same");
  });

  await step("an aggregate is shown as of a moment", async () => {
    await page.goto(`${address}/aggregates/orders/order/O-1`);
    await page.getByLabel("State as of").fill("2000-01-01");
    await page.getByRole("button", { name: "Show" }).click();
    await page.getByRole("heading", { name: "As of 2000-01-01" }).waitFor();
  });

  await step("a dead letter is retried, and another one dropped", async () => {
    await page.goto(`${address}/`);
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Dead letters" }).click();
    await page.getByRole("link", { name: "COMMANDS.9004" }).waitFor();
    await page.getByLabel("Context", { exact: true }).selectOption("retail");
    await page.getByRole("button", { name: "Show" }).click();
    await page.waitForURL(/context=retail/);
    assert.equal(await page.getByRole("link", { name: "COMMANDS.9004" }).count(), 0);
    await page.getByRole("link", { name: "COMMANDS.9003" }).click();
    await page.getByText("00 01 63 6c 6f 73 65 ff").waitFor();
    await page.locator("summary", { hasText: "Drop" }).click();
    await page.getByRole("button", { name: "Drop COMMANDS.9003" }).click();
    await page.getByRole("status").getByText("was dropped").waitFor();
    assert.equal(await page.getByRole("link", { name: "COMMANDS.9003" }).count(), 0, "the next page shows it");
    await retries(page, "COMMANDS.9001", "honey");
  });

  await step("a store's key is refused what is another store's", async () => {
    const own = await open();
    await signIn(own, store);
    await own.goto(`${address}/views/retail/till/2506_${DATE}`);
    await own.getByRole("heading", { name: `Till 2506_${DATE}` }).waitFor();
    await own.goto(`${address}/reports/store-daily/${DATE}/2506`);
    await own.getByRole("link", { name: /^Net amount/ }).waitFor();
    for (const [path, status] of [
      [`/views/retail/till/2507_${DATE}`, 403],
      [`/reports/store-daily/${DATE}/2507`, 403],
      [`/reports/store-daily/${DATE}/2507?figure=net_amount`, 403],
      [`/export/store-daily/${DATE}/2507`, 403],
      [`/aggregates/retail/till/2507_${DATE}`, 403],
      ["/views/orders/order", 403],
      ["/commands/orders/order/place", 403],
      [`/live?watch=retail/till/2507_${DATE}`, 403],
      ["/queries/retail/top-sellers?store=2507", 403],
      ["/queries/retail/basket-size", 403],
      ["/queries/retail/top-sellers/csv?store=2507", 403],
      ["/events/1", 404],
      ["/dead-letters/COMMANDS.9002", 403],
    ]) {
      const answer = await own.goto(address + path);
      assert.equal(answer.status(), status, path);
      await own.getByRole("heading", { name: status === 403 ? "Not granted" : "Not there" }).waitFor();
    }
    await own.goto(`${address}/queries/retail/top-sellers`);
    assert.deepEqual(await own.getByLabel("Store").locator("option").allTextContents(), ["2506"]);
    await own.getByRole("button", { name: "Sign out" }).click();
    await own.getByRole("heading", { name: "Sign in" }).waitFor();
    await own.goto(`${address}/views/retail/till/2506_${DATE}`);
    assert.match(own.url(), /\/sign-in\?next=/);
    await own.context().close();
  });

  await step("all of it works without script", async () => {
    const plain = await open({ javaScriptEnabled: false });
    await signIn(plain, office);
    await orderShipped(plain, "O-2");
    await plain.goto(report);
    await plain.getByRole("link", { name: /^Net amount/ }).click();
    await plain.getByRole("heading", { name: /^Made of/ }).waitFor();
    await plain.goto(`${address}/queries/retail/top-sellers`);
    await asksTopSellers(plain);
    await retries(plain, "COMMANDS.9002", "syrup");
    await plain.context().close();
  });

  const pages = {
    overview: "/",
    context: "/contexts/retail",
    list: "/views/retail/product",
    row: "/views/retail/store-daily-revisions/" + encodeURIComponent(`${DATE}/2506#000001`),
    order: "/aggregates/orders/order/O-1",
    form: "/commands/orders/order/place",
    report: `/reports/store-daily?date=${DATE}`,
    "report row": `/reports/store-daily/${DATE}/2506`,
    figure: `/reports/store-daily/${DATE}/2506?figure=net_amount`,
    event: "/events/1",
    queries: "/queries",
    query: "/queries/retail/top-sellers",
    "dead letters": "/dead-letters?done=dropped&letter=COMMANDS.1",
    "dead letter": "/dead-letters/COMMANDS.9004",
    "query that asks": "/queries/retail/stock-cover?from=soon&days=7",
    refusal: "/views/retail/nothing",
    "sign-in": "/sign-in",
  };
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [320, 1600]) {
      await step(`axe finds nothing serious at ${width} px, ${colorScheme}`, async () => {
        const looked = await open({ viewport: { width, height: 1000 }, colorScheme });
        await signIn(looked, office);
        for (const [name, path] of Object.entries(pages)) {
          await looked.goto(address + path);
          await axe(looked, `${name} at ${width} px, ${colorScheme}`);
        }
        await looked.context().close();
      });
    }
  }

  await step("the keyboard leads past the navigation", async () => {
    await page.goto(`${address}/`);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "content");
  });
  if (given.pictures) {
    await step("pictures are taken for the README", async () => {
      for (const [name, path, colorScheme] of [
        ["report", `/reports/store-daily/${DATE}/2506`, "light"],
        ["order", "/aggregates/orders/order/O-1", "light"],
        ["figure", `/reports/store-daily/${DATE}/2506?figure=net_amount`, "dark"],
      ]) {
        const shown = await open({ viewport: { width: 1200, height: 800 }, colorScheme });
        await signIn(shown, office);
        await shown.goto(address + path);
        await shown.screenshot({ path: `${given.pictures}/${name}.png` });
        await shown.context().close();
      }
    });
  }

  const sentBy = new Set((await Promise.all(origins)).filter((origin) => origin !== undefined));
  assert.deepEqual([...sentBy], [new URL(address).origin], "forms say which page has sent them");
  assert.deepEqual(troubles, [], "the browser has nothing to complain of");
} finally {
  await browser.close();
}
