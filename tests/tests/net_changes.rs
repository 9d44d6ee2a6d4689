//! What a transaction did in the end, as events.
//!
//! That they lead to the same rows as all changes do, whatever a transaction did, `transactions.rs` shows.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Bound, Emit, EmitConfig, Emits, Emitter, Event, Operation, delete, update};
use serde::{Deserialize, Serialize};

diesel::table! { users { id -> Integer, name -> Text, status -> Text, secret -> Nullable<Text>, } }
diesel::table! { notes { id -> Integer, line -> Text, } }
diesel::table! { links (user_id, tag) { user_id -> Integer, tag -> Integer, } }

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(all)]
struct User {
    id: i32,
    name: String,
    status: String,
    #[emits(skip)]
    secret: Option<String>,
}

/// Never updated.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, delete)]
struct Note {
    id: i32,
    line: String,
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(table_name = notes)]
#[emits(model = "line", create, update, update_many, delete)]
struct Line {
    id: i32,
    line: String,
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(primary_key(user_id, tag))]
#[emits(create_many, delete_many)]
struct Link {
    user_id: i32,
    tag: i32,
}

fn user(id: i32, name: &str) -> User {
    User { id, name: name.to_owned(), status: "NEW".to_owned(), secret: None }
}

type Log = Arc<Mutex<Vec<String>>>;

struct Shop {
    db: SqliteConnection,
    emitter: Emitter,
    log: Log,
}

