//! The contract of transports (`emitter_core::testing::contract`), at each broker.

use std::path::Path;
use std::time::Instant;

use emitter_core::testing::contract::{Broker, CASES, Case};
use emitter_core::transport::memory::MemoryBroker;
use emitter_tests::brokers::{self, Kind, RealBroker};

mod flaws;
mod table;

/// How many events go through where the number matters.
fn events() -> usize {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 10_000 } else { 1_000 }
}

async fn real(kind: &'static Kind) -> RealBroker {
    RealBroker::start(kind, Path::new(env!("CARGO_TARGET_TMPDIR"))).await
}

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name() == name).unwrap_or_else(|| panic!("there is no case `{name}`"))
}

async fn check(broker: &dyn Broker, case: &Case) -> Result<(), String> {
    let begun = Instant::now();
    let outcome = case.check(broker, events()).await;
    println!("{}: {outcome:?} after {:?}", case.name(), begun.elapsed());
    outcome.map_err(|seen| format!("{} ({}): {seen}", case.name(), case.about()))
}

/// One test for each case, at a broker of its own.
macro_rules! tests {
    ($broker:ident = $start:expr; $($case:ident)*) => {
        mod $broker {
            use super::*;

            const TESTED: &[&str] = &[$(stringify!($case)),*];

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    let outcome = check(&$start, case(stringify!($case))).await;
                    outcome.unwrap_or_else(|failure| panic!("{failure}"));
                }
            )*

            #[test]
            fn every_case_is_tested() {
                assert!(CASES.iter().map(Case::name).eq(TESTED.iter().copied()));
            }
        }
    };
    ($($broker:ident = $start:expr;)*) => {
        $(tests! {
            $broker = $start;
            publish_and_subscribe every_qos properties retained wildcard concurrency order order_after_a_cut no_ack_before_done
            window_of_the_next_life resend duplicate_bound restart close_under_load groups receiver refusal oversize
        })*
    };
}

tests! {
    memory = MemoryBroker::new();
    embedded = real(&brokers::EMBEDDED_5).await;
    mosquitto_mqtt_5 = real(&brokers::MOSQUITTO_5).await;
    mosquitto_mqtt_3_1_1 = real(&brokers::MOSQUITTO_3).await;
    nats = real(&brokers::NATS).await;
    aedes = real(&brokers::AEDES).await;
}

/// In one test, for this broker takes 7 to 20 s to start.
#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq() {
    let broker = real(&brokers::RABBITMQ).await;
    let mut failures = Vec::new();
    for case in CASES {
        failures.extend(check(&broker, case).await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
