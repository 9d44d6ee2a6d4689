//! `.emit()` on Diesel's statements.

use std::marker::PhantomData;

use diesel::expression::SqlLiteral;
use diesel::query_builder::{
    BatchInsert, DeleteStatement, InsertOrIgnore, InsertStatement, UpdateStatement, ValuesClause,
};
use diesel::query_dsl::methods::FilterDsl;
use diesel::result::{Error, QueryResult};
use diesel::sql_types::Bool;
use diesel::{Connection, QuerySource};
use emitter_core::columns::Columns;
use emitter_core::model::{
    Created, CreatedMany, Deleted, DeletedMany, Emits, EmitsLocally, EmitsRemotely, Model, OperationType,
    RowChange, Updated, UpdatedMany, Upserted, operation,
};
use emitter_core::receipt::Receipt;
use emitter_core::{Emission, EmitOptions, Emitter, HashKey, Persistence, QoS, Route, Scope, Trace};

use crate::engine::{Ask, Counts, Engine, Image, Rows};
use crate::handle::Bound;
use crate::outbox::refuse_to_queue;
use crate::update::{Delete, Update};

/// `.emit()` on a statement: what it does to the database becomes an event.
///
/// The model is inferred from the result's type; where nothing says that, name it here:
/// `.emit::<User>().execute(conn)`. `Marker` tells kinds of statements apart and is always inferred.
#[diagnostic::on_unimplemented(
    message = "this statement cannot emit",
    label = "no insert, update or delete of which events are known",
    note = "`.emit()` comes last, after `.values(…)`, `.set(…)`, `.on_conflict(…)` and `.returning(…)`",
    note = "`INSERT … SELECT` cannot emit: load the rows and insert them"
)]
pub trait Emit<Marker>: Sized {
    /// What kind of statement it is.
    type Kind: Kind;

    /// `INSERT` or one of its variants; `()` for other statements.
    type Verb;

    /// Makes the statement emit, here and to other nodes, as far as the application and the model
    /// allow. Run it on a [`Bound`] handle.
    #[must_use = "a statement does nothing until it is executed"]
    fn emit<TheModel>(self) -> Emitting<Self, Self::Kind, TheModel>
    where
        Self::Verb: TellsAll,
    {
        Emitting {
            statement: self,
            options: EmitOptions::default(),
            unchanged: false,
            persistence: Persistence::Buffered,
            kind: PhantomData,
            said: PhantomData,
        }
    }
}

/// A statement of one kind, with what its rows become.
pub trait Kind {
    /// The operation of `get_result`.
    type One: FromRows;
    /// The operation of `get_results`, `load` and `execute`.
    type Many: FromRows;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $one:ident, $many:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $kind {}

        impl Kind for $kind {
            type One = operation::$one;
            type Many = operation::$many;
        }
    )* };
}

kinds! {
    /// An insert of one row: `create`, however it is run.
    InsertOne: Create, Create;
    /// An insert of a list: `create_many`, however it is run.
    InsertMany: CreateMany, CreateMany;
    /// An insert with `on_conflict`: `upsert`, one event for each row.
    OnConflict: Upsert, Upsert;
    /// An update: `update` by `get_result`, `update_many` by the others.
    Updating: Update, UpdateMany;
    /// A delete: `delete` by `get_result`, `delete_many` by the others.
    Deleting: Delete, DeleteMany;
}

/// What would be of a kind, but cannot emit: [`TellsAll`] refuses it.
#[derive(Debug)]
pub struct Refused<K>(PhantomData<K>);

impl<K: Kind> Kind for Refused<K> {
    type One = K::One;
    type Many = K::Many;
}

/// Markers of [`Emit`].
pub mod marker {
    /// The statement's type says what it is.
    #[derive(Debug)]
    pub enum Plain {}

    /// Diesel's own `update`, whose condition it keeps to itself.
    #[derive(Debug)]
    pub enum DieselsOwnUpdate {}

    /// Diesel's own `delete`, whose condition it keeps to itself.
    #[derive(Debug)]
    pub enum DieselsOwnDelete {}

    /// An insert that can be filtered is one with `on_conflict`.
    #[derive(Debug)]
    pub enum OnConflict {}
}

