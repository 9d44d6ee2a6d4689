//! One change to one model: what happened, and what surrounds it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::diff::ChangedRow;
use crate::emit::Notes;
use crate::envelope::EncodeError;
use crate::key::Key;
use crate::metadata::Metadata;
use crate::model::{EventBody, Model, ModelEvent, SingleRow};
use crate::model_info::AnyEvent;
use crate::plain;
use crate::record::Number;
use crate::trace::Trace;

/// An event as a listener gets it: a typed body, and what surrounds it.
///
/// It derefs to its body, so that `event.row` is the row of an `Event<UserCreated>` and
/// `match &*event` takes an `Event<UserEvent>` apart. Cloning it clones a pointer.
pub struct Event<T: EventBody> {
    /// Its event is a `T`.
    stored: Arc<Stored<T::Model>>,
}

/// The one copy of an event that all its listeners share.
pub(crate) struct Stored<M: Model> {
    pub(crate) meta: Meta,
    pub(crate) event: M::Event,
}

impl<T: EventBody> Event<T> {
    /// The event as a `T`, if that is what it is.
    pub(crate) fn of(stored: Arc<Stored<T::Model>>) -> Option<Self> {
        T::of(&stored.event)?;
        Some(Self { stored })
    }

    /// This event's id, unique among all events of all nodes.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.stored.meta.id
    }

    /// What was done; [`Operation::Create`] of an event that is no row.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.stored.meta.operation
    }

    /// Whether this node wrote ([`Source::Local`]) or another one ([`Source::Remote`]).
    #[must_use]
    pub fn source(&self) -> Source {
        self.stored.meta.source
    }

    /// Who wrote, or `None` when a program that sends no origin did (the npm package).
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.stored.meta.origin.as_deref()
    }

    /// When it was written, by the clock of the node that wrote.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.stored.meta.time
    }

    /// The trace to which it belongs, if its writer said so.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.stored.meta.trace()
    }

    /// Its number among the events that its origin published for this model, from 1; `None` for
    /// local events, and where the origin does not count.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.stored.meta.sequence
    }

    /// Whether `condition` holds of any of its rows, as filters of `#[listener]` ask; of no row
    /// when it only carries their count.
    pub fn any_row(&self, mut condition: impl FnMut(ChangedRow<'_, T::Model>) -> bool) -> bool {
        self.stored.event.body().any_row(&mut condition)
    }

    /// Everything that surrounds the body.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.stored.meta
    }

    /// What kind of event it is: `user_updated`; of one that is no row, its own.
    #[must_use]
    pub fn kind(&self) -> String {
        plain::kind(self.stored.model(), self.operation())
    }

    /// This event as JSON for who is no node, such as a page in a browser, in the form that [`plain`] shows.
    ///
    /// # Errors
    /// [`EncodeError::Json`] when a row's `Serialize` fails.
    pub fn to_json(&self) -> Result<String, EncodeError> {
        plain::json(&*self.stored)
    }

    /// The keys of all rows that this event carries; empty when it only carries their count.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.stored.meta.keys
    }

    /// The key of the row.
    ///
    /// Only for events of exactly one row; where many are possible, use [`keys`](Self::keys).
    #[must_use]
    pub fn key(&self) -> &Key
    where
        T: SingleRow,
    {
        // `Created` is a `SingleRow` of every model, also of an event that has no key.
        const { assert!(!T::Model::KEY_COLUMNS.is_empty(), "name its key, with `#[emits(event, key(…))]`") };
        // A `SingleRow` event is made with exactly one key, here and by the envelope alike.
        &self.stored.meta.keys[0]
    }
}

impl<T: EventBody> Deref for Event<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match T::of(&self.stored.event) {
            Some(body) => body,
            None => unreachable!("`Event::of` looked at this very body"),
        }
    }
}

impl<T: EventBody> Clone for Event<T> {
    fn clone(&self) -> Self {
        Self { stored: Arc::clone(&self.stored) }
    }
}

impl<T: EventBody> fmt::Debug for Event<T> {
    /// Shows what surrounds the body, and not the body: rows hold users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("model", &T::Model::NAME)
            .field("meta", &self.stored.meta)
            .finish_non_exhaustive()
    }
}

/// What surrounds an event's body.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Meta {
    /// The event's id.
    pub id: EventId,
    /// What was done.
    pub operation: Operation,
    /// Whether this node wrote.
    pub source: Source,
    /// Who wrote.
    pub origin: Option<Arc<Origin>>,
    /// When it was written.
    pub time: Timestamp,
    /// Its number at its origin.
    pub sequence: Option<u64>,
    /// Its number in its outbox, if it was relayed from one to this node.
    pub number: Option<Arc<Number>>,
    /// The keys of its rows.
    pub keys: Keys,
    /// It was there before, and is handed out again.
    pub(crate) again: Option<Again>,
    pub(crate) notes: Option<Arc<Notes>>,
}

