//! A copy of another service's table: what other nodes tell of a model is written into a table here.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # mod example {
//! use diesel::prelude::*;
//! use emitter_diesel::replica::Replica;
//! use emitter_diesel::tables::Tables;
//! use emitter_diesel::{Emits, Emitter};
//! use serde::{Deserialize, Serialize};
//!
//! diesel::table! { customers { id -> BigInt, name -> Text, email -> Nullable<Text>, } }
//!
//! /// What billing wants to know of the customers that another service has: its events may tell more.
//! #[derive(Debug, Clone, Identifiable, Insertable, Selectable, Serialize, Deserialize, Emits)]
//! #[emits(all)]
//! struct Customer { id: i64, name: String, email: Option<String> }
//!
//! async fn started(pool: diesel::r2d2::Pool<diesel::r2d2::ConnectionManager<SqliteConnection>>)
//! -> Result<Emitter, Box<dyn std::error::Error>> {
//!     let tables = Tables::new(|| SqliteConnection::establish("billing.db")).migrate();
//!     let customers = Replica::<Customer, _>::new(tables, move || pool.get()).owner("crm");
//!     Ok(Emitter::builder().service("billing").node("a").mqtt("mqtt://localhost").with(customers).start().await?)
//! }
//! # }
//! ```
//!
//! It is a listener of all the model's events from other nodes. Each event is one transaction: all of its rows are written, or
//! none. Whole rows travel, and so an update writes the row as it is after it, whether or not the copy had it; columns of
//! the table that the struct has not stay as they are. What it writes is no event, neither by a watch of writes without `.emit()`
//! nor by triggers that [capture](crate::outbox::Outbox) this model. Several nodes may have a replica of one table; together
//! they write each change once.
//!
//! # Which event counts
//! Beside the copies, in the table `emitter_replicas`, it is noted for each row which event was the newest (a row there for each
//! here), and an older one changes nothing any more. So the copy of a row is what its newest event says, in whatever order and however often
//! events come, and two replicas that had the same events have the same rows. Newer is
//!
//! - of two **durable** events of one outbox, the one with the later row there: in the order of the commits, whichever node wrote,
//!   and whenever and how often it was published. This is the case to have: one service, one outbox, `durable`.
//! - of two that are not durable, the one that was written later **by the clocks of their nodes**, to the millisecond, and
//!   in the same one of an origin, the one with the later number. This holds for several nodes and for lives of a node one after the
//!   other; where clocks are apart, or one is set back, an older event may win.
//! - a durable one than one that is not; of two outboxes', that of the outbox which was made later. Let a model be one or the
//!   other, and one service's: [`owner`](Replica::owner) says whose.
//!
//! Where several services or regions write **the same rows**, nobody can tell by numbers of different origins who was last. Let
//! each row have one home which alone writes it; or give the model a column that counts its versions, and say so with
//! [`version`](Replica::version).
//!
//! # Deletes
//! Of a deleted row it stays noted for 31 days ([`keep`](Replica::keep)) that it was, so that an older event which comes late does not
//! bring it back; a newer one does. Dead letters and mirrors may be older than that: what is redriven or replayed out of them then
//! may bring a row back.
//!
//! # What does not fit
//! While there is no connection, events wait; so does one whose connection is lost in the middle, ten times.
//! A row that the table does not take (a constraint, a type, a foreign key) is a failed call: it is tried again, and then a dead letter,
//! and later events of other rows go on meanwhile. It may be redriven at any time, for it changes nothing that is newer. There is no
//! order between models: where one copy refers to another, declare no foreign key between them, or redrive. Events that only
//! tell how many rows they changed, as other programs' bulk updates do, are dead letters, too.
//!
//! # How it is filled
//! From now on, by what is told from now on. With a [`CatchUp`](crate::catch_up::CatchUp) `.since(Since::Beginning)` given
//! to the builder, from as far back as the origin's history goes (7 days by default), or from a
//! [mirror](crate::mirror) by a replay to its listener. For what is older, from a dump, in this order: start the replica; when it is connected,
//! take the dump at the origin; load of it the rows of which nothing is noted yet, in one transaction, on PostgreSQL behind
//! `LOCK TABLE emitter_replicas IN SHARE MODE`, so that nothing is applied meanwhile:
//!
//! ```sql
//! INSERT INTO customers SELECT d.* FROM customers_dump d WHERE NOT EXISTS (SELECT 1 FROM emitter_replicas
//!   WHERE model = 'customer' AND table_name = 'customers' AND record_id = CAST(d.id AS char(40)))
//! ```
//!
//! What changed after the dump is told by an event, and what is noted already is newer than the dump, or leads to it: events from
//! before it that were still on their way come one after the other. To fill it anew, delete the model's rows from both tables while no replica runs. That is also to
//! be done where the origin's database was restored from a backup, for its outbox then counts again from there.

