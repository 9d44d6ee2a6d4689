//! Durable events of asynchronous connections, and of COMMITs that fail.

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
        // One that is dropped at its BEGIN or its COMMIT leaves a connection that is refused, as a transaction does;
        // in between, one whose transaction is rolled back by the next. Whether it was committed, nobody knows; if
        // it was, it is told of.
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
