//! Events from Diesel statements, sent after the commit and never without one.
//!
//! [`Bind`] a connection to an [`Emitter`], and put [`.emit()`](Emit::emit) at the end of a
//! statement:
//!
//! ```
//! use diesel::prelude::*;
//! use emitter_diesel::{Bind, Emit, Emits, Emitter};
//! use serde::{Deserialize, Serialize};
//!
//! diesel::table! { users { id -> Integer, name -> Text, } }
//!
//! #[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
//! #[emits(create, update, update_many)]
//! struct User {
//!     id: i32,
//!     name: String,
//! }
//!
//! fn rename_all(emitter: &Emitter, db: &mut SqliteConnection) -> Result<(), Box<dyn std::error::Error>> {
//!     let conn = &mut emitter.bind(db)?;
//!     conn.transaction(|conn| {
//!         // The model is inferred from the result's type …
//!         let alice: User = diesel::insert_into(users::table).values(users::name.eq("alice")).emit().get_result(conn)?;
//!         emitter_diesel::update(&alice).set(users::name.eq("alicia")).emit::<User>().get_result(conn)?;
//!         // … or named, where there is none. Plain queries work on the same handle.
//!         emitter_diesel::update(users::table).set(users::name.eq("anonymous")).emit::<User>().execute(conn)?;
//!         users::table.count().get_result::<i64>(conn)
//!     })?; // here the three events leave
//!     Ok(())
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let emitter = Emitter::builder().start().await?;
//! # let mut db = SqliteConnection::establish(":memory:")?;
//! # diesel::sql_query("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").execute(&mut db)?;
//! # rename_all(&emitter, &mut db)
//! # }
//! ```
//!
//! | statement | run with | event |
//! |---|---|---|
//! | `diesel::insert_into(…).values(&one)` | any | `create` |
//! | `diesel::insert_into(…).values(&list)` | any | `createMany`, with all rows |
//! | … `.on_conflict(…)` | any | `upsert` for each row |
//! | [`update(…)`](update), [`delete(…)`](delete) | `get_result` | `update`, `delete`, for each row |
//! | [`update(…)`](update), [`delete(…)`](delete) | `get_results`, `load`, `execute` | `updateMany`, `deleteMany`, with all rows |
//!
//! What an event knows of its rows, and what that takes:
//!
//! | | SQLite | PostgreSQL | MySQL, MariaDB |
//! |---|---|---|---|
//! | inserted rows | `RETURNING`, in the statement itself | the same | a `SELECT` after it, by the keys in the statement or those that the database gave |
//! | updated rows | `RETURNING` | `RETURNING` | a `SELECT` by key after it |
//! | deleted rows | `RETURNING` | `RETURNING` | a `SELECT … FOR UPDATE` before it |
//! | rows before an update, where a listener of this node wants them or the model says `before` | a `SELECT` in the same transaction, under the lock for writing; one of its own if none is open | the same statement, which locks them where it reads them (`FOR NO KEY UPDATE`) | a `SELECT … FOR UPDATE` before it, which is made in any case |
//! | the columns that an update set | read from the statement, without the database | the same | the same |
//! | the columns that changed | the rows before and after, compared column by column | the same | the same |
//! | whether an upsert inserted | not known | the same statement (`xmax = 0`) | not known |
//!
//! On PostgreSQL, updates with rows before need a key in `table!` that is unique and never NULL, as
//! the rows are joined by it; and upserts that emit need a table that is neither partitioned nor a
//! view, which have no `xmax`.
//!
//! An update is kept prepared by its connection, once for each set of columns that its changeset
//! names; `set_prepared_statement_cache_size` of the connection switches that off.
//!
//! On MySQL and MariaDB the statements of one write share a transaction. The key of an inserted row
//! has to be a value, or be left to the database for all rows of the statement; an upsert has to say
//! it; an update cannot set it; and `.returning(…)` on an insert is not there. Each transaction sets a
//! savepoint, which tells at the end whether a `CREATE TABLE` or the like has committed it in
//! between, or a deadlock has rolled it back.
//! Their `SELECT … FOR UPDATE` is not kept prepared: MariaDB's Connector/C 3.3 waits for ever where a deadlock ends one
//! that was. With queries of your own that lock rows, it does so too: there switch the cache of prepared statements off.
//!
//! An update that left a row as it was is not told of, where the row before is known and listeners
//! see every column that was set; [`emit_unchanged`](statements::Emitting::emit_unchanged) tells of
//! it all the same. Rows before and after are paired by the model's key: an update that sets the key
//! has rows before on PostgreSQL, and on SQLite where it is of one row.
//!
//! A transaction tells of every change in it, or, after [`net_changes`](Bound::net_changes), of what
//! became of each row in the end. One that takes longer than a [`TransactionTimeout`] says is rolled back. A write never waits for its events and never fails because of them,
//! unless they are a part of its transaction (`.durable()`); a [`Receipt`] tells what became of them. A write that is to have none says
//! [`emit_none`](EmitNone::emit_none), and one that forgot is found by [`bypass::watch`].
//!
//! With the features `async-postgres`, `async-sqlite` and `async-mysql` the same goes for the
//! connections of diesel-async: [`bind`](Bind::bind) makes a `BoundAsync` of them, and the statements
//! are awaited. A statement that is dropped while MySQL or MariaDB works at it ends its connection.
//! `diesel_async::RunQueryDsl` is then imported instead of Diesel's.
//!
//! ```
//! # #[cfg(feature = "async-postgres")]
//! # mod example {
//! # use diesel::prelude::{ExpressionMethods, Identifiable, QueryDsl, Queryable};
//! # use diesel::result::QueryResult;
//! # use diesel_async::{AsyncConnection, AsyncPgConnection};
//! # use emitter_diesel::{Bind, Emit, Emits, Emitter, update};
//! # use serde::{Deserialize, Serialize};
//! # diesel::table! { users { id -> Integer, name -> Text, } }
//! # #[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
//! # #[emits(create, update)]
//! # struct User { id: i32, name: String }
//! async fn rename(emitter: &Emitter, db: &mut AsyncPgConnection) -> Result<User, Box<dyn std::error::Error>> {
//!     let conn = &mut emitter.bind(db)?;
//!     let alicia = conn.transaction(async |conn| {
//!         let alice: User =
//!             diesel::insert_into(users::table).values(users::name.eq("alice")).emit().get_result(conn).await?;
//!         update(&alice).set(users::name.eq("alicia")).emit::<User>().get_result(conn).await
//!     });
//!     let alicia: QueryResult<User> = alicia.await; // here both events leave
//!     Ok(alicia?)
//! }
//! # }
//! ```
//!
//! What else works on a handle, and what to write instead:
//!
//! | Diesel | on a handle |
//! |---|---|
//! | `transaction`, nested ones, begin and commit by the transaction manager | the same |
//! | `test_transaction` | the same, on a blocking connection; else `begin_test_transaction` on the connection, and bind it then |
//! | `immediate_transaction`, `exclusive_transaction` | the same, on a blocking connection of SQLite |
//! | `build_transaction()` | the same, on PostgreSQL |
//! | `save_changes` | `update(&user).set(&user).emit::<User>().get_result(conn)` |
//! | `INSERT … SELECT`, `replace_into`, `COPY` | load the rows and insert them |
//! | `MultiConnection` | bind the connection within: `match conn { Any::Sqlite(conn) => emitter.bind(conn), … }` |
//!
//! Everything of `emitter-core` is re-exported here.

