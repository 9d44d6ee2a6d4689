//! Two processes, each with a database of its own, and a broker of yours between them.
//!
//! `cargo run -p two-servers -- --broker mqtt://localhost:1883` starts both. Each creates users
//! and counts what it hears: its own as local, the other's as remote, none as an echo.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, Source, State, listener};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        logins -> Integer,
    }
}

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(model = "user", create, update)]
struct User {
    id: i32,
    name: String,
    logins: i32,
}

/// What a server has heard.
#[derive(Default)]
struct Heard(Mutex<Tally>);

#[derive(Default, Debug)]
struct Tally {
    local: usize,
    remote: usize,
    out_of_order: usize,
    logins: HashMap<String, i32>,
}

/// Counts every change of every user, wherever it was written.
#[listener(model = "user", allow_remote)]
async fn count(event: Event<UserEvent>, heard: State<Arc<Heard>>) -> Result<(), String> {
    let mut tally = heard.0.lock().map_err(|_| "another call panicked")?;
    match event.source() {
        Source::Local => tally.local += 1,
        Source::Remote => tally.remote += 1,
    }
    let row = match &*event {
        UserEvent::Created(created) => &created.row,
        UserEvent::Updated(updated) => &updated.after,
    };
    let key = format!("{}/{}", event.origin().map_or("?", |origin| &origin.node), event.key());
    let expected = tally.logins.get(&key).map_or(0, |logins| logins + 1);
    tally.out_of_order += usize::from(row.logins < expected);
    tally.logins.insert(key, row.logins);
    Ok(())
}

const USAGE: &str = "two-servers --broker mqtt://HOST:PORT [--users N] [--prefix PREFIX]";

/// What the command line says.
struct Options {
    broker: String,
    users: i32,
    prefix: String,
    /// Set in the two processes that this one starts.
    node: Option<String>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    use lexopt::prelude::*;
    let mut options = Options {
        broker: String::new(),
        users: 200,
        prefix: format!("two-servers/{}", std::process::id()),
        node: None,
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("broker") => options.broker = arguments.value()?.string()?,
            Long("users") => options.users = arguments.value()?.parse()?,
            Long("prefix") => options.prefix = arguments.value()?.string()?,
            Long("node") => options.node = Some(arguments.value()?.string()?),
            _ => return Err(USAGE.into()),
        }
    }
    if options.broker.is_empty() { Err(USAGE.into()) } else { Ok(options) }
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| match options.node.clone() {
        Some(node) => tokio::runtime::Runtime::new()?.block_on(server(&node, &options)),
        None => both(&options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Starts two servers as processes, lets them begin when both are listening, and waits for both.
fn both(options: &Options) -> Result<(), Box<dyn Error>> {
    let start = |node: &str| {
        Command::new(std::env::current_exe()?)
            .args(["--node", node, "--broker", &options.broker, "--prefix", &options.prefix])
            .args(["--users", &options.users.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    // Names that no other run has: two nodes of one name throw each other off the broker.
    let run = std::process::id();
    let mut servers = [start(&format!("server-1-{run}"))?, start(&format!("server-2-{run}"))?];
    let outputs = servers.each_mut().map(|server| server.stdout.take().map(BufReader::new));
    let mut outputs: Vec<_> = outputs.into_iter().flatten().collect();
    for output in &mut outputs {
        let mut ready = String::new();
        output.read_line(&mut ready)?;
        print!("{ready}");
    }
    // Closing their input is the signal to begin.
    servers.iter_mut().for_each(|server| drop(server.stdin.take()));
    for output in outputs {
        output.lines().try_for_each(|line| line.map(|line| println!("{line}")))?;
    }
    let all_well = servers.iter_mut().map(Child::wait).collect::<Result<Vec<_>, _>>()?;
    if all_well.iter().all(ExitStatus::success) { Ok(()) } else { Err("a server failed".into()) }
}

/// One server: creates users, updates each twice, and waits until it has heard as many of the
/// other's.
async fn server(node: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let heard = Arc::new(Heard::default());
    let emitter = Emitter::builder()
        .service("two-servers")
        .node(node)
        .topic_prefix(&options.prefix)
        .mqtt(options.broker.as_str())
        .state(Arc::clone(&heard))
        .start()
        .await?;
    emitter.connected(Duration::from_secs(10)).await.map_err(|problem| {
        let reason = problem.status.publisher.last_error.clone();
        format!("{node}: no connection to the broker: {}", reason.unwrap_or_else(|| problem.to_string()))
    })?;
    println!("{node}: connected to {}", options.broker.rsplit('@').next().unwrap_or_default());
    // A server misses what was written before it ever subscribed, so wait for the other one.
    std::io::stdin().read_line(&mut String::new())?;

    let expected = usize::try_from(options.users)? * 3;
    let begun = Instant::now();
    tokio::task::block_in_place(|| write(&emitter, options.users))?;
    let wrote = begun.elapsed();
    while emitter.stats().handled < 2 * expected as u64 && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begun.elapsed();
    let report = emitter.shutdown(Duration::from_secs(10)).await;
    let stats = emitter.stats();
    let Tally { local, remote, out_of_order, .. } = &*heard.0.lock().map_err(|_| "a listener panicked")?;
    println!("{node}: wrote {expected} changes of {} users in {wrote:.2?}", options.users);
    println!(
        "{node}: heard {local} local and {remote} remote changes in {took:.2?}, {out_of_order} of them out of order"
    );
    println!("{node}: dropped {} echoes and {} duplicates", stats.echoes, stats.duplicates);
    if (*local, *remote, *out_of_order) != (expected, expected, 0) || !report.is_clean() {
        let hint = "a mosquitto with its default `max_queued_messages` drops what exceeds 1,000; raise it there, or use fewer --users";
        return Err(format!("{node}: expected {expected} of each ({hint}): {stats:?}, {report:?}").into());
    }
    Ok(())
}

fn write(emitter: &Emitter, count: i32) -> Result<(), Box<dyn Error>> {
    let mut db = SqliteConnection::establish(":memory:")?;
    db.batch_execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, logins INTEGER NOT NULL)",
    )?;
    let conn = &mut emitter.bind(&mut db)?;
    for number in 0..count {
        conn.transaction(|conn| {
            let values = (users::name.eq(format!("user {number}")), users::logins.eq(0));
            let user: User = diesel::insert_into(users::table).values(values).emit().get_result(conn)?;
            for _ in 0..2 {
                let login = emitter_diesel::update(&user).set(users::logins.eq(users::logins + 1));
                login.emit::<User>().get_result(conn)?;
            }
            QueryResult::Ok(())
        })?;
    }
    Ok(())
}
