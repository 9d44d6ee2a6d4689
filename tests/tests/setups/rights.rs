//! What the database's user of an application may do, at the least: as docs/PRODUCTION.md says it.

use diesel::connection::SimpleConnection;
use diesel::result::ConnectionResult;
use emitter_core::retry::Retry;
use emitter_core::{Event, EventId, HealthStatus};
use emitter_diesel::capture::Capture;
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::dead_letters::{DeadLetterBook, DeadLetters, Selection};
use emitter_diesel::inbox::{self, Inbox, InboxTx};
use emitter_diesel::listener;
use emitter_diesel::mirror::{self, Mirror, MirrorConfig, Mirrored};
use emitter_diesel::outbox::{Control, GivenUp, GivenUpSelection, Ledger, Outbox};
use emitter_diesel::requests::{Attendant, Requests, Status, Work};
use emitter_diesel::tables::Tables;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::Database as _;
use super::*;

const PRODUCTION: &str = include_str!("../../../docs/PRODUCTION.md");

/// The SQL of that page: what every application needs, and what one needs beside it that has a mirror, or captures.
fn documented() -> [&'static str; 3] {
    let (_, after) = PRODUCTION.split_once("```sql\n").unwrap();
    let (sql, _) = after.split_once("```").unwrap();
    let (usual, also) = sql.split_at(sql.find("-- with a mirror").unwrap());
    let (mirror, captures) = also.split_at(also.find("-- with captures").unwrap());
    [usual, mirror, captures]
}

#[listener(model = "order", name = "restricted", allow_remote)]
fn restricted(event: Event<OrderCreated>, mut tx: InboxTx<'_, PgConnection>) -> QueryResult<()> {
    diesel::insert_into(orders::table).values(orders::id.eq(event.row.id + 1_000)).execute(&mut *tx).map(drop)
}

/// A server with tables that somebody else made, and a role that may nothing with them.
fn server() -> Postgres {
    tokio::task::block_in_place(|| {
        let server = Postgres::with_tables();
        Control::open(&server.tables()).unwrap();
        server.connect().batch_execute("CREATE ROLE shop LOGIN; GRANT ALL ON orders TO shop").unwrap();
        server
    })
}

fn connector(server: &Postgres) -> impl Fn() -> ConnectionResult<PgConnection> + Clone + Send + Sync + use<> {
    let url = server.url().replace("test@", "shop@");
    move || PgConnection::establish(&url)
}

fn tables(server: &Postgres) -> Tables {
    Tables::new(connector(server))
}

/// What the server refused for want of a right.
fn refusals(server: &Postgres) -> Vec<String> {
    let is_one = |line: &&str| line.contains("permission denied") || line.contains("must be owner");
    server.log().lines().filter(is_one).map(ToOwned::to_owned).collect()
}