impl Meta {
    /// The trace to which it belongs, if its writer said so.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.notes.as_ref()?.trace()
    }

    /// What vendors of tracing hand on beside the trace.
    #[must_use]
    pub fn trace_state(&self) -> Option<&str> {
        self.notes.as_ref()?.trace_state()
    }

    /// The event whose listener wrote this one, if one did.
    #[must_use]
    pub fn cause(&self) -> Option<EventId> {
        self.notes.as_ref()?.cause
    }

    /// How many events, one the cause of the next, led to this one; 0 where no listener wrote it. Beyond
    /// [`Builder::max_hops`](crate::emitter::Builder::max_hops) an event is not emitted.
    #[must_use]
    pub fn hops(&self) -> u8 {
        self.notes.as_ref().map_or(0, |notes| notes.hops)
    }

    /// What tells what was done from others of its kind, if its writer said so. See
    /// [`EmitOptions::idempotency_key`](crate::emit::EmitOptions::idempotency_key).
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.notes.as_ref()?.idempotency_key.as_deref()
    }

    /// What its writer noted by this name. See [`EmitOptions::metadata`](crate::emit::EmitOptions::metadata).
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.notes.as_ref()?.metadata.get(name)
    }

    pub(crate) fn noted(&self) -> Option<&Metadata> {
        self.notes.as_ref().map(|notes| &notes.metadata).filter(|metadata| **metadata != Metadata::default())
    }

    /// Why it is handed out again, where somebody does that: a replay is marked so for whoever sends e-mails.
    #[must_use]
    pub fn again(&self) -> Option<Again> {
        self.again
    }

    /// Everything that its writer noted, in the order of names.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.notes.iter().flat_map(|notes| notes.metadata.iter())
    }
}

/// Why an event is handed to listeners that may have had it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Again {
    /// Somebody replays it from a record, such as a mirror.
    Replayed,
    /// It was a dead letter, and is tried once more: see [`Emitter::redrive`](crate::Emitter::redrive).
    Redriven,
}

/// The keys of an event's rows: usually exactly one, kept without an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// The row of a single-row event.
    One([Key; 1]),
    /// The rows of a bulk event, in the order of the statement.
    Many(Box<[Key]>),
}

impl Deref for Keys {
    type Target = [Key];

    fn deref(&self) -> &[Key] {
        match self {
            Self::One(key) => key,
            Self::Many(keys) => keys,
        }
    }
}

/// An operation on a model, as the specification names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// One row was inserted.
    Create,
    /// One statement inserted any number of rows.
    CreateMany,
    /// One row was updated.
    Update,
    /// One statement updated any number of rows.
    UpdateMany,
    /// One row was inserted or, if it was there, updated.
    Upsert,
    /// One row was deleted.
    Delete,
    /// One statement deleted any number of rows.
    DeleteMany,
}

impl Operation {
    /// All operations, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::CreateMany,
        Self::Update,
        Self::UpdateMany,
        Self::Upsert,
        Self::Delete,
        Self::DeleteMany,
    ];

    /// The name on the wire: `create`, `createMany`, `update`, …
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateMany => "createMany",
            Self::Update => "update",
            Self::UpdateMany => "updateMany",
            Self::Upsert => "upsert",
            Self::Delete => "delete",
            Self::DeleteMany => "deleteMany",
        }
    }

    /// The operation with this name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == name)
    }

    /// What has happened, as topics and kinds may have it: `created`, `created_many`, `updated`, …
    #[must_use]
    pub const fn past_tense(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::CreateMany => "created_many",
            Self::Update => "updated",
            Self::UpdateMany => "updated_many",
            Self::Upsert => "upserted",
            Self::Delete => "deleted",
            Self::DeleteMany => "deleted_many",
        }
    }

    /// The operation with this [`past_tense`](Self::past_tense).
    #[must_use]
    pub fn from_past_tense(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.past_tense() == name)
    }

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which side of the wire an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// This node wrote.
    Local,
    /// Another node wrote, or another program.
    Remote,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Remote => "remote",
        })
    }
}

/// The node that wrote: a service, one of its nodes, and one life of that node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// What the application calls itself; the same on all its nodes.
    pub service: Arc<str>,
    /// This node's name, unique within the service.
    pub node: Arc<str>,
    /// A new UUIDv7 at each start.
    pub incarnation: Uuid,
}

impl Origin {
    /// Whether both are the same node, in whichever of its lives.
    pub(crate) fn is_of_node(&self, other: &Self) -> bool {
        (&self.service, &self.node) == (&other.service, &other.node)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.node)
    }
}

/// An event's id: a UUIDv7, never derived from the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// A new id: the time in milliseconds, then 74 random bits.
    ///
    /// The random bits need not be secret, only different, so they come from a fast generator that
    /// each thread seeds from the system's: this takes half the time of `Uuid::now_v7`, which
    /// would be the most expensive part of making an event.
    #[must_use]
    pub fn now() -> Self {
        Self::at(Timestamp::now())
    }

    /// A new id with this time.
    pub(crate) fn at(time: Timestamp) -> Self {
        thread_local! {
            static RANDOM: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::with_seed(seed()));
        }
        let mut random = [0; 10];
        RANDOM.with_borrow_mut(|generator| generator.fill(&mut random));
        Self(uuid::Builder::from_unix_timestamp_millis(time.millis.unsigned_abs(), &random).into_uuid())
    }

    /// When the id was made, if it is a UUIDv7.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let millis =
            i64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(i64::from(nanos) / 1_000_000)?;
        Some(Timestamp::from_millis(millis))
    }

    /// The id that another program gave.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a UUID.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl std::str::FromStr for EventId {
    type Err = uuid::Error;

    /// # Errors
    /// Where it is no UUID.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self::from_uuid)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 62 bits of the system's randomness: the tail of a UUID whose generator is seeded with it.