impl Shop {
    async fn open(config: EmitConfig) -> Self {
        let mut db = SqliteConnection::establish(":memory:").unwrap();
        db.batch_execute(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, secret TEXT);
             CREATE TABLE notes (id INTEGER PRIMARY KEY, line TEXT NOT NULL);
             CREATE TABLE links (user_id INTEGER NOT NULL, tag INTEGER NOT NULL, PRIMARY KEY (user_id, tag));",
        )
        .unwrap();
        let emitter = Emitter::builder().emit(config).start().await.unwrap();
        let log = Log::default();
        let lines = Arc::clone(&log);
        emitter.on::<UserEvent>().before().run(move |event: Event<UserEvent>| {
            lines.lock().unwrap().push(shown(&event));
            std::future::ready(())
        });
        Self { db, emitter, log }
    }

    /// What is heard of a transaction that emits its net changes.
    async fn net(
        &mut self,
        work: impl FnOnce(&mut Bound<'_, SqliteConnection>) -> QueryResult<()>,
    ) -> Vec<String> {
        let mut conn = self.emitter.bind(&mut self.db).unwrap();
        conn.transaction(|conn| {
            conn.net_changes();
            work(conn)
        })
        .unwrap();
        drop(conn);
        self.heard().await
    }

    async fn heard(&self) -> Vec<String> {
        let marker = self.emitter.stats().emitted_local;
        emitter_tests::eventually::eventually(|| self.emitter.stats().handled == marker).await;
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

fn row(row: &UserRow) -> String {
    format!("{} {} {}", row.id, row.name, row.status)
}

fn change(before: Option<&UserRow>, after: &UserRow, diff: &UserDiff<'_>) -> String {
    let columns: Vec<_> = diff.columns().collect();
    format!("{} -> {} [{}]", before.map_or("?".to_owned(), row), row(after), columns.join(" "))
}

fn shown(event: &Event<UserEvent>) -> String {
    let rows = match &**event {
        UserEvent::Created(body) => row(&body.row),
        UserEvent::Upserted(body) => row(&body.row),
        UserEvent::Deleted(body) => row(&body.row),
        UserEvent::Updated(body) => change(body.before.as_ref(), &body.after, &body.changed()),
        UserEvent::CreatedMany(body) => body.rows.iter().flatten().map(row).collect::<Vec<_>>().join("; "),
        UserEvent::DeletedMany(body) => body.rows.iter().flatten().map(row).collect::<Vec<_>>().join("; "),
        UserEvent::UpdatedMany(body) => {
            let rows = body.rows.iter().flatten().zip(body.changed());
            let rows = rows.map(|(row, diff)| change(row.before.as_ref(), &row.after, &diff));
            rows.collect::<Vec<_>>().join("; ")
        }
    };
    format!("{} {rows}", event.operation())
}

fn insert(conn: &mut Bound<'_, SqliteConnection>, user: &User) -> QueryResult<User> {
    diesel::insert_into(users::table).values(user).emit().get_result(conn)
}

fn rename(conn: &mut Bound<'_, SqliteConnection>, id: i32, name: &str) -> QueryResult<User> {
    update(users::table.find(id)).set(users::name.eq(name)).emit().get_result(conn)
}

fn remove(conn: &mut Bound<'_, SqliteConnection>, id: i32) -> QueryResult<User> {
    delete(users::table.find(id)).emit().get_result(conn)
}

#[tokio::test]
async fn of_each_row_there_is_one_event_from_first_to_last() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    let heard = shop.net(|conn| {
        for id in 1..=3 {
            insert(conn, &user(id, "a"))?;
        }
        rename(conn, 1, "b")?;
        // Inserted and deleted again: it never was.
        remove(conn, 2)?;
        rename(conn, 1, "c").map(drop)
    });
    assert_eq!(heard.await, ["create 1 c NEW", "create 3 a NEW"]);

    let heard = shop.net(|conn| {
        rename(conn, 1, "d")?;
        update(users::table.find(1)).set(users::status.eq("OLD")).emit::<User>().get_result(conn)?;
        rename(conn, 1, "e")?;
        rename(conn, 3, "b")?;
        remove(conn, 3).map(drop)
    });
    // The deleted row is told as it was before the transaction.
    assert_eq!(heard.await, ["update 1 c NEW -> 1 e OLD [name status]", "delete 3 a NEW"]);

    let heard = shop.net(|conn| {
        remove(conn, 1)?;
        insert(conn, &user(1, "f")).map(drop)
    });
    assert_eq!(heard.await, ["update 1 e OLD -> 1 f NEW [name status]"]);
}

#[tokio::test]
async fn all_changes_are_told_where_nobody_asked_for_less() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    shop.net(|conn| insert(conn, &user(1, "a")).map(drop)).await;
    let mut conn = shop.emitter.bind(&mut shop.db).unwrap();
    conn.transaction(|conn| rename(conn, 1, "b").and_then(|_| rename(conn, 1, "c"))).unwrap();
    // One that is rolled back takes the wish with it.
    let failed: QueryResult<()> = conn.transaction(|conn| {
        conn.net_changes();
        Err(diesel::result::Error::RollbackTransaction)
    });
    failed.unwrap_err();
    conn.transaction(|conn| rename(conn, 1, "d").and_then(|_| rename(conn, 1, "e"))).unwrap();
    // Asked before the transaction, for that one.
    conn.net_changes();
    conn.transaction(|conn| rename(conn, 1, "f").and_then(|_| rename(conn, 1, "g"))).unwrap();
    conn.transaction(|conn| rename(conn, 1, "h").and_then(|_| rename(conn, 1, "i"))).unwrap();
    drop(conn);
    let names = [
        "a NEW -> 1 b",
        "b NEW -> 1 c",
        "c NEW -> 1 d",
        "d NEW -> 1 e",
        "e NEW -> 1 g",
        "g NEW -> 1 h",
        "h NEW -> 1 i",
    ];
    let expected: Vec<_> = names.iter().map(|names| format!("update 1 {names} NEW [name]")).collect();
    assert_eq!(shop.heard().await, expected);
}

#[tokio::test]
async fn what_a_savepoint_took_back_never_was() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    let heard = shop.net(|conn| {
        insert(conn, &user(1, "a"))?;
        let back: QueryResult<()> = conn.transaction(|conn| {
            remove(conn, 1)?;
            Err(diesel::result::Error::RollbackTransaction)
        });
        back.unwrap_err();
        conn.transaction(|conn| rename(conn, 1, "b"))?;
        Ok(())
    });
    assert_eq!(heard.await, ["create 1 b NEW"]);
}