impl<T: QuerySource, V, Op, Ret> Emit<marker::Plain> for InsertStatement<T, ValuesClause<V, T>, Op, Ret> {
    type Kind = InsertOne;
    type Verb = Op;
}

impl<T: QuerySource, V, Q, Op, Ret, const STABLE: bool> Emit<marker::Plain>
    for InsertStatement<T, BatchInsert<V, T, Q, STABLE>, Op, Ret>
{
    type Kind = InsertMany;
    type Verb = Op;
}

/// Statements whose returned rows tell all that they did.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot emit: its event would not tell all that it does",
    label = "emits less than it does",
    note = "for `diesel::update(…)` and `diesel::delete(…)` write `emitter_diesel::update(…)` and `emitter_diesel::delete(…)`",
    note = "for `replace_into(…)`, which deletes rows, write `insert_into(…).values(…).on_conflict(…).do_update().set(…)`"
)]
pub trait TellsAll {}

#[diagnostic::do_not_recommend]
impl TellsAll for () {}
#[diagnostic::do_not_recommend]
impl TellsAll for InsertOrIgnore {}
#[diagnostic::do_not_recommend]
impl TellsAll for Insert {}

/// Diesel's `INSERT`, whose type it does not let others name but as a default.
type Insert = <InsertStatement<unnamed::table, ()> as Verb>::Op;

/// The verb of an insert.
trait Verb {
    type Op;
}

impl<T: QuerySource, V, Op, Ret> Verb for InsertStatement<T, V, Op, Ret> {
    type Op = Op;
}

/// Any table would do.
mod unnamed {
    diesel::table! { unnamed { id -> Integer, } }
    pub(super) use self::unnamed::table;
}

// Diesel does not let others name the type of an `ON CONFLICT` clause. But among inserts only
// those that have one can be filtered (`ON CONFLICT … DO UPDATE … WHERE`).
impl<T: QuerySource, V, Op, Ret> Emit<marker::OnConflict> for InsertStatement<T, V, Op, Ret>
where
    Self: FilterDsl<SqlLiteral<Bool>>,
{
    type Kind = OnConflict;
    type Verb = Op;
}

// There for the message alone.
impl<T: QuerySource, U, V, Ret> Emit<marker::Plain> for UpdateStatement<T, U, V, Ret> {
    type Kind = Refused<Updating>;
    type Verb = marker::DieselsOwnUpdate;
}

impl<T: QuerySource, W, V, R> Emit<marker::Plain> for Update<T, W, V, R> {
    type Kind = Updating;
    type Verb = ();
}

// There for the message alone.
impl<T: QuerySource, U, Ret> Emit<marker::Plain> for DeleteStatement<T, U, Ret> {
    type Kind = Refused<Deleting>;
    type Verb = marker::DieselsOwnDelete;
}

impl<T: QuerySource, W, R> Emit<marker::Plain> for Delete<T, W, R> {
    type Kind = Deleting;
    type Verb = ();
}

/// A statement that emits, made by [`Emit::emit`].
#[derive(Debug)]
#[must_use = "a statement does nothing until it is executed"]
pub struct Emitting<S, K, M, P = persistence::Unsaid> {
    statement: S,
    options: EmitOptions,
    /// Rows that an update left as they were are told of, too.
    unchanged: bool,
    /// Where the events wait until they are published.
    persistence: Persistence,
    kind: PhantomData<fn() -> (K, M)>,
    said: PhantomData<fn() -> P>,
}

/// What a call may say of where its events wait.
pub mod persistence {
    /// Nothing: the model decides.
    #[derive(Debug)]
    pub enum Unsaid {}

    /// That they are durable.
    #[derive(Debug)]
    pub enum Durable {}

    /// That they are queued.
    #[derive(Debug)]
    pub enum Queued {}

    /// A call that may say `What` of its events, too.
    #[diagnostic::on_unimplemented(
        message = "`.durable()` and `.queued()` exclude each other",
        label = "the call says the other one already",
        note = "`.durable()` writes an event down in the transaction of its row, `.queued()` after it: leave one of them out"
    )]
    pub trait MaySay<What> {}

    impl<What> MaySay<What> for Unsaid {}
    #[diagnostic::do_not_recommend]
    impl MaySay<Self> for Durable {}
    #[diagnostic::do_not_recommend]
    impl MaySay<Self> for Queued {}
}

