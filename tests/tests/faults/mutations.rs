//! Ten thousand broken variants of real messages, against a decoder that is naive on purpose.

use std::collections::HashSet;
use std::fmt;

use emitter_core::transport::memory::MemoryBroker;
use emitter_tests::eventually::eventually;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::nodes::{SECOND, node, subscribed};
use crate::wire::{Transcript, lines};

/// What a message should be.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// This line in the transcript.
    Event(String),
    Nothing,
    /// A key is there twice, or a number is beyond `f64`: rejected or taken, both are right, but
    /// when taken then as this.
    Either(Option<String>),
}

fn verdict(topic: &str, payload: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(payload) else { return Verdict::Nothing };
    let value = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        // Only where nobody looks may such a number stand.
        Err(error) if error.to_string().contains("out of range") => return Verdict::Either(None),
        Err(_) => return Verdict::Nothing,
    };
    let event = event(topic, &value);
    match event {
        Some(event) if serde_json::from_str::<UniqueKeys>(text).is_ok() => Verdict::Event(event),
        None if serde_json::from_str::<UniqueKeys>(text).is_ok() => Verdict::Nothing,
        event => Verdict::Either(event),
    }
}

fn event(topic: &str, value: &Value) -> Option<String> {
    let model = topic.split('/').nth(2)?;
    let named = value.get("model")?.as_str()?;
    (named.to_ascii_lowercase() == model).then_some(())?;
    is_time(value.get("timestamp")).then_some(())?;
    matches!(value.get("eventId"), None | Some(Value::Null | Value::String(_))).then_some(())?;
    let operation = value.get("operation")?.as_str()?;
    let result = value.get("result")?.as_object()?;
    let text = |field: &str| result.get(field).and_then(Value::as_str).map(|_| ());
    let whole = |field: &str| result.get(field).and_then(Value::as_i64).map(|_| ());
    let row = |fields: &[&str]| {
        let row: serde_json::Map<String, Value> = fields
            .iter()
            .map(|field| ((*field).to_owned(), result.get(*field).cloned().unwrap_or(Value::Null)))
            .collect();
        Some(format!("{model} {operation} {}", Value::Object(row)))
    };
    match (model, operation) {
        ("user", "create" | "update" | "upsert" | "delete") => {
            whole("id")?;
            text("email")?;
            text("status")?;
            whole("n")?;
            matches!(result.get("name"), None | Some(Value::Null | Value::String(_))).then_some(())?;
            row(&["id", "email", "name", "status", "n"])
        }
        ("user", "createMany" | "updateMany" | "deleteMany") => {
            Some(format!("user {operation} {} false", result.get("count")?.as_u64()?))
        }
        ("log", "create") => {
            whole("id")?;
            text("msg")?;
            row(&["id", "msg"])
        }
        ("item", "create") => {
            whole("id")?;
            text("at")?;
            text("price")?;
            result.get("flag")?.as_bool()?;
            result.get("blob")?;
            result.get("meta")?;
            let big = result.get("big").unwrap_or(&Value::Null);
            (big.is_null() || big.is_i64()).then_some(())?;
            // The row holds an `f64`, whatever number was sent.
            let ratio = result.get("ratio")?.as_f64()?;
            let mut line: Vec<(String, Value)> = ["id", "big", "at", "price", "flag", "blob", "meta"]
                .iter()
                .map(|field| ((*field).to_owned(), result.get(*field).cloned().unwrap_or(Value::Null)))
                .collect();
            line.push(("ratio".to_owned(), ratio.into()));
            Some(format!("item create {}", Value::Object(line.into_iter().collect())))
        }
        _ => None,
    }
}

fn is_time(value: Option<&Value>) -> bool {
    use time::format_description::well_known::Rfc3339;
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => time::OffsetDateTime::parse(text, &Rfc3339).is_ok(),
        Some(_) => false,
    }
}

