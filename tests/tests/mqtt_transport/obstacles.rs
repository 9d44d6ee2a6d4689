//! What stands between a client and its broker: a way that breaks, and a broker that does as a
//! test says.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use emitter_core::transport::mqtt::MqttConfig;

use super::quick_config;

/// A way to a broker whose first connections break off after some thousand bytes, in the middle of
/// a packet most likely.
pub(crate) struct BrittleWay {
    port: u16,
}

impl BrittleWay {
    /// Fourteen times after some thousand bytes.
    pub(crate) fn to(broker: u16) -> Self {
        Self::with(broker, (8_000..50_000).step_by(7_919).cycle().take(14))
    }

    /// Each time after so many bytes in one direction. Its threads end with the test's process.
    pub(crate) fn with(broker: u16, short: impl Iterator<Item = usize> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            let lengths = short.chain(std::iter::repeat(usize::MAX));
            for (client, length) in listener.incoming().flatten().zip(lengths) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let [from, to] = [from, to].map(|s| s.try_clone().expect("a descriptor"));
                    std::thread::spawn(move || pass_on(from, to, length));
                }
            }
        });
        Self { port }
    }

    pub(crate) fn config(&self) -> MqttConfig {
        quick_config(self.port)
    }
}

/// Passes bytes on until there were so many, then breaks both directions off.
fn pass_on(mut from: TcpStream, mut to: TcpStream, length: usize) {
    let mut buffer = [0; 1_000];
    let mut passed = 0;
    while passed < length {
        // To the byte.
        let most = buffer.len().min(length - passed);
        match from.read(&mut buffer[..most]) {
            Ok(read @ 1..) if to.write_all(&buffer[..read]).is_ok() => passed += read,
            _ => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A way to a broker on which every byte takes its time.
pub(crate) struct LongWay {
    port: u16,
}

impl LongWay {
    /// So long in each direction. Its threads end with the test's process.
    pub(crate) fn to(broker: u16, takes: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let [from, to] = [from, to].map(|s| s.try_clone().expect("a descriptor"));
                    let _ = to.set_nodelay(true);
                    let (sender, on_their_way) = mpsc::channel();
                    std::thread::spawn(move || take_in(from, &sender, takes));
                    std::thread::spawn(move || let_out(to, &on_their_way));
                }
            }
        });
        Self { port }
    }

    pub(crate) fn config(&self) -> MqttConfig {
        quick_config(self.port)
    }
}

fn take_in(mut from: TcpStream, on_their_way: &mpsc::Sender<(Instant, Vec<u8>)>, takes: Duration) {
    let mut buffer = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if on_their_way.send((Instant::now() + takes, buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

fn let_out(mut to: TcpStream, on_their_way: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    for (moment, bytes) in on_their_way {
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A broker of MQTT 5 that does what a test says: it answers each packet as the script decides.
pub(crate) struct ScriptedBroker {
    port: u16,
}

/// What the broker does next.
pub(crate) enum Do {
    Send(Vec<u8>),
    Pause,
    HangUp,
}

/// Long beside what goes on in these tests, short for those who wait for them.
pub(crate) const PAUSE: Duration = Duration::from_millis(300);

impl ScriptedBroker {
    /// Its threads end with the test's process.
    pub(crate) fn start(script: impl FnMut(Packet) -> Vec<Do> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let script = Arc::new(Mutex::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&script);
                // An error is the end of this connection.
                std::thread::spawn(move || Self::serve(stream, &*script));
            }
        });
        Self { port }
    }

    fn serve(mut stream: TcpStream, script: &Mutex<impl FnMut(Packet) -> Vec<Do>>) -> std::io::Result<()> {
        loop {
            let packet = Packet::read(&mut stream)?;
            let answers = match packet.kind() {
                Packet::CONNECT => vec![Do::Send(vec![0x20, 3, 0, 0, 0])],
                Packet::PING => vec![Do::Send(vec![0xd0, 0])],
                Packet::DISCONNECT => return Ok(()),
                _ => script.lock().expect("no script panics")(packet),
            };
            for answer in answers {
                match answer {
                    Do::Send(bytes) => stream.write_all(&bytes)?,
                    Do::Pause => std::thread::sleep(PAUSE),
                    Do::HangUp => return Ok(()),
                }
            }
        }
    }

    pub(crate) fn config(&self) -> MqttConfig {
        quick_config(self.port)
    }
}

/// A packet from the client, as it is on the wire.
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    pub(crate) const CONNECT: u8 = 0x10;
    pub(crate) const PUBLISH: u8 = 0x30;
    pub(crate) const SUBSCRIBE: u8 = 0x80;
    pub(crate) const PING: u8 = 0xc0;
    pub(crate) const DISCONNECT: u8 = 0xe0;

    /// All packets here are shorter than 128 bytes, so their length is one byte.
    pub(crate) fn read(stream: &mut TcpStream) -> std::io::Result<Self> {
        let mut bytes = vec![0; 2];
        stream.read_exact(&mut bytes)?;
        bytes.resize(2 + usize::from(bytes[1]), 0);
        stream.read_exact(&mut bytes[2..])?;
        Ok(Self(bytes))
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[0] & 0xf0
    }

    pub(crate) fn last(&self) -> u8 {
        *self.0.last().expect("no packet is empty")
    }

    pub(crate) fn ends_in(&self, byte: u8) -> bool {
        self.0.last() == Some(&byte)
    }

    /// The SUBACK for this SUBSCRIBE of one filter.
    pub(crate) fn subscribed(&self, reason: u8) -> Do {
        Do::Send(vec![0x90, 4, self.0[2], self.0[3], 0, reason])
    }

    /// The PUBACK for this PUBLISH.
    pub(crate) fn acknowledged(&self, reason: u8) -> Do {
        let topic = usize::from(u16::from_be_bytes([self.0[2], self.0[3]]));
        let id = &self.0[4 + topic..6 + topic];
        Do::Send(vec![0x40, 3, id[0], id[1], reason])
    }
}