// Without a back end there is nothing to run.
#![cfg_attr(
    not(any(feature = "_postgres", feature = "_mysql", feature = "sqlite")),
    allow(dead_code, unused_imports, unused_macros)
)]

// Lets the macros name this crate the same way from everywhere, its own tests included.
#[allow(unused_extern_crates)]
extern crate self as emitter_diesel;

#[cfg(feature = "_async")]
mod bound_async;
mod bounds;
mod buffer;
pub mod bypass;
#[cfg(feature = "postgres")]
pub mod capture;
pub mod catch_up;
mod clearing;
mod companion;
pub mod dead_letters;
pub mod engine;
mod handle;
pub mod inbox;
pub mod mirror;
pub mod outbox;
pub mod queries;
mod raw_sql;
pub mod replica;
pub mod requests;
pub mod statements;
pub mod tables;
pub mod untold;
mod update;
#[cfg(feature = "_async")]
mod watched;
pub mod written;

pub use emitter_core::*;

/// What the macros' expansions name, and nobody else should.
#[doc(hidden)]
pub mod __private {
    pub use emitter_core::__private::*;

    pub use crate::inbox::claiming::{boxed, in_async_fn, in_plain_fn};
}

#[cfg(feature = "_async")]
pub use crate::bound_async::BoundAsync;
pub use crate::bypass::EmitNone;
#[cfg(feature = "_postgres")]
pub use crate::handle::TransactionBuilder;
pub use crate::handle::{
    Bind, BindError, Bindable, Bound, EmittingTransactionManager, TimedOut, TransactionTimeout, marker,
};
pub use crate::statements::Emit;
pub use crate::update::{Delete, Update, UpdateTarget, delete, update};

/// Compiles and runs the code of the project's documents.
#[cfg(all(doctest, feature = "sqlite"))]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/MODELS.md")]
    struct Models;

    #[doc = include_str!("../../docs/DURABLE.md")]
    struct Durable;

    #[doc = include_str!("../../docs/GUARANTEES.md")]
    struct Guarantees;

    #[doc = include_str!("../../docs/VOCABULARY.md")]
    struct Vocabulary;
}
