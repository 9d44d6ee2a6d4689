//! The servers that other suites rely on can be stopped, killed, frozen and brought back.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use emitter_tests::servers::Mosquitto;

/// An MQTT 3.1.1 CONNECT of the client `c`, with a clean session and 60 s of keep-alive.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";

/// What a broker answers to it.
const CONNACK: &[u8] = b"\x20\x02\x00\x00";

/// Connects and returns the broker's answer, or `None` if there was none within `patience`.
fn greet(broker: &Mosquitto, patience: Duration) -> Option<[u8; 4]> {
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).expect("a broker that listens");
    stream.set_read_timeout(Some(patience)).expect("a time-out above zero");
    stream.write_all(CONNECT).expect("the system's buffer takes it");
    let mut answer = [0; 4];
    match stream.read_exact(&mut answer) {
        Ok(()) => Some(answer),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("the broker hung up: {error}"),
    }
}

const LONG: Duration = Duration::from_secs(10);

fn answers(broker: &Mosquitto) -> bool {
    greet(broker, LONG).as_ref().is_some_and(|answer| answer == CONNACK)
}

fn listens(broker: &Mosquitto) -> bool {
    TcpStream::connect(("127.0.0.1", broker.port())).is_ok()
}

#[test]
fn mosquitto_comes_back_on_its_port() {
    let mut broker = Mosquitto::start();
    let url = broker.url();
    assert!(answers(&broker));

    broker.stop();
    assert!(!listens(&broker));
    broker.stop();
    broker.restart();
    assert!(answers(&broker));

    broker.kill();
    assert!(!listens(&broker));
    broker.restart();
    assert!(answers(&broker));

    broker.restart();
    assert!(answers(&broker));
    assert_eq!(broker.url(), url);
    assert_eq!(broker.log().matches("running").count(), 4, "{}", broker.log());
}

#[test]
fn a_frozen_mosquitto_keeps_its_port_and_answers_when_it_thaws() {
    let mut broker = Mosquitto::start();
    broker.freeze();
    assert_eq!(greet(&broker, Duration::from_millis(200)), None);
    broker.thaw();
    assert!(answers(&broker));

    broker.freeze();
    broker.stop();
    assert!(!listens(&broker));
}

#[test]
fn two_of_them_do_not_meet() {
    let (one, other) = (Mosquitto::start(), Mosquitto::start());
    assert_ne!(one.port(), other.port());
    assert!(answers(&one) && answers(&other));
}

#[test]
fn persistence_is_a_choice() {
    for (persistence, expected) in [(false, false), (true, true)] {
        let mut broker = Mosquitto::builder().persistence(persistence).start();
        broker.stop();
        assert_eq!(broker.folder().join("mosquitto.db").exists(), expected, "{}", broker.log());
    }
}

#[test]
fn what_was_autosaved_survives_a_kill() {
    let mut broker = Mosquitto::builder().autosave_on_changes(1).max_queued_messages(50).start();
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(CONNECT).unwrap();
    // A retained message "kept" on the topic "t" at QoS 1, with packet id 1.
    stream.write_all(b"\x33\x09\x00\x01t\x00\x01kept").unwrap();
    let mut answers = [0; 8];
    stream.read_exact(&mut answers).unwrap();
    assert_eq!(&answers[4..], b"\x40\x02\x00\x01", "PUBACK");

    // The broker acknowledges first and saves at the end of that round of its loop.
    let deadline = Instant::now() + LONG;
    while !fs::read(broker.folder().join("mosquitto.db")).is_ok_and(|saved| contains(&saved, b"kept")) {
        assert!(Instant::now() < deadline, "not saved within {LONG:?}\n{}", broker.log());
        thread::sleep(Duration::from_millis(1));
    }
    broker.kill();
    broker.restart();
    // SUBSCRIBE to "t" at QoS 1: the retained message comes again.
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(CONNECT).unwrap();
    stream.write_all(b"\x82\x06\x00\x02\x00\x01t\x01").unwrap();
    let mut answers = [0; 4 + 5 + 11];
    stream.read_exact(&mut answers).unwrap();
    assert!(contains(&answers, b"kept"), "{answers:?}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn nothing_is_left_behind() {
    let broker = Mosquitto::start();
    let (folder, port) = (broker.folder().to_owned(), broker.port());
    drop(broker);
    assert!(!Path::new(&folder).exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
#[should_panic(expected = "Unknown configuration variable \"no_such_option\"")]
fn a_failed_start_shows_the_end_of_the_log() {
    Mosquitto::builder().line("no_such_option true").start();
}
