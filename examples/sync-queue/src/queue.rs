//! The queue, as the tables have it.

use diesel::prelude::*;
use diesel::sql_types::{Integer, Nullable, Text};

/// A row of the queue, and how its worker stands with it.
#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    action: String,
    #[diesel(sql_type = Text)]
    record: String,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = Nullable<Text>)]
    worker: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    attempts: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    last_error: Option<String>,
}

/// What waits, and what is done.
const QUEUE: &str = "
    SELECT q.action, q.model || ' ' || q.record_id AS record, q.status, l.status AS worker, l.attempts, l.last_error
    FROM (SELECT id, event_id, action, model, record_id, status FROM emitter_outbox UNION ALL
          SELECT id, event_id, action, model, record_id, status FROM emitter_history) q
    LEFT JOIN emitter_ledger l ON l.event_id = q.event_id ORDER BY q.id";

/// Prints the queue, oldest first.
pub(crate) fn print(db: &mut SqliteConnection) -> QueryResult<()> {
    println!(
        "    {:<7} {:<10}  {:<10}  {:<8}  {:<8}  last error",
        "action", "record", "status", "worker", "attempts"
    );
    for row in diesel::sql_query(QUEUE).load::<Row>(db)? {
        let Row { action, record, status, worker, attempts, last_error } = row;
        let (worker, attempts) =
            (worker.unwrap_or_default(), attempts.map_or_else(String::new, |n| n.to_string()));
        let error = last_error.unwrap_or_default();
        let line = format!("{action:<7} {record:<10}  {status:<10}  {worker:<8}  {attempts:<8}  {error}");
        println!("    {}", line.trim_end());
    }
    println!();
    Ok(())
}