impl<S, M, P> Emitting<S, Updating, M, P> {
    /// Tells of rows, too, that the update left as they were. Without it such a row is in no event
    /// where the row before is known, and where every column that was set is one that listeners see.
    pub fn emit_unchanged(mut self) -> Self {
        self.unchanged = true;
        self
    }
}

impl<S, K, M, P> Emitting<S, K, M, P> {
    /// To listeners of this node only.
    pub fn local_only(self) -> Self
    where
        M: EmitsLocally,
    {
        self.narrowed(Scope::LOCAL)
    }

    /// To other nodes only.
    pub fn remote_only(self) -> Self
    where
        M: EmitsRemotely,
    {
        self.narrowed(Scope::REMOTE)
    }

    /// Emits if `condition`, else not.
    pub fn emit_if(self, condition: bool) -> Self {
        self.narrowed(condition.into())
    }

    /// Writes the event down in the outbox, in the transaction of the statement, or in one of its own where
    /// none is open: what is committed is relayed, whatever dies afterwards. Where the event cannot be
    /// written down, the transaction fails. See [`outbox`](crate::outbox).
    pub fn durable(self) -> Emitting<S, K, M, persistence::Durable>
    where
        P: persistence::MaySay<persistence::Durable>,
    {
        self.persistent(Persistence::Durable)
    }

    /// Writes the event down in the outbox as well, but once its transaction is committed: by the outbox's own
    /// connection, while the call has returned already. The write takes no longer for it and does not fail with
    /// it; what it costs is that a process which is killed loses what it has not written yet (`queued` less
    /// `queue_written` in [`Stats`](emitter_core::metrics::Stats)). A [`receipt`](Self::receipt) tells when it is
    /// [there](Receipt::recorded). See [`outbox`](crate::outbox#queued-events).
    ///
    /// An event of a model that says `durable` stays durable.
    pub fn queued(self) -> Emitting<S, K, M, persistence::Queued>
    where
        P: persistence::MaySay<persistence::Queued>,
    {
        self.persistent(Persistence::Queued)
    }

    fn persistent<Q>(self, persistence: Persistence) -> Emitting<S, K, M, Q> {
        let Self { statement, options, unchanged, kind, .. } = self;
        Emitting { statement, options, unchanged, persistence, kind, said: PhantomData }
    }

    /// With what it says of where its events wait told by a value alone.
    fn told(self) -> Emitting<S, K, M> {
        let persistence = self.persistence;
        self.persistent(persistence)
    }

    /// How hard is tried to bring the event to other nodes, instead of what the model says. It says
    /// nothing about listeners of this node.
    pub fn qos(mut self, qos: QoS) -> Self
    where
        M: EmitsRemotely,
    {
        self.options = self.options.qos(qos);
        self
    }

    /// The trace to which the event belongs.
    pub fn trace(mut self, trace: Trace) -> Self {
        self.options = self.options.trace(trace);
        self
    }

    /// What tells this doing from others of its kind, though it is done twice, such as the id of a
    /// request that a client may repeat: see [`EmitOptions::idempotency_key`]. All events of the
    /// statement carry it.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options = self.options.idempotency_key(key);
        self
    }

    /// Notes something beside the event, such as who did it: see [`EmitOptions::metadata`]. All events of
    /// the statement carry it.
    pub fn metadata(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.options = self.options.metadata(name, value);
        self
    }

    /// Tells what becomes of the statement's events. See [`Receipt`].
    pub fn receipt(mut self, receipt: &Receipt) -> Self {
        self.options = self.options.receipt(receipt);
        self
    }

    /// Narrows where the event goes. A call can only narrow what the application and the model
    /// allow.
    pub fn narrowed(mut self, scope: Scope) -> Self {
        self.options = self.options.narrowed(scope);
        self
    }
}

