//! What a start says of a database that cannot be relied on.

use diesel::connection::SimpleConnection;
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::inbox::Inbox;
use emitter_diesel::mirror::Mirror;
use emitter_diesel::outbox::{Control, Outbox};
use emitter_diesel::replica::Replica;
use emitter_diesel::tables::{Names, Tables};
use emitter_tests::servers::{MariaDb, Postgres};

use super::databases::{Database, Sqlite};
use super::*;

fn node() -> Builder {
    builder(&MemoryBroker::new(), "shop", "a")
}

/// Each wrong set-up in a database of its own, with its cure.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_forgets_or_has_another_time_is_told_of_at_the_start() {
    let turn = Log::turn().await;
    let log = turn.as_ref().unwrap();
    let (postgres, mariadb) =
        tokio::task::block_in_place(|| (Postgres::start_with_fsync(), MariaDb::start()));
    assert_eq!(log.of_start("ERROR", node().with(postgres.outbox())).await, [""; 0]);
    tokio::task::block_in_place(|| {
        // As a server has it whose clock is an hour late.
        let late = "CREATE SCHEMA late; CREATE FUNCTION late.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                    $$ SELECT pg_catalog.clock_timestamp() - interval '3600.5 seconds' $$";
        postgres.connect().batch_execute(late).unwrap();
    });
    let cases = [
        (
            with(&postgres, "SET synchronous_commit = off"),
            "`synchronous_commit`",
            "set it to `on`, for the roles",
        ),
        (
            with(&postgres, "SET search_path = late, pg_catalog, public"),
            "its clock is 3600 s behind",
            "set by NTP",
        ),
        // The server of the tests is quicker than safe.
        (mariadb.tables(), "`innodb_flush_log_at_trx_commit`", "set it to 1"),
    ];
    for (tables, problem, cure) in cases {
        let said = log.of_start("ERROR", node().with(Outbox::new(tables))).await;
        let [said] = &said[..] else { panic!("{problem}: {said:?}") };
        assert!(said.contains("the outbox cannot rely on its database"), "{said}");
        assert!(said.contains(problem) && said.contains(cure), "{said}");
    }
}

fn with(postgres: &Postgres, setting: &'static str) -> Tables {
    let connect = postgres.connector();
    Tables::new(move || {
        let mut conn = connect()?;
        conn.batch_execute(setting).map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(conn)
    })
    .migrate()
}

/// All of them tell others, or the broker, what they have committed.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_part_relies_on_a_database_says_so_and_one_of_each_node() {
    let turn = Log::turn().await;
    let log = turn.as_ref().unwrap();
    let postgres = tokio::task::block_in_place(|| {
        let server = Postgres::start_with_fsync();
        server.connect().batch_execute(TABLES[0]).unwrap();
        server
    });
    let forgets = with(&postgres, "SET synchronous_commit = off");
    let tables = || forgets.clone();
    let inbox = || Inbox::<PgConnection>::new(tables(), boxed(postgres.connector()));
    let replica = || Replica::<Order, PgConnection>::new(tables(), boxed(postgres.connector()));
    let alone = [
        ("the inbox", node().with(inbox())),
        ("the replica", node().with(replica())),
        ("the mirror", node().with(Mirror::new(tables()))),
        ("the keeper of dead letters", node().with(DeadLetters::new(tables()))),
        ("catching up", node().with(CatchUp::new(tables()))),
    ];
    for (part, node) in alone {
        let said = log.of_start("ERROR", node).await;
        let [said] = &said[..] else { panic!("{part}: {said:?}") };
        assert!(
            said.contains(&format!("{part} cannot rely on its database: with its `synchronous_commit`")),
            "{said}"
        );
        assert!(said.contains("set it to `on`, for the roles"), "{said}");
    }
    let all = || {
        let node = node().with(inbox()).with(replica()).with(Mirror::new(tables()));
        node.with(DeadLetters::new(tables())).with(CatchUp::new(tables())).with(Outbox::new(tables()))
    };
    let said = log.of_start("ERROR", all()).await;
    assert_eq!(said.len(), 1, "{said:?}");
    // Another database is another one.
    let other = tokio::task::block_in_place(Postgres::start);
    let said = log.of_start("ERROR", all().with(DeadLetters::new(other.tables()))).await;
    assert!(said.len() == 2 && said.iter().any(|said| said.contains("`fsync`")), "{said:?}");
}

const NORMAL: Option<&str> = Some("with its `synchronous = NORMAL`");

/// Its settings are a connection's own.
#[tokio::test(flavor = "multi_thread")]
async fn what_sqlite_may_forget_is_told_of_at_the_start() {
    let turn = Log::turn().await;
    let log = turn.as_ref().unwrap();
    let cases = [
        ("journal_mode = WAL; PRAGMA synchronous = FULL", None),
        ("journal_mode = WAL; PRAGMA synchronous = EXTRA", None),
        ("journal_mode = WAL; PRAGMA synchronous = NORMAL", NORMAL),
        ("journal_mode = DELETE; PRAGMA synchronous = NORMAL", None),
        ("journal_mode = DELETE; PRAGMA synchronous = OFF", Some("with its `synchronous = OFF`")),
        ("journal_mode = WAL; PRAGMA synchronous = OFF", Some("with its `synchronous = OFF`")),
    ];
    for (pragmas, doubt) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let tables = Tables::new(move || {
            let mut conn = SqliteConnection::establish(path.to_str().unwrap_or_default())?;
            conn.batch_execute(&format!("PRAGMA {pragmas}"))
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        });
        let said = log.of_start("ERROR", node().with(Outbox::new(tables.clone().migrate()))).await;
        assert_eq!(said.len(), usize::from(doubt.is_some()), "{pragmas}: {said:?}");
        let mut control = Control::open(&tables).unwrap();
        // An operator is told of a journal, too, that has readers and writers wait for each other.
        let told: Vec<String> = control
            .doubts()
            .unwrap()
            .into_iter()
            .filter(|doubt| !doubt.contains("journal_mode is"))
            .collect();
        assert_eq!(told.len(), said.len(), "{pragmas}: {told:?}");
        for said in said.iter().chain(&told) {
            assert!(said.contains(doubt.unwrap()), "{said}");
            assert!(said.contains("run `PRAGMA synchronous = FULL`"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_two_files_of_sqlite_is_doubted_in_wal_mode() {
    let turn = Log::turn().await;
    let log = turn.as_ref().unwrap();
    for (own, attached, is_doubted) in
        [("DELETE", "DELETE", false), ("WAL", "DELETE", true), ("DELETE", "WAL", true)]
    {
        let server = Sqlite::start();
        let file = server.folder().join("events.db");
        let path = server.path();
        let tables = Tables::new(move || {
            let mut conn = SqliteConnection::establish(path.to_str().unwrap_or_default())?;
            let set = format!(
                "PRAGMA journal_mode = {own}; ATTACH '{}' AS events; PRAGMA events.journal_mode = {attached}",
                file.display()
            );
            conn.batch_execute(&set).map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        });
        let tables = tables.names(Names::default().in_schema("events").unwrap()).migrate();
        let said = log.of_start("ERROR", node().with(Outbox::new(tables))).await;
        assert_eq!(said.len(), usize::from(is_doubted), "{own} {attached}: {said:?}");
        assert!(said.iter().all(|said| said.contains("attached database")), "{said:?}");
    }
}
