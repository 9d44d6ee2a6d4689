//! What the dashboard shows of the shop, and to whom.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

async fn get(address: &str, host: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn look() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dashboard"));
    let mut program = program.arg("0").stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = said.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("open http://").unwrap().split_once("/ops").unwrap().0;

    for path in ["/ops", "/ops/live", "/ops/outbox", "/ops/letters", "/ops/nodes", "/ops/listeners"] {
        let page = get(address, address, path).await;
        assert!(page.starts_with("HTTP/1.1 200"), "{path}: {page}");
    }
    // The courier is another service, and hears of the orders all the same.
    while !get(address, address, "/ops/nodes").await.contains("<td>delivery/courier-1</td>") {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(get(address, address, "/ops/listeners").await.contains("<strong>send_mail</strong>"));
    assert!(get(address, "evil.example", "/ops").await.starts_with("HTTP/1.1 401"));

    let id = program.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    assert!(program.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_shop_is_looked_at() {
    timeout(Duration::from_secs(60), look()).await.unwrap();
}
