//! `docs/BROKERS.md`: which case holds at which broker, and why another does not.
//!
//! Rendered from what the tests hold, so that it never says what they do not.

use std::path::Path;
use std::{env, fs};

use emitter_core::testing::contract::{Broker, CASES, Inability};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::transport::mqtt::MqttVersion;
use emitter_tests::brokers::{AEDES, EMBEDDED_5, Kind, MOSQUITTO_3, MOSQUITTO_5, NATS, RABBITMQ};

const INTRODUCTION: &str = "\
# Brokers

What holds at which broker. Each cell is a test: the cases of `emitter_core::testing::contract`, by which any
transport can be tried, run against each broker in `tests/tests/contract`. Where one cannot hold, the test demands that
it fails in the way that the footnote says; so the day on which the broker is able after all is noticed, too. Rendered
from these tests by `cargo xtask bless`.

Settings: a window of 20 unconfirmed publishes, and of 20 unacknowledged deliveries where the broker has one; queues
without a bound.
";

/// A column.
struct Column {
    title: &'static str,
    protocol: &'static str,
    remark: &'static str,
    inabilities: Vec<Inability>,
}

impl From<&Kind> for Column {
    fn from(kind: &Kind) -> Self {
        let Kind { title, version, remark, inabilities, .. } = *kind;
        let protocol = match version {
            MqttVersion::V5 => "MQTT 5",
            MqttVersion::V311 => "MQTT 3.1.1",
        };
        Self { title, protocol, remark, inabilities: inabilities.to_vec() }
    }
}

fn columns() -> Vec<Column> {
    let memory = Column {
        title: "memory",
        protocol: "none",
        remark: "all links cut, sessions kept",
        inabilities: MemoryBroker::new().inabilities().to_vec(),
    };
    let real = [&MOSQUITTO_5, &MOSQUITTO_3, &EMBEDDED_5, &NATS, &RABBITMQ, &AEDES];
    [memory].into_iter().chain(real.map(Column::from)).collect()
}

fn render(columns: &[Column]) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut rows = String::new();
    for case in CASES {
        rows += &format!("| {} |", case.about());
        for column in columns {
            match column.inabilities.iter().find(|inability| inability.case == case.name()) {
                None => rows += " holds |",
                Some(inability) => rows += &format!(" no ({}) |", footnote(&mut reasons, inability.reason)),
            }
        }
        rows += "\n";
    }
    let cells =
        |what: fn(&Column) -> &str| columns.iter().map(|c| format!(" {} |", what(c))).collect::<String>();
    let mut text = format!(
        "{INTRODUCTION}\n| |{}\n|---|{}\n| *protocol* |{}\n| *restarted* |{}\n{rows}\n",
        cells(|column| column.title),
        "---|".repeat(columns.len()),
        cells(|column| column.protocol),
        cells(|column| column.remark),
    );
    for (number, reason) in reasons.iter().enumerate() {
        text += &format!("{}. {reason}\n", number + 1);
    }
    text
}

/// The number of a reason, which is given once.
fn footnote(reasons: &mut Vec<&'static str>, reason: &'static str) -> usize {
    let place = reasons.iter().position(|known| *known == reason);
    place.unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    }) + 1
}

#[test]
fn the_table_of_brokers_is_what_the_tests_hold() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join("BROKERS.md");
    let rendered = render(&columns());
    if env::var("TRYBUILD").is_ok_and(|value| value == "overwrite") {
        fs::write(&table, &rendered).expect("docs/BROKERS.md can be written");
    }
    let written = fs::read_to_string(&table).unwrap_or_default();
    assert!(
        written == rendered,
        "docs/BROKERS.md is not what the tests of the contract hold: rewrite it with \
         `TRYBUILD=overwrite cargo test -p emitter-tests --features servers --test contract table`"
    );
}

#[test]
fn an_inability_is_of_a_case_that_exists() {
    for column in columns() {
        for Inability { case, .. } in column.inabilities {
            assert!(CASES.iter().any(|known| known.name() == case), "{}: `{case}`", column.title);
        }
    }
}
