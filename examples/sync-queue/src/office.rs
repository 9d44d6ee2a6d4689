//! The head office's system. In a real application it is somewhere else, and `push` sends a request.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emitter_diesel::Operation;
use serde_json::Value;
use tokio::sync::watch;

/// The office, as all who know its address have it.
#[derive(Clone, Default)]
pub(crate) struct HeadOffice {
    opened: watch::Sender<bool>,
    books: Arc<Mutex<Books>>,
}

/// What it has.
#[derive(Default)]
pub(crate) struct Books {
    /// Each record as it is.
    pub(crate) records: BTreeMap<String, Value>,
    /// What was done to each, in order.
    pub(crate) done: BTreeMap<String, Vec<String>>,
    /// It takes phone numbers without a digit, too.
    pub(crate) takes_any_phone: bool,
    /// Calls by idempotency key while it was closed.
    calls: HashMap<String, u32>,
    /// Idempotency keys of what is done.
    keys: HashSet<String>,
}

impl HeadOffice {
    pub(crate) fn open(&self) {
        self.opened.send_replace(true);
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a change, once for each idempotency key.
    pub(crate) async fn push(
        &self,
        key: &str,
        record: &str,
        operation: Operation,
        fields: Value,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if !*self.opened.borrow() {
            // Two calls of each fail; the third is left waiting, so that this story is the same each time.
            if self.books().is_refused(key) {
                return Err("503: the office is closed".into());
            }
            self.opened.subscribe().wait_for(|opened| *opened).await?;
        }
        self.books().enter(key, record, operation, fields)
    }
}

impl Books {
    fn is_refused(&mut self, key: &str) -> bool {
        let calls = self.calls.entry(key.to_owned()).or_default();
        *calls += 1;
        *calls <= 2
    }

    fn enter(
        &mut self,
        key: &str,
        record: &str,
        operation: Operation,
        fields: Value,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.keys.contains(key) {
            return Ok(());
        }
        let phone = fields["phone"].as_str().filter(|_| !self.takes_any_phone);
        if phone.is_some_and(|phone| !phone.contains(|c: char| c.is_ascii_digit())) {
            return Err("422: a phone number has digits".into());
        }
        let mut told = operation.to_string();
        if !fields.is_null() {
            told.push_str(&format!(" {fields}"));
        }
        match (operation, &fields) {
            (Operation::Delete, _) => drop(self.records.remove(record)),
            (Operation::Update, Value::Object(changes)) => {
                let known = self.records.get_mut(record).ok_or("404: there is no such record")?;
                for (column, change) in changes {
                    if known[column] != change[0] {
                        return Err(format!("409: {column} is another one here").into());
                    }
                    known[column] = change[1].clone();
                }
            }
            _ => drop(self.records.insert(record.to_owned(), fields)),
        }
        self.done.entry(record.to_owned()).or_default().push(told);
        self.keys.insert(key.to_owned());
        Ok(())
    }
}