#[tokio::test]
async fn an_update_back_to_what_was_is_none_unless_something_hidden_may_have_changed() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    let lines = Log::default();
    let log = Arc::clone(&lines);
    shop.emitter.on::<LineEvent>().before().run(move |event: Event<LineEvent>| {
        let many = matches!(&*event, LineEvent::UpdatedMany(_))
            .then(|| event.keys().iter().map(ToString::to_string));
        let keys: Vec<String> = many.into_iter().flatten().collect();
        log.lock().unwrap().push(format!("{} {}", event.operation(), keys.join(" ")).trim_end().to_owned());
        std::future::ready(())
    });
    let line = |id, line: &str| Line { id, line: line.to_owned() };
    let heard = shop.net(|conn| {
        insert(conn, &user(1, "a"))?;
        diesel::insert_into(notes::table).values(line(1, "a")).emit::<Line>().execute(conn).map(drop)
    });
    assert_eq!(heard.await, ["create 1 a NEW"]);
    let heard = shop.net(|conn| {
        rename(conn, 1, "b")?;
        rename(conn, 1, "a")?;
        for text in ["b", "a"] {
            update(notes::table.find(1)).set(notes::line.eq(text)).emit::<Line>().get_result(conn)?;
        }
        Ok(())
    });
    // The user has a hidden column; the line has none.
    assert_eq!(heard.await, ["update 1 a NEW -> 1 a NEW []"]);
    assert_eq!(*lines.lock().unwrap(), ["create"]);
    // All lines, and some of them.
    shop.net(|conn| {
        diesel::insert_into(notes::table).values(line(2, "b")).emit::<Line>().execute(conn)?;
        for text in ["c", "a"] {
            update(notes::table.find(1)).set(notes::line.eq(text)).emit::<Line>().execute(conn)?;
        }
        Ok(())
    })
    .await;
    shop.net(|conn| {
        update(notes::table).set(notes::line.eq("c")).emit::<Line>().execute(conn)?;
        update(notes::table.find(1)).set(notes::line.eq("a")).emit::<Line>().execute(conn).map(drop)
    })
    .await;
    assert_eq!(*lines.lock().unwrap(), ["create", "create", "updateMany 2"]);
}

#[tokio::test]
async fn the_row_before_is_that_before_the_transaction_or_none() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    let line = Line { id: 1, line: "a".to_owned() };
    let lines = Log::default();
    let log = Arc::clone(&lines);
    let emitter = shop.emitter.clone();
    shop.net(|conn| diesel::insert_into(notes::table).values(&line).emit::<Line>().execute(conn).map(drop))
        .await;
    shop.net(|conn| {
        let set = |text: &'static str| update(&line).set(notes::line.eq(text)).emit::<Line>();
        let watcher = emitter.on::<LineUpdated>().run(|_| std::future::ready(()));
        set("b").get_result(conn)?;
        // From here on somebody wants the row before, which is one of the middle.
        emitter.on::<LineUpdated>().before().run(move |event: Event<LineUpdated>| {
            let before = event.before.as_ref().map_or("?", |row| &row.line);
            log.lock().unwrap().push(format!("{before} -> {}", event.after.line));
            std::future::ready(())
        });
        set("c").get_result(conn)?;
        watcher.unsubscribe();
        Ok(())
    })
    .await;
    assert_eq!(*lines.lock().unwrap(), ["? -> c"]);
}

#[tokio::test]
async fn rows_of_a_bulk_write_stay_together_where_the_same_became_of_them() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    let heard = shop.net(|conn| {
        let list: Vec<User> = (1..=4).map(|id| user(id, "a")).collect();
        diesel::insert_into(users::table).values(&list).emit::<User>().execute(conn)?;
        update(users::table.filter(users::id.le(2))).set(users::name.eq("b")).emit::<User>().execute(conn)?;
        remove(conn, 4).map(drop)
    });
    assert_eq!(heard.await, ["createMany 1 b NEW; 2 b NEW; 3 a NEW"]);
    let heard = shop.net(|conn| {
        update(users::table).set(users::name.eq("c")).emit::<User>().execute(conn)?;
        update(users::table.find(2)).set(users::status.eq("OLD")).emit::<User>().get_result(conn)?;
        delete(users::table.filter(users::id.ge(3))).emit::<User>().execute(conn).map(drop)
    });
    let expected = [
        "updateMany 1 b NEW -> 1 c NEW [name]",
        "updateMany 2 b NEW -> 2 c OLD [name status]",
        "deleteMany 3 a NEW",
    ];
    assert_eq!(heard.await, expected);
}

