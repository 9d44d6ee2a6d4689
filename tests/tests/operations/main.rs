//! Every operation on every back end: which rows its event has, before and after, and in which order.
//!
//! The suite is written once and compiled for each kind of connection.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::{AsChangeset, Identifiable, Insertable, Queryable, Selectable};
use emitter_diesel::bypass::{Reaction, Watch};
use emitter_diesel::{Emits, Emitter, Event};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

#[macro_use]
mod suite;

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        status -> Nullable<Text>,
        logins -> Integer,
    }
}

diesel::table! {
    /// Who is in which group: the key is both.
    members (user_id, group_name) {
        user_id -> Integer,
        group_name -> Text,
        role -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(users, members);

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(all)]
struct User {
    id: i32,
    name: String,
    status: Option<String>,
    logins: i32,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser<'a> {
    id: i32,
    name: &'a str,
    status: Option<&'a str>,
    logins: i32,
}

#[derive(AsChangeset)]
#[diesel(table_name = users)]
struct UserChange<'a> {
    name: Option<&'a str>,
    status: Option<Option<&'a str>>,
}

#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, Serialize, Deserialize, Emits,
)]
#[diesel(primary_key(user_id, group_name))]
#[emits(all)]
struct Member {
    user_id: i32,
    group_name: String,
    role: String,
}

const TABLES: [&str; 2] = [
    "CREATE TABLE users (
        id INTEGER PRIMARY KEY, name VARCHAR(40) NOT NULL UNIQUE, status VARCHAR(40), logins INTEGER NOT NULL
    )",
    "CREATE TABLE members (
        user_id INTEGER NOT NULL, group_name VARCHAR(40) NOT NULL, role VARCHAR(40) NOT NULL,
        PRIMARY KEY (user_id, group_name)
    )",
];

fn user(id: i32, name: &str) -> NewUser<'_> {
    NewUser { id, name, status: None, logins: 0 }
}

fn member(user_id: i32, group: &str, role: &str) -> Member {
    Member { user_id, group_name: group.to_owned(), role: role.to_owned() }
}

/// What listeners heard, a line for each row.
type Log = Arc<Mutex<Vec<String>>>;

/// An emitter with listeners that write down what they hear of users and members.
async fn node(before: bool) -> (Emitter, Log) {
    let emitter = Emitter::builder().start().await.unwrap();
    let log = Log::default();
    let (users, members) = (Arc::clone(&log), Arc::clone(&log));
    let on = emitter.on::<UserEvent>();
    let on = if before { on.before() } else { on };
    on.run(move |event: Event<UserEvent>| {
        let operation = event.operation();
        let lines = match &*event {
            UserEvent::Created(body) => vec![shown(&body.row)],
            UserEvent::CreatedMany(body) => body.rows.iter().flatten().map(shown).collect(),
            UserEvent::Updated(body) => vec![changed(body.before.as_ref(), &body.after, &body.changed())],
            UserEvent::UpdatedMany(body) => {
                let rows = body.rows.iter().flatten();
                rows.zip(body.changed())
                    .map(|(row, diff)| changed(row.before.as_ref(), &row.after, &diff))
                    .collect()
            }
            UserEvent::Upserted(body) => {
                let how = body.inserted.map(|inserted| if inserted { "inserted " } else { "updated " });
                vec![format!("{}{}", how.unwrap_or_default(), shown(&body.row))]
            }
            UserEvent::Deleted(body) => vec![shown(&body.row)],
            UserEvent::DeletedMany(body) => body.rows.iter().flatten().map(shown).collect(),
        };
        write(&users, operation, lines)
    });
    emitter.on::<MemberEvent>().before().run(move |event: Event<MemberEvent>| {
        let mut keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
        keys.sort();
        let roles = match &*event {
            MemberEvent::Updated(body) => {
                format!(": {} -> {}", body.before.as_ref().map_or("?", |row| &row.role), body.after.role)
            }
            MemberEvent::UpdatedMany(body) => {
                let rows = body.rows.iter().flatten();
                let mut old: Vec<_> =
                    rows.map(|row| row.before.as_ref().map_or("?", |row| &row.role)).collect();
                old.sort_unstable();
                format!(": {}", old.join(" "))
            }
            _ => String::new(),
        };
        write(&members, event.operation(), vec![format!("{}{roles}", keys.join(" "))])
    });
    (emitter, log)
}

/// No database promises an order of the rows of one statement.
fn write(log: &Log, operation: impl Display, mut lines: Vec<String>) -> std::future::Ready<()> {
    lines.sort();
    log.lock().unwrap().push(format!("{operation} {}", lines.join("; ")));
    std::future::ready(())
}

fn shown(row: &User) -> String {
    format!("{} {} {} {}", row.id, row.name, row.status.as_deref().unwrap_or("NULL"), row.logins)
}

fn changed(before: Option<&User>, after: &User, diff: &UserDiff<'_>) -> String {
    let columns: Vec<_> = diff.columns().collect();
    format!("{} -> {} [{}]", before.map_or("?".to_owned(), shown), shown(after), columns.join(" "))
}

