//! Which of two events of a row is the newer one.

use emitter_core::Key;
use emitter_core::event::Meta;

/// A place in the order of all events of a row, as a text that databases compare byte by byte.
///
/// It says the same wherever and whenever it is made of an event, and any two events have different ones. So what is
/// left of a set of events is the one with the greatest, in whatever order and however often they come: copies agree.
///
/// | of an event … | the order is that of |
/// |---|---|
/// | that an outbox relayed | the outbox's id, then its row: the commits |
/// | else | the time of the write, then origin, incarnation and sequence |
/// | of a model with a version column | the version, then deletes behind writes, then the origin, then the event's id |
///
/// What an outbox relayed is newer than what none did. Sequences of different origins are compared nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Stamp(String);

impl Stamp {
    /// The place of an event by itself.
    pub(super) fn of(meta: &Meta) -> Self {
        let relayed = meta.number.as_ref().and_then(|number| Some((&number.outbox, number.row?)));
        if let Some((outbox, row)) = relayed {
            return Self(format!("2 {outbox} {row:016x}"));
        }
        let incarnation = meta.origin.as_ref().map(|origin| origin.incarnation).unwrap_or_default();
        Self(format!(
            "1 {:016x} {:016x} {} {:016x} {}",
            ordered(meta.time.as_millis()),
            origin(meta),
            incarnation.simple(),
            meta.sequence.unwrap_or_default(),
            meta.id.as_uuid().simple()
        ))
    }

    /// The place of an event of a row with this version. It is the same on the node that wrote. A delete tells
    /// the version that it found, and is newer than what wrote that.
    pub(super) fn of_version(version: i64, is_delete: bool, meta: &Meta) -> Self {
        let (delete, id) = (u8::from(is_delete), meta.id.as_uuid().simple());
        Self(format!("{:016x} {delete} {:016x} {id}", ordered(version), origin(meta)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A number whose digits have the order of the numbers, below zero too.
const fn ordered(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

/// The node that wrote, in whichever life, as a number: what others call themselves may be of any length.
fn origin(meta: &Meta) -> u64 {
    let Some(origin) = &meta.origin else { return 0 };
    let parts = [&origin.service, &origin.node].map(|part| Key::Text((&**part).into()));
    Key::composite(parts).stable_hash()
}
