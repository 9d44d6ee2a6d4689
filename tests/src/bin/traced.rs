//! A node that the tests of traces start: a shop that writes orders, or billing that writes bills of them. It exports its
//! spans to a collector, and takes orders from its standard input, each of which it answers by one line.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::dead_letters::{DeadLetterBook, DeadLetters, Redrive, Selection};
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bind, Context, Emit, Emits, Emitter, Event, State, listener};
use emitter_tests::eventually::eventually;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const LIMIT: Duration = Duration::from_secs(20);

diesel::table! {
    orders { id -> BigInt, note -> Text, }
}

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
    note: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Bill {
    id: i64,
}

#[derive(Default)]
struct Till {
    is_open: AtomicBool,
}

#[listener(model = "order")]
async fn reserve(event: Event<OrderCreated>) {
    let _ = event.key();
}

/// On a thread of its own, from where the trace goes on, too.
#[listener(model = "order", remote_only, retry(attempts = 1))]
fn charge(event: Event<OrderCreated>, till: State<Till>, context: Context) -> Result<(), String> {
    if !till.is_open.load(Ordering::SeqCst) {
        return Err("the till is closed".to_owned());
    }
    let emitter = context.emitter().ok_or("it is over")?;
    emitter.publish(BillCreated::new(Bill { id: event.row.id }));
    Ok(())
}

#[listener(model = "bill", remote_only)]
async fn settle(event: Event<BillCreated>) {
    let _ = event.key();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [service, broker, database, collector] = arguments()?;
    let provider = export(&service, &collector)?;
    let path = database.clone();
    let tables = Tables::new(move || connect(&path)).migrate();
    let builder = Emitter::builder().service(&*service).node("1").mqtt(&*broker).state(Till::default());
    let emitter = if service == "shop" {
        let own = ["reserve", "settle"];
        builder.with(Outbox::new(tables.clone())).select_listeners(move |info| own.contains(&&*info.name))
    } else {
        builder.with(DeadLetters::new(tables.clone())).select_listeners(|info| info.name == "charge")
    };
    let emitter = emitter.start().await?;
    emitter.connected(LIMIT).await?;
    println!("ready");
    for line in io::stdin().lines() {
        match &*line? {
            "write" => tokio::task::block_in_place(|| write(&emitter, &database))?,
            "redrive" => redrive(&emitter, &tables).await?,
            "end" => break,
            other => return Err(other.into()),
        }
        println!("done");
    }
    assert!(emitter.shutdown(LIMIT).await.is_clean());
    provider.shutdown()?;
    println!("ended");
    Ok(())
}

fn arguments() -> Result<[String; 4], String> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    given.try_into().map_err(|_| "service, broker, database and collector are wanted".to_owned())
}

/// As docs/TRACING.md shows it.
fn export(service: &str, collector: &str) -> Result<SdkTracerProvider, Box<dyn Error>> {
    let exporter = SpanExporter::builder().with_http().with_endpoint(collector).build()?;
    let resource = Resource::builder().with_service_name(service.to_owned()).build();
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("emitter"));
    let filter =
        Targets::new().with_target("emitter", LevelFilter::INFO).with_target("traced", LevelFilter::INFO);
    tracing_subscriber::registry().with(layer).with(filter).init();
    Ok(provider)
}

fn connect(path: &str) -> ConnectionResult<SqliteConnection> {
    let mut conn = SqliteConnection::establish(path)?;
    let settings = "PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL; \
                    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL)";
    conn.batch_execute(settings).map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

fn write(emitter: &Emitter, database: &str) -> Result<(), Box<dyn Error>> {
    let mut db = connect(database)?;
    let conn = &mut emitter.bind(&mut db)?;
    let span = tracing::info_span!("checkout");
    let _entered = span.enter();
    conn.immediate_transaction(|conn| {
        let order = (orders::id.eq(7), orders::note.eq("CANARY"));
        let order = diesel::insert_into(orders::table).values(order).emit();
        order.durable().get_result(conn).map(|_: Order| ())
    })?;
    Ok(())
}

async fn redrive(emitter: &Emitter, tables: &Tables) -> Result<(), Box<dyn Error>> {
    let book = DeadLetterBook::open(tables)?;
    eventually(|| book.count(&Selection::default()).is_ok_and(|letters| letters == 1)).await;
    let till = emitter.state::<Till>().ok_or("there is a till")?;
    till.is_open.store(true, Ordering::SeqCst);
    let redriven = book.redrive(emitter, &Selection::default(), Redrive::default()).await?;
    assert_eq!((redriven.handled, redriven.failed), (1, 0));
    Ok(())
}
