//! What a start says of a database that an outbox cannot rely on.

use std::io;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_tests::servers::{MariaDb, Postgres};

use super::databases::Database;
use super::*;

/// What is logged.
#[derive(Debug, Default, Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What a start with these tables says that an operator has to look at.
    async fn of_start(&self, tables: Tables) -> Vec<String> {
        self.0.lock().unwrap().clear();
        let emitter = builder(&MemoryBroker::new(), "a").with(Outbox::new(tables)).start().await.unwrap();
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains("ERROR")).map(ToOwned::to_owned).collect()
    }
}

/// Each wrong set-up in a database of its own, with its cure.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_forgets_or_has_another_time_is_told_of_at_the_start() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // The outbox begins in a thread of its own.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (postgres, mariadb) =
        tokio::task::block_in_place(|| (Postgres::start_with_fsync(), MariaDb::start()));
    assert_eq!(log.of_start(postgres.tables()).await, [""; 0]);
    tokio::task::block_in_place(|| {
        // As a server has it whose clock is an hour late.
        let late = "CREATE SCHEMA late; CREATE FUNCTION late.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                    $$ SELECT pg_catalog.clock_timestamp() - interval '3600.5 seconds' $$";
        postgres.connect().batch_execute(late).unwrap();
    });
    let url = postgres.url();
    let with = |setting: &'static str| {
        let url = url.clone();
        Tables::new(move || {
            let mut conn = PgConnection::establish(&url)?;
            conn.batch_execute(setting).map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        })
    };
    let cases = [
        (with("SET synchronous_commit = off"), "`synchronous_commit`", "set it to `on`, for the roles"),
        (with("SET search_path = late, pg_catalog, public"), "its clock is 3600 s behind", "set by NTP"),
        // The server of the tests is quicker than safe.
        (mariadb.tables(), "`innodb_flush_log_at_trx_commit`", "set it to 1"),
    ];
    for (tables, problem, cure) in cases {
        let said = log.of_start(tables).await;
        let [said] = &said[..] else { panic!("{problem}: {said:?}") };
        assert!(said.contains("cannot rely on its database"), "{said}");
        assert!(said.contains(problem) && said.contains(cure), "{said}");
    }
}
