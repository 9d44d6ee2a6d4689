//! Rows that are published and of which it is not noted what became of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use emitter_core::transport::PublishError;

use crate::outbox::store::Settled;
use crate::tables::Queued;

/// Events that come in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Line {
    /// All of a model.
    Model(String),
    /// Those of one key of a model.
    Key(String, String),
    /// One that has no order with others.
    Alone(i64),
}

impl Line {
    pub(super) fn of(row: &Queued) -> Self {
        match &row.record_id {
            _ if row.by_model != 0 => Self::Model(row.model.to_ascii_lowercase()),
            Some(key) => Self::Key(row.model.to_ascii_lowercase(), key.clone()),
            None => Self::Alone(row.id),
        }
    }
}

/// A published row.
pub(super) struct Sent {
    pub(super) at: Settled,
    pub(super) line: Line,
    /// Which publishing it is: a row may be published again by the same relay.
    pub(super) attempt: u64,
    pub(super) retries: i32,
    pub(super) bytes: usize,
    pub(super) outcome: Option<Result<(), PublishError>>,
}

impl Sent {
    pub(super) fn is_confirmed(&self) -> bool {
        matches!(self.outcome, Some(Ok(())))
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.outcome, Some(Err(_)))
    }
}

/// All of them, by the row's id, and by line.
#[derive(Default)]
pub(super) struct OnTheWay {
    rows: BTreeMap<i64, Sent>,
    lines: HashMap<Line, BTreeSet<i64>>,
    bytes: usize,
}

impl OnTheWay {
    pub(super) fn insert(&mut self, row: Sent) {
        self.bytes += row.bytes;
        self.lines.entry(row.line.clone()).or_default().insert(row.at.id);
        self.rows.insert(row.at.id, row);
    }

    pub(super) fn get(&self, id: i64) -> Option<&Sent> {
        self.rows.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: i64) -> Option<&mut Sent> {
        self.rows.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<Sent> {
        let row = self.rows.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(row.bytes);
        if let Some(line) = self.lines.get_mut(&row.line) {
            line.remove(&id);
            if line.is_empty() {
                self.lines.remove(&row.line);
            }
        }
        Some(row)
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, keep: impl Fn(&Sent) -> bool) {
        let gone: Vec<i64> = self.rows.values().filter(|row| !keep(row)).map(|row| row.at.id).collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// The rows of a line, in order.
    pub(super) fn of_line(&self, line: &Line) -> impl DoubleEndedIterator<Item = &Sent> {
        self.lines.get(line).into_iter().flatten().filter_map(|id| self.rows.get(id))
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Sent> {
        self.rows.values()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Of the payloads.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
