//! Durable events of asynchronous connections, and of COMMITs that fail.

use std::task::Poll;

use diesel::PgConnection;
use diesel::connection::SimpleConnection;
use diesel::prelude::{ExpressionMethods, QueryDsl};
use diesel::result::{Error, QueryResult};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use emitter_diesel::{Bind, Bound, BoundAsync, Emit, update};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::Database;
use super::*;

async fn create(conn: &mut BoundAsync<'_, AsyncPgConnection>, id: i64) -> QueryResult<Order> {
    let order = Order { id, step: 0 };
    diesel::insert_into(orders::table).values(&order).emit().durable().get_result(conn).await
}

/// Polls a future until it has had to wait so many times, and drops it then; what it said, if it said it before.
async fn dropped_after<T>(waits: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut waited = 0;
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => {
            waited += 1;
            if waited > waits { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

/// What somebody does on a connection who may be interrupted.
#[derive(Debug, Clone, Copy)]
enum Doing {
    /// Writes one order.
    One,
    /// Writes one that is there already, so that it is rolled back.
    InVain,
    /// Writes three in a transaction, the second one in a savepoint that is rolled back.
    Several,
}

impl Doing {
    async fn run(self, conn: &mut BoundAsync<'_, AsyncPgConnection>, id: i64) -> QueryResult<()> {
        match self {
            Self::One => create(conn, id).await.map(drop),
            Self::InVain => {
                assert!(matches!(create(conn, 0).await, Err(Error::DatabaseError(..))));
                Ok(())
            }
            Self::Several => {
                conn.transaction(async |conn| {
                    create(conn, id).await?;
                    let undone = conn.transaction(async |conn| {
                        create(conn, id + 1).await?;
                        QueryResult::<()>::Err(Error::RollbackTransaction)
                    });
                    assert!(undone.await.is_err());
                    create(conn, id + 2).await.map(drop)
                })
                .await
            }
        }
    }
}

/// What is dropped at its BEGIN, COMMIT or ROLLBACK leaves a connection that is refused from then on; in between, one
/// whose transaction the next statement rolls back. On one thread, where nothing is answered that was not waited for.
#[tokio::test]
async fn one_that_is_dropped_at_whatever_it_waits_for_leaves_a_connection_that_works_or_is_refused() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let (ear, heard) = Ear::start(&broker).await;
    let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
    let connection = async || AsyncPgConnection::establish(&server.url()).await.unwrap();
    create(&mut emitter.bind(&mut connection().await).unwrap(), 0).await.unwrap();
    let mut id = 0;
    for doing in [Doing::One, Doing::InVain, Doing::Several] {
        let (mut ways, mut refused) = (0, 0);
        // Dropped after so many waits, and the next one, too, which has to clear up.
        for next in 0..3 {
            for waits in 0.. {
                ways += 1;
                let mut db = connection().await;
                let mut bound = emitter.bind(&mut db).unwrap();
                let conn = &mut bound;
                id += 10;
                let done = dropped_after(waits, doing.run(conn, id)).await;
                let _ = dropped_after(next, create(conn, id + 3)).await;
                // A transaction that was dropped in the middle stays open: what comes next is a part of it.
                let last = create(conn, id + 4).await;
                let is_refused = matches!(last, Err(Error::BrokenTransactionManager));
                assert!(last.is_ok() || is_refused, "{doing:?}, {waits} and {next} waits: {last:?}");
                drop(bound);
                if is_refused {
                    refused += 1;
                    assert!(emitter.bind(&mut db).is_err(), "{doing:?}, {waits} and {next} waits");
                }
                if let Some(done) = done {
                    assert!(waits > 2 && done.is_ok(), "{doing:?}, {waits} and {next} waits: {done:?}");
                    break;
                }
            }
        }
        assert!(0 < refused && refused < ways, "{doing:?}: {refused} of {ways}");
    }
    let ids = orders::table.select(orders::id).order(orders::id).load(&mut connection().await).await;
    let ids: Vec<i64> = ids.unwrap();
    eventually(|| heard.steps().keys().copied().collect::<Vec<_>>() == ids).await;
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_leaves_a_connection_that_works() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let (ear, heard) = Ear::start(&broker).await;
    let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
    let mut db = server.connect();
    let late = "CREATE TABLE lines (parent BIGINT REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)";
    db.batch_execute(late).unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    let create = |conn: &mut Bound<'_, PgConnection>, id| {
        let order = Order { id, step: 0 };
        diesel::RunQueryDsl::execute(
            diesel::sql_query(format!("INSERT INTO lines VALUES ({})", id / 2)),
            conn,
        )?;
        diesel::insert_into(orders::table).values(&order).emit().durable().get_result::<Order, _>(conn)
    };
    // The database finds it out at the COMMIT.
    for _ in 0..3 {
        let failed = diesel::Connection::transaction(conn, |conn| create(conn, 2));
        assert!(matches!(failed, Err(Error::DatabaseError(..))), "{failed:?}");
    }
    let done = diesel::Connection::transaction(conn, |conn| {
        create(conn, 0)?;
        create(conn, 1)
    });
    done.unwrap();
    eventually(|| heard.len() == 2).await;
    assert_eq!(heard.steps().into_keys().collect::<Vec<_>>(), [0, 1]);
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_asynchronous_connection_commits_is_relayed() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let (ear, heard) = Ear::start(&broker).await;
    let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
    let mut db = AsyncPgConnection::establish(&server.url()).await.unwrap();
    {
        let conn = &mut emitter.bind(&mut db).unwrap();
        let one = create(conn, 1).await.unwrap();
        let kept: QueryResult<Order> = conn
            .transaction(async |conn| {
                create(conn, 2).await?;
                let inner: QueryResult<()> = conn
                    .transaction(async |conn| {
                        create(conn, 3).await?;
                        Err(Error::RollbackTransaction)
                    })
                    .await;
                assert!(inner.is_err());
                update(&one).set(orders::step.eq(1)).emit().durable().get_result(conn).await
            })
            .await;
        kept.unwrap();
        let undone: QueryResult<()> = conn
            .transaction(async |conn| {
                create(conn, 4).await?;
                Err(Error::RollbackTransaction)
            })
            .await;
        assert!(undone.is_err());
        // An error that is ignored: the database would answer the COMMIT with a silent rollback.
        let ignored: QueryResult<()> = conn
            .transaction(async |conn| {
                create(conn, 5).await?;
                assert!(create(conn, 1).await.is_err());
                Ok(())
            })
            .await;
        assert!(ignored.is_err());
        // One by itself that fails leaves no transaction behind.
        assert!(create(conn, 1).await.is_err());
        create(conn, 6).await.unwrap();
        // Whether one that is dropped was committed, nobody knows; if it was, it is told of.
        drop(tokio::time::timeout(Duration::ZERO, create(conn, 7)).await);
        let next = create(conn, 8).await;
        assert!(matches!(next, Ok(_) | Err(Error::BrokenTransactionManager)), "{next:?}");
    }
    let mut db = AsyncPgConnection::establish(&server.url()).await.unwrap();
    {
        let conn = &mut emitter.bind(&mut db).unwrap();
        create(conn, 9).await.unwrap();
        let ids: Vec<i64> = orders::table.select(orders::id).order(orders::id).load(conn).await.unwrap();
        let heard_of: Vec<i64> = [1, 2, 6, 7, 8, 9].into_iter().filter(|id| ids.contains(id)).collect();
        assert_eq!(ids, heard_of);
        eventually(|| heard.steps().keys().copied().collect::<Vec<_>>() == ids).await;
        assert_eq!(heard.steps()[&1], [0, 1]);
    }
    // An outbox without its table.
    server.connect().batch_execute("DROP TABLE emitter_outbox").unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    assert!(create(conn, 10).await.is_err());
    let rows: i64 = orders::table.filter(orders::id.eq(10)).count().get_result(conn).await.unwrap();
    assert_eq!(rows, 0, "what cannot be written down is not committed");
    let _ = emitter.shutdown(SECOND).await;
    assert!(ear.shutdown(10 * SECOND).await.is_clean());
}