impl<S, K: Kind, M: Model, P> Emitting<S, K, M, P> {
    /// Runs the statement and returns its row. Several rows are several events, and the first is
    /// returned, as Diesel does. On an asynchronous handle it is a future, as with all of these.
    ///
    /// # Errors
    /// Diesel's; [`Error::NotFound`] when there was no row. Then nothing is emitted.
    pub fn get_result<'a, R, H>(self, conn: &'a mut H) -> H::Output<'a, R>
    where
        R: Same<M> + Send + 'a,
        H: Loads<'a, S, M, K> + ?Sized,
        M: Same<R> + Emits<K::One>,
    {
        conn.load::<K::One, R>(self.told(), |rows| rows.into_first().map(M::same).ok_or(Error::NotFound))
    }

    /// Runs the statement and returns its rows.
    ///
    /// # Errors
    /// Diesel's. Then nothing is emitted.
    pub fn get_results<'a, R, H>(self, conn: &'a mut H) -> H::Output<'a, Vec<R>>
    where
        R: Same<M> + Send + 'a,
        H: Loads<'a, S, M, K> + ?Sized,
        M: Same<R> + Emits<K::Many>,
    {
        conn.load::<K::Many, Vec<R>>(self.told(), |rows| Ok(rows.into_iter().map(M::same).collect()))
    }

    /// The same as [`get_results`](Self::get_results).
    ///
    /// # Errors
    /// Diesel's. Then nothing is emitted.
    pub fn load<'a, R, H>(self, conn: &'a mut H) -> H::Output<'a, Vec<R>>
    where
        R: Same<M> + Send + 'a,
        H: Loads<'a, S, M, K> + ?Sized,
        M: Same<R> + Emits<K::Many>,
    {
        self.get_results(conn)
    }

    /// Runs the statement and returns how many rows it touched. They are read all the same, for
    /// the event; where it goes nowhere, they are not.
    ///
    /// # Errors
    /// Diesel's. Then nothing is emitted.
    pub fn execute<'a, H>(self, conn: &'a mut H) -> H::Output<'a, usize>
    where
        H: Executes<'a, S, M, K> + ?Sized,
        M: Emits<K::Many>,
    {
        conn.execute(self.told())
    }

    /// Where the statement's events go, if anywhere, and what is to be known for that.
    ///
    /// # Errors
    /// When they are to be queued, and there is nothing that they could be queued for.
    pub(crate) fn route<Op: FromRows>(self, emitter: &Emitter) -> QueryResult<(S, Routed<M>)>
    where
        M: Emits<Op>,
    {
        let Self { statement, options, unchanged, persistence, .. } = self;
        let route = emitter.route::<M>(Op::OPERATION, options).map(|route| route.persistence(persistence));
        if route.as_ref().is_some_and(Route::is_queued) {
            refuse_to_queue(emitter)?;
        }
        let route = route.map(|route| {
            let hash_key = route.hash_key();
            let ask = Ask { emits: true, before: route.wants_before(), hash_key: hash_key.clone() };
            (Events { route, hash_key, unchanged }, ask)
        });
        Ok((statement, route))
    }
}

/// What is needed to make events of rows, and to be known of them, where they go anywhere.
type Routed<M> = Option<(Events<M>, Ask)>;

/// What is needed to make events of rows.
pub(crate) struct Events<M> {
    route: Route<M>,
    hash_key: Option<HashKey>,
    unchanged: bool,
}

impl<M: Model> Events<M> {
    /// Whether they are written down with the rows.
    pub(crate) fn are_durable(&self) -> bool {
        self.route.is_durable()
    }

    /// Calls `keep` with each of them.
    pub(crate) fn of<Op: FromRows>(self, rows: &mut Rows<M>, keep: impl FnMut(Emission))
    where
        M: Emits<Op>,
    {
        let Self { route, hash_key, unchanged } = self;
        // No more events than rows; the last takes the route itself, which is most often the only one.
        let routes = std::iter::repeat_n(route, rows.count());
        let events = Op::events(rows, hash_key.as_ref(), unchanged);
        events.zip(routes).map(|(event, route)| route.event(event)).for_each(keep);
    }
}

/// A bound handle: what its statements return.
pub trait Handle {
    /// A [`QueryResult`], or a future of one.
    type Output<'a, T: Send + 'a>
    where
        Self: 'a;
}

