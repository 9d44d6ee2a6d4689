//! Two replicas that had the same events have the same rows, however these came.

use std::collections::BTreeMap;

use diesel::prelude::*;
use emitter_core::EventId;
use emitter_core::event::Timestamp;
use emitter_diesel::replica::Replica;
use emitter_tests::eventually::eventually;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::databases::{Database as _, Sqlite};
use super::*;

/// An event of a customer, as somebody may have published it.
#[derive(Debug, Clone)]
struct Told {
    /// Of an outbox, which row it is; else a node's life and the number in it.
    by: Result<(&'static str, u64), (&'static str, u8, u64)>,
    millis: i64,
    key: i64,
    /// No name: it was deleted.
    name: Option<String>,
}

impl Told {
    fn payload(&self, number: usize) -> Vec<u8> {
        let (service, life, seq) = match self.by {
            // Numbers belong to a publishing: here they have another order than what was written.
            Ok((outbox, row)) => (outbox, 0, 1_000 - row),
            Err((node, life, seq)) => (node, life, seq),
        };
        let name = self.name.clone().unwrap_or_default();
        let mut event = json!({
            "model": "customer",
            "operation": if self.name.is_some() { "update" } else { "delete" },
            "result": { "id": self.key, "name": name, "email": null, "version": self.millis },
            "timestamp": Timestamp::from_millis(self.millis).to_string(),
            "eventId": EventId::from_uuid(Uuid::from_u128(number as u128)).to_string(),
            "origin": { "service": service, "node": "a", "incarnation": Uuid::from_u128(u128::from(life)) },
            "seq": seq,
        });
        if let Ok((outbox, row)) = self.by {
            event["stream"] = json!(format!("{outbox}/0.1:0@{row}"));
        }
        event.to_string().into_bytes()
    }
}

/// Events of few rows, of outboxes, nodes and lives, with clocks of all kinds.
fn events() -> impl Strategy<Value = Vec<Told>> {
    let by = prop_oneof![
        3 => (prop_oneof![Just("box1"), Just("box2")], 1..200_u64).prop_map(Ok),
        2 => (prop_oneof![Just("n1"), Just("n2")], 0..3_u8, 1..200_u64).prop_map(Err),
    ];
    let one = (by, 1_000..1_030_i64, 0..3_i64, prop::option::weighted(0.7, "[a-z]{3}"));
    let all = prop::collection::vec(one, 1..25);
    all.prop_map(|all| {
        // Who counts gives each number once, and each row of an outbox is one event.
        let by: BTreeMap<String, Told> = all
            .into_iter()
            .map(|(by, millis, key, name)| (format!("{by:?}"), Told { by, millis, key, name }))
            .collect();
        by.into_values().collect()
    })
}

/// The order in which each of two replicas hears the events, some of them more than once.
fn heard(events: usize) -> impl Strategy<Value = [Vec<usize>; 2]> {
    let one = move || {
        let again = prop::collection::vec(0..events, 0..events);
        again.prop_map(move |again| (0..events).chain(again).collect::<Vec<_>>()).prop_shuffle()
    };
    [one(), one()]
}

type Copies = Replica<Customer, SqliteConnection>;

async fn replicas(by_version: bool) -> [(Sqlite, Emitter); 2] {
    let start = async |node: &str| {
        let server = Sqlite::with_tables();
        let copies = Copies::new(server.tables(), boxed(server.connector()));
        let copies = if by_version { copies.version(customers::version, |row| row.version) } else { copies };
        let emitter = builder(&MemoryBroker::new(), "billing", node).with(copies).start().await.unwrap();
        (server, emitter)
    };
    [start("a").await, start("b").await]
}

/// Both replicas hear the events; what is in their tables then.
async fn copies(
    replicas: &[(Sqlite, Emitter); 2],
    events: &[Told],
    heard: &[Vec<usize>; 2],
) -> [Vec<Customer>; 2] {
    let payloads: Vec<Vec<u8>> =
        events.iter().enumerate().map(|(number, event)| event.payload(number + 1)).collect();
    let mut found = Vec::new();
    for ((server, emitter), heard) in replicas.iter().zip(heard) {
        let mut db = server.connect();
        for table in ["customers", "emitter_replicas"] {
            diesel::sql_query(format!("DELETE FROM {table}")).execute(&mut db).unwrap();
        }
        let done = || {
            let stats = emitter.state::<Copies>().unwrap().stats();
            stats.applied + stats.stale + stats.duplicates
        };
        let expected = done() + heard.len() as u64;
        for number in heard {
            emitter.replay(&payloads[*number]).unwrap();
        }
        eventually(|| done() == expected).await;
        found.push(customers::table.order(customers::id).load(&mut db).unwrap());
    }
    [found.remove(0), found.remove(0)]
}

/// What is left of each row by the rules, told in another way than the library does.
fn expected(events: &[Told], by_version: bool) -> Option<Vec<Customer>> {
    let mut newest = BTreeMap::<i64, &Told>::new();
    for event in events {
        let one_outbox = |other: &&Told| match (&event.by, &other.by) {
            (Ok((one, _)), Ok((two, _))) => one == two,
            _ => false,
        };
        let other = newest.entry(event.key).or_insert(event);
        let is_newer = match (&event.by, &other.by) {
            _ if by_version => match event.millis.cmp(&other.millis) {
                // The rest is agreed on, and nothing else is promised.
                std::cmp::Ordering::Equal if !std::ptr::eq(event, *other) => return None,
                order => order.is_gt(),
            },
            (Ok((_, one)), Ok((_, two))) if one_outbox(other) => one > two,
            (Ok((one, _)), Ok((two, _))) => one > two,
            (Ok(_), Err(_)) => true,
            (Err(_), Ok(_)) => false,
            (Err((node, life, seq)), Err((other_node, other_life, other_seq))) => {
                match event.millis.cmp(&other.millis) {
                    std::cmp::Ordering::Equal if node != other_node => return None,
                    std::cmp::Ordering::Equal => (life, seq) > (other_life, other_seq),
                    order => order.is_gt(),
                }
            }
        };
        if is_newer {
            *other = event;
        }
    }
    let rows = newest.into_values().filter_map(|event| {
        let name = event.name.clone()?;
        Some(Customer { id: event.key, name, email: None, version: event.millis })
    });
    Some(rows.collect())
}

fn converge(by_version: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let replicas = runtime.block_on(replicas(by_version));
    let cases = if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 1_000 } else { 40 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let case = events().prop_flat_map(|events| {
        let heard = heard(events.len());
        (Just(events), heard)
    });
    let mut told = 0;
    proptest::test_runner::TestRunner::new(config)
        .run(&case, |(events, heard)| {
            let [one, two] = runtime.block_on(copies(&replicas, &events, &heard));
            prop_assert_eq!(&one, &two);
            if let Some(expected) = expected(&events, by_version) {
                prop_assert_eq!(&one, &expected);
            }
            Ok(())
        })
        .unwrap();
    told += cases;
    println!("{told} sets of events");
}

#[test]
fn replicas_agree_in_whatever_order_events_come() {
    converge(false);
}

#[test]
fn replicas_agree_by_versions_too() {
    converge(true);
}