fn seed() -> u64 {
    Uuid::now_v7().as_u64_pair().1
}

/// A moment in UTC, to the millisecond, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    millis: i64,
}

/// The last millisecond of the year 9999: later ones have no RFC 3339 form.
const LAST_MILLIS: i64 = 253_402_300_799_999;

/// The first millisecond of the year 0.
const FIRST_MILLIS: i64 = -62_167_219_200_000;

impl Timestamp {
    /// Now, by this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(LAST_MILLIS))
    }

    /// The moment so many milliseconds after 1970-01-01T00:00:00Z, held within the years 0 to 9999.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        let millis = if millis > LAST_MILLIS { LAST_MILLIS } else { millis };
        Self { millis: if millis < FIRST_MILLIS { FIRST_MILLIS } else { millis } }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.millis
    }

    /// Reads ISO 8601 as of RFC 3339: `2026-11-21T00:42:25.735Z`, any offset, any precision.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Self::from_millis)
    }
}

impl fmt::Display for Timestamp {
    /// `2026-11-21T00:42:25.735Z`, always with three digits of milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.millis.div_euclid(1000);
        // `from_millis` holds the value within what `OffsetDateTime` knows.
        let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            self.millis.rem_euclid(1000)
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("the timestamp is not ISO 8601, such as 2026-11-21T00:42:25.735Z")
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::UtcOffset;

    use super::*;

    fn millis() -> impl Strategy<Value = i64> {
        prop_oneof![
            FIRST_MILLIS..=LAST_MILLIS,
            -2_000..2_000_i64,
            Just(FIRST_MILLIS),
            Just(LAST_MILLIS),
            0..4_102_444_800_000_i64,
        ]
    }

    proptest! {
        #[test]
        fn prints_what_time_prints_and_reads_it_again(millis in millis()) {
            let timestamp = Timestamp::from_millis(millis);
            let text = timestamp.to_string();
            let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap();
            prop_assert_eq!(OffsetDateTime::parse(&text, &Rfc3339).unwrap(), moment);
            prop_assert_eq!(text.len(), "2026-11-21T00:42:25.735Z".len());
            prop_assert_eq!(Timestamp::parse(&text), Some(timestamp));
            let json = serde_json::to_string(&timestamp).unwrap();
            prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), timestamp);
        }

        #[test]
        fn reads_any_offset_and_precision(
            millis in 0..4_102_444_800_000_i64, nanos in 0..1_000_000_i128, hours in -23..24_i8, minutes in 0..60_i8
        ) {
            let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000 + nanos).unwrap();
            let offset = UtcOffset::from_hms(hours, if hours < 0 { -minutes } else { minutes }, 0).unwrap();
            let text = moment.to_offset(offset).format(&Rfc3339).unwrap();
            prop_assert_eq!(Timestamp::parse(&text), Some(Timestamp::from_millis(millis)), "{}", text);
        }

        #[test]
        fn is_held_within_what_can_be_printed(millis in any::<i64>()) {
            let timestamp = Timestamp::from_millis(millis);
            prop_assert_eq!(timestamp.as_millis(), millis.clamp(FIRST_MILLIS, LAST_MILLIS));
            prop_assert_eq!(Timestamp::parse(&timestamp.to_string()), Some(timestamp));
        }

        #[test]
        fn the_order_of_moments_is_the_order_of_texts(one in millis(), other in millis()) {
            let (one, other) = (Timestamp::from_millis(one), Timestamp::from_millis(other));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }

        #[test]
        fn anything_else_is_no_moment(text in "[0-9TZ:.+ -]{0,30}|\\PC{0,20}") {
            prop_assert_eq!(
                Timestamp::parse(&text).is_some(),
                OffsetDateTime::parse(&text, &Rfc3339).is_ok()
            );
        }
    }

    #[test]
    fn an_operation_has_one_name_everywhere() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation.index(), place);
            assert_eq!(Operation::from_name(operation.as_str()), Some(operation));
            assert_eq!(serde_json::to_value(operation).unwrap(), operation.as_str());
        }
        for name in ["", "Create", "create_many", "all", "create "] {
            assert_eq!(Operation::from_name(name), None);
        }
    }

    #[test]
    fn ids_differ_and_carry_their_time() {
        let before = Timestamp::now();
        let ids: std::collections::HashSet<EventId> = (0..10_000).map(|_| EventId::now()).collect();
        let after = Timestamp::now();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.time().is_some_and(|time| before <= time && time <= after)));
        assert!(ids.iter().all(|id| id.as_uuid().get_version_num() == 7));
    }
}