#[tokio::test]
async fn what_goes_different_ways_stays_apart() {
    let mut shop = Shop::open(EmitConfig::all()).await;
    shop.net(|conn| insert(conn, &user(1, "a")).map(drop)).await;
    let heard = shop.net(|conn| {
        let named =
            |name: &'static str| update(users::table.find(1)).set(users::name.eq(name)).emit::<User>();
        named("b").idempotency_key("one").get_result(conn)?;
        named("c").idempotency_key("one").get_result(conn)?;
        named("d").idempotency_key("two").get_result(conn)?;
        named("e").get_result(conn).map(drop)
    });
    let names = ["a NEW -> 1 c", "c NEW -> 1 d", "d NEW -> 1 e"];
    assert_eq!(heard.await, names.map(|names| format!("update 1 {names} NEW [name]")));
    // An update that sets the key is one of its own: what it was called before, nobody else can tell.
    let heard = shop.net(|conn| {
        rename(conn, 1, "f")?;
        update(users::table.find(1)).set(users::id.eq(2)).emit::<User>().get_result(conn)?;
        rename(conn, 2, "g")?;
        rename(conn, 2, "h").map(drop)
    });
    let expected = [
        "update 1 e NEW -> 1 f NEW [name]",
        "update 1 f NEW -> 2 f NEW [id]",
        "update 2 f NEW -> 2 h NEW [name]",
    ];
    assert_eq!(heard.await, expected);
}

#[tokio::test]
async fn a_row_that_is_there_again_is_two_events_where_nobody_hears_of_updates() {
    // The model has none.
    let mut shop = Shop::open(EmitConfig::all()).await;
    let log = Log::default();
    let lines = Arc::clone(&log);
    shop.emitter.on::<NoteEvent>().run(move |event: Event<NoteEvent>| {
        lines.lock().unwrap().push(format!("{} {}", event.operation(), event.key()));
        std::future::ready(())
    });
    let note = Note { id: 1, line: "a".to_owned() };
    let put = |conn: &mut Bound<'_, SqliteConnection>| {
        diesel::insert_into(notes::table).values(&note).emit::<Note>().execute(conn).map(drop)
    };
    shop.net(put).await;
    // It is as it was, but rows of a model without updates cannot be compared.
    shop.net(|conn| {
        delete(&note).emit::<Note>().get_result(conn)?;
        put(conn)
    })
    .await;
    assert_eq!(*log.lock().unwrap(), ["create 1", "delete 1", "create 1"]);

    // Of a row that is a key and nothing else, nothing can have changed.
    let told = Log::default();
    let lines = Arc::clone(&told);
    shop.emitter.on::<LinkEvent>().run(move |event: Event<LinkEvent>| {
        let keys: Vec<_> = event.keys().iter().map(ToString::to_string).collect();
        lines.lock().unwrap().push(format!("{} {}", event.operation(), keys.join(" ")));
        std::future::ready(())
    });
    let link = |tag| Link { user_id: 1, tag };
    for tags in [[1, 2], [2, 3]] {
        shop.net(|conn| {
            delete(links::table).emit::<Link>().execute(conn)?;
            diesel::insert_into(links::table).values(&tags.map(link)).emit::<Link>().execute(conn).map(drop)
        })
        .await;
    }
    assert_eq!(*told.lock().unwrap(), ["createMany 1,1 1,2", "deleteMany 1,1", "createMany 1,3"]);

    // The application wants none, but for upserts.
    let no_updates = EmitConfig::all().with(Operation::Update, false).with(Operation::UpdateMany, false);
    let mut shop = Shop::open(no_updates).await;
    shop.net(|conn| insert(conn, &user(1, "a")).map(drop)).await;
    let heard = shop.net(|conn| {
        remove(conn, 1)?;
        insert(conn, &user(1, "b")).map(drop)
    });
    assert_eq!(heard.await, ["upsert 1 b NEW"]);
}

#[tokio::test]
async fn a_merged_event_has_an_id_of_its_own_and_the_time_of_its_last_change() {
    let emitter = Emitter::builder().start().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    emitter.on::<UserEvent>().run(move |event: Event<UserEvent>| {
        log.lock().unwrap().push((event.id(), event.time(), event.origin().cloned()));
        std::future::ready(())
    });
    let emission = |event: UserEvent| {
        std::thread::sleep(Duration::from_millis(2));
        emitter.event::<User>(event, EmitConfig::all().scope(Operation::Update)).unwrap()
    };
    let row = emitter_diesel::Model::to_row(&user(1, "a"), None);
    let one = emission(UserEvent::Updated(UserUpdated::new(None, row.clone(), Some(Default::default()))));
    let two = emission(UserEvent::Updated(UserUpdated::new(None, row, Some(Default::default()))));
    let ids = [one.id(), two.id()];
    emitter.emit_net(vec![one, two]);
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    let (id, time, origin) = &seen[0];
    assert!(!ids.contains(id));
    assert!(Some(*time) == ids[1].time() && Some(*time) > ids[0].time());
    assert!(origin.is_some());
}
