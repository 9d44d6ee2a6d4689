//! The dashboard in a browser, and before those who may not see it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use browser::Browser;
use emitter_tests::eventually::eventually;
use serde_json::json;
use stage::{HOSTILE, LoginFailed, Stage};

mod browser;
mod refusals;
mod stage;
mod troubles;

/// Each screen: the key that leads there, the name on its link, its place.
const SCREENS: [(&str, &str, &str); 7] = [
    ("1", "Overview", ""),
    ("2", "Live", "/live"),
    ("3", "Event", "/event"),
    ("4", "Outbox", "/outbox"),
    ("5", "Dead letters", "/letters"),
    ("6", "Nodes", "/nodes"),
    ("7", "Listeners", "/listeners"),
];

/// Where pictures go, for people to look at.
fn picture(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{name}.png"))
}

/// What users wrote is text on this page, and did nothing.
async fn is_harmless(browser: &mut Browser) {
    let found = browser
        .eval(
            "({ hacked: window.hacked ?? 0, images: document.images.length,
                scripts: [...document.scripts].filter(it => !it.src).length,
                handlers: document.querySelectorAll('[onerror], [onclick], [style]').length })",
        )
        .await;
    let none = json!({ "hacked": 0, "images": 0, "scripts": 0, "handlers": 0 });
    let place = browser.eval("location.href").await;
    assert_eq!(found, none, "on {place}");
}

async fn shows_hostile(browser: &mut Browser, times: usize) {
    let text = browser
        .eval("document.body.innerText + [...document.querySelectorAll('textarea')].map(it => it.value)")
        .await;
    let found = text.as_str().unwrap().matches("<script>window.hacked=1</script>").count();
    assert!(found >= times, "{found} times on this page, and not {times}:\n{text}");
    is_harmless(browser).await;
}

