//! Events written down, so that they outlive the process that wrote them: what an outbox keeps of them
//! from the write until they are published.
//!
//! Nothing here knows where they are kept; [`Emitter::record`](crate::Emitter::record) makes a record,
//! [`Emitter::publish_record`](crate::Emitter::publish_record) publishes it, there or on another node.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::emit::{QoS, Scope};
use crate::envelope::EncodeError;
use crate::event::{EventId, Operation, Timestamp};
use crate::key::Key;
use crate::properties::Properties;
use crate::topic::TopicError;

/// An event written down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// What is published.
    pub parcel: Parcel,
    /// The model's name.
    pub model: &'static str,
    /// What was done.
    pub operation: Operation,
    /// Of an upsert, whether it inserted, where that is known.
    pub inserted: Option<bool>,
    /// The key of its row as text; `None` of an event of several rows, or of none.
    pub key: Option<String>,
    /// Events whose order matters have the same number here: those of one key; and all of a model that
    /// emits bulk operations, for one such event may be of any key. It is the same on every node.
    pub lane: u64,
    /// The order of all events of the model matters, and not only of those of one key.
    pub by_model: bool,
    /// When it is given up, what comes after it in that order waits.
    pub park: bool,
    /// Where the event goes.
    pub scope: Scope,
    /// When it was written.
    pub time: Timestamp,
    /// The trace to which it belongs, or the event's own id.
    pub trace_id: Uuid,
    /// What tells what was done from others of its kind, where the writer said it.
    pub idempotency_key: Option<String>,
}

/// How far a listener is with an event that is written down. Who hands the event out again hands it to those that are
/// not done with it, and has them go on from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The listener's name.
    pub listener: Cow<'static, str>,
    /// How often it was called for the event.
    pub attempts: u32,
    /// What came of it.
    pub standing: Standing,
    /// What its last call failed with, if it did: at most 2,048 bytes.
    pub error: Option<String>,
}

/// What came of a listener's calls for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is done with the event.
    Handled,
    /// A filter of it held the event back.
    HeldBack,
    /// Its last call failed; the next one begins after so long, from when this is told.
    Retrying(Duration),
    /// It is not called again.
    GivenUp,
}

/// What is published of a [`Record`]. A node that does not know its model can do that, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The event's id.
    pub id: EventId,
    /// The whole topic.
    pub topic: String,
    /// How hard is tried.
    pub qos: QoS,
    /// The event in the form of the node that wrote it, without number and signature.
    pub payload: Vec<u8>,
    /// What travels beside it.
    pub properties: Properties,
}

/// The place of a recorded event among those that are published one after the other.
///
/// Events that are not recorded are numbered by their origin as they are published. An outbox outlives the
/// origins, and counts itself: the events of each model in each of its lanes, so that who is missing one can
/// ask for it. A number belongs to one publishing of an event; one that the broker did not confirm is not used
/// again, and stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    /// Whose count it is: an outbox's, or a [life](crate::gaps::Stream::is_of_life)'s.
    pub outbox: Arc<str>,
    /// The lane.
    pub lane: u32,
    /// Which owner of the lane counted; later ones have higher numbers.
    pub epoch: u64,
    /// Where that owner began: up to here, what its predecessors counted is settled.
    pub base: u64,
    /// The how-many-eth of its model in the lane it is, from 1.
    pub sequence: u64,
    /// Which row of the outbox it is, where that is told. A number belongs to one publishing; this belongs to
    /// the event, however often it is published, and grows with the commits of a key.
    pub row: Option<u64>,
}

impl Number {
    /// The longest name of a stream in bytes.
    pub const MAX_STREAM: usize = 112;

    /// How many bytes it adds to an event at most.
    pub(crate) const MAX_BYTES: usize = Self::MAX_STREAM + 64;

    /// The longest name of an outbox in bytes.
    const MAX_OUTBOX: usize = 32;

    /// The number that an origin gave itself, in the life of this [name](crate::gaps::life); `None` of
    /// one that nobody counts to.
    pub(crate) fn of_life(life: &Arc<str>, sequence: u64) -> Option<Self> {
        let good = sequence > 0 && i64::try_from(sequence).is_ok();
        good.then(|| Self { outbox: Arc::clone(life), lane: 0, epoch: 0, base: 0, sequence, row: None })
    }

    /// Whether its origin gave it itself.
    pub(crate) fn is_of_life(&self) -> bool {
        self.outbox.starts_with(crate::gaps::LIFE)
    }

