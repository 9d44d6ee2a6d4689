//! Chromium without a window, told what to do by its own protocol for that.
//!
//! [Protocol](https://chromedevtools.github.io/devtools-protocol/): JSON over a WebSocket.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long a page, or what is waited for on it, may take on a machine that does much else.
const LONG: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Browser {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    last: u64,
    /// Where it sent requests.
    pub(crate) requests: Vec<String>,
    /// What it complained of: scripts that threw, and what a page's policy forbade.
    pub(crate) complaints: Vec<String>,
    _child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromium");
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-extensions"]);
        command.args(["--remote-debugging-port=0", "about:blank"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!(
                "this test needs chromium ({error}): `cargo xtask test` installs it, or as root `apt-get install chromium`"
            )
        });
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = timeout(LONG, async {
            loop {
                let line = said.next_line().await.unwrap().expect("it says where it listens");
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return address.to_owned();
                }
            }
        });
        let address = address.await.expect("it starts");
        // It must be able to say more.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let (socket, _) = connect_async(address).await.unwrap();
        let mut browser = Self {
            socket,
            session: String::new(),
            last: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
            _child: child,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        attached["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.size(1280, 900, false).await;
        browser
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut call = json!({ "id": self.last, "method": method, "params": parameters });
        if !self.session.is_empty() {
            call["sessionId"] = Value::String(self.session.clone());
        }
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message = timeout(LONG, self.socket.next()).await.expect("it answers").unwrap().unwrap();
            let Ok(text) = message.to_text() else { continue };
            let Ok(told) = serde_json::from_str::<Value>(text) else { continue };
            if told["id"] == self.last {
                assert!(told.get("error").is_none(), "{method}: {told}");
                return told["result"].clone();
            }
            self.note(&told);
        }
    }

    fn note(&mut self, told: &Value) {
        let of = &told["params"];
        match told["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.push(of["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Network.webSocketCreated") => {
                self.requests.push(of["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(of.to_string()),
            Some("Log.entryAdded") if of["entry"]["level"] == "error" => {
                self.complaints.push(of["entry"].to_string());
            }
            _ => {}
        }
    }

    /// What an expression of JavaScript is worth on the page.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", ask).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn until<'a>(&'a mut self, expression: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let begun = Instant::now();
            // In between the page may be another one, where it cannot be evaluated.
            let guarded =
                format!("(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()");
            while self.eval(&guarded).await != true {
                if begun.elapsed() > LONG {
                    let text = self.eval("document.body ? document.body.innerText : ''").await;
                    panic!("{caller}: `{expression}` did not become true on this page:\n{text}");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub(crate) async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
    }

    /// Clicks what a selector finds, where somebody would: in its middle.
    pub(crate) async fn click(&mut self, selector: &str) {
        let find = format!("document.querySelector({})", json!(selector));
        self.until(&format!("document.readyState === 'complete' && {find}")).await;
        let place = format!(
            "(() => {{ const it = {find}; it.scrollIntoView({{ block: 'center' }}); const at = it.getClientRects()[0];
                return [at.x + at.width / 2, at.y + at.height / 2] }})()"
        );
        let place = self.eval(&place).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await;
        }
        sleep(Duration::from_millis(100)).await;
    }

    /// Clicks into a field and types, in place of what is there.
    pub(crate) async fn write(&mut self, selector: &str, text: &str) {
        self.click(selector).await;
        self.eval("document.activeElement.select()").await;
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key, when the page's script is there to hear it.
    pub(crate) async fn press(&mut self, key: &str) {
        self.until("document.readyState === 'complete'").await;
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "text": if kind == "keyDown" { key } else { "" } }),
            )
            .await;
        }
        sleep(Duration::from_millis(100)).await;
    }

    pub(crate) async fn size(&mut self, width: u32, height: u32, is_phone: bool) {
        let scale = if is_phone { 2 } else { 1 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub(crate) async fn scheme(&mut self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// The whole page as a picture.
    pub(crate) async fn picture(&mut self, file: &Path) {
        let ask = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", ask).await;
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap());
        std::fs::write(file, bytes.unwrap()).unwrap();
    }
}
