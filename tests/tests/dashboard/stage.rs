//! A shop with a dashboard, in which users write what they like.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::routing::get;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_core::retry::{Backoff, Retry};
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::mirror::Mirror;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, HashKey, State, listener, update};
use emitter_web::dashboard::{Dashboard, DashboardConfig, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// What users write, in every field that they can.
pub(crate) const HOSTILE: &str = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>";

diesel::table! {
    parcels (id) {
        id -> Text,
        note -> Text,
        status -> Text,
        card -> Text,
        email -> Text,
        secret -> Text,
    }
}

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = parcels)]
#[emits(model = "parcel", create, update, delete, durable, before = "changed")]
pub(crate) struct Parcel {
    id: String,
    note: String,
    status: String,
    #[emits(redact)]
    card: String,
    #[emits(hash)]
    email: String,
    #[emits(skip)]
    secret: String,
}

/// It happens to no row.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, topic = "auth/login_failed")]
pub(crate) struct LoginFailed {
    pub(crate) username: String,
}

/// Whether mails are sent, and how many were.
#[derive(Default)]
pub(crate) struct Mail {
    pub(crate) is_there: AtomicBool,
    pub(crate) sent: AtomicU64,
}

#[listener(model = "parcel", data(status = "SENT"))]
async fn tell_customer(_event: Event<ParcelUpdated>, mail: State<Arc<Mail>>) -> Result<(), String> {
    if !mail.is_there.load(Ordering::SeqCst) {
        return Err(format!("the mail server said {HOSTILE}"));
    }
    mail.sent.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) emitter: Emitter,
    pub(crate) mail: Arc<Mail>,
    pub(crate) broker: MemoryBroker,
    dashboard: Dashboard,
    conn: SqliteConnection,
    serving: JoinSet<()>,
    _folder: TempDir,
}

fn connect(path: &str) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(path)?;
    let set_up = connection.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL");
    set_up.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// Who it is, by the cookie `user`: `operator` may act, and `reader` may not.
async fn who(request: Parts) -> Option<Visitor> {
    let cookies = request.headers.get(COOKIE)?.to_str().ok()?;
    let user = cookies.split("; ").find_map(|cookie| cookie.strip_prefix("user="))?;
    match user {
        "operator" => Some(Visitor::operator(format!("operator {HOSTILE}"))),
        "reader" => Some(Visitor::reader("reader")),
        _ => None,
    }
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db").to_string_lossy().into_owned();
        let mut conn = connect(&path).unwrap();
        let table = "CREATE TABLE parcels (id TEXT PRIMARY KEY, note TEXT NOT NULL, status TEXT NOT NULL, card TEXT NOT NULL,
            email TEXT NOT NULL, secret TEXT NOT NULL)";
        conn.batch_execute(table).unwrap();
        let tables = Tables::new(move || connect(&path)).lanes(4).migrate();
        let (broker, mail) = (MemoryBroker::new(), Arc::new(Mail::default()));
        let backoff = Backoff {
            base: Duration::from_millis(10),
            cap: Duration::from_millis(10),
            jitter: Duration::ZERO,
        };
        let emitter = Emitter::builder()
            .service("shop")
            .node("web-1")
            .transport(broker.connect("shop.web-1"))
            .hash_key(HashKey::new(&[7; 32]).unwrap())
            .listener_retry(Retry { attempts: 2, backoff, ..Retry::default() })
            .state(Arc::clone(&mail))
            .with(Outbox::new(tables.clone()))
            .with(DeadLetters::new(tables.clone()))
            .with(Mirror::new(tables.clone()))
            .with(CatchUp::new(tables.clone()))
            .start()
            .await
            .unwrap();
        let config =
            DashboardConfig { sample_every: Duration::from_millis(200), ..DashboardConfig::default() };
        let dashboard = Dashboard::builder(&emitter).tables(&tables).config(config);
        let dashboard = dashboard.live::<ParcelEvent>().live::<LoginFailed>().start(who).await.unwrap();
        let login =
            async |Path(user): Path<String>| ([(SET_COOKIE, format!("user={user}; Path=/"))], "hello");
        let app = Router::new().route("/login/{user}", get(login)).nest("/ops", dashboard.router());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, emitter, mail, broker, dashboard, conn, serving, _folder: folder }
    }

    /// A parcel is taken, and sent.
    pub(crate) fn send(&mut self, id: &str) {
        let conn = &mut self.emitter.bind(&mut self.conn).unwrap();
        let values = (
            parcels::id.eq(id),
            parcels::note.eq(HOSTILE),
            parcels::status.eq("NEW"),
            parcels::card.eq("4111 1111 1111 1111"),
            parcels::email.eq("ada@example.com"),
            parcels::secret.eq("sesame"),
        );
        let taken: Parcel = diesel::insert_into(parcels::table)
            .values(values)
            .emit()
            .metadata("actor", HOSTILE)
            .idempotency_key(HOSTILE)
            .get_result(conn)
            .unwrap();
        update(&taken).set(parcels::status.eq("SENT")).emit::<Parcel>().get_result(conn).unwrap();
    }

    /// Two nodes of another service say that they are there, and gone; and one speaks for another.
    pub(crate) fn announce(&self) {
        let said = |topic: &str, node: &str, status: &str| {
            let announcement = json!({
                "service": "mail", "node": node, "incarnation": HOSTILE, "status": status, "since": HOSTILE, "listeners": [
                    { "name": HOSTILE, "model": HOSTILE, "operation": HOSTILE, "hears": HOSTILE, "group": HOSTILE },
                    { "name": HOSTILE, "model": "Parcel", "hears": HOSTILE, "group": HOSTILE },
                    { "name": "stamp", "model": "parcel", "hears": "remote" },
                ],
                "more": u64::MAX,
            });
            let topic = format!("prisma/events/_nodes/{topic}");
            assert!(self.broker.send("shop.web-1", &topic, announcement.to_string()));
        };
        said("mail.a", "a", "online");
        said("mail.c", "d", "online");
        said("mail.b", "b", "offline");
    }

    /// Another program does this to the database.
    pub(crate) fn execute(&mut self, sql: &str) {
        self.conn.batch_execute(sql).unwrap();
    }

    pub(crate) async fn end(mut self) {
        assert!(self.dashboard.close(Duration::from_secs(5)).await, "nobody is left");
        self.serving.shutdown().await;
        let left = self.emitter.shutdown(Duration::from_secs(10)).await;
        assert!(left.is_clean(), "{left:?}");
    }
}
