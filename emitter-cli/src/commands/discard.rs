//! How what was given up is deleted: dead letters, and rows of an outbox.

use std::fmt;

use serde::Serialize;

use crate::report::{self, Failure};

/// How many are there no more.
#[derive(Serialize)]
pub(super) struct Discarded {
    pub(super) discarded: u64,
}

impl fmt::Display for Discarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} were deleted.", self.discarded)
    }
}

/// As many are listed, and deleted, at a time.
pub(super) const PAGE: usize = 1_000;

/// Deletes what is there when somebody is asked, and not what comes while they read the question. By their numbers, for a
/// row of an outbox may be given up meanwhile that stands before the last of these. `list` is handed the last number of the page before.
pub(super) fn agreed(
    what: &str,
    list: impl Fn(Option<i64>) -> Result<Vec<i64>, Failure>,
    discard: impl Fn(Vec<i64>) -> Result<u64, Failure>,
) -> Result<u64, Failure> {
    let mut meant: Vec<i64> = Vec::new();
    loop {
        let page = list(meant.last().copied())?;
        if page.is_empty() {
            break;
        }
        meant.extend(page);
    }
    let question = format!("Delete {} {what}, for good?", meant.len());
    if !meant.is_empty() && !report::agreed(&question)? {
        return Err(Failure::said("nothing was deleted"));
    }
    meant.chunks(PAGE).try_fold(0, |deleted, ids| Ok(deleted + discard(ids.to_vec())?))
}
