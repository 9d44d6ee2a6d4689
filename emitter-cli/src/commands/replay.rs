//! Events of the mirror, handed to the listeners of a running node once more.

use clap::Args;
use emitter_diesel::event::Timestamp;
use emitter_diesel::mirror::{Cursor, Listeners, Mirrored, ReplayOptions, Selection};
use emitter_diesel::requests::Work;
use emitter_diesel::{EventId, Operation};

use super::dlq;
use super::requests::Asking;
use crate::connection::Place;
use crate::report::{Failure, Out, Verdict};

/// Which events: those for which everything holds that is said; and who is to hear them.
#[derive(Args)]
pub(crate) struct Replay {
    /// The service whose listeners are to hear them: one of its nodes does it
    #[arg(long)]
    service: String,

    /// The listener that is to hear them; several times for several [default: all that the node has]
    #[arg(long = "listener", value_name = "LISTENER")]
    listeners: Vec<String>,

    /// All that were written down by now
    #[arg(long)]
    all: bool,

    /// Written down since then: a time such as 2026-11-21T00:42:25.735Z, or how long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = dlq::time)]
    since: Option<Timestamp>,

    /// Written down by then
    #[arg(long, value_name = "TIME", value_parser = dlq::time)]
    until: Option<Timestamp>,

    /// Whose topic begins so
    #[arg(long, value_name = "TOPIC")]
    topic_prefix: Option<String>,

    /// Of this kind, such as user_created
    #[arg(long)]
    kind: Option<String>,

    /// Of this model, whatever the case of its letters
    #[arg(long)]
    model: Option<String>,

    /// Of this operation, such as updateMany
    #[arg(long, value_parser = operation)]
    operation: Option<Operation>,

    /// Of the row with this key
    #[arg(long)]
    key: Option<String>,

    /// The event with this id
    #[arg(long, value_name = "EVENT_ID")]
    event: Option<EventId>,

    /// Of this trace
    #[arg(long, value_name = "TRACE_ID")]
    trace: Option<EventId>,

    /// Behind this place, which the report of a replay that was not done tells
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,

    #[command(flatten)]
    asking: Asking,
}

fn operation(text: &str) -> Result<Operation, String> {
    Operation::from_name(text).ok_or_else(|| {
        "an operation is one of create, createMany, update, updateMany, upsert, delete, deleteMany".to_owned()
    })
}

impl Replay {
    pub(super) fn run(self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let events = Selection {
            since: self.since,
            until: self.until,
            topic_prefix: self.topic_prefix,
            kind: self.kind,
            model: self.model,
            key: self.key,
            operation: self.operation,
            event_id: self.event,
            trace_id: self.trace.map(|trace| *trace.as_uuid()),
            after: self.after,
            limit: 0,
        };
        if events == Selection::default() && !self.all {
            return Err(Failure::said("which? Give what they have in common, or `--all`"));
        }
        let listeners =
            if self.listeners.is_empty() { Listeners::All } else { Listeners::Named(self.listeners) };
        let meant = || {
            let mut mirrored = Mirrored::open(&place.tables()?)?;
            Ok(mirrored.count(&events)?)
        };
        let options = ReplayOptions { listeners, per_second: self.asking.rate };
        let work = Work::Replay { events: events.clone(), options };
        self.asking.ask(place, &self.service, &work, meant, out)
    }
}
