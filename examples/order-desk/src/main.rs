//! Two instances of the order desk with one database and a broker between them.
//!
//! Run it with `cargo run -p order-desk`; nothing has to be installed.

use std::error::Error;
use std::time::Duration;

use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::bypass::{self, Reaction};
use emitter_diesel::{Bind, EmitNone, Emitter, Event, HashKey};
use order_desk::{Order, OrderCreated, Post, Prices, Product, products};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One for all in a real application, from where its other secrets are.
const HASH_KEY: &[u8] = b"an example needs no secret key...";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A write that forgot its `.emit()` is named in the log of a development build.
    if cfg!(debug_assertions) {
        bypass::watch(Reaction::Warn)?;
    }
    let broker = EmbeddedBroker::start().await?;
    let (post, mut letters) = mpsc::unbounded_channel();
    let (prices_of_a, prices_of_b) = (Prices::default(), Prices::default());
    let a = instance("a", &broker, &post, &prices_of_a).await?;
    let b = instance("b", &broker, &post, &prices_of_b).await?;
    let mut database = SqliteConnection::establish(":memory:")?;
    order_desk::create_tables(&mut database)?;
    let conn = &mut a.bind(&mut database)?;

    println!("Instance a takes two orders; a listener without a group hears of those that were taken here:");
    let ada = order_desk::take(conn, "ada", "4111 1111 1111 1111", 120_000)?;
    let bob = order_desk::take(conn, "bob", "4111 1111 1111 1111", 900)?;
    tell(1, &mut letters).await?;

    println!("Both are completed, by a; one of the two instances writes to each customer:");
    order_desk::complete(conn, &ada)?;
    order_desk::complete(conn, &bob)?;
    tell(2, &mut letters).await?;

    println!("An auditor on b listens for a while, to orders by a card that it knows by its hash:");
    let card = HashKey::new(HASH_KEY)?.hash(&ada.card_number);
    let audit = Post(post.clone());
    let auditor = b
        .on::<OrderCreated>()
        .allow_remote()
        .filter(move |event| event.row.card_number == card)
        .name("auditor")
        .run(move |event: Event<OrderCreated>| {
            let sent = audit.0.send(format!("to the auditor: {} ordered by that card", event.row.customer));
            async move { sent.map_err(|_| "nobody reads it") }
        });
    b.connected(Duration::from_secs(10)).await?;
    order_desk::take(conn, "carl", "4111 1111 1111 1111", 100)?;
    let _: Order = order_desk::take(conn, "dora", "5500 0000 0000 0004", 100)?;
    tell(1, &mut letters).await?;
    auditor.unsubscribe();

    println!("All prices rise; what each instance knew of them is forgotten on both:");
    let tea = (products::name.eq("tea"), products::cents.eq(350));
    // Of a new product nobody remembers a price.
    let tea: Product = diesel::insert_into(products::table).values(tea).emit_none().get_result(conn)?;
    for prices in [&prices_of_a, &prices_of_b] {
        prices.known().insert(tea.id.into(), tea.cents);
    }
    order_desk::raise_prices(conn, 20)?;
    for (name, prices) in [("a", &prices_of_a), ("b", &prices_of_b)] {
        let forgotten = async {
            while prices.known().contains_key(&tea.id.into()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), forgotten)
            .await
            .map_err(|_| format!("{name} still knows the old price"))?;
        println!("    {name} has forgotten the price of tea");
    }

    for instance in [&a, &b] {
        let report = instance.shutdown(Duration::from_secs(5)).await;
        if !report.is_clean() {
            return Err(format!("{} left work undone: {report:?}", instance.origin().node).into());
        }
    }
    broker.stop().await;
    Ok(())
}

async fn instance(
    name: &str,
    broker: &EmbeddedBroker,
    post: &mpsc::UnboundedSender<String>,
    prices: &Prices,
) -> Result<Emitter, Box<dyn Error>> {
    let emitter = Emitter::builder()
        .service("order-desk")
        .node(name)
        .mqtt(broker.url())
        .hash_key(HashKey::new(HASH_KEY)?)
        .state(Post(post.clone()))
        .state(prices.clone())
        .start()
        .await?;
    emitter.connected(Duration::from_secs(10)).await?;
    Ok(emitter)
}

/// Prints so many letters, and fails if they do not come.
async fn tell(count: usize, letters: &mut mpsc::UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    for _ in 0..count {
        let letter =
            timeout(Duration::from_secs(10), letters.recv()).await?.ok_or("the post office is closed")?;
        println!("    {letter}");
    }
    println!();
    match letters.try_recv() {
        Ok(letter) => Err(format!("one letter too many: {letter}").into()),
        Err(_) => Ok(()),
    }
}
