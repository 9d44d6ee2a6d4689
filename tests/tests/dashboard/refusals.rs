//! Who may not, does not.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{HOSTILE, Stage};

/// Everything that can be asked for.
const PAGES: [&str; 16] = [
    "",
    "/live",
    "/event",
    "/event/0193ac5e-0000-7000-8000-000000000000",
    "/outbox",
    "/letters",
    "/letters/plan",
    "/letter/1",
    "/nodes",
    "/listeners",
    "/file/dashboard.css",
    "/file/dashboard.js",
    "/stream/events",
    "/stream/ws/events",
    "/stream/events/client.js",
    "/nowhere",
];

const ACTIONS: [&str; 7] = [
    "/outbox/pause",
    "/outbox/resume",
    "/outbox/retry",
    "/letters/redrive",
    "/letters/stop",
    "/letters/discard",
    "/letter/1/edit",
];

const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// Asks, and returns the head of the answer and some of what comes behind it.
async fn ask(stage: &Stage, method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let form = "content-type: application/x-www-form-urlencoded";
    let request = format!(
        "{method} /ops{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{form}\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        stage.address,
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64 * 1024];
    let mut length = 0;
    // A stream does not end.
    while !answer[..length].windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = socket.read(&mut answer[length..]).await.unwrap();
        assert!(read > 0, "{method} {path}: no answer");
        length += read;
    }
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[track_caller]
fn is(answer: &str, status: u16, of: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{of}: {answer}");
    assert!(answer.contains("content-security-policy: default-src 'none';"), "{of}: {answer}");
    assert!(answer.contains("x-frame-options: DENY"), "{of}: {answer}");
    assert!(answer.contains("cache-control: no-store"), "{of}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shown_anything() {
    let stage = Stage::set().await;
    for headers in [&[][..], &["cookie: user=stranger"], &["cookie: operator"]] {
        for path in PAGES {
            is(&ask(&stage, "GET", path, headers, "").await, 401, path);
        }
        for path in ACTIONS {
            is(&ask(&stage, "POST", path, headers, "").await, 401, path);
        }
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_are_refused() {
    let stage = Stage::set().await;
    let operator = format!("cookie: user=operator; emitter_dashboard={TOKEN}");
    let body = format!("token={TOKEN}&rate=1");
    let null = "origin: null";
    let evil = "origin: https://evil.example";
    // What browsers say of a request that a page of another site makes, where they say no origin.
    let (site, mode, dest) =
        ("sec-fetch-site: cross-site", "sec-fetch-mode: no-cors", "sec-fetch-dest: script");
    for headers in [&[&*operator, evil][..], &[&operator, null], &[&operator, site, mode, dest]] {
        for path in PAGES {
            is(&ask(&stage, "GET", path, headers, "").await, 403, path);
        }
        for path in ACTIONS {
            is(&ask(&stage, "POST", path, headers, &body).await, 403, path);
        }
    }
    // Nor may they show it in a frame, or send a form by a link.
    let (navigates, frame) = ("sec-fetch-mode: navigate", "sec-fetch-dest: iframe");
    is(&ask(&stage, "GET", "", &[&operator, site, navigates, frame], "").await, 403, "a frame");
    let whole = "sec-fetch-dest: document";
    is(
        &ask(&stage, "POST", "/outbox/pause", &[&operator, site, navigates, whole], &body).await,
        403,
        "a form",
    );
    // Who follows a link is welcome.
    is(&ask(&stage, "GET", "", &[&operator, site, navigates, whole], "").await, 200, "a link");
    stage.end().await;
}

/// By HTTP/2 it is asked for by CONNECT (RFC 8441). This server speaks HTTP/1.1, by which axum makes no WebSocket of it: what
/// is seen here is who gets that far.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_look_gets_a_socket_by_either_method() {
    let stage = Stage::set().await;
    let (reader, own) = ("cookie: user=reader", format!("origin: http://{}", stage.address));
    let socket = "/stream/ws/events";
    let ask = async |path, headers: &[&str]| ask(&stage, "CONNECT", path, headers, "").await;
    is(&ask(socket, &[reader, &own]).await, 405, socket);
    is(&ask(socket, &[&own]).await, 401, socket);
    is(&ask(socket, &[reader, "origin: https://evil.example"]).await, 403, socket);
    for path in PAGES.into_iter().chain(ACTIONS).filter(|path| *path != socket) {
        is(&ask(path, &[reader, &own]).await, 403, path);
    }
    stage.end().await;
}

/// Whatever clocks say: that of the database may be behind the node's.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_dry_run_is_not_touched() {
    let mut stage = Stage::set().await;
    // What is published before it is there for it is lost.
    stage.emitter.connected(Duration::from_secs(20)).await.unwrap();
    let dies = async |stage: &Stage, letters: usize| {
        stage.broker.publish("prisma/events/parcel/create", "no event");
        let shown = format!("<strong>{letters}</strong> dead letters");
        let is_shown = async {
            while !page(stage, "/letters", "operator").await.contains(&shown) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_shown).await.expect("it is shown");
    };
    dies(&stage, 1).await;
    dies(&stage, 2).await;
    let plan = page(&stage, "/letters/plan", "operator").await;
    let form = plan.split("action=\"/ops/letters/discard\"").nth(1).unwrap().split("</form>").next().unwrap();
    let hidden = form.split("type=\"hidden\" name=\"").skip(1).filter_map(|field| {
        let (name, field) = field.split_once("\" value=\"")?;
        Some(format!("&{name}={}", field.split_once('"')?.0)).filter(|_| name != "token")
    });
    let chosen: String = hidden.collect();
    dies(&stage, 3).await;
    stage.execute("UPDATE emitter_dlq_events SET created_at = '2020-01-01T00:00:00.000Z' WHERE id > 2");
    let own = format!("origin: http://{}", stage.address);
    let cookie = format!("cookie: user=operator; emitter_dashboard={TOKEN}");
    let body = format!("token={TOKEN}{chosen}&confirm=discard+2");
    is(&ask(&stage, "POST", "/letters/discard", &[&own, &cookie], &body).await, 303, "discard");
    let left = page(&stage, "/letters", "operator").await;
    assert!(left.contains("<strong>1</strong> dead letters"), "{left}");
    stage.end().await;
}

/// The events before one and behind it, of a key that something happens to all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_key_has_its_next_neighbours() {
    let mut stage = Stage::set().await;
    let id = |number: u32| format!("0193ac5e-0000-7000-8000-{number:012}");
    for number in 0..500 {
        stage.execute(&format!(
            "INSERT INTO emitter_events_mirror (topic, payload, model, record_id, event_id) \
             VALUES ('a/b', '{{}}', 'parcel', '7', '{}')",
            id(number)
        ));
    }
    let shown = page(&stage, &format!("/event/{}", id(450)), "reader").await;
    let neighbours: Vec<u32> =
        (0..500).filter(|number| shown.contains(&format!("/ops/event/{}\"", id(*number)))).collect();
    assert_eq!(neighbours, (430..450).chain(451..471).collect::<Vec<_>>());
    stage.end().await;
}

