//! The connections on which listeners have their effects.

use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;

use diesel::connection::Connection;
use diesel::result::QueryResult;
#[cfg(feature = "_async")]
use diesel_async::AsyncConnectionCore;
#[cfg(not(feature = "_async"))]
use emitter_core::listener::{Handler, MissingState, States};
#[cfg(feature = "_async")]
use futures_util::FutureExt;
#[cfg(feature = "_async")]
use futures_util::future::BoxFuture;

use super::Inbox;
use super::marks::Claim;
use crate::Bound;
#[cfg(feature = "_async")]
use crate::BoundAsync;
use crate::handle::Lent;
use crate::tables::{Dialect, Tables};

/// A connection in whose transactions events are claimed: Diesel's own, and those of diesel-async.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no connection of an inbox",
    label = "no connection of Diesel or of diesel-async",
    note = "name the connection and not what holds it: `InboxTx<'_, PgConnection>`, also where it comes from a pool",
    note = "it takes a feature of `emitter-diesel`: `postgres`, `sqlite`, `mysql`, `async-postgres`, `async-sqlite` or `async-mysql`"
)]
pub trait InboxConnection: Sized + Send + 'static {
    /// What [`InboxTx`](super::InboxTx) dereferences to.
    type Handle<'t>: Send;
    /// What makes connections.
    type Connect: Send + Sync;
    /// Its SQL.
    const DIALECT: Dialect;
    /// What gives the builder an inbox of it.
    const GIVEN_BY: &'static str;

    /// What a lent handle has.
    #[doc(hidden)]
    fn give_back(handle: &mut Self::Handle<'_>) -> Lent;
}

/// A connection with which a plain `fn` works.
#[diagnostic::on_unimplemented(
    message = "a plain `fn` cannot work with `InboxTx<'_, {Self}>`",
    label = "not a connection of Diesel's",
    note = "a plain `fn` takes a connection of Diesel's, such as `InboxTx<'_, PgConnection>`; \
            an `async fn` one of diesel-async, such as `InboxTx<'_, AsyncPgConnection>`"
)]
pub trait InPlainFn: InboxConnection<Connect = Connect<Self>> + Connection<Backend: 'static> {
    #[doc(hidden)]
    fn handle(bound: Bound<'_, Self>) -> Self::Handle<'_>;

    #[doc(hidden)]
    fn claim(bound: &mut Bound<'_, Self>, claim: &Claim) -> QueryResult<usize>;
}

/// The same words, with diesel-async and without.
macro_rules! in_async_fn {
    ($($item:tt)*) => {
        /// A connection with which an `async fn` works.
        #[diagnostic::on_unimplemented(
            message = "an `async fn` cannot work with `InboxTx<'_, {Self}>`",
            label = "not a connection of diesel-async",
            note = "a plain `fn` takes a connection of Diesel's, such as `InboxTx<'_, PgConnection>`; \
                    an `async fn` one of diesel-async, such as `InboxTx<'_, AsyncPgConnection>`"
        )]
        $($item)*
    };
}

