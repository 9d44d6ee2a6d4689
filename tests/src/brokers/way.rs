//! A way from one client to its broker, which breaks on request.

use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A port of 127.0.0.1 whose connections are passed on to a broker. Dropped, it is gone with all of them.
#[derive(Debug)]
pub(super) struct Way {
    port: u16,
    /// How often it was cut. What was connected before is broken.
    cuts: watch::Sender<u64>,
    _passing_on: JoinSet<()>,
}

impl Way {
    pub(super) async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let cuts = watch::Sender::new(0);
        let mut passing_on = JoinSet::new();
        passing_on.spawn(accept(listener, broker, cuts.clone()));
        Self { port, cuts, _passing_on: passing_on }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection that passes here now.
    pub(super) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, broker: u16, cuts: watch::Sender<u64>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(pass_on(client, broker, cuts.subscribe()));
        while connections.try_join_next().is_some() {}
    }
}

/// Passes bytes on until one side ends or the way is cut. With the broker away the client is hung up on.
async fn pass_on(mut client: TcpStream, broker: u16, mut cuts: watch::Receiver<u64>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await else { return };
    // They only cost time if they are absent, so that is no error.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cuts.changed() => {}
    }
}
