//! Databases that go away.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_tests::servers::{MariaDb, Postgres};

use super::databases::{Database, Sqlite};

/// A database that is not always there.
pub(crate) trait Away: Database {
    /// No connection to it can be made, and those that there are end, where they do.
    fn away(&mut self);

    fn back(&mut self);

    /// Ends all connections, where they can be ended.
    fn end_sessions(&self) -> bool;
}

impl Away for Postgres {
    fn away(&mut self) {
        self.kill();
    }

    fn back(&mut self) {
        self.restart();
    }

    fn end_sessions(&self) -> bool {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.connect().batch_execute(end).unwrap();
        true
    }
}

impl Away for MariaDb {
    fn away(&mut self) {
        self.kill();
    }

    fn back(&mut self) {
        self.restart();
    }

    fn end_sessions(&self) -> bool {
        let mut conn = self.connect();
        let all = "SELECT id AS number FROM information_schema.processlist \
                   WHERE id <> connection_id() AND command <> 'Daemon'";
        let sessions: Vec<Session> = diesel::sql_query(all).load(&mut conn).unwrap();
        for Session { number } in sessions {
            // It may have ended by itself.
            let _ = conn.batch_execute(&format!("KILL {number}"));
        }
        true
    }
}

#[derive(diesel::QueryableByName)]
struct Session {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

impl Away for Sqlite {
    fn away(&mut self) {
        std::fs::rename(self.folder(), self.folder().with_extension("away")).unwrap();
    }

    fn back(&mut self) {
        std::fs::rename(self.folder().with_extension("away"), self.folder()).unwrap();
    }

    fn end_sessions(&self) -> bool {
        false
    }
}
