//! Ports of 127.0.0.1 that stay free while their server is down.

use std::env;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use rustix::process::getuid;

/// Below the ports that the system hands to outgoing connections (from 32768): a client that keeps trying to
/// reconnect could else be given its broker's own port, connect to itself, and keep the broker from starting.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that no other test takes until this value is dropped, whether or not somebody listens there.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    /// Locked; the system releases it with the process, however that ends.
    _reservation: File,
}

impl Port {
    /// A port on which nobody listens now.
    pub(super) fn reserve() -> Self {
        let folder = env::temp_dir().join(format!("emitter-test-ports-{}", getuid().as_raw()));
        fs::create_dir_all(&folder).expect("a folder for reservations in the temporary folder");
        // Every `RandomState` is seeded anew: tests in many processes do not start at the same port.
        let length = u64::from(RANGE.end - RANGE.start);
        let offset = RandomState::new().hash_one("port") % length;
        (0..length)
            .map(|step| RANGE.start + u16::try_from((offset + step) % length).expect("within the range"))
            .find_map(|number| {
                let file = File::create(folder.join(number.to_string())).ok()?;
                file.try_lock().ok()?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                Some(Self { number, _reservation: file })
            })
            .unwrap_or_else(|| panic!("no port of 127.0.0.1 is free between {RANGE:?}"))
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }
}