use std::fmt;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diesel::associations::HasTable;
use diesel::query_source::Column;
use emitter_core::listener::Unhandled;
use emitter_core::model::Model;
use emitter_core::{Builder, Emitter, Extension, WeakEmitter};

use crate::clearing::{Clearing, PORTION};
use crate::inbox::long_enough;
use crate::tables::{Doubted, Found, Tables};

mod applying;
mod copy;
mod order;
mod positions;

use self::applying::{Applying, Connect, Version};
pub use self::copy::{Copied, ReplicaConnection};
use self::positions::{LONGEST, Positions};

/// A copy of the rows of a model `M` of other nodes, in the table of `L`: of the model's own, unless another struct is named, as in
/// `Replica::<User, _, LocalUser>::new(…)` with `impl From<UserRow> for LocalUser`.
///
/// Given to the builder of an emitter by [`with`](Builder::with). It is then a [`State`](crate::State):
/// `emitter.state::<Replica<Customer, PgConnection>>()` tells its [`stats`](Self::stats).
pub struct Replica<M: Model, C: ReplicaConnection, L = <M as Model>::Row> {
    tables: Tables,
    connect: Connect<C>,
    owner: Option<String>,
    version: Option<Version<M>>,
    keep: Option<Duration>,
    tally: Arc<Tally>,
    copies: PhantomData<fn(M) -> L>,
}

/// What a replica has done since its start, in rows unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaStats {
    /// Written or deleted.
    pub applied: u64,
    /// Passed over, for something newer was there.
    pub stale: u64,
    /// Passed over, for they had been applied before.
    pub duplicates: u64,
    /// Events passed over, for they were of another service than the owner.
    pub foreign: u64,
    /// Of those applied, how many were deleted, and are remembered as such.
    pub tombstones: u64,
    /// How many of those that were remembered were forgotten after their time, by this node.
    pub cleared: u64,
}

/// What its calls and its thread count.
#[derive(Debug, Default)]
struct Tally {
    applied: AtomicU64,
    stale: AtomicU64,
    duplicates: AtomicU64,
    foreign: AtomicU64,
    tombstones: AtomicU64,
    cleared: Arc<AtomicU64>,
}

impl<M: Model, C: ReplicaConnection, L: Copied<C> + From<M::Row>> Replica<M, C, L> {
    /// A replica whose notes are in these tables. `connect` yields what dereferences to a connection to the database of the tables and
    /// of the copies, and is called for each event on a thread that may block: `move || pool.get()` of a pool, or
    /// `|| PgConnection::establish(url).map(Box::new)`.
    pub fn new<P, E, F>(tables: Tables, connect: F) -> Self
    where
        F: Fn() -> Result<P, E> + Send + Sync + 'static,
        P: DerefMut<Target = C> + 'static,
        E: fmt::Display,
    {
        let connect = move || {
            let connected = connect()
                .map_err(|error| format!("no connection to the database of the replica: {error}"))?;
            Ok(Box::new(connected) as Box<dyn DerefMut<Target = C>>)
        };
        Self {
            tables,
            connect: Arc::new(connect),
            owner: None,
            version: None,
            keep: None,
            tally: Arc::default(),
            copies: PhantomData,
        }
    }

    /// Only events of this service count. Default: those of all that have this model.
    #[must_use]
    pub fn owner(mut self, service: impl Into<String>) -> Self {
        self.owner = Some(service.into());
        self
    }

    /// The newer of two events is the one of the greater version: a column that each write of a row raises, wherever it is made. Of
    /// two writes that raised it to the same number, each on its own, every replica has the same one win.
    ///
    /// So rows may be written in several regions, here too, if the regions replicate each other: what this service writes into the
    /// table is noted, and not overwritten by what has a lower version. A delete tells the version that it found; a
    /// row that is made again after that goes on from there, or it is not taken for newer. Only of a row that was deleted
    /// here less than a moment ago, of which no listener has heard yet, a remote event may be taken for newer though it is not.
    #[must_use]
    pub fn version<V: Column<Table = <L as HasTable>::Table>>(
        mut self,
        column: V,
        of: fn(&M::Row) -> i64,
    ) -> Self {
        // Its type tells all.
        drop(column);
        self.version = Some(Version { column: copy::quoted::<C>(V::NAME), of });
        self
    }