fn number(server: &Postgres, sql: &str) -> i64 {
    let sql = format!("SELECT ({sql})::bigint AS number");
    diesel::sql_query(sql).get_result::<Number>(&mut server.connect()).unwrap().number
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_documents_grant_is_enough_for_all_parts() {
    let _turn = Log::turn().await;
    let (server, broker) = (server(), MemoryBroker::new());
    let [usual, for_mirrors, _] = documented();
    tokio::task::block_in_place(|| {
        let mut db = server.connect();
        db.batch_execute(usual).unwrap();
        // Another program, that writes and relays nothing.
        db.batch_execute(
            "CREATE ROLE desk LOGIN; GRANT ALL ON orders TO desk; GRANT INSERT ON emitter_outbox TO desk",
        )
        .unwrap();
    });
    let retry = Retry { attempts: 1, ..Retry::default() };
    let parts = |node: Builder| {
        let inbox = Inbox::new(tables(&server), boxed(connector(&server)));
        let node = node.with(Outbox::new(tables(&server))).with(inbox).with(CatchUp::new(tables(&server)));
        let node = node.with(DeadLetters::new(tables(&server))).with(Attendant::new(tables(&server)));
        node.select_listeners(|info| info.name == "restricted").listener_retry(retry)
    };
    let (billing, shop) = (builder(&broker, "billing", "a"), builder(&broker, "shop", "a"));
    let billing = billing.with(CatchUp::new(tables(&server))).start().await.unwrap();
    billing.on::<OrderCreated>().allow_remote().run(|_| std::future::ready(()));
    let shop = parts(shop).start().await.unwrap();
    shop.on::<OrderCreated>().name("fails").run(|_| std::future::ready(Err::<(), _>("on purpose")));
    billing.connected(10 * SECOND).await.unwrap();
    let mut db = PgConnection::establish(&server.url().replace("test@", "desk@")).unwrap();
    for id in 1..=2 {
        let insert = diesel::insert_into(orders::table).values(orders::id.eq(id));
        let _: Order = insert.emit().durable().get_result(&mut shop.bind(&mut db).unwrap()).unwrap();
    }
    let insert = diesel::insert_into(orders::table).values(orders::id.eq(3));
    let _: Order = insert.emit().queued().get_result(&mut shop.bind(&mut db).unwrap()).unwrap();
    for (found, wanted) in [
        ("SELECT COUNT(*) FROM emitter_inbox", 3),
        ("SELECT COUNT(*) FROM emitter_dlq_events", 3),
        ("SELECT COUNT(*) FROM emitter_history", 3),
        ("SELECT COUNT(*) FROM orders", 6),
        ("SELECT SUM(sequence) FROM emitter_positions WHERE node = 'billing/a'", 3),
    ] {
        let begun = std::time::Instant::now();
        while number(&server, &format!("COALESCE(({found}), 0)")) != wanted {
            assert!(begun.elapsed() < 30 * SECOND, "{found}: {:?} {:?}", shop.health(), refusals(&server));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // The node is asked to try them again, and they fail again.
    let requests = Requests::open(&tables(&server)).unwrap();
    let work = Work::Redrive { letters: Selection::default(), per_second: 50 };
    let request = requests.ask("shop", &work, None).unwrap();
    eventually(|| requests.state(request).unwrap().progress.failed == 3).await;
    eventually(|| requests.state(request).unwrap().status == Status::Done).await;
    let book = DeadLetterBook::open(&tables(&server)).unwrap();
    assert_eq!(tokio::task::block_in_place(|| book.discard(&Selection::default())).unwrap(), 3);
    // What an operator's programs ask, whether there is a mirror or not: `emitter lag`, `why`, `outbox`.
    tokio::task::block_in_place(|| {
        let (tables, event) = (tables(&server), EventId::now());
        let mut control = Control::open(&tables).unwrap();
        assert!(control.behind().unwrap().iter().any(|behind| behind.node == "billing/a"));
        assert_eq!((control.state().unwrap().pending, control.find(event).unwrap().len()), (0, 0));
        assert_eq!(Ledger::open(&tables).unwrap().event(event).unwrap().len(), 0);
        assert_eq!(inbox::marks_of(&tables, event).unwrap().len(), 0);
        let given_up = GivenUp::open(&tables, "shop").unwrap();
        assert!(given_up.count(&GivenUpSelection::default()).unwrap().iter().all(|(_, count)| *count == 0));
        let mut mirrored = Mirrored::open(&tables).unwrap();
        mirrored.state().unwrap();
        let this = mirror::Selection { event_id: Some(event), ..mirror::Selection::default() };
        assert_eq!(mirrored.read(&this).unwrap().events.len(), 0);
    });
    for emitter in [shop, billing] {
        assert_eq!(emitter.health().reasons, [""; 0]);
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
    assert_eq!(refusals(&server), [""; 0]);

    tokio::task::block_in_place(|| server.connect().batch_execute(for_mirrors).unwrap());
    let audit = builder(&broker, "audit", "a").with(Mirror::new(tables(&server))).start().await.unwrap();
    eventually(|| mirror::stats(&audit).unwrap().hears).await;
    audit.publish(OrderCreated::new(Order { id: 1 }));
    eventually(|| mirror::stats(&audit).unwrap().recorded == 1).await;
    assert_eq!(audit.health().reasons, [""; 0]);
    assert!(audit.shutdown(10 * SECOND).await.is_clean());
    assert_eq!(number(&server, "SELECT COUNT(*) FROM emitter_events_mirror_rest"), 0);
    assert_eq!(refusals(&server), [""; 0]);
}

const DAYS: &str = "SELECT COUNT(*) FROM pg_inherits WHERE inhparent = 'emitter_events_mirror'::regclass";

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_may_not_make_its_days_says_so_until_it_may() {
    let turn = Log::turn().await;
    let (server, broker) = (server(), MemoryBroker::new());
    let [usual, for_mirrors, _] = documented();
    // What one would grant who thinks of rows alone.
    let rows = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO shop; \
                GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO shop";
    tokio::task::block_in_place(|| {
        let mut db = server.connect();
        db.batch_execute(usual).unwrap();
        db.batch_execute(rows).unwrap();
    });
    let config = MirrorConfig { lease: SECOND, ..MirrorConfig::default() };
    let mirror = Mirror::new(tables(&server)).config(config);
    let audit = builder(&broker, "audit", "a").with(mirror).start().await.unwrap();
    eventually(|| mirror::stats(&audit).unwrap().hears).await;
    audit.publish(OrderCreated::new(Order { id: 1 }));
    eventually(|| mirror::stats(&audit).unwrap().recorded == 1).await;
    let health = audit.health();
    let [reason] = &health.reasons[..] else { panic!("{health:?}") };
    let said = "mirror: its days cannot be made or dropped, so that rows go to `emitter_events_mirror_rest` and are deleted \
         one by one: permission denied for schema public; where that is a missing right, let its role own";
    assert!(reason.starts_with(said) && reason.contains("docs/PRODUCTION.md"), "{reason}");
    assert_eq!(health.status, HealthStatus::Degraded);
    let warned = turn.as_ref().unwrap().lines("WARN");
    assert!(warned.iter().any(|line| line.contains(reason.trim_start_matches("mirror: "))), "{warned:?}");
    assert_eq!(number(&server, "SELECT COUNT(*) FROM emitter_events_mirror_rest"), 1);
    assert_eq!(number(&server, DAYS), 1);

    // It tries again when it takes the writing up, and every minute.
    let takes_up_after = |sql: &str| {
        tokio::task::block_in_place(|| {
            let mut db = server.connect();
            db.batch_execute(sql).unwrap();
            db.batch_execute("UPDATE emitter_mirrors SET owner = NULL, node = NULL, until = 0").unwrap();
        });
    };
    takes_up_after("GRANT CREATE ON SCHEMA public TO shop");
    let owns = "must be owner of table emitter_events_mirror;";
    eventually(|| audit.health().reasons.iter().any(|reason| reason.contains(owns))).await;
    takes_up_after(for_mirrors);
    eventually(|| number(&server, DAYS) == 3 && audit.health().reasons.is_empty()).await;
    // Today there are rows elsewhere already, which go one by one.
    eventually(|| mirror::stats(&audit).unwrap().hears).await;
    audit.publish(OrderCreated::new(Order { id: 2 }));
    eventually(|| mirror::stats(&audit).unwrap().recorded == 2).await;
    assert_eq!(number(&server, "SELECT COUNT(*) FROM emitter_events_mirror_rest"), 2);
    assert!(audit.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_documents_grant_is_enough_to_capture() {
    let _turn = Log::turn().await;
    let (server, broker) = (server(), MemoryBroker::new());
    let [usual, _, captures] = documented();
    tokio::task::block_in_place(|| {
        let mut db = server.connect();
        for sql in [
            usual,
            captures,
            "ALTER TABLE orders OWNER TO shop; CREATE ROLE stranger LOGIN; GRANT INSERT ON orders TO stranger",
        ] {
            db.batch_execute(sql).unwrap();
        }
    });
    let capture = Capture::of::<Order>().unwrap().audit();
    tokio::task::block_in_place(|| {
        capture.apply(&mut connector(&server)().unwrap(), &tables(&server)).unwrap();
    });
    let outbox = Outbox::new(tables(&server)).capture(capture);
    let shop = builder(&broker, "shop", "a").with(outbox).start().await.unwrap();
    let mut stranger = PgConnection::establish(&server.url().replace("test@", "stranger@")).unwrap();
    stranger.batch_execute("INSERT INTO orders VALUES (1), (2)").unwrap();
    for found in ["emitter_history", "emitter_audit_log"] {
        eventually(|| number(&server, &format!("SELECT COUNT(*) FROM {found}")) == 2).await;
    }
    assert_eq!(shop.health().reasons, [""; 0]);
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
    assert_eq!(refusals(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_note_how_far_it_heard_says_so_until_it_can() {
    let _turn = Log::turn().await;
    let (server, broker) = (server(), MemoryBroker::new());
    tokio::task::block_in_place(|| {
        let some =
            "GRANT SELECT ON emitter_schema TO shop; GRANT SELECT, DELETE ON emitter_positions TO shop";
        server.connect().batch_execute(some).unwrap();
    });
    let billing = builder(&broker, "billing", "a").with(CatchUp::new(tables(&server))).start().await.unwrap();
    billing.on::<OrderCreated>().allow_remote().run(|_| std::future::ready(()));
    billing.connected(10 * SECOND).await.unwrap();
    let shop = builder(&broker, "shop", "a").with(server.outbox()).start().await.unwrap();
    let mut db = server.connect();
    let insert = diesel::insert_into(orders::table).values(orders::id.eq(1));
    let _: Order = insert.emit().durable().get_result(&mut shop.bind(&mut db).unwrap()).unwrap();
    let denied =
        "catch_up: how far this node heard could not be noted: permission denied for table emitter_positions";
    eventually(|| billing.health().reasons == [denied]).await;
    assert_eq!(billing.health().status, HealthStatus::Degraded);
    tokio::task::block_in_place(|| {
        server.connect().batch_execute("GRANT INSERT, UPDATE ON emitter_positions TO shop").unwrap();
    });
    eventually(|| billing.health().reasons.is_empty()).await;
    assert_eq!(number(&server, "SELECT SUM(sequence) FROM emitter_positions WHERE node = 'billing/a'"), 1);
    for emitter in [shop, billing] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}
