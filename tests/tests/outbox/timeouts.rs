//! Transactions that take too long, on each database, blocking and asynchronous.

use diesel::prelude::{Connection, PgConnection, SqliteConnection};
use diesel::result::{Error, QueryResult};
use emitter_core::StartError;
use emitter_diesel::{Bind, TimedOut, TransactionTimeout};
use emitter_tests::servers::Postgres;

use super::databases::Database;
use super::*;

/// Every transaction of a test that waits takes longer.
const SHORT: Duration = Duration::from_millis(1);
const WAIT: Duration = Duration::from_millis(5);
/// And none takes this long.
const LONG: Duration = Duration::from_secs(3600);

#[track_caller]
fn late<T: std::fmt::Debug>(result: QueryResult<T>) {
    let Err(Error::QueryBuilderError(error)) = result else { panic!("{result:?}") };
    let late = error.downcast_ref::<TimedOut>().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(late.timeout, SHORT);
    assert!(late.taken >= WAIT);
    assert!(error.to_string().contains("may take 0.001 s"), "{error}");
    assert!(error.to_string().contains("conn.transaction_timeout(Some(…))"), "{error}");
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

macro_rules! timeouts {
    ($name:ident: $server:ty, $handle:ident, $connection:ty, [$($methods:tt)*], $sleep:path $(, $async:ident $await:ident)?;
     |$of:ident| $connect:expr) => {
        mod $name {
            use diesel::prelude::{ExpressionMethods, QueryDsl};
            use emitter_diesel::{Emit, $handle};
            use emitter_tests::eventually::eventually;
            use $($methods)*;

            use super::*;

            type Handle<'c> = $handle<'c, $connection>;

            $($async)? fn connect($of: &$server) -> $connection {
                $connect
            }

            $($async)? fn create(conn: &mut Handle<'_>, id: i64) -> QueryResult<Order> {
                let order = (orders::id.eq(id), orders::step.eq(0_i64));
                diesel::insert_into(orders::table).values(order).emit().durable().get_result(conn)$(.$await)?
            }

            /// Its event waits in memory.
            $($async)? fn create_buffered(conn: &mut Handle<'_>, id: i64) -> QueryResult<Order> {
                let order = (orders::id.eq(id), orders::step.eq(0_i64));
                diesel::insert_into(orders::table).values(order).emit().get_result(conn)$(.$await)?
            }

            $($async)? fn ids(conn: &mut Handle<'_>) -> QueryResult<Vec<i64>> {
                orders::table.select(orders::id).order(orders::id).load(conn)$(.$await)?
            }

            /// How many rows a table of the framework has.
            fn rows(server: &$server, table: &str) -> i64 {
                let count = diesel::sql_query(format!("SELECT COUNT(*) AS count FROM emitter_{table}"));
                let counts: Vec<Count> = diesel::RunQueryDsl::load(count, &mut server.connect()).unwrap();
                counts[0].count
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn one_that_takes_too_long_is_rolled_back_with_its_events() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let builder = builder(&broker, "a").with(TransactionTimeout::of(LONG));
                let emitter = builder.with(server.outbox()).start().await.unwrap();
                let mut db = connect(&server)$(.$await)?;
                let conn = &mut emitter.bind(&mut db).unwrap();
                let at_its_commit = conn.transaction($($async)? |conn| {
                    create(conn, 1)$(.$await)??;
                    create_buffered(conn, 2)$(.$await)??;
                    conn.transaction_timeout(Some(SHORT));
                    $sleep(WAIT)$(.$await)?;
                    QueryResult::Ok(())
                });
                late(at_its_commit$(.$await)?);
                // Whoever ignores that its statements are refused commits nothing, either.
                let at_its_statements = conn.transaction($($async)? |conn| {
                    create(conn, 3)$(.$await)??;
                    create_buffered(conn, 4)$(.$await)??;
                    conn.transaction_timeout(Some(SHORT));
                    $sleep(WAIT)$(.$await)?;
                    late(create(conn, 5)$(.$await)?);
                    late(diesel::delete(orders::table).execute(conn)$(.$await)?);
                    late(ids(conn)$(.$await)?);
                    late(conn.batch_execute("DELETE FROM orders")$(.$await)?);
                    late(conn.transaction($($async)? |_| QueryResult::Ok(()))$(.$await)?);
                    QueryResult::Ok(())
                });
                late(at_its_statements$(.$await)?);
                // That was of those alone: the next is in time, and the connection as ever.
                let in_time = conn.transaction($($async)? |conn| {
                    create(conn, 6)$(.$await)??;
                    $sleep(WAIT)$(.$await)?;
                    create_buffered(conn, 7)$(.$await)?
                });
                in_time$(.$await)?.unwrap();
                create(conn, 8)$(.$await)?.unwrap();
                assert_eq!(ids(conn)$(.$await)?, Ok(vec![6, 7, 8]));
                eventually(|| heard.len() >= 3).await;
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(heard.steps().into_keys().collect::<Vec<_>>(), [6, 7, 8]);
                assert!(ear.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(["outbox", "history"].map(|table| rows(&server, table)), [0, 2]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_time_of_the_builder_goes_for_each_transaction_but_those_that_say_otherwise() {
                let server = <$server>::with_tables();
                let builder = builder(&MemoryBroker::new(), "a").with(TransactionTimeout::of(SHORT));
                let emitter = builder.with(server.outbox()).start().await.unwrap();
                let mut db = connect(&server)$(.$await)?;
                let conn = &mut emitter.bind(&mut db).unwrap();
                for (id, timeout) in [(1, None), (2, Some(LONG))] {
                    let idle = conn.transaction($($async)? |_| {
                        $sleep(WAIT)$(.$await)?;
                        QueryResult::Ok(())
                    });
                    late(idle$(.$await)?);
                    let at_its_statement = conn.transaction($($async)? |conn| {
                        $sleep(WAIT)$(.$await)?;
                        create(conn, 9)$(.$await)?
                    });
                    late(at_its_statement$(.$await)?);
                    conn.transaction_timeout(timeout);
                    let in_time = conn.transaction($($async)? |conn| {
                        $sleep(WAIT)$(.$await)?;
                        create(conn, id)$(.$await)?
                    });
                    in_time$(.$await)?.unwrap();
                }
                // No transaction, no time-out.
                create_buffered(conn, 3)$(.$await)?.unwrap();
                assert_eq!(ids(conn)$(.$await)?, Ok(vec![1, 2, 3]));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }
        }
    };
}

timeouts!(sqlite: databases::Sqlite, Bound, diesel::SqliteConnection,
    [diesel::{Connection as _, RunQueryDsl as _, connection::SimpleConnection as _}], std::thread::sleep;
    |server| server.connect());
timeouts!(postgres: Postgres, Bound, diesel::PgConnection,
    [diesel::{Connection as _, RunQueryDsl as _, connection::SimpleConnection as _}], std::thread::sleep;
    |server| server.connect());
timeouts!(mariadb: emitter_tests::servers::MariaDb, Bound, diesel::MysqlConnection,
    [diesel::{Connection as _, RunQueryDsl as _, connection::SimpleConnection as _}], std::thread::sleep;
    |server| server.connect());
timeouts!(async_sqlite: databases::Sqlite,
BoundAsync, diesel_async::sync_connection_wrapper::SyncConnectionWrapper<SqliteConnection>,
[diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _}], tokio::time::sleep, async await;
|server| {
    let path = server.path();
    let path = path.to_str().unwrap();
    let mut conn = diesel_async::sync_connection_wrapper::SyncConnectionWrapper::establish(path).await.unwrap();
    conn.batch_execute("PRAGMA busy_timeout = 20000").await.unwrap();
    conn
});
timeouts!(async_postgres: Postgres, BoundAsync, diesel_async::AsyncPgConnection,
    [diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _}], tokio::time::sleep, async await;
    |server| diesel_async::AsyncPgConnection::establish(&server.url()).await.unwrap());
timeouts!(async_mariadb: emitter_tests::servers::MariaDb, BoundAsync, diesel_async::AsyncMysqlConnection,
    [diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _}], tokio::time::sleep, async await;
    |server| diesel_async::AsyncMysqlConnection::establish(&server.url()).await.unwrap());

/// A node with a short time for transactions.
async fn hasty() -> Emitter {
    builder(&MemoryBroker::new(), "a").with(TransactionTimeout::of(SHORT)).start().await.unwrap()
}

#[tokio::test]
async fn transactions_of_other_words_have_no_more_time() {
    let emitter = hasty().await;
    let server = Postgres::start();
    let url = server.url();
    let mut db = PgConnection::establish(&url).unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    late(conn.build_transaction().serializable().run(|_| waited()));
    let db = <diesel_async::AsyncPgConnection as diesel_async::AsyncConnection>::establish(&url);
    let mut db = db.await.unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    late(conn.build_transaction().serializable().run(async |_| waited()).await);
    let mut db = SqliteConnection::establish(":memory:").unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    late(conn.immediate_transaction(|_| waited()));
    late(conn.exclusive_transaction(|_| waited()));
    // By the transaction manager, and within a test's transaction, of which the test may take its time.
    conn.test_transaction(|conn| {
        waited()?;
        diesel::connection::SimpleConnection::batch_execute(conn, "SELECT 1")?;
        late(conn.transaction(|_| waited()));
        QueryResult::Ok(())
    });
    assert!(emitter.shutdown(SECOND).await.is_clean());
}

fn waited() -> QueryResult<()> {
    std::thread::sleep(WAIT);
    Ok(())
}

#[tokio::test]
async fn no_time_at_all_is_an_error_at_start() {
    let builder = builder(&MemoryBroker::new(), "a").with(TransactionTimeout::of(Duration::ZERO));
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, StartError::Companion { name: "transaction_timeout", .. }), "{error}");
    assert!(error.to_string().contains("0 s is not allowed"), "{error}");
}
