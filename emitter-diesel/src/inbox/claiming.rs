//! One call of a listener, in the transaction of its mark.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::Connection;
use diesel::result::{Error, QueryResult};
#[cfg(feature = "_async")]
use diesel_async::TransactionManager;
use emitter_core::__private::{Home, context, on_a_thread};
use emitter_core::listener::{Handler, MissingState, Outcome, Ready, States, Unhandled};
use emitter_core::model::EventBody;
use emitter_core::{Context, Emitter, Event, State};
#[cfg(feature = "_async")]
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::connection::{InAsyncFn, InPlainFn, InboxConnection};
use super::marks::Claim;
use super::waiting::Waits;
use super::{Desk, Inbox, InboxTx};
#[cfg(feature = "_async")]
use crate::BoundAsync;
#[cfg(feature = "_async")]
use crate::handle::EmittingTransactionManager;
use crate::handle::{Bindable, Lent, marker};
use crate::tables::PROBE;

/// The inbox of one listener.
struct Claims<C: InboxConnection> {
    inbox: State<Inbox<C>>,
    home: Home,
    listener: &'static str,
}

impl<C: InboxConnection> Claims<C> {
    fn new(states: &States, listener: &'static str) -> Result<Self, MissingState> {
        let inbox = states.get::<Inbox<C>>();
        let inbox = inbox.map_err(|missing| MissingState { by: C::GIVEN_BY, ..missing })?;
        inbox.desk.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
        Ok(Self { inbox, home: states.home(), listener })
    }
}

impl<C: InboxConnection> Clone for Claims<C> {
    fn clone(&self) -> Self {
        Self { inbox: self.inbox.clone(), home: self.home.clone(), listener: self.listener }
    }
}

/// Why a call did not commit.
enum Undone {
    /// It was done before.
    Already,
    /// The listener was not called.
    Uncalled(Error),
    Database(Error),
    Listener(String),
    Panicked(Box<dyn Any + Send>),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl Undone {
    /// It may have been the connection's end.
    fn may_be_lost(&self) -> bool {
        matches!(self, Self::Database(_) | Self::Listener(_))
    }
}

impl<C: InboxConnection> Claims<C> {
    /// Waits until the tables are there: a start does not wait with taking what the broker has.
    async fn opened(&self) {
        let open = &self.inbox.desk.open;
        if !*open.borrow() {
            // Where they never are, the start fails, and the node ends with this call in it.
            let _ = open.subscribe().wait_for(|open| *open).await;
        }
    }

    fn emitter(&self, call: &Context) -> Result<Emitter, Unhandled> {
        call.emitter().ok_or_else(|| Unhandled::Failed("its emitter is there no more".to_owned()))
    }

    /// The listener was not called, for this reason.
    fn unready(&self, reason: &impl ToString) -> Unhandled {
        let reason = reason.to_string();
        self.inbox.desk.waiting().hindered(reason.clone());
        Unhandled::Unready(reason)
    }

    /// It will be called, as soon as the database has made its mark.
    fn waits(&self, call: &Context) -> Waits {
        Waits::new(Arc::clone(&self.inbox.desk), (call.id(), self.listener))
    }

    /// It is called now.
    fn calls(&self, call: &Context) {
        self.inbox.desk.waiting().called(&(call.id(), self.listener));
    }

    fn claim(&self, call: &Context, emitter: &Emitter) -> Claim {
        self.inbox.marks.claim(call.id().to_string(), self.listener, &emitter.origin().service)
    }

