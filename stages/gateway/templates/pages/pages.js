// Shows the parts of an open page anew when what they show has changed. Pages do without it.
"use strict";
const main = document.querySelector("main[data-live], main[data-every], main[data-on-demand]");
if (main) {
  const status = main.querySelector("[data-live-status]");
  const known = new Set();
  let busy = false;
  let again = false;
  let isLive = true;
  const say = (text) => {
    status.hidden = false;
    status.textContent = text;
  };
  const notLive = (why) => {
    isLive = false;
    say(`Not live now: ${why}.`);
  };
  const sequences = (text) =>
    new Map((text || "").split(",").map((each) => [each.slice(0, each.lastIndexOf(":")), Number(each.slice(each.lastIndexOf(":") + 1))]));
  // Whether the page was made before a position.
  const isOlder = (id) => {
    const shown = sequences(main.dataset.position);
    return [...sequences(id)].some(([stream, sequence]) => !(shown.get(stream) >= sequence));
  };
  const show = async () => {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok || answer.redirected) {
        notLive("the gateway refuses this page; open it again");
        return;
      }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      let isChanged = false;
      for (const part of document.querySelectorAll("[data-part]")) {
        const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
        if (other && !other.isEqualNode(part) && !part.contains(document.activeElement)) {
          part.replaceWith(document.adoptNode(other));
          isChanged = true;
        }
      }
      main.dataset.position = fresh.querySelector("main").dataset.position;
      if (isChanged || main.dataset.live) {
        say(`Live. Changed at ${new Date().toLocaleTimeString()}.`);
      } else if (!isLive) {
        say("Live.");
      }
      isLive = true;
    } catch {
      notLive("the gateway does not answer");
    } finally {
      // What changes all the time is shown every two seconds.
      setTimeout(() => {
        busy = false;
        if (again) {
          again = false;
          show();
        }
      }, 2000);
    }
  };
  const changed = (event) => {
    const watch = event.type + JSON.parse(event.data).watch;
    const isFirst = !known.has(watch);
    known.add(watch);
    if (!isFirst || isOlder(event.lastEventId)) {
      show();
    } else {
      say("Live.");
    }
  };
  if (main.dataset.live && "EventSource" in window) {
    const events = new EventSource("/live?" + main.dataset.live);
    events.addEventListener("row", changed);
    events.addEventListener("list", changed);
    events.addEventListener("problem", () => say("Not live now: the view does not answer."));
    events.addEventListener("end", () => {
      events.close();
      say("Not live any more. Open the page again.");
    });
  }
  // Nobody tells when streams change, so such a page asks again, as long as somebody can see it.
  const look = () => document.hidden || show();
  if (main.dataset.every) {
    setInterval(look, main.dataset.every * 1000);
  }
  // What such a page asks for may be dear, so it does so only if its address says it.
  if (main.dataset.onDemand) {
    const choice = main.querySelector("[data-live-choice]");
    const link = choice.querySelector("a");
    const seconds = Number(main.dataset.onDemand);
    let timer;
    const follow = () => {
      const isWanted = location.hash === "#live";
      clearInterval(timer);
      choice.hidden = false;
      link.textContent = isWanted ? "Do not refresh" : `Refresh every ${seconds} seconds`;
      link.href = isWanted ? "#content" : "#live";
      if (isWanted) {
        timer = setInterval(look, seconds * 1000);
        say("Live.");
        show();
      } else {
        status.hidden = true;
      }
    };
    addEventListener("hashchange", follow);
    follow();
  }
}