fn heading(name: &str) -> String {
    format!(
        "document.querySelector('h1').innerText.startsWith({}) && document.readyState === 'complete'",
        json!(name)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_and_mends_what_is_wrong() {
    let mut stage = Stage::set().await;
    let home = format!("http://{}/ops", stage.address);
    for number in 1..=3 {
        stage.send(&format!("parcel {number} {HOSTILE}"));
    }
    // Of somebody else's program, and of nobody's.
    let foreign = json!({
        "model": "parcel", "operation": "update", "eventId": HOSTILE, "args": { "data": HOSTILE }, "traceparent": HOSTILE,
        "result": { "id": HOSTILE, HOSTILE: HOSTILE }, "before": { "id": HOSTILE, HOSTILE: 1 }, "changed": [HOSTILE],
        "origin": { "service": HOSTILE, "node": HOSTILE, "incarnation": HOSTILE }, "metadata": { HOSTILE: HOSTILE },
        "causedBy": HOSTILE, "kind": HOSTILE, "timestamp": HOSTILE,
    });
    stage.broker.publish("prisma/events/parcel/update", foreign.to_string());
    stage.broker.publish("prisma/events/parcel/create", format!("{HOSTILE} is no JSON"));
    stage.announce();

    let mut browser = Browser::start().await;
    let browser = &mut browser;
    browser.open(&format!("http://{}/login/operator", stage.address)).await;
    browser.open(&home).await;
    browser.until(&heading("Overview")).await;
    // Three that no listener handled, and two that could not be read.
    browser.until("fetch").await;
    for place in ["/letters", ""] {
        browser.open(&format!("{home}{place}")).await;
        browser.until("document.body.innerText.includes('unhandled') && document.body.innerText.includes('undecodable')").await;
    }

    // Every screen, by its link and by its key; charts are drawn.
    for (key, name, place) in SCREENS {
        browser.click(&format!("nav a[data-key='{key}']")).await;
        browser.until(&heading(name)).await;
        browser.until(&format!("location.pathname === '/ops{place}'")).await;
        is_harmless(browser).await;
    }
    browser.press("1").await;
    browser.until(&heading("Overview")).await;
    browser.until("document.querySelectorAll('.tile .chart .line').length === 10").await;
    browser.until("document.querySelector('.tile .chart .line').getAttribute('d').length > 20").await;

    // Live: what came before, and what comes now.
    browser.press("2").await;
    browser.until("document.querySelectorAll('#live tbody tr').length >= 6").await;
    stage.send(&format!("parcel 4 {HOSTILE}"));
    stage.emitter.publish(LoginFailed { username: HOSTILE.to_owned() });
    browser.until("[...document.querySelectorAll('#live tbody tr')].some(row => row.innerText.includes('parcel 4'))").await;
    browser.until("document.querySelector('#live').innerText.includes('login_failed')").await;
    shows_hostile(browser, 6).await;
    browser.picture(&picture("live")).await;
    // It stands still while somebody reads, and forgets nothing.
    browser.click("#live-pause").await;
    stage.send("parcel 5");
    browser.until("document.querySelector('#live-pause').innerText === 'Resume (2)'").await;
    browser.click("#live-pause").await;
    browser.until("document.querySelector('#live').innerText.includes('parcel 5')").await;
    browser.write("#live-filter [name=key]", "parcel 6").await;
    browser.click("#live-filter [type=submit]").await;
    stage.send("parcel 7");
    stage.send("parcel 6");
    browser.until("document.querySelectorAll('#live tbody tr').length === 2").await;
    browser.until("!document.querySelector('#live').innerText.includes('parcel 7')").await;

    // One event: what it changed, whom it failed at, what else happened to its row.
    browser.click("#live tbody tr:first-child a").await;
    browser.until(&heading("Event 0")).await;
    // The page asks for itself again until all of it is known.
    for known in ["dead letter", "COMPLETED", "parcel_created"] {
        browser.until(&format!("document.body.innerText.includes('{known}')")).await;
    }
    let change =
        browser.eval("document.querySelector('tr.changed').innerText.replace(/\\s+/g, ' ').trim()").await;
    assert_eq!(change, "status changed NEW SENT");
    let text = browser.eval("document.body.innerText").await;
    let text = text.as_str().unwrap();
    for shown in ["redacted", "hashed", "tell_customer", "this one", "parcel_created", "shop/web-1"] {
        assert!(text.contains(shown), "{shown} is not on the page:\n{text}");
    }
    for secret in ["4111", "ada@example.com", "sesame"] {
        assert!(!text.contains(secret), "{secret} is on the page:\n{text}");
    }
    shows_hostile(browser, 3).await;
    pictures(browser, "one-event").await;

    // One dead letter, edited.
    browser.click("a[href*='/letter/']").await;
    browser.until(&heading("Dead letter")).await;
    shows_hostile(browser, 2).await;
    pictures(browser, "one-letter").await;
    let event = browser.eval("document.querySelector('textarea').value").await;
    let edited =
        event.as_str().unwrap().replace("window.hacked=1</script>", "window.hacked=1</script> (edited)");
    browser.write("textarea", &edited).await;
    browser.click("form.edit [type=submit]").await;
    browser.until("document.activeElement === document.body && document.querySelector('textarea').value.includes('(edited)')").await;

    // Of this listener: what a redrive would touch, and the redrive.
    browser.press("5").await;
    browser.until(&heading("Dead letters")).await;
    browser.until("document.body.innerText.includes('edit the dead letter')").await;
    shows_hostile(browser, 5).await;
    pictures(browser, "letters").await;
    browser.click(".groups a[title=tell_customer]").await;
    browser.until("location.search === '?listener=tell_customer'").await;
    browser.click("a.button[href*='/plan']").await;
    browser.until(&heading("A dry run")).await;
    assert_eq!(browser.eval("document.querySelector('#planned').innerText").await, "7");
    pictures(browser, "plan").await;
    stage.mail.is_there.store(true, Ordering::SeqCst);
    browser.click("form[action$=redrive] button").await;
    browser.until(&heading("Dead letters")).await;
    let sent = || stage.mail.sent.load(Ordering::SeqCst);
    eventually(|| sent() == 7).await;
    // The page asks for itself again.
    browser.until("document.body.innerText.includes('7 handled, 0 failed again')").await;
    browser.until("!document.querySelector('.groups a[title=tell_customer]')").await;

    // What could not be read is discarded, if one types what.
    browser.click("a.button[href*='/plan']").await;
    browser.until(&heading("A dry run")).await;
    let left = browser.eval("document.querySelector('#planned').innerText").await;
    browser.write("[name=confirm]", "discard 77").await;
    browser.click("form[action$=discard] button").await;
    browser.until(&heading("It was not done")).await;
    browser.open(&format!("{home}/letters/plan")).await;
    browser.write("[name=confirm]", &format!("discard {}", left.as_str().unwrap())).await;
    browser.click("form[action$=discard] button").await;
    browser.until(&heading("Dead letters")).await;
    browser.until("document.body.innerText.includes('No dead letters.')").await;
    browser.until("document.body.innerText.includes('discard dead letters of')").await;

    // The outbox rests, and goes on.
    browser.press("4").await;
    browser.click("form[action$=pause] button").await;
    browser.until("document.querySelector('form[action$=resume]')").await;
    stage.send("parcel 8");
    browser.until("document.querySelector('.numbers .now').innerText === '2'").await;
    browser.click("form[action$=resume] button").await;
    browser.until("document.querySelector('.numbers .now').innerText === '0'").await;

    // By id.
    browser.press("/").await;
    browser.until(&heading("Event")).await;
    browser.write("[name=id]", "no id").await;
    browser.click("form[role=search] button").await;
    browser.until(&heading("That cannot be read")).await;

    for (_, name, place) in SCREENS {
        browser.open(&format!("{home}{place}")).await;
        browser.until(&heading(name)).await;
        pictures(browser, &name.to_lowercase().replace(' ', "-")).await;
    }
    let own = format!("//{}/", stage.address);
    let elsewhere: Vec<_> =
        browser.requests.iter().filter(|url| !url.contains(&own) && *url != "about:blank").collect();
    assert!(elsewhere.is_empty(), "it asked elsewhere: {elsewhere:?}");
    // Answers that are errors, and are meant to be.
    browser
        .complaints
        .retain(|complaint| !complaint.contains("status of 40") && !complaint.contains("favicon"));
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
    stage.end().await;
}

/// A page in light and dark, and as wide as a phone, where nothing is cut off.
async fn pictures(browser: &mut Browser, name: &str) {
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await;
        browser.picture(&picture(&format!("{name}-{scheme}"))).await;
    }
    browser.scheme("light").await;
    browser.size(390, 844, true).await;
    browser.picture(&picture(&format!("{name}-phone"))).await;
    let width = browser.eval("document.documentElement.scrollWidth").await;
    assert!(width.as_u64().unwrap() <= 390, "{name} is {width} wide on a phone");
    browser.size(1280, 900, false).await;
}