#[cfg(feature = "_async")]
in_async_fn! {
    pub trait InAsyncFn:
        InboxConnection<Connect = ConnectAsync<Self>> + diesel_async::AsyncConnection<Backend: 'static>
    {
        #[doc(hidden)]
        fn handle(bound: BoundAsync<'_, Self>) -> Self::Handle<'_>;

        #[doc(hidden)]
        fn claim<'a>(bound: &'a mut BoundAsync<'_, Self>, claim: Claim) -> BoxFuture<'a, QueryResult<usize>>;
    }
}

#[cfg(not(feature = "_async"))]
in_async_fn! {
    pub trait InAsyncFn: InboxConnection {
        #[doc(hidden)]
        fn is_none<F>(states: &States, listener: &'static str, function: F) -> Result<Handler, MissingState>;
    }
}

/// Makes connections of Diesel's.
pub(super) type Connect<C> = Arc<dyn Fn() -> Result<Box<dyn DerefMut<Target = C>>, String> + Send + Sync>;

/// Makes connections of diesel-async.
#[cfg(feature = "_async")]
pub(super) type ConnectAsync<C> =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Box<dyn DerefMut<Target = C> + Send>, String>> + Send + Sync>;

impl<C: InPlainFn> Inbox<C> {
    /// An inbox in these tables, for plain listeners. `connect` yields what dereferences to a connection to the database of the
    /// tables, and is called for each event on a thread that may block: `move || pool.get()` of a pool, or
    /// `|| PgConnection::establish(url).map(Box::new)`. A listener is called up to 64 times at a time (`concurrency`): with fewer
    /// connections, calls wait for one.
    pub fn new<P, E, F>(tables: Tables, connect: F) -> Self
    where
        F: Fn() -> Result<P, E> + Send + Sync + 'static,
        P: DerefMut<Target = C> + 'static,
        E: fmt::Display,
    {
        let connect = move || {
            let connected = connect().map_err(|error| no_connection(&error))?;
            Ok(Box::new(connected) as Box<dyn DerefMut<Target = C>>)
        };
        Self::with(tables, Arc::new(connect))
    }
}

#[cfg(feature = "_async")]
impl<C: InAsyncFn> Inbox<C> {
    /// An inbox in these tables, for asynchronous listeners. `connect` yields what dereferences to a connection to the database
    /// of the tables and borrows nothing, and is called for each event: `async move || pool.get().await` of deadpool,
    /// `async move || pool.get_owned().await` of bb8, or `|| async { AsyncPgConnection::establish(url).await.map(Box::new) }`.
    pub fn from_async<P, E, F, R>(tables: Tables, connect: F) -> Self
    where
        // A clone for each call, so that the future of an `async move` closure may have what the closure has.
        F: FnOnce() -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<P, E>> + Send,
        P: DerefMut<Target = C> + Send + 'static,
        E: fmt::Display,
    {
        let connect = move || {
            let connect = connect.clone();
            async move {
                let connected = connect().await.map_err(|error| no_connection(&error))?;
                Ok(Box::new(connected) as Box<dyn DerefMut<Target = C> + Send>)
            }
            .boxed()
        };
        Self::with(tables, Arc::new(connect))
    }
}

fn no_connection(error: &dyn fmt::Display) -> String {
    format!("no connection to the database of the inbox: {error}")
}

macro_rules! blocking {
    ($($feature:literal $connection:ty: $dialect:ident;)*) => { $(
        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl InboxConnection for $connection {
            type Handle<'t> = Bound<'t, Self>;
            type Connect = Connect<Self>;
            const DIALECT: Dialect = Dialect::$dialect;
            const GIVEN_BY: &'static str = ".with(Inbox::new(tables, connect))";

            fn give_back(handle: &mut Bound<'_, Self>) -> Lent {
                handle.give_back()
            }
        }

        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl InPlainFn for $connection {
            fn handle(bound: Bound<'_, Self>) -> Bound<'_, Self> {
                bound
            }

            fn claim(bound: &mut Bound<'_, Self>, claim: &Claim) -> QueryResult<usize> {
                bound.execute_returning_count(claim)
            }
        }
    )* };
}

#[cfg(feature = "_async")]
macro_rules! asynchronous {
    ($($feature:literal $connection:ty: $dialect:ident;)*) => { $(
        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl InboxConnection for $connection {
            type Handle<'t> = BoundAsync<'t, Self>;
            type Connect = ConnectAsync<Self>;
            const DIALECT: Dialect = Dialect::$dialect;
            const GIVEN_BY: &'static str = ".with(Inbox::from_async(tables, connect))";

            fn give_back(handle: &mut BoundAsync<'_, Self>) -> Lent {
                handle.give_back()
            }
        }

        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl InAsyncFn for $connection {
            fn handle(bound: BoundAsync<'_, Self>) -> BoundAsync<'_, Self> {
                bound
            }

            fn claim<'a>(bound: &'a mut BoundAsync<'_, Self>, claim: Claim) -> BoxFuture<'a, QueryResult<usize>> {
                bound.execute_returning_count(claim).boxed()
            }
        }
    )* };
}

blocking! {
    "postgres" diesel::PgConnection: Postgres;
    "sqlite" diesel::SqliteConnection: Sqlite;
    "mysql" diesel::MysqlConnection: MySql;
}

#[cfg(feature = "_async")]
asynchronous! {
    "async-postgres" diesel_async::AsyncPgConnection: Postgres;
    "async-sqlite" diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::SqliteConnection>: Sqlite;
    "async-mysql" diesel_async::AsyncMysqlConnection: MySql;
}
