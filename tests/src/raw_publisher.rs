//! A client that publishes anything: MQTT 3.1.1 by hand, for ours only takes valid topics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection of its own, on which one message after the other is published.
#[derive(Debug)]
pub struct RawPublisher {
    stream: TcpStream,
    last_id: u16,
}

impl RawPublisher {
    /// Connects to the broker on this port of 127.0.0.1.
    ///
    /// # Panics
    /// If no broker lets it in.
    pub fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        stream.write_all(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03raw").expect("CONNECT is sent");
        let mut publisher = Self { stream, last_id: 0 };
        publisher.expect([0x20, 2, 0, 0]);
        publisher
    }

    /// At QoS 1, and waits for the confirmation.
    ///
    /// # Panics
    /// If the broker does not confirm it.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        self.last_id += 1;
        let payload = payload.as_ref();
        let topic_length = u16::try_from(topic.len()).expect("a short topic").to_be_bytes();
        let mut packet = vec![0x32];
        packet.extend(remaining_length(2 + topic.len() + 2 + payload.len()));
        for part in [&topic_length, topic.as_bytes(), &self.last_id.to_be_bytes(), payload] {
            packet.extend_from_slice(part);
        }
        self.stream.write_all(&packet).expect("PUBLISH is sent");
        let [high, low] = self.last_id.to_be_bytes();
        self.expect([0x40, 2, high, low]);
    }

    #[track_caller]
    fn expect(&mut self, answer: [u8; 4]) {
        let mut read = [0; 4];
        self.stream.read_exact(&mut read).expect("the broker answers");
        assert_eq!(read, answer);
    }
}

/// Seven bits in each byte, the lowest first.
fn remaining_length(mut bytes: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    loop {
        let digit = u8::try_from(bytes % 128).expect("seven bits");
        bytes /= 128;
        encoded.push(if bytes == 0 { digit } else { digit | 0x80 });
        if bytes == 0 {
            return encoded;
        }
    }
}