/// Any JSON in which no object has the same key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with unique keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, Self)) = map.next_entry::<String, Self>()? {
            if !keys.insert(key) {
                return Err(de::Error::custom("twice"));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(Self) = seq.next_element()? {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// One to three changes to a message.
fn mutated(payload: &str, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = payload.as_bytes().to_vec();
    for _ in 0..random.usize(1..=3) {
        mutate(&mut bytes, random);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let place = random.usize(0..bytes.len());
    match random.u8(0..9) {
        0 | 1 => bytes[place] ^= 1 << random.u8(0..8),
        2 => bytes.insert(place, random.u8(..)),
        3 => bytes.insert(place, *random.choice(b"{}[]\",:0123456789e-.\\ntu ").unwrap()),
        4 => drop(bytes.remove(place)),
        5 => bytes.truncate(place),
        6 => {
            let end = random.usize(place..bytes.len());
            bytes.extend_from_within(place..end);
        }
        7 => mutate_digit(bytes, random),
        _ => swap_fields(bytes, random),
    }
}

fn mutate_digit(bytes: &mut [u8], random: &mut fastrand::Rng) {
    let places: Vec<usize> = (0..bytes.len()).filter(|place| bytes[*place].is_ascii_digit()).collect();
    if let Some(place) = random.choice(&places) {
        bytes[*place] = b'0' + random.u8(0..10);
    }
}

/// Exchanges the values of two fields, of the envelope or of its result.
fn swap_fields(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return };
    let whole = random.bool();
    let object = if whole { Some(&mut value) } else { value.get_mut("result") };
    let Some(object) = object.and_then(Value::as_object_mut) else { return };
    let keys: Vec<String> = object.keys().cloned().collect();
    let (Some(one), Some(other)) = (random.choice(&keys), random.choice(&keys)) else { return };
    let (first, second) = (object[one].clone(), object[other].clone());
    object[one] = second;
    object[other] = first;
    *bytes = value.to_string().into_bytes();
}

fn mutations() -> usize {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 1_000_000 } else { 10_000 }
}

const SEED: u64 = 2;
const BATCH: usize = 50;

#[tokio::test]
async fn ten_thousand_mutations_reach_no_listener_wrongly() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let transcript = Transcript::default();
    transcript.listen(&b);
    subscribed(&b, 3).await;
    let lines = lines();
    let mut random = fastrand::Rng::with_seed(SEED);
    let (mut events, mut rejected) = (0, 0);
    for _ in 0..mutations() / BATCH {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let (topic, payload) = *random.choice(&lines).unwrap();
            let payload = mutated(payload, &mut random);
            batch.push((verdict(topic, &payload), String::from_utf8_lossy(&payload).into_owned()));
            assert_eq!(broker.publish(topic, payload), 1);
        }
        eventually(|| broker.unacknowledged("b") == 0).await;
        let heard = transcript.take();
        events += heard.len();
        rejected += BATCH - heard.len();
        check(heard, &batch);
    }
    println!("{events} of the mutations were still events, {rejected} were not");
    assert!(events > mutations() / 20 && rejected > mutations() / 2, "{events} events, {rejected} others");
    let stats = b.stats();
    assert_eq!((stats.handled, stats.bad_messages), (events as u64, rejected as u64), "{stats:?}");

    broker.publish(lines[0].0, lines[0].1);
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!(transcript.take().len(), 1);
    assert!(b.shutdown(SECOND).await.is_clean());
}

/// Strikes out of what was heard what should have been; nothing may be missing or left.
fn check(mut heard: Vec<String>, batch: &[(Verdict, String)]) {
    let mut strike = |line: &String| {
        let place = heard.iter().position(|heard| heard == line);
        place.map(|place| heard.remove(place)).is_some()
    };
    for (verdict, payload) in batch {
        if let Verdict::Event(line) = verdict {
            assert!(strike(line), "seed {SEED}: not heard as {line}: {payload}");
        }
    }
    let either = batch.iter().filter_map(|(verdict, _)| match verdict {
        Verdict::Either(line) => Some(line),
        _ => None,
    });
    let mut unclear = 0;
    for line in either {
        match line {
            Some(line) => drop(strike(line)),
            None => unclear += 1,
        }
    }
    assert!(heard.len() <= unclear, "seed {SEED}: heard wrongly: {heard:?}\namong {batch:#?}");
}

#[test]
fn the_naive_decoder_knows_the_lines() {
    let verdicts: Vec<_> =
        lines().iter().map(|(topic, payload)| verdict(topic, payload.as_bytes())).collect();
    let events = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Event(_))).count();
    assert_eq!((events, verdicts[5].clone()), (8, Verdict::Nothing));
}
