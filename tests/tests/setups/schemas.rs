//! Tables in a schema of their own: on PostgreSQL and MariaDB, and in an attached database of SQLite.

use diesel::connection::SimpleConnection;
use diesel::result::ConnectionResult;
use emitter_core::Event;
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::inbox::{Inbox, InboxTx};
use emitter_diesel::listener;
use emitter_diesel::mirror::{self, Mirror, Mirrored, Selection};
use emitter_diesel::outbox::{Control, Outbox};
use emitter_diesel::requests::Attendant;
use emitter_diesel::tables::{Names, Tables, VERSION};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{MariaDb, Postgres};

use super::databases::{Database, Sqlite};
use super::*;

#[listener(model = "order", name = "effect_sqlite", remote_only)]
fn effect_sqlite(event: Event<OrderCreated>, mut tx: InboxTx<'_, SqliteConnection>) -> QueryResult<()> {
    diesel::insert_into(orders::table).values(orders::id.eq(event.row.id + 1_000)).execute(&mut *tx).map(drop)
}

#[listener(model = "order", name = "effect_postgres", remote_only)]
fn effect_postgres(event: Event<OrderCreated>, mut tx: InboxTx<'_, PgConnection>) -> QueryResult<()> {
    diesel::insert_into(orders::table).values(orders::id.eq(event.row.id + 1_000)).execute(&mut *tx).map(drop)
}

#[listener(model = "order", name = "effect_mariadb", remote_only)]
fn effect_mariadb(event: Event<OrderCreated>, mut tx: InboxTx<'_, MysqlConnection>) -> QueryResult<()> {
    diesel::insert_into(orders::table).values(orders::id.eq(event.row.id + 1_000)).execute(&mut *tx).map(drop)
}

fn attached(
    server: &Sqlite,
) -> impl Fn() -> ConnectionResult<SqliteConnection> + Clone + Send + Sync + use<> {
    let (path, file) = (server.path(), server.folder().join("events.db"));
    move || {
        let mut conn = SqliteConnection::establish(path.to_str().unwrap_or_default())?;
        let attach = format!("PRAGMA busy_timeout = 20000; ATTACH '{}' AS events", file.display());
        conn.batch_execute(&attach).map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(conn)
    }
}

fn postgres(server: &Postgres) -> impl Fn() -> ConnectionResult<PgConnection> + Clone + Send + Sync + use<> {
    server.connect().batch_execute("CREATE SCHEMA events").unwrap();
    let url = server.url();
    move || PgConnection::establish(&url)
}

fn mariadb(server: &MariaDb) -> impl Fn() -> ConnectionResult<MysqlConnection> + Clone + Send + Sync + use<> {
    server.connect().batch_execute("CREATE DATABASE events").unwrap();
    let url = server.url();
    move || MysqlConnection::establish(&url)
}

macro_rules! in_a_schema {
    ($($name:ident: $server:ty, $connect:ident, $listener:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let _turn = Log::turn().await;
            let server = tokio::task::block_in_place(<$server as Database>::with_tables);
            let connect = tokio::task::block_in_place(|| $connect(&server));
            let names = Names::default().in_schema("events").unwrap();
            let bare = Tables::new(connect.clone()).names(names);
            let tables = || bare.clone().migrate();
            assert_eq!(bare.version().unwrap(), 0);
            for _ in 0..2 {
                Control::open(&tables()).unwrap();
                assert_eq!(bare.version().unwrap(), VERSION);
            }
            let broker = MemoryBroker::new();
            // It shares the database: its effect is another row.
            let inbox = Inbox::new(tables(), boxed(connect.clone()));
            let billing = builder(&broker, "billing", "a").select_listeners(|info| info.name == $listener);
            let billing = billing.with(inbox).with(CatchUp::new(tables())).start().await.unwrap();
            billing.connected(10 * SECOND).await.unwrap();
            let shop = builder(&broker, "shop", "a").with(Outbox::new(tables())).with(Mirror::new(tables()));
            let shop = shop.with(DeadLetters::new(tables())).with(Attendant::new(tables()));
            let shop = shop.start().await.unwrap();
            eventually(|| mirror::stats(&shop).unwrap().hears).await;
            let mut db = connect().unwrap();
            for id in 1..=3 {
                let insert = diesel::insert_into(orders::table).values(orders::id.eq(id));
                let _: Order = insert.emit().durable().get_result(&mut shop.bind(&mut db).unwrap()).unwrap();
            }
            let effects = || orders::table.count().get_result::<i64>(&mut connect().unwrap()).unwrap();
            eventually(|| effects() == 6 && mirror::stats(&shop).unwrap().recorded == 3).await;
            let marks = || billing.state::<Inbox<<$server as Database>::Conn>>().unwrap().stats().claimed;
            eventually(|| marks() == 3).await;
            for emitter in [shop, billing] {
                assert_eq!(emitter.health().reasons, [""; 0]);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }
            for table in ["events.emitter_history", "events.emitter_inbox", "events.emitter_events_mirror"] {
                let sql = format!("SELECT CAST(COUNT(*) AS CHAR(9)) AS text FROM {table}");
                let found: Text = diesel::sql_query(sql).get_result(&mut db).unwrap();
                assert_eq!(found.text.trim(), "3", "{table}");
            }
            let mut mirrored = Mirrored::open(&bare).unwrap();
            assert_eq!(mirrored.read(&Selection::default()).unwrap().events.len(), 3);
        }
    )* };
}

#[derive(QueryableByName)]
struct Text {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

in_a_schema! {
    of_an_attached_database_of_sqlite: Sqlite, attached, "effect_sqlite";
    of_postgresql: Postgres, postgres, "effect_postgres";
    of_mariadb: MariaDb, mariadb, "effect_mariadb";
}