    /// How long it is remembered of a deleted row that it was. Default: 31 days, or as long as events may come
    /// again. An older event that comes after that brings the row back, so it cannot be shorter: as [`Inbox::keep`](crate::inbox::Inbox::keep).
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }
}

impl<M: Model, C: ReplicaConnection, L> Replica<M, C, L> {
    /// What was counted since the start.
    #[must_use]
    pub fn stats(&self) -> ReplicaStats {
        let Tally { applied, stale, duplicates, foreign, tombstones, cleared } = &*self.tally;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReplicaStats {
            applied: count(applied),
            stale: count(stale),
            duplicates: count(duplicates),
            foreign: count(foreign),
            tombstones: count(tombstones),
            cleared: count(cleared),
        }
    }
}

impl<M: Model, C: ReplicaConnection, L> fmt::Debug for Replica<M, C, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, keep, owner, .. } = self;
        let mut debug = f.debug_struct("Replica");
        debug.field("model", &M::NAME).field("tables", tables).field("keep", keep).field("owner", owner);
        debug.finish_non_exhaustive()
    }
}

/// How long nobody looks for old notes when there were no more.
const REST: Duration = Duration::from_secs(600);

/// Has what other nodes tell of the model written into the table.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion) where
/// the database cannot be reached, its tables are not those of this version, [`keep`](Replica::keep) is too short, or there
/// is no transport.
impl<M: Model, C: ReplicaConnection, L: Copied<C> + From<M::Row>> Extension for Replica<M, C, L> {
    fn extend(self, builder: Builder) -> Builder {
        let Self { tables, connect, owner, version, keep, tally, .. } = &self;
        let (connect, owner, version) = (Arc::clone(connect), owner.clone(), version.clone());
        let (tables, names, keep) = (tables.clone(), tables.all_names().clone(), *keep);
        let tally = Arc::clone(tally);
        let clearing = Clearing {
            part: "the replica",
            thread: "emitter-replica",
            rows: "notes of deleted rows",
            rest: REST,
            cleared: Arc::clone(&tally.cleared),
        };
        let open = move |emitter: &WeakEmitter, dialect, found: Found| {
            let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
            let shape = L::shape();
            let copies = shape.name();
            let positions = Positions { dialect: C::DIALECT, names, model: M::NAME, copies };
            let keep = check(&positions, keep, &emitter)?;
            if dialect != C::DIALECT {
                return Err("its tables are in a database of another kind than its connections'".to_owned());
            }
            let clear = positions.clear(keep, PORTION);
            let own_outbox = found.outbox_id;
            listen::<M, C, L>(
                Applying { connect, owner, version, positions, shape, own_outbox, tally },
                &emitter,
            )?;
            Ok(clear)
        };
        let begin = clearing.companion(tables, open);
        builder.companion("replica", begin).state(self).state(Doubted::default())
    }
}

fn check(positions: &Positions, keep: Option<Duration>, emitter: &Emitter) -> Result<Duration, String> {
    if emitter.transport_status().is_none() {
        return Err("its emitter has no transport: give `.mqtt(\"mqtt://…\")`".to_owned());
    }
    let Positions { model, copies, .. } = positions;
    if model.len() > LONGEST || copies.len() > LONGEST {
        return Err(format!("the name of the model or of its table is longer than {LONGEST} bytes"));
    }
    long_enough(keep, emitter, "remember deleted rows")
}

/// Nothing has come yet: this is before the node receives.
fn listen<M, C, L>(applying: Applying<M, C>, emitter: &Emitter) -> Result<(), String>
where
    M: Model,
    C: ReplicaConnection,
    L: Copied<C> + From<M::Row>,
{
    // By this name its dead letters are redriven.
    let name = format!("replica of {} in {}", M::NAME, applying.shape.name());
    let on = emitter.on::<M::Event>().name(name);
    let on = if applying.version.is_some() { on.allow_remote() } else { on.remote_only() };
    let weak = emitter.downgrade();
    let added = on.run_blocking_preparing(move |event, ready| {
        let emitter = weak.upgrade();
        let emitter = emitter.ok_or_else(|| Unhandled::Failed("its emitter is there no more".to_owned()))?;
        applying.apply::<L>(&event, &emitter, ready)
    });
    let refused = || format!("its listener of `{}` could not be added: the log says why", M::NAME);
    added.is_active().then_some(()).ok_or_else(refused)
}
