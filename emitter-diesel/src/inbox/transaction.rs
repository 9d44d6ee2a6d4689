//! The transaction that a listener is called in.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::connection::InboxConnection;
use crate::handle::Lent;

/// The transaction in which an event was claimed: a listener's parameter, `mut tx: InboxTx<'_, PgConnection>`.
///
/// It dereferences to the bound handle, a [`Bound`](crate::Bound) or a `BoundAsync`: run statements on `&mut *tx`. It ends when the
/// listener does: `Ok` commits, an error or a panic rolls back. A `transaction` on it is a savepoint.
pub struct InboxTx<'t, C: InboxConnection> {
    handle: C::Handle<'t>,
    /// For what it emitted, when it is over.
    back: &'t Mutex<Option<Lent>>,
}

impl<'t, C: InboxConnection> InboxTx<'t, C> {
    pub(super) fn new(handle: C::Handle<'t>, back: &'t Mutex<Option<Lent>>) -> Self {
        Self { handle, back }
    }
}

impl<'t, C: InboxConnection> Deref for InboxTx<'t, C> {
    type Target = C::Handle<'t>;

    fn deref(&self) -> &C::Handle<'t> {
        &self.handle
    }
}

impl<'t, C: InboxConnection> DerefMut for InboxTx<'t, C> {
    fn deref_mut(&mut self) -> &mut C::Handle<'t> {
        &mut self.handle
    }
}

impl<C: InboxConnection> Drop for InboxTx<'_, C> {
    fn drop(&mut self) {
        let lent = C::give_back(&mut self.handle);
        *self.back.lock().unwrap_or_else(PoisonError::into_inner) = Some(lent);
    }
}

impl<C: InboxConnection> fmt::Debug for InboxTx<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InboxTx")
    }
}
