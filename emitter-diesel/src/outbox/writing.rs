//! The events of a transaction on their way into the outbox.

use diesel::result::{Error, QueryResult};
use emitter_core::transport::Ack;
use emitter_core::{Emission, Emitter, State};

use super::handing::Handing;
use super::{Attached, Opened};
use crate::tables::Dialect;

/// What a transaction emitted, and what is to be written down of it before it commits.
pub(crate) struct Written {
    events: Vec<Emission>,
    sql: Vec<String>,
    handing: Handing,
    attached: State<Attached>,
}

impl Written {
    /// # Errors
    /// Where there is no outbox in this database, or an event cannot be encoded.
    pub(crate) fn new(
        emitter: &Emitter,
        dialect: Option<Dialect>,
        mut events: Vec<Emission>,
    ) -> QueryResult<Self> {
        let attached = emitter.state::<Attached>().ok_or_else(|| wrong(NO_OUTBOX))?;
        let Opened { store, lanes, .. } = attached.opened().ok_or_else(|| wrong(NOT_OPEN))?;
        if dialect != Some(store.dialect) {
            return Err(wrong(OTHER_DATABASE));
        }
        events.retain(|event| !event.is_durable() || emitter.admits(event));
        let records = events.iter().filter(|event| event.is_durable()).map(|event| {
            let record = emitter.record(event);
            record.map_err(|error| wrong(format!("an event cannot be written into the outbox: {error}")))
        });
        let records = records.collect::<QueryResult<Vec<_>>>()?;
        let handing = attached.mailbox().door().handing();
        let handler = handing.handler(emitter.origin());
        let sql = store.insert(records.iter().map(|record| (record, &*handler)), *lanes);
        Ok(Self { sql, events, handing, attached })
    }

    /// What goes before the COMMIT.
    pub(crate) fn sql(&self) -> &[String] {
        &self.sql
    }

    /// The transaction is committed.
    pub(crate) fn emit(self, emitter: &Emitter) {
        for event in self.events {
            if event.is_durable() {
                self.attached.emit(emitter, event, &self.handing);
            } else {
                emitter.emit([event]);
            }
        }
        // Before whoever reads what was left is woken.
        drop(self.handing);
        self.attached.mailbox().wake();
    }
}

impl Attached {
    /// Hands an event that is written down and committed to the listeners of this node, or leaves it in its row.
    pub(crate) fn emit(&self, emitter: &Emitter, event: Emission, handing: &Handing) {
        let handled = matches!(handing, Handing::AtOnce).then(|| {
            let in_hand = self.mailbox().hand_out(event.id());
            Ack::new(move || in_hand.done())
        });
        emitter.emit_recorded(event, handled);
    }
}

pub(super) fn wrong(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::QueryBuilderError(problem.into())
}

pub(super) const NO_OUTBOX: &str = "an event is to be written into an outbox, and its emitter has none: give it one with \
     `Emitter::builder().with(Outbox::new(tables))`";

const NOT_OPEN: &str = "an event is to be durable, and the outbox of its emitter has not begun: write after \
                        `start().await` has returned";

const OTHER_DATABASE: &str = "an event is to be durable, and the outbox of its emitter is in a database of another kind \
                              than this connection's: an event can be written down only in its transaction";
