//! Who is let in to pages, and whose forms are taken: asked byte by byte, as no browser of good will would.

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    program,
    system::{System, fresh_folder, millstream},
    waiting::until,
};

use crate::{address, client, with_keys};

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
const REGISTER: &str = "/commands/retail/product/register";

/// What a browser keeps of an answer.
fn cookies(answer: &HttpAnswer) -> Option<String> {
    answer.header("set-cookie").and_then(|cookie| cookie.split(';').next()).map(str::to_owned)
}

/// A page's form: the cookie that its token is made from, and the token.
pub(crate) async fn form(client: &HttpClient, path: &str) -> (String, String) {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (_, rest) = answer.body.split_once("name=\"form-token\" value=\"").expect("there is a form");
    let token = rest.split('"').next().unwrap().to_owned();
    (cookies(&answer).expect("a cookie comes with the first page"), token)
}

#[tokio::test]
async fn without_keys_nobody_signs_in_and_forms_of_other_sites_are_refused() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    system.expect_said("pages for a browser").await;
    let client = client(&address(&system));
    let home = client.with("Sec-Fetch-Site", "none").with("Sec-Fetch-Mode", "navigate").get("/").await;
    assert_eq!(
        (home.status, home.header("content-type")),
        (200, Some("text/html; charset=utf-8")),
        "{home:?}"
    );
    let policy = home.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(client.get("/sign-in").await.header("location"), Some("/"));
    let elsewhere =
        client.with("Sec-Fetch-Site", "cross-site").with("Sec-Fetch-Mode", "navigate").get("/").await;
    assert!(
        elsewhere.body.contains("http-equiv=\"refresh\"") && !elsewhere.body.contains("store-daily"),
        "{elsewhere:?}"
    );
    let style = home.body.split('"').find(|part| part.ends_with(".css")).unwrap();
    let style = client.get(style).await;
    assert_eq!(style.header("cache-control"), Some("public, max-age=31536000, immutable"), "{style:?}");

    let (cookie, token) = form(&client, REGISTER).await;
    let body = |token: &str| format!("form-token={token}&aggregate-id=tea&name=Tea&supplier=acme");
    let browser = client.with("Content-Type", FORM).with("Cookie", &cookie);
    let own = format!("http://{}", client.address());
    for (refused, body) in [
        (browser.with("Origin", "https://evil.example"), body(&token)),
        (browser.with("Sec-Fetch-Site", "cross-site"), body(&token)),
        (browser.with("Origin", "null"), body(&token)),
        (browser.with("Origin", &own), body("0123456789abcdef0123456789abcdef")),
        (browser.with("Origin", &own), body("")),
        (client.with("Content-Type", FORM).with("Origin", &own), body(&token)),
        (browser.with("Host", "evil.example").with("Origin", "http://evil.example"), body(&token)),
    ] {
        let answer = refused.request("POST", REGISTER, &body).await;
        assert_eq!(answer.status, 403, "{refused:?}: {answer:?}");
    }
    let wrong = browser.with("Origin", &own).request("POST", REGISTER, &format!("form-token={token}")).await;
    assert!(wrong.status == 422 && wrong.body.contains("Fill this in."), "{wrong:?}");
    let taken = browser.with("Origin", &own).request("POST", REGISTER, &body(&token)).await;
    assert_eq!(taken.status, 303, "{taken:?}");
    let next = taken.header("location").unwrap().to_owned();
    assert!(next.starts_with("/aggregates/retail/product/tea?position=EVENTS"), "{next}");
    let page = client.get(&next).await;
    assert!(
        page.status == 200 && page.body.contains("<dd>Tea</dd>"),
        "the next page shows the effect: {page:?}"
    );
    // The API is as closed to pages of other sites as before.
    let api = client.with("Origin", &own).post("/v1/commands/retail/product/tea/discontinue", "{}").await;
    assert_eq!(api.problem(), (403, "browser-refused".to_owned()));
}