    /// What became of a call. `is_lost` says whether the connection that it had is there no more: then it was no attempt.
    fn ended(&self, result: Result<(), Undone>, is_lost: bool) -> Result<(), Unhandled> {
        let desk: &Desk = &self.inbox.desk;
        match result {
            Ok(()) => {
                desk.claimed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Undone::Already) => {
                desk.already_done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Undone::Uncalled(error)) => Err(self.unready(&error)),
            Err(Undone::Database(error)) if is_lost => Err(Unhandled::Interrupted(error.to_string())),
            Err(Undone::Listener(error)) if is_lost => Err(Unhandled::Interrupted(error)),
            Err(Undone::Database(error)) => Err(Unhandled::Failed(error.to_string())),
            Err(Undone::Listener(error)) => Err(Unhandled::Failed(error)),
            Err(Undone::Panicked(panic)) => resume_unwind(panic),
        }
    }
}

/// What a listener came to, whose transaction was taken back into `lent`; `left_open` says whether one was within it
/// that had not ended, which a COMMIT would end, and not this one.
fn judged(
    outcome: std::thread::Result<Result<(), String>>,
    lent: Option<Lent>,
    left_open: QueryResult<bool>,
) -> Result<Lent, Undone> {
    outcome.map_err(Undone::Panicked)?.map_err(Undone::Listener)?;
    if left_open? {
        return Err(Undone::Listener(LEFT_OPEN.to_owned()));
    }
    lent.ok_or_else(|| Undone::Listener(KEPT.to_owned()))
}

const KEPT: &str = "the listener has ended and its `InboxTx` has not: let it go before the listener returns";

const LEFT_OPEN: &str = "the listener has ended and a transaction that it began within its own has not: its future was \
                         dropped, or a panic in it was caught. Let it end, or return an error";

const TOO_LATE: &str = "it took longer than its time-out: what it did was rolled back";

/// Says that nobody waits for a call any more.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A handler around a plain function that is called in the transaction of its mark, for `#[listener]`.
///
/// # Errors
/// Where the builder was given no inbox.
pub fn in_plain_fn<T, C, O, F>(
    states: &States,
    listener: &'static str,
    function: F,
) -> Result<Handler, MissingState>
where
    T: EventBody,
    C: InPlainFn,
    O: Outcome,
    F: for<'t> Fn(Event<T>, Context, InboxTx<'t, C>) -> O + Send + Sync + 'static,
{
    let (claims, function) = (Claims::<C>::new(states, listener)?, Arc::new(function));
    Ok(Handler::from_preparing::<T, _, _>(move |event, attempt, ready| {
        let call = context(&event, attempt, &claims.home);
        let (claims, function) = (claims.clone(), Arc::clone(&function));
        async move {
            claims.opened().await;
            let too_late = Arc::new(AtomicBool::new(false));
            let _given_up = GivenUp(Arc::clone(&too_late));
            let waits = claims.waits(&call);
            let ended = on_a_thread(move || {
                let act =
                    || claims.call_plain(&call, ready, &too_late, |tx| function(event, call.clone(), tx));
                call.within(act)
            });
            waits.unless_over(ended.await)
        }
    }))
}

impl<C: InPlainFn> Claims<C> {
    fn call_plain<O: Outcome>(
        &self,
        call: &Context,
        ready: Ready,
        too_late: &AtomicBool,
        function: impl FnOnce(InboxTx<'_, C>) -> O,
    ) -> Result<(), Unhandled> {
        let emitter = self.emitter(call)?;
        let claim = self.claim(call, &emitter);
        let mut connection = (self.inbox.connect)().map_err(|reason| self.unready(&reason))?;
        let bound = Bindable::<marker::Blocking>::bound(&mut **connection, &emitter);
        let mut bound = bound.map_err(|error| self.unready(&error))?;
        bound.prove_commits();
        // The call has a time-out of its own.
        bound.transaction_timeout(None);
        let mut is_called = false;
        let result = bound.transaction(|bound| {
            ready.now();
            let claimed = C::claim(bound, &claim).map_err(Undone::Uncalled)?;
            is_called = true;
            self.calls(call);
            if claimed == 0 {
                return Err(Undone::Already);
            }
            let back = Mutex::new(None);
            let tx = InboxTx::new(C::handle(bound.lend()), &back);
            let outcome = catch_unwind(AssertUnwindSafe(|| function(tx).into_result()));
            let lent = back.into_inner().unwrap_or_else(PoisonError::into_inner);
            let left_open = bound.roll_back_inner();
            bound.take_back(judged(outcome, lent, left_open)?);
            // The event was given up, or is another call's: which would have to wait for this one.
            if too_late.load(Ordering::Acquire) { Err(Undone::Listener(TOO_LATE.to_owned())) } else { Ok(()) }
        });
        drop(bound);
        let result = result.map_err(|undone| match undone {
            Undone::Database(error) if !is_called => Undone::Uncalled(error),
            undone => undone,
        });
        let is_lost =
            result.as_ref().is_err_and(Undone::may_be_lost) && connection.batch_execute(PROBE).is_err();
        self.ended(result, is_lost)
    }
}

/// A handler around an asynchronous function that is called in the transaction of its mark, for `#[listener]`.
///
/// # Errors
/// Where the builder was given no inbox.
#[cfg(feature = "_async")]
pub fn in_async_fn<T, C, O, F>(
    states: &States,
    listener: &'static str,
    function: F,
) -> Result<Handler, MissingState>
where
    T: EventBody,
    C: InAsyncFn,
    O: Outcome,
    F: for<'t> Fn(Event<T>, Context, InboxTx<'t, C>) -> BoxFuture<'t, O> + Send + Sync + 'static,
{
    let (claims, function) = (Claims::<C>::new(states, listener)?, Arc::new(function));
    Ok(Handler::from_preparing::<T, _, _>(move |event, attempt, ready| {
        let call = context(&event, attempt, &claims.home);
        let (claims, function) = (claims.clone(), Arc::clone(&function));
        async move {
            claims.opened().await;
            let waits = claims.waits(&call);
            waits.unless_over(claims.call_async(&call, ready, |tx| function(event, call.clone(), tx)).await)
        }
    }))
}