/// Connections that are not bound: that they run no statement that emits is said once.
macro_rules! not_bound {
    ($($feature:literal $connection:path: $output:ty;)*) => { $(
        #[cfg(feature = $feature)]
        impl Handle for $connection {
            type Output<'a, T: Send + 'a> = $output;
        }
    )* };
}

not_bound! {
    "sqlite" diesel::SqliteConnection: QueryResult<T>;
    "postgres" diesel::PgConnection: QueryResult<T>;
    "async-postgres" diesel_async::AsyncPgConnection: futures_util::future::BoxFuture<'a, QueryResult<T>>;
}

/// A bound handle on which a statement `S` returns rows of a model `M`.
#[diagnostic::on_unimplemented(
    message = "this is no bound connection on which the statement returns its model",
    label = "not bound to an emitter, or the statement does not return `{M}`",
    note = "bind the connection first: `let conn = &mut emitter.bind(&mut conn)?;`",
    note = "if it is bound: the model must be `Queryable` from all columns of the table, or the statement needs `.returning({M}::as_returning())`",
    note = "a list is inserted on SQLite only through the connection itself: `emitter.bind(&mut *pooled)`; and on asynchronous SQLite row by row"
)]
pub trait Loads<'a, S, M, K>: Handle {
    /// Runs the statement, keeps its events for the commit, and returns what `then` makes of the rows.
    fn load<Op: FromRows, T: Send + 'a>(
        &'a mut self,
        emitting: Emitting<S, K, M>,
        then: fn(Rows<M>) -> QueryResult<T>,
    ) -> Self::Output<'a, T>
    where
        K: Kind,
        M: Emits<Op>;
}

#[diagnostic::do_not_recommend]
impl<'a, C, S, M, K> Loads<'a, S, M, K> for Bound<'_, C>
where
    C: Connection<Backend: Engine<C, S, M, K>>,
{
    fn load<Op: FromRows, T: Send + 'a>(
        &'a mut self,
        emitting: Emitting<S, K, M>,
        then: fn(Rows<M>) -> QueryResult<T>,
    ) -> QueryResult<T>
    where
        K: Kind,
        M: Emits<Op>,
    {
        let (statement, events) = emitting.route::<Op>(self.emitter())?;
        let Some((events, ask)) = events else {
            return then(self.run(|conn| C::Backend::load(conn, statement, Ask::default()))?);
        };
        self.together(events.are_durable(), |bound| {
            let mut rows = bound.run(|conn| C::Backend::load(conn, statement, ask))?;
            events.of::<Op>(&mut rows, |event| bound.keep(event));
            then(rows)
        })
    }
}