/// What was heard of all that was written until now. A shutdown waits for it.
async fn heard(emitter: &Emitter, log: &Log) -> Vec<String> {
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    std::mem::take(&mut *log.lock().unwrap())
}

/// No statement of the suite is mistaken for one that went past `.emit()`.
fn watch() -> Watch {
    Watch::new(Reaction::Deny)
}

mod sqlite {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;

    pub(crate) struct Database {
        pub(crate) conn: SqliteConnection,
    }

    impl Database {
        pub(crate) fn open() -> Self {
            let mut conn = SqliteConnection::establish(":memory:").unwrap();
            super::TABLES.iter().for_each(|table| conn.batch_execute(table).unwrap());
            conn.set_instrumentation(super::watch());
            Self { conn }
        }
    }

    suite!(
        super::Database,
        diesel::RunQueryDsl,
        super::super::users::id,
        ["upsert 1 al NULL 0", "upsert 4 dora NULL 0"],
        many
    );
}

mod postgres {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    use emitter_tests::servers::Postgres;

    pub(crate) struct Database {
        pub(crate) conn: PgConnection,
        _server: Postgres,
    }

    impl Database {
        pub(crate) fn open() -> Self {
            let server = Postgres::start();
            let mut conn = PgConnection::establish(&server.url()).unwrap();
            super::TABLES.iter().for_each(|table| conn.batch_execute(table).unwrap());
            conn.set_instrumentation(super::watch());
            Self { conn, _server: server }
        }
    }

    suite!(
        super::Database,
        diesel::RunQueryDsl,
        super::super::users::id,
        ["upsert updated 1 al NULL 0", "upsert inserted 4 dora NULL 0"],
        many
    );
}

mod postgres_async {
    use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
    use emitter_tests::servers::Postgres;

    pub(crate) struct Database {
        pub(crate) conn: AsyncPgConnection,
        _server: Postgres,
    }

    impl Database {
        pub(crate) async fn open() -> Self {
            let server = Postgres::start();
            let mut conn = AsyncPgConnection::establish(&server.url()).await.unwrap();
            for table in super::TABLES {
                conn.batch_execute(table).await.unwrap();
            }
            conn.set_instrumentation(super::watch());
            Self { conn, _server: server }
        }
    }

    suite!(
        super::Database,
        diesel_async::RunQueryDsl,
        super::super::users::id,
        ["upsert updated 1 al NULL 0", "upsert inserted 4 dora NULL 0"],
        many,
        await
    );
}

mod sqlite_async {
    use diesel::SqliteConnection;
    use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
    use diesel_async::{AsyncConnection, SimpleAsyncConnection};

    pub(crate) struct Database {
        pub(crate) conn: SyncConnectionWrapper<SqliteConnection>,
    }

    impl Database {
        pub(crate) async fn open() -> Self {
            let mut conn = SyncConnectionWrapper::establish(":memory:").await.unwrap();
            for table in super::TABLES {
                conn.batch_execute(table).await.unwrap();
            }
            conn.set_instrumentation(super::watch());
            Self { conn }
        }
    }

    suite!(
        super::Database,
        diesel_async::RunQueryDsl,
        super::super::users::id,
        ["upsert 1 al NULL 0", "upsert 4 dora NULL 0"],
        singly,
        await
    );
}

mod mariadb {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    use emitter_tests::servers::MariaDb;

    pub(crate) struct Database {
        pub(crate) conn: MysqlConnection,
        _server: MariaDb,
    }

    impl Database {
        pub(crate) fn open() -> Self {
            let server = MariaDb::start();
            let mut conn = MysqlConnection::establish(&server.url()).unwrap();
            super::TABLES.iter().for_each(|table| conn.batch_execute(table).unwrap());
            conn.set_instrumentation(super::watch());
            Self { conn, _server: server }
        }
    }

    suite!(
        super::Database,
        diesel::RunQueryDsl,
        diesel::dsl::DuplicatedKeys,
        ["upsert 1 al NULL 0", "upsert 4 dora NULL 0"],
        many
    );
}

mod mariadb_async {
    use diesel_async::{AsyncConnection, AsyncMysqlConnection, SimpleAsyncConnection};
    use emitter_tests::servers::MariaDb;

    pub(crate) struct Database {
        pub(crate) conn: AsyncMysqlConnection,
        _server: MariaDb,
    }

    impl Database {
        pub(crate) async fn open() -> Self {
            let server = MariaDb::start();
            let mut conn = AsyncMysqlConnection::establish(&server.url()).await.unwrap();
            for table in super::TABLES {
                conn.batch_execute(table).await.unwrap();
            }
            conn.set_instrumentation(super::watch());
            Self { conn, _server: server }
        }
    }

    suite!(
        super::Database,
        diesel_async::RunQueryDsl,
        diesel::dsl::DuplicatedKeys,
        ["upsert 1 al NULL 0", "upsert 4 dora NULL 0"],
        many,
        await
    );
}