/// Nothing to call it with.
#[cfg(not(feature = "_async"))]
#[expect(clippy::missing_errors_doc, reason = "nothing can call it")]
pub fn in_async_fn<T, C, O, F>(
    states: &States,
    listener: &'static str,
    function: F,
) -> Result<Handler, MissingState>
where
    T: EventBody,
    C: InAsyncFn,
    F: for<'t> Fn(Event<T>, Context, InboxTx<'t, C>) -> BoxFuture<'t, O>,
{
    C::is_none(states, listener, function)
}

/// A call that has begun.
pub fn boxed<'t, F: Future + Send + 't>(call: F) -> BoxFuture<'t, F::Output> {
    Box::pin(call)
}

#[cfg(feature = "_async")]
impl<C: InAsyncFn> Claims<C> {
    /// Dropped in the middle, it never gets to the COMMIT.
    async fn call_async<O: Outcome>(
        &self,
        call: &Context,
        ready: Ready,
        function: impl for<'t> FnOnce(InboxTx<'t, C>) -> BoxFuture<'t, O> + Send,
    ) -> Result<(), Unhandled> {
        let emitter = self.emitter(call)?;
        let claim = self.claim(call, &emitter);
        let connected = (self.inbox.connect)().await;
        let mut connection = connected.map_err(|reason| self.unready(&reason))?;
        let bound = BoundAsync::new(&emitter, &mut **connection);
        let mut bound = bound.map_err(|error| self.unready(&error))?;
        bound.prove_commits();
        // The call has a time-out of its own.
        bound.transaction_timeout(None);
        let begun = EmittingTransactionManager::begin_transaction(&mut bound).await;
        begun.map_err(|error| self.unready(&error))?;
        ready.now();
        let calls = || self.calls(call);
        let result = match claimed_async(&mut bound, claim, calls, function).await {
            Ok(()) => {
                EmittingTransactionManager::commit_transaction(&mut bound).await.map_err(Undone::Database)
            }
            Err(undone) => {
                // What was wrong first says more than the clean-up after it.
                let _ = EmittingTransactionManager::rollback_transaction(&mut bound).await;
                Err(undone)
            }
        };
        drop(bound);
        let is_lost =
            result.as_ref().is_err_and(Undone::may_be_lost) && connection.batch_execute(PROBE).await.is_err();
        self.ended(result, is_lost)
    }
}

#[cfg(feature = "_async")]
async fn claimed_async<C: InAsyncFn, O: Outcome>(
    bound: &mut BoundAsync<'_, C>,
    claim: Claim,
    calls: impl FnOnce(),
    function: impl for<'t> FnOnce(InboxTx<'t, C>) -> BoxFuture<'t, O>,
) -> Result<(), Undone> {
    let claimed = C::claim(bound, claim).await.map_err(Undone::Uncalled)?;
    calls();
    if claimed == 0 {
        return Err(Undone::Already);
    }
    let back = Mutex::new(None);
    let tx = InboxTx::new(C::handle(bound.lend()), &back);
    let outcome = AssertUnwindSafe(async { function(tx).await.into_result() }).catch_unwind().await;
    let lent = back.into_inner().unwrap_or_else(PoisonError::into_inner);
    let left_open = bound.roll_back_inner().await;
    bound.take_back(judged(outcome, lent, left_open)?);
    Ok(())
}
