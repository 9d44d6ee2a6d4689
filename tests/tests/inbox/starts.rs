//! What a start with an inbox refuses, what it looks after, and how PostgreSQL's stricter isolation ends.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::{PgConnection, SqliteConnection};
use emitter_core::transport::mqtt::MqttConfig;
use emitter_core::{Event, StartError};
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::inbox::{Inbox, InboxTx};
use emitter_diesel::listener;
use emitter_diesel::mirror::{Mirror, MirrorConfig};
use emitter_diesel::outbox::{Outbox, RelayConfig};
use emitter_diesel::tables::Tables;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::{Database, Sqlite};
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[listener(model = "order", allow_remote)]
fn count(_: Event<OrderCreated>, _: InboxTx<'_, SqliteConnection>) {}

#[listener(model = "order", name = "twice")]
fn once(_: Event<OrderCreated>, _: InboxTx<'_, SqliteConnection>) {}

#[listener(model = "order", name = "twice")]
async fn again(_: Event<OrderCreated>) {}

fn with_listener(name: &'static str) -> Builder {
    Emitter::builder().select_listeners(move |info| info.name == name)
}

fn inbox(server: &Sqlite) -> Inbox<SqliteConnection> {
    Inbox::new(server.tables(), boxed(server.connector()))
}

/// What the start of a node says.
async fn refusal(builder: Builder) -> String {
    match builder.start().await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_its_inbox_does_not_start() {
    let error = with_listener("count").start().await.unwrap_err();
    assert!(matches!(error, StartError::State { listener: "count", .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("no state of type `emitter_diesel::inbox::Inbox<"), "{said}");
    assert!(said.contains("SqliteConnection>`"), "{said}");
    assert!(said.contains("give it with `.with(Inbox::new(tables, connect))` on the builder"), "{said}");
    // That of another connection is another one.
    let server = Sqlite::with_tables();
    let said =
        refusal(with_listener("bill_async_sqlite").state(Script::default()).with(inbox(&server))).await;
    assert!(said.contains("`.with(Inbox::from_async(tables, connect))` on the builder"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_know_listeners_by_their_names() {
    let server = Sqlite::with_tables();
    let said = refusal(with_listener("twice").with(inbox(&server))).await;
    assert!(said.starts_with("inbox: two listeners of `order` are called `twice` ("), "{said}");
    assert!(said.contains("starts.rs:") && said.ends_with("give one another with `name = \"…\"`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_not_there_are_an_error_of_the_start() {
    let server = Sqlite::with_tables();
    let bare = Inbox::new(Tables::new(server.connector()), boxed(server.connector()));
    let said = refusal(with_listener("count").with(bare)).await;
    assert!(said.starts_with("inbox: its tables are not there"), "{said}");
    let away = Tables::new(|| SqliteConnection::establish("/nowhere/at.all"));
    let said = refusal(with_listener("count").with(Inbox::new(away, boxed(server.connector())))).await;
    assert!(said.starts_with("inbox: its database cannot be reached"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_are_kept_as_long_as_events_may_come_again() {
    let server = Sqlite::with_tables();
    let start = |inbox| with_listener("count").with(inbox);
    let said = refusal(start(inbox(&server).keep(7 * DAY - SECOND))).await;
    assert_eq!(
        said,
        "inbox: `keep` is 604799s, and events may come again after 604800s, for other nodes mend gaps from histories that \
         go back so far: keep marks at least as long"
    );
    let emitter = start(inbox(&server).keep(7 * DAY)).start().await.unwrap();
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    // What this node itself says may be more.
    let relay = RelayConfig { keep: 40 * DAY, ..RelayConfig::default() };
    let month = || inbox(&server).keep(30 * DAY);
    let said = refusal(start(month()).with(Outbox::new(server.tables()).relay(relay))).await;
    assert!(
        said.contains("`keep` is 2592000s, and events may come again after 3456000s, for this node's own"),
        "{said}"
    );
    let mqtt = || MqttConfig::new("mqtt://127.0.0.1:1").unwrap().session_expiry(31 * DAY).unwrap();
    let said = refusal(start(month()).mqtt(mqtt())).await;
    assert!(said.contains("after 2678400s, for the broker keeps events so long"), "{said}");
    // A session that ends with the connection keeps nothing.
    let emitter = start(month()).mqtt(mqtt().clean(true)).start().await.unwrap();
    assert!(emitter.shutdown(SECOND).await.is_clean());
    // A letter may be of an event whose effect is there: its COMMIT was not answered.
    let letters = || DeadLetters::new(server.tables());
    let said = refusal(start(inbox(&server).keep(89 * DAY)).with(letters())).await;
    assert!(said.contains("after 7776000s, for dead letters are kept so long"), "{said}");
    // What a mirror has is replayed, and a day of it is dropped as a whole.
    let mirrored = |config: MirrorConfig| {
        let bus = MemoryBroker::new().connect("shop.a");
        start(month()).transport(bus).with(Mirror::new(server.tables()).config(config))
    };
    let said = refusal(mirrored(MirrorConfig::default())).await;
    assert!(
        said.contains("after 2678400s, for this node's mirror has them for up to a day longer"),
        "{said}"
    );
    let shorter = MirrorConfig { keep: 29 * DAY, ..MirrorConfig::default() };
    let emitter = mirrored(shorter).start().await.unwrap();
    assert!(emitter.shutdown(SECOND).await.is_clean());
    // Whoever says nothing gets what is long enough.
    let longer = MirrorConfig { keep: 80 * DAY, ..MirrorConfig::default() };
    let bus = MemoryBroker::new().connect("shop.a");
    let mirror = Mirror::new(server.tables()).config(longer);
    let emitter = start(inbox(&server)).transport(bus).with(mirror).start().await.unwrap();
    assert!(emitter.shutdown(SECOND).await.is_clean());
    let emitter = start(inbox(&server)).mqtt(mqtt()).with(letters()).start().await.unwrap();
    assert!(emitter.shutdown(SECOND).await.is_clean());
    let mut conn = server.connect();
    for days in [89, 91] {
        conn.batch_execute(&format!(
            "INSERT INTO emitter_inbox VALUES ('{days}', 'l', 's', strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{days} days'))"
        ))
        .unwrap();
    }
    let emitter = start(inbox(&server)).with(letters()).start().await.unwrap();
    let marks = || -> i64 {
        let count =
            diesel::sql_query("SELECT COUNT(*) AS old, MAX(event_id) = '89' AS young FROM emitter_inbox");
        let left: Left = count.get_result(&mut server.connect()).unwrap();
        left.old * left.young
    };
    eventually(|| marks() == 1).await;
    assert!(emitter.shutdown(SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_inbox_for_a_type_of_connection() {
    let (server, other) = (Sqlite::with_tables(), Sqlite::with_tables());
    let said = refusal(with_listener("count").with(inbox(&server)).with(inbox(&other))).await;
    assert!(said.contains("another one for the same type of connection"), "{said}");
}

macro_rules! clearing {
    ($($name:ident: $server:ty, $yesterday:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let server = <$server as Database>::with_tables();
            let start = || {
                let inbox = Inbox::new(server.tables(), boxed(server.connector()));
                Emitter::builder().select_listeners(|_| false).with(inbox).start()
            };
            assert!(start().await.unwrap().shutdown(10 * SECOND).await.is_clean());
            let mut conn = server.connect();
            let mark = |age: &str, listener: &str| {
                format!(
                    "INSERT INTO emitter_inbox (event_id, listener, service, claimed_at) \
                     SELECT '00000000-0000-7000-8000-000000000001', '{listener}', CONCAT('s', id), {} FROM orders",
                    $yesterday.replace("DAYS", age)
                )
            };
            // More than go away at a time.
            let orders: Vec<Order> = (0..2_500).map(|id| Order { id, cents: 0 }).collect();
            for some in orders.chunks(500) {
                diesel::insert_into(orders::table).values(some).execute(&mut conn).unwrap();
            }
            for (age, listener) in [("30", "young"), ("32", "old")] {
                conn.batch_execute(&mark(age, listener)).unwrap();
            }
            let left = |conn: &mut _| {
                let count = "(SELECT COUNT(*) FROM emitter_inbox WHERE listener = ";
                let both = format!("SELECT {count} 'old') AS old, {count} 'young') AS young");
                let left: Left = diesel::sql_query(both).get_result(conn).unwrap();
                (left.old, left.young)
            };
            assert_eq!(left(&mut conn), (2_500, 2_500));
            let emitter = start().await.unwrap();
            eventually(|| left(&mut server.connect()) == (0, 2_500)).await;
            assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            assert_eq!(left(&mut conn), (0, 2_500));
        }
    )* };
}

#[derive(QueryableByName)]
struct Left {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    old: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    young: i64,
}

clearing! {
    old_marks_go_away_on_sqlite: Sqlite, "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-DAYS days')";
    old_marks_go_away_on_postgresql: Postgres, "now() - interval 'DAYS days'";
    old_marks_go_away_on_mariadb: emitter_tests::servers::MariaDb, "UTC_TIMESTAMP(3) - INTERVAL DAYS DAY";
}

/// The second of two at once is ended with an error, is called again, and finds the event done.
#[tokio::test(flavor = "multi_thread")]
async fn stricter_isolation_costs_a_call_and_no_effect() {
    for isolation in ["repeatable read", "serializable"] {
        let (server, events) = (<Postgres as Database>::with_tables(), published(1..=10).await);
        let broker = MemoryBroker::new();
        let start = |node: &'static str, script: Script| {
            let connect = server.connector();
            let set = format!("SET default_transaction_isolation = '{isolation}'");
            let inbox = Inbox::<PgConnection>::new(server.tables(), move || {
                let mut connection = connect()?;
                connection.batch_execute(&set).map_err(ConnectionError::CouldntSetupConfiguration)?;
                Ok::<_, ConnectionError>(Box::new(connection))
            });
            let builder =
                builder(&broker, "shop", node).select_listeners(|info| info.name == "bill_postgres");
            // Serializable transactions may have to be tried more often.
            let patient = Retry { attempts: 20, ..Retry::default() };
            let patient =
                Retry { backoff: Backoff { base: Duration::from_millis(20), ..patient.backoff }, ..patient };
            let builder = builder.listener_retry(patient).state(script).with(server.outbox());
            builder.with(inbox).start()
        };
        let slow = || Script::of([Act::Take(50); 10]);
        let (a, b) = (start("a", slow()).await.unwrap(), start("b", slow()).await.unwrap());
        for event in &events {
            a.replay(event).unwrap();
            b.replay(event).unwrap();
        }
        let done = || a.stats().handled + b.stats().handled >= 20;
        eventually(done).await;
        let bills: i64 = bills::table.count().get_result(&mut server.connect()).unwrap();
        assert_eq!(bills, 10, "{isolation}");
        let refused = [&a, &b].map(|emitter| emitter.stats().unready + emitter.stats().failed);
        assert!(refused.iter().sum::<u64>() > 0, "{isolation}: none was refused");
        for emitter in [a, b] {
            assert!(emitter.shutdown(10 * SECOND).await.is_clean());
        }
    }
}
