//! Two services with a database each: orders takes orders, billing writes their invoices and tells orders of them.
//! One of the two is killed every moment, and the broker once; in the end their books agree.
//!
//! Run it with `cargo run -p orders-and-billing`; nothing has to be installed. A number behind it (`-- 60`) says for
//! how many seconds. This file is the stage; the services are `orders.rs` and `billing.rs`.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

mod billing;
mod books;
mod orders;
mod process;
mod service;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use embedded_broker::EmbeddedBroker;

use crate::books::Books;
use crate::process::Process;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["orders", database, broker] => orders::run(database, broker).await?,
        ["billing", database, broker] => billing::run(database, broker).await?,
        [] => return stage(Duration::from_secs(10)).await,
        [seconds] => return stage(Duration::from_secs(seconds.parse()?)).await,
        _ => return Err("orders-and-billing [SECONDS]".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Has both run for so long, with all that can happen to them, and looks at their books.
async fn stage(run: Duration) -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let database = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let mut broker = EmbeddedBroker::start().await?;
    let mut orders = Process::start("orders", database("orders.db"), broker.url())?;
    let mut billing = Process::start("billing", database("billing.db"), broker.url())?;
    println!("orders and billing run for {} s, and one of them is killed every moment", run.as_secs());

    let begun = Instant::now();
    let mut broker_is_old = true;
    while broker_is_old || begun.elapsed() < run {
        a_moment().await;
        if broker_is_old && begun.elapsed() > run / 2 {
            // The broker confirms to orders what it keeps for billing, and then forgets it.
            billing.kill()?;
            a_moment().await;
            let port = broker.port();
            broker.stop().await;
            a_moment().await;
            broker = EmbeddedBroker::start_on(port).await?;
            broker_is_old = false;
            println!(
                "while billing was away, the broker was restarted, and has forgotten what it kept for it"
            );
        } else {
            let victim = if fastrand::bool() { &mut orders } else { &mut billing };
            victim.kill()?;
        }
        [&mut orders, &mut billing].into_iter().try_for_each(Process::revive)?;
    }
    println!("now they are left alone, until each order is invoiced");
    // Orders ends when it has heard of its last invoice.
    let mut finished = orders.finish()?;
    finished &= billing.finish()?;
    broker.stop().await;

    println!("\n{orders}{billing}");
    let books = Books::open(&database("orders.db"), &database("billing.db"))?;
    println!("{books}");
    let differences = books.differences();
    differences.iter().take(10).for_each(|difference| println!("{difference}"));
    if differences.len() > 10 {
        println!("and {} differences more", differences.len() - 10);
    }
    println!("{}", if differences.is_empty() { "They agree." } else { "THEY DISAGREE." });
    Ok(if finished && differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(50..500))).await;
}