#[tokio::test]
async fn a_key_in_a_cookie_opens_pages_alone_and_ends_when_it_is_revoked() {
    let folder = fresh_folder();
    let (system, office, _) = with_keys(folder.path()).await;
    let client = client(&address(&system));
    let asked = client.get("/reports/store-daily?date=2026-03-14").await;
    let to = asked.header("location").unwrap();
    assert_eq!(
        (asked.status, to),
        (303, "/sign-in?next=%2Freports%2Fstore-daily%3Fdate%3D2026-03-14"),
        "{asked:?}"
    );
    let (cookie, token) = form(&client, to).await;
    let browser = client.with("Content-Type", FORM).with("Cookie", &cookie);
    let body = format!("form-token={token}&key={office}&next=%2Freports%2Fstore-daily");
    let secure = browser
        .with("Origin", &format!("https://{}", client.address()))
        .request("POST", "/sign-in", &body)
        .await;
    let kept = secure.header("set-cookie").unwrap();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Secure", "; Path=/", "; Max-Age="] {
        assert!(kept.contains(part), "{part}: {kept}");
    }
    assert_eq!((secure.status, secure.header("location")), (303, Some("/reports/store-daily")), "{secure:?}");
    let plain = browser.request("POST", "/sign-in", &body).await;
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"), "{plain:?}");
    let signed_in = client.with("Cookie", &cookies(&secure).unwrap());
    let home = signed_in.get("/").await;
    assert!(home.status == 200 && home.body.contains("Signed in as <b>office</b>"), "{home:?}");
    assert!(!home.body.contains(&office), "no page tells the key");
    assert_eq!(signed_in.get("/v1/retail/product").await.problem(), (401, "key-missing".to_owned()));
    let mut revoke = millstream();
    revoke.args(["keys", "revoke", "office", "--file"]).arg(folder.path().join("keys.toml"));
    assert_eq!(program::run(revoke, b"").await.code(), Some(0));
    until("the key opens no page any more", async || {
        (signed_in.get("/").await.header("location") == Some("/sign-in?next=%2F&why=key-unknown"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_on_pages_is_in_the_audit_log() {
    const CLOSE: &str = "/commands/retail/till/close";
    let folder = fresh_folder();
    let (system, _, store) = with_keys(folder.path()).await;
    let client = client(&address(&system));
    let guessed = client.get("/sign-in").await;
    // With another policy browsers keep to themselves which page has sent a form.
    assert_eq!(guessed.header("referrer-policy"), Some("same-origin"), "{guessed:?}");
    let (cookie, token) = form(&client, "/sign-in").await;
    let browser = client.with("Content-Type", FORM).with("Cookie", &cookie);
    let body = format!("form-token={token}&key=millstream_guessed");
    assert_eq!(browser.request("POST", "/sign-in", &body).await.status, 401);
    let long = format!("form-token={token}&key={}", "a".repeat(3_801));
    let long = browser.request("POST", "/sign-in", &long).await;
    assert!(long.status == 422 && long.body.contains("too long for a browser"), "{long:?}");

    let key = format!("millstream-key={store}");
    let (cookie, token) = form(&client.with("Cookie", &key), CLOSE).await;
    let browser = client.with("Content-Type", FORM).with("Cookie", &format!("{cookie}; {key}"));
    let body = format!("form-token={token}&aggregate-id=2507_2026-01-02");
    let refused = browser.request("POST", CLOSE, &body).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    until("both are in the audit log", async || {
        let mut audit = millstream();
        audit.args(["audit", "list", "--denied", "--json"]).env("NATS_URL", system.url());
        let said = program::run(audit, b"").await.expect_success("audit list").stdout;
        let has =
            |code: &str, what: &str| said.lines().any(|line| line.contains(code) && line.contains(what));
        (has("key-unknown", "POST /sign-in")
            && has("command-not-granted", "POST /commands/retail/till/close"))
        .then_some(())
    })
    .await;
}
