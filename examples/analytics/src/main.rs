//! Three services write, and a fourth collects: it counts whatever happens on the bus, by SQL, and adds up the turnover
//! in a listener. It is away for a while, and misses nothing.
//!
//! Run it with `cargo run -p analytics`; nothing has to be installed. This file is the stage; the collector is
//! `collector.rs`.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

mod collector;
mod services;

use std::error::Error;
use std::time::Duration;

use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::mirror;
use emitter_diesel::{Bind, Emit, Emitter, delete, update};
use tokio::time::{sleep, timeout};

use crate::services::{Customer, LoginFailed, Order, database, orders, register, sell};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::start().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("analytics.db").to_string_lossy().into_owned();
    let mut analytics = collector::connect(&file)?;
    let first_life = collector::start(&broker.url(), &file).await?;
    first_life.connected(Duration::from_secs(10)).await?;
    // The mirror has a connection of its own. From now on, the broker keeps for it what it misses.
    until(|| Ok(mirror::stats(&first_life).is_some_and(|stats| stats.hears))).await?;

    let writer = |service, node| {
        // They are other programs, in which `add_up` is not.
        Emitter::builder().service(service).node(node).mqtt(broker.url()).select_listeners(|_| false).start()
    };
    let (shop_1, shop_2) = (writer("shop", "shop-1").await?, writer("shop", "shop-2").await?);
    let (tills, accounts) = (writer("tills", "till-1").await?, writer("accounts", "accounts-1").await?);
    let (mut shop_db, mut tills_db, mut accounts_db) = (database()?, database()?, database()?);

    println!("Two servers of the shop, a till and the accounts write:");
    sell(&shop_1, &mut shop_db, 12_900)?;
    let order = sell(&shop_2, &mut shop_db, 4_500)?;
    let paid = update(&order).set(orders::status.eq("PAID"));
    paid.emit::<Order>().get_result(&mut shop_1.bind(&mut shop_db)?)?;
    sell(&tills, &mut tills_db, 250)?;
    let ada = register(&accounts, &mut accounts_db, "Vienna")?;
    register(&accounts, &mut accounts_db, "Graz")?;
    accounts.publish(LoginFailed { customer: ada.id });
    report(&mut analytics, 7, 3).await?;

    println!("\nThe collector is shut down. The others write on, and are gone before it is back:");
    end(&first_life).await?;
    sell(&tills, &mut tills_db, 350)?;
    delete(&ada).emit::<Customer>().get_result(&mut accounts.bind(&mut accounts_db)?)?;
    for server in [&shop_1, &shop_2, &tills, &accounts] {
        end(server).await?;
    }
    let second_life = collector::start(&broker.url(), &file).await?;
    report(&mut analytics, 9, 4).await?;
    end(&second_life).await?;
    broker.stop().await;
    Ok(())
}

/// Prints what the collector has counted once that is so much, and fails where it never is, or is more.
async fn report(db: &mut SqliteConnection, events: i64, sold: i64) -> Result<(), Box<dyn Error>> {
    let (mut counts, mut turnovers) = (Vec::new(), Vec::new());
    let mut sums = (0, 0);
    until(|| {
        (counts, turnovers) = (collector::counts(db)?, collector::turnovers(db)?);
        sums = (counts.iter().map(|count| count.3).sum(), turnovers.iter().map(|turnover| turnover.1).sum());
        Ok(sums.0 >= events && sums.1 >= sold)
    })
    .await?;
    println!("    service   model         operation  events");
    for (service, model, operation, count) in &counts {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        println!("    {:<10}{:<14}{:<11}{count}", name(service), name(model), name(operation));
    }
    for (service, orders, cents) in &turnovers {
        println!("    turnover of {service}: {orders} order(s), {}.{:02}", cents / 100, cents % 100);
    }
    if sums == (events, sold) { Ok(()) } else { Err("something was counted twice".into()) }
}

/// Looks until it is so, for ten seconds at most.
async fn until(mut is_so: impl FnMut() -> QueryResult<bool>) -> Result<(), Box<dyn Error>> {
    let looking = async {
        while !is_so()? {
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    timeout(Duration::from_secs(10), looking).await?
}

/// Shuts a server down; the broker has all its events then.
async fn end(server: &Emitter) -> Result<(), Box<dyn Error>> {
    let report = server.shutdown(Duration::from_secs(5)).await;
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("{} left work undone: {report:?}", server.origin()).into()),
    }
}
