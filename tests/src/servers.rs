//! Servers that belong to one test: started on a free port with a folder of their own, gone with their value.
//!
//! ```no_run
//! use emitter_tests::servers::Mosquitto;
//!
//! let mut broker = Mosquitto::start();
//! let url = broker.url(); // mqtt://127.0.0.1:PORT
//! broker.kill();          // as a power cut would
//! broker.restart();       // same port, same folder
//! ```
//!
//! Whatever goes wrong panics with a message that says what to do: a test that needs a server fails where it
//! is missing, it never skips. The methods block for some milliseconds; that is fine in an async test.

mod aedes;
mod cluster;
mod disk;
#[cfg(feature = "servers")]
mod embedded;
mod mariadb;
mod mosquitto;
mod nats;
pub(crate) mod packages;
mod port;
mod postgres;
mod process;
pub mod promtool;
mod rabbitmq;

pub use aedes::Aedes;
pub use disk::{Disk, Fault};
#[cfg(feature = "servers")]
pub use embedded::Embedded;
pub use mariadb::MariaDb;
pub use mosquitto::{Mosquitto, MosquittoBuilder};
pub use nats::Nats;
pub use postgres::Postgres;
pub use process::Frozen;
pub use rabbitmq::RabbitMq;

/// A program that a suite starts. `xtask/src/servers.rs` has the same list, to install what is missing.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    debian_package: &'static str,
}

impl Program {
    /// What to do where it is missing.
    pub(crate) fn advice(&self) -> String {
        let Self { name, debian_package } = self;
        format!(
            "this test needs {name}, which is not installed: `cargo xtask test` installs it, or as root \
             `apt-get install {debian_package}`"
        )
    }
}
