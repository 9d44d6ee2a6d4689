//! Posts and tags, many to many: the rows of the join table are a model of their own, whose key is both
//! columns. A server that only reads keeps an index of which post has which tags, by its events.
//!
//! Run it with `cargo run -p tags`; nothing has to be installed.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Mutex;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::bypass::{self, Reaction};
use emitter_diesel::{Bind, Bound, Emit, EmitNone, Emits, Emitter, Event, State, delete, listener};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

diesel::table! { posts { id -> Integer, title -> Text, } }
diesel::table! { post_tags (post_id, tag) { post_id -> Integer, tag -> Text, } }

#[derive(Debug, Clone, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, delete)]
struct Post {
    id: i32,
    title: String,
}

/// A post has a tag. Such a row comes and goes; it is never updated.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(primary_key(post_id, tag))]
#[emits(create_many, delete_many)]
struct PostTag {
    post_id: i32,
    tag: String,
}

/// What the other server knows, and a word on each event that it hears.
struct Index {
    tags: Mutex<BTreeMap<i32, BTreeSet<String>>>,
    heard: UnboundedSender<String>,
}

/// An event of a bulk write has a row, and a key, for each link: `1,rust`.
#[listener(model = "postTag", remote_only)]
async fn keep_index(
    event: Event<PostTagEvent>,
    index: State<Index>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    {
        let mut tags = index.tags.lock().map_err(|_| "a panic")?;
        match &*event {
            PostTagEvent::CreatedMany(body) => {
                for row in body.rows.iter().flatten() {
                    tags.entry(row.post_id).or_default().insert(row.tag.clone());
                }
            }
            PostTagEvent::DeletedMany(body) => {
                // The post may be forgotten already: events of two models come in no order.
                for row in body.rows.iter().flatten() {
                    tags.get_mut(&row.post_id).map(|tags| tags.remove(&row.tag));
                }
            }
        }
    }
    let keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
    index.heard.send(format!("{} {}", event.operation(), keys.join("  ")))?;
    Ok(())
}

#[listener(model = "post", remote_only)]
async fn forget_post(
    event: Event<PostDeleted>,
    index: State<Index>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    index.tags.lock().map_err(|_| "a panic")?.remove(&event.row.id);
    index.heard.send(format!("delete of post {}", event.key()))?;
    Ok(())
}

/// Gives the post these tags and no others. What it had before is deleted and what it keeps inserted
/// again; net changes are those that remain of it.
fn set_tags(conn: &mut Bound<'_, SqliteConnection>, post_id: i32, tags: &[&str]) -> QueryResult<()> {
    conn.transaction(|conn| {
        conn.net_changes();
        delete(post_tags::table.filter(post_tags::post_id.eq(post_id))).emit::<PostTag>().execute(conn)?;
        let rows: Vec<PostTag> = tags.iter().map(|tag| PostTag { post_id, tag: (*tag).to_owned() }).collect();
        diesel::insert_into(post_tags::table).values(&rows).emit::<PostTag>().execute(conn)?;
        Ok(())
    })
}

/// The foreign key would delete the links with the post (`ON DELETE CASCADE`), and nobody would hear of
/// it: what the database does by itself is no statement. So they are deleted first.
fn delete_post(conn: &mut Bound<'_, SqliteConnection>, post_id: i32) -> QueryResult<Post> {
    conn.transaction(|conn| {
        delete(post_tags::table.filter(post_tags::post_id.eq(post_id))).emit::<PostTag>().execute(conn)?;
        delete(posts::table.find(post_id)).emit::<Post>().get_result(conn)
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Who writes to these tables and forgets `.emit()` is stopped.
    bypass::watch(Reaction::Deny)?;
    let broker = EmbeddedBroker::start().await?;
    let (heard, mut news) = unbounded_channel();
    let node = |name: &'static str| {
        let index = Index { tags: Mutex::default(), heard: heard.clone() };
        Emitter::builder().service("blog").node(name).mqtt(broker.url()).state(index).start()
    };
    let (writer, reader) = (node("writer").await?, node("reader").await?);
    for node in [&writer, &reader] {
        node.connected(Duration::from_secs(10)).await?;
    }

    let mut database = SqliteConnection::establish(":memory:")?;
    database.batch_execute(
        "PRAGMA foreign_keys = ON;
         CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT NOT NULL);
         CREATE TABLE post_tags (
             post_id INTEGER NOT NULL REFERENCES posts ON DELETE CASCADE, tag TEXT NOT NULL, PRIMARY KEY (post_id, tag)
         );",
    )?;
    let post = Post { id: 1, title: "Events from Diesel".to_owned() };
    // Not for the others: the index knows posts by their tags.
    diesel::insert_into(posts::table).values(&post).emit_none().execute(&mut database)?;
    let mut conn = writer.bind(&mut database)?;

    println!("The post gets three tags, in one event:");
    set_tags(&mut conn, post.id, &["databases", "events", "rust"])?;
    tell(1, &mut news).await?;
    println!("It keeps two of them and gets another; nobody hears of those that it keeps:");
    set_tags(&mut conn, post.id, &["diesel", "events", "rust"])?;
    tell(2, &mut news).await?;
    println!("It is deleted, its tags before it:");
    delete_post(&mut conn, post.id)?;
    tell(2, &mut news).await?;

    drop(conn);
    for node in [&writer, &reader] {
        let report = node.shutdown(Duration::from_secs(5)).await;
        if !report.is_clean() {
            return Err(format!("{} left work undone: {report:?}", node.origin().node).into());
        }
    }
    broker.stop().await;
    Ok(())
}

/// Prints what the other server heard, so many events, and fails if they do not come.
async fn tell(count: usize, news: &mut UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    for _ in 0..count {
        let line = timeout(Duration::from_secs(10), news.recv()).await?.ok_or("nobody tells")?;
        println!("    {line}");
    }
    println!();
    match news.try_recv() {
        Ok(line) => Err(format!("one event too many: {line}").into()),
        Err(_) => Ok(()),
    }
}