/// Without a mirror: the outbox and its history keep what they published.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_event_changed_is_in_the_outbox_too() {
    let mut stage = Stage::set().await;
    stage.mail.is_there.store(true, Ordering::SeqCst);
    stage.send("parcel 1");
    stage.announce();
    let id = "0193ac5e-0000-7000-8000-000000000001";
    let begun = Instant::now();
    let shown = loop {
        // No mirror knows it by this one.
        stage.execute(&format!(
            "UPDATE emitter_history SET event_id = '{id}' WHERE payload LIKE '%\"operation\":\"update\"%'"
        ));
        let shown = page(&stage, &format!("/event/{id}"), "reader").await;
        if shown.contains("COMPLETED") && shown.contains("stamp") {
            break shown;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(shown.contains("not in a mirror of this database"), "{shown}");
    assert!(shown.contains("What it changed") && shown.contains("Envelope"), "{shown}");
    for (when, status) in [("before", "NEW"), ("after", "SENT")] {
        let told = format!("<td class=\"{when}\"><span class=\"value\">{status}</span>");
        assert!(shown.contains(&told), "{shown}");
    }
    // The listeners of which nothing is written down: those of nodes that are there, to its model.
    let untold = shown.split("nothing is written down here:").nth(1).unwrap();
    for told in [
        "<strong>stamp</strong><span class=\"note\"> of mail/a</span>",
        "it handled it at once, was added later, or its filter held it back",
        "<strong>&lt;script&gt;",
        "18\u{202f}446\u{202f}744\u{202f}073\u{202f}709\u{202f}551\u{202f}615 listeners more are not named",
    ] {
        assert!(untold.contains(told), "{told}: {shown}");
    }
    assert!(!untold.contains("mail/b") && !shown.contains(HOSTILE), "{shown}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_listeners_are_shown_as_they_say_on_the_bus() {
    let stage = Stage::set().await;
    stage.announce();
    let begun = Instant::now();
    let nodes = loop {
        let nodes = page(&stage, "/nodes", "reader").await;
        if nodes.contains("mail/b") {
            break nodes;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{nodes}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(
        nodes.contains("mail/a") && nodes.contains("there</span>") && nodes.contains("gone</span>"),
        "{nodes}"
    );
    assert!(!nodes.contains("mail/c") && !nodes.contains("mail/d"), "{nodes}");
    let listeners = page(&stage, "/listeners", "reader").await;
    let escaped = HOSTILE.replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    assert!(
        listeners.contains("stamp") && listeners.contains(&escaped) && !listeners.contains(HOSTILE),
        "{listeners}"
    );
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_outbox_gave_up_is_told_beside_the_letters() {
    let mut stage = Stage::set().await;
    assert!(!page(&stage, "/letters", "reader").await.contains("In the whole outbox"));
    // No relay has them in its hands.
    stage.execute("UPDATE emitter_lanes SET paused = 1");
    stage.mail.is_there.store(true, Ordering::SeqCst);
    stage.send("parcel 1");
    stage.execute("UPDATE emitter_outbox SET status = 'FAILED', handler = NULL, last_error = 'too large'");
    let letters = page(&stage, "/letters", "reader").await;
    let told = "<p>In the whole outbox, <a href=\"/ops/outbox\">given up</a>: 2.</p>";
    assert!(letters.contains(told), "{letters}");
    assert_eq!(page(&stage, "/outbox", "reader").await.matches("too large").count(), 2);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_needs_the_right_and_the_token() {
    let stage = Stage::set().await;
    let own = format!("origin: http://{}", stage.address);
    let cookies = |user: &str, token: &str| format!("cookie: user={user}; emitter_dashboard={token}");
    let body = |token: &str| format!("token={token}&rate=1&number=1&confirm=discard+0&payload=%7B%7D");
    for path in ACTIONS {
        let other = "ffeeddccbbaa99887766554433221100";
        for (cookie, token) in [
            (cookies("operator", TOKEN), other),
            (cookies("operator", TOKEN), ""),
            (cookies("operator", ""), ""),
            ("cookie: user=operator".to_owned(), TOKEN),
            // A reader may not, whatever it knows.
            (cookies("reader", TOKEN), TOKEN),
        ] {
            is(&ask(&stage, "POST", path, &[&own, &cookie], &body(token)).await, 403, path);
        }
        is(&ask(&stage, "POST", path, &[&own, &cookies("operator", TOKEN)], "").await, 403, path);
        // Other methods do nothing.
        let answer = ask(&stage, "PUT", path, &[&own, &cookies("operator", TOKEN)], &body(TOKEN)).await;
        is(&answer, 405, path);
        let answer = ask(&stage, "GET", path, &[&cookies("operator", TOKEN)], "").await;
        is(&answer, 405, path);
    }
    // Nothing was done by all that: a reader is shown what stands.
    let outbox = page(&stage, "/outbox", "reader").await;
    assert!(outbox.contains("publishing") && !outbox.contains("<form"), "{outbox}");
    let letters = page(&stage, "/letters", "reader").await;
    assert!(letters.contains("Nothing, on this node and since its start."), "{letters}");
    // With both it is done.
    let answer =
        ask(&stage, "POST", "/outbox/pause", &[&own, &cookies("operator", TOKEN)], &body(TOKEN)).await;
    is(&answer, 303, "pause");
    assert!(page(&stage, "/outbox", "reader").await.contains("paused: nothing is published"));
    stage.end().await;
}

async fn page(stage: &Stage, path: &str, user: &str) -> String {
    get(stage.address, path, user).await
}

/// A page, as it is shown to somebody.
pub(crate) async fn get(address: SocketAddr, path: &str, user: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /ops{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncookie: user={user}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What the audit is told on this thread until the guard is dropped.
    fn audit() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("emitter_web::audit=info")
            .with_writer(move || written.clone());
        (log, tracing::subscriber::set_default(subscriber.with_ansi(false).finish()))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn what_is_refused_is_told_to_the_audit() {
    let (log, _guard) = Log::audit();
    let stage = Stage::set().await;
    let own = format!("origin: http://{}", stage.address);
    let cookie = |user: &str| format!("cookie: user={user}; emitter_dashboard={TOKEN}");
    let evil = "origin: https://evil.example".to_owned();
    let operator = "visitor=Some(\"operator <script>";
    for (origin, user, body, told) in [
        (&own, "reader", format!("token={TOKEN}"), "visitor=Some(\"reader\")"),
        (&own, "operator", "token=other".to_owned(), operator),
        (&own, "operator", format!("token={TOKEN}&confirm=discard+77"), operator),
        (&own, "operator", format!("token={TOKEN}&ids=many"), operator),
        // Of strangers once in a while.
        (&evil, "operator", format!("token={TOKEN}"), "visitor=None"),
        (&own, "stranger", format!("token={TOKEN}"), ""),
    ] {
        let before = log.text().len();
        ask(&stage, "POST", "/letters/discard", &[origin, &cookie(user)], &body).await;
        let line = log.text().split_off(before);
        assert_eq!(line.lines().count(), usize::from(!told.is_empty()), "{body}: {line}");
        assert!(told.is_empty() || line.contains("path=\"/letters/discard\""), "{body}: {line}");
        assert!(line.contains(told), "{body}: {line}");
    }
    // Who looks and is answered is not told of, nor one whose address leads nowhere.
    let before = log.text();
    page(&stage, "/letters", "reader").await;
    page(&stage, "/nowhere", "reader").await;
    assert_eq!(log.text(), before);
    stage.end().await;
}

#[tokio::test]
async fn what_is_done_is_told_to_the_audit() {
    let (log, _guard) = Log::audit();
    let stage = Stage::set().await;
    let own = format!("origin: http://{}", stage.address);
    let cookie = format!("cookie: user=operator; emitter_dashboard={TOKEN}");
    for (path, body) in [
        ("/outbox/pause", ""),
        ("/letters/discard", "&confirm=discard+0&listener=notify%0Aadmin"),
        ("/letter/77/edit", "&payload=%7B%7D"),
    ] {
        ask(&stage, "POST", path, &[&own, &cookie], &format!("token={TOKEN}{body}")).await;
    }
    let log = log.text();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 6, "{log}");
    for (line, what) in [
        (0, "action=\"pause the outbox\""),
        (1, "outcome=\"paused\""),
        // A line's end in it makes no second line.
        (2, "action=\"discard dead letters of listener notify\\nadmin\""),
        (3, "outcome=\"0 discarded\""),
        (4, "action=\"edit the dead letter 77\""),
        (5, "error=\"there is no dead letter 77\""),
    ] {
        assert!(lines[line].contains(what), "{what}: {}", lines[line]);
        assert!(line % 2 == 1 || lines[line].contains("visitor=\"operator <script>"), "{}", lines[line]);
    }
    stage.end().await;
}