/// A bound handle on which a statement can also be run for the number of its rows alone.
#[diagnostic::on_unimplemented(
    message = "this is no bound connection on which the statement returns its model",
    label = "not bound to an emitter, or the statement does not return `{M}`",
    note = "bind the connection first: `let conn = &mut emitter.bind(&mut conn)?;`",
    note = "if it is bound: the model must be `Queryable` from all columns of the table",
    note = "with `.returning(…)`, use `get_result` or `get_results`",
    note = "a list is inserted on SQLite only through the connection itself: `emitter.bind(&mut *pooled)`; and on asynchronous SQLite row by row"
)]
pub trait Executes<'a, S, M, K>: Loads<'a, S, M, K> {
    /// Runs the statement, and keeps its events for the commit.
    fn execute(&'a mut self, emitting: Emitting<S, K, M>) -> Self::Output<'a, usize>
    where
        K: Kind,
        M: Emits<K::Many>;
}

#[diagnostic::do_not_recommend]
impl<'a, C, S, M, K> Executes<'a, S, M, K> for Bound<'_, C>
where
    C: Connection<Backend: Engine<C, S, M, K>>,
    S: Counts<C>,
{
    fn execute(&'a mut self, emitting: Emitting<S, K, M>) -> QueryResult<usize>
    where
        K: Kind,
        M: Emits<K::Many>,
    {
        let (statement, events) = emitting.route::<K::Many>(self.emitter())?;
        let Some((events, ask)) = events else { return self.run(|conn| statement.execute(conn)) };
        self.together(events.are_durable(), |bound| {
            let mut rows = bound.run(|conn| C::Backend::load(conn, statement, ask))?;
            events.of::<K::Many>(&mut rows, |event| bound.keep(event));
            Ok(rows.count())
        })
    }
}

/// "Is the same type." Lets `.emit()` infer its model from the result's type, and the result's
/// type from `.emit::<User>()`.
pub trait Same<T> {
    /// Itself.
    fn same(self) -> T;
}

impl<T> Same<T> for T {
    fn same(self) -> T {
        self
    }
}

/// An operation whose events are made of the rows that its statement returned.
pub trait FromRows: OperationType + Sized {
    /// The events; none when there are no rows.
    fn events<M: Emits<Self>>(
        rows: &mut Rows<M>,
        hash_key: Option<&HashKey>,
        unchanged: bool,
    ) -> impl Iterator<Item = M::Event>;
}

macro_rules! one_event_each {
    ($($operation:ident($row:ident) => $body:expr;)*) => { $(
        impl FromRows for operation::$operation {
            fn events<M: Emits<Self>>(
                rows: &mut Rows<M>,
                hash_key: Option<&HashKey>,
                _unchanged: bool,
            ) -> impl Iterator<Item = M::Event> {
                rows.iter().map(move |model| {
                    let $row = model.to_row(hash_key);
                    M::wrap($body)
                })
            }
        }
    )* };
}

macro_rules! one_event_for_all {
    ($($operation:ident => $new:expr;)*) => { $(
        impl FromRows for operation::$operation {
            fn events<M: Emits<Self>>(
                rows: &mut Rows<M>,
                hash_key: Option<&HashKey>,
                _unchanged: bool,
            ) -> impl Iterator<Item = M::Event> {
                (rows.count() > 0).then(|| {
                    let images = rows.iter().map(|model| model.to_row(hash_key)).collect();
                    M::wrap($new(rows.count() as u64, Some(images)))
                }).into_iter()
            }
        }
    )* };
}

one_event_each! {
    Create(row) => Created::new(row);
    Delete(row) => Deleted::new(row);
}

// An upsert is an insert first, and most databases do not say whether it became one.
impl FromRows for operation::Upsert {
    fn events<M: Emits<Self>>(
        rows: &mut Rows<M>,
        hash_key: Option<&HashKey>,
        _unchanged: bool,
    ) -> impl Iterator<Item = M::Event> {
        let inserted = rows.inserted().map(Some).chain(std::iter::repeat(None));
        let upserted =
            move |row: &M, inserted| Upserted::new(row.to_row(hash_key), Some(Columns::ALL), inserted);
        rows.iter().zip(inserted).map(move |(row, inserted)| M::wrap(upserted(row, inserted)))
    }
}

one_event_for_all! {
    CreateMany => CreatedMany::new;
    DeleteMany => DeletedMany::new;
}

impl FromRows for operation::Update {
    fn events<M: Emits<Self>>(
        rows: &mut Rows<M>,
        hash_key: Option<&HashKey>,
        unchanged: bool,
    ) -> impl Iterator<Item = M::Event> {
        let set = rows.set().columns;
        changes(rows, hash_key, unchanged)
            .map(move |(before, after)| M::wrap(Updated::new(before, after, set)))
    }
}

impl FromRows for operation::UpdateMany {
    fn events<M: Emits<Self>>(
        rows: &mut Rows<M>,
        hash_key: Option<&HashKey>,
        unchanged: bool,
    ) -> impl Iterator<Item = M::Event> {
        let set = rows.set().columns;
        let images: Vec<_> =
            changes(rows, hash_key, unchanged).map(|(before, after)| RowChange::new(before, after)).collect();
        let count = images.len() as u64;
        (count > 0).then(|| M::wrap(UpdatedMany::new(count, Some(images), set))).into_iter()
    }
}

/// The rows of an update before and after, as listeners see them.
fn changes<M: Model>(
    rows: &mut Rows<M>,
    hash_key: Option<&HashKey>,
    unchanged: bool,
) -> impl Iterator<Item = Image<M>> {
    // What listeners do not see may have changed all the same.
    let all = unchanged || !rows.set().seen;
    rows.take_images(hash_key).into_iter().filter(move |(before, after)| {
        all || before.as_ref().is_none_or(|before| !M::differing(before, after).is_empty())
    })
}