    /// Whether an outbox may be called so: by 1 to 32 letters and digits.
    pub(crate) fn names_outbox(name: &str) -> bool {
        (1..=Self::MAX_OUTBOX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }

    /// Whether a lane may have this number: databases keep it in 32 bits with a sign.
    pub(crate) fn is_lane(lane: u32) -> bool {
        i32::try_from(lane).is_ok()
    }

    /// What is counted, as text: `{outbox}/{lane}.{epoch}:{base}`, and behind an `@` the row.
    #[must_use]
    pub fn stream(&self) -> String {
        let Self { outbox, lane, epoch, base, row, .. } = self;
        let row = row.map_or_else(String::new, |row| format!("@{row}"));
        format!("{outbox}/{lane}.{epoch}:{base}{row}")
    }

    /// Reads what [`stream`](Self::stream) wrote; `None` of anything else. An outbox is called by 1 to 32
    /// letters and digits.
    #[must_use]
    pub fn of_stream(stream: &str, sequence: u64) -> Option<Self> {
        let (outbox, rest) = stream.split_once('/')?;
        let (lane, rest) = rest.split_once('.')?;
        let (epoch, base) = rest.split_once(':')?;
        let (base, row) = base.split_once('@').map_or((base, None), |(base, row)| (base, Some(row)));
        // `parse` takes a sign.
        let number = |text: &str| {
            let digits = (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        // Databases count no further.
        let number = |text: &str| number(text).filter(|number| i64::try_from(*number).is_ok());
        let base = number(base)?;
        let row = match row {
            Some(row) => Some(number(row)?),
            None => None,
        };
        let in_order = i64::try_from(sequence).is_ok() && (base < sequence || sequence == 0);
        Some(Self {
            outbox: (Self::names_outbox(outbox) && in_order).then(|| outbox.into())?,
            lane: u32::try_from(number(lane)?).ok().filter(|lane| Self::is_lane(*lane))?,
            epoch: number(epoch)?,
            base,
            sequence,
            row,
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.sequence, self.stream())
    }
}

/// Why an event could not be written down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is larger or deeper than events may be.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Its model's topic is none.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The row's `Serialize` panicked.
    #[error("the row's `Serialize` panicked")]
    Panicked,
}

/// The lane of a model's events, or of those of one key.
pub(crate) fn lane(model: &str, key: Option<&Key>) -> u64 {
    // Models are one model whatever the case of their letters.
    let model = Key::Text(model.to_ascii_lowercase().into()).stable_hash();
    match key {
        // A rotation, so that the two do not undo each other where a key's text is the model's name.
        Some(key) => model.rotate_left(32) ^ key.stable_hash(),
        None => model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_tell_keys_and_models_apart_and_are_the_same_everywhere() {
        let (one, two) = (Key::Int(1), Key::Int(2));
        let lanes = [
            lane("user", None),
            lane("user", Some(&one)),
            lane("user", Some(&two)),
            lane("order", None),
            lane("order", Some(&one)),
            lane("user", Some(&Key::Text("user".into()))),
        ];
        for (place, lane) in lanes.iter().enumerate() {
            assert!(!lanes[..place].contains(lane), "{place}");
        }
        assert_eq!(lane("User", Some(&one)), lane("user", Some(&one)));
        // Rows that one version has written are read by the next.
        assert_eq!(lane("user", Some(&one)), 6_462_474_022_542_755_840);
    }

    #[test]
    fn keys_spread_over_lanes() {
        for lanes in [8, 16, 64] {
            let mut count = vec![0; lanes];
            for id in 0..10_000 {
                let lane = lane("user", Some(&Key::Int(id))) % lanes as u64;
                count[usize::try_from(lane).unwrap()] += 1;
            }
            let even = 10_000 / lanes;
            assert!(count.iter().all(|count| (even * 3 / 4..=even * 5 / 4).contains(count)), "{count:?}");
        }
    }

    #[test]
    fn a_stream_is_read_as_it_was_written() {
        let number = Number { outbox: "9f3a".into(), lane: 3, epoch: 7, base: 120, sequence: 121, row: None };
        assert_eq!(number.stream(), "9f3a/3.7:120");
        assert_eq!(Number::of_stream("9f3a/3.7:120", 121), Some(number.clone()));
        let number = Number { row: Some(4711), ..number };
        assert_eq!(number.stream(), "9f3a/3.7:120@4711");
        assert_eq!(Number::of_stream("9f3a/3.7:120@4711", 121), Some(number));
        let long = format!("{}/1.1:1", "a".repeat(33));
        let bad = [
            "",
            "a",
            "a/1.1",
            "a/1.1:1@",
            "a/1.1:1@x",
            "a/1.1:1@-1",
            "a/1.1:1@1@1",
            "/1.1:1",
            "a/+1.1:1",
            "a/1.1:",
            "a/1.1:1 ",
            "a b/1.1:1",
            "\"/1.1:1",
        ];
        for bad in bad.into_iter().chain([
            &*long,
            "a/2147483648.1:1",
            "a/4294967296.1:1",
            "a/1.99999999999999999999:1",
        ]) {
            assert_eq!(Number::of_stream(bad, 2), None, "{bad}");
        }
        let most = Number {
            outbox: "a".repeat(32).into(),
            lane: u32::MAX / 2,
            epoch: u64::MAX / 2,
            base: u64::MAX / 2,
            sequence: 1,
            row: Some(u64::MAX / 2),
        };
        assert!(most.stream().len() <= Number::MAX_STREAM);
        assert_eq!(Number::of_stream("a/2147483647.1:1", 2).map(|number| number.lane), Some(most.lane));
    }
}
