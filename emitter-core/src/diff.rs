//! What a write did to a row: the images before and after, and the columns that differ.

use std::fmt;

use crate::columns::Columns;
use crate::model::{BodyRef, CreatedMany, DeletedMany, Model, Upserted};

/// What an update did to a row. `#[derive(Emits)]` writes a type around it, such as `UserDiff`,
/// with a method for each column.
///
/// Where the row before is not known, the columns that the statement set count as changed, or
/// every column where that is not known either: a listener that drops what it has cached drops
/// too much rather than too little. Filters are of the other mind: they let through what is known
/// to match.
pub struct Diff<'e, M: Model> {
    before: Option<&'e M::Row>,
    after: &'e M::Row,
    columns: Columns,
}

impl<'e, M: Model> Diff<'e, M> {
    pub(crate) fn new(before: Option<&'e M::Row>, after: &'e M::Row, set: Option<Columns>) -> Self {
        let columns = match before {
            Some(before) => M::differing(before, after),
            None => set.unwrap_or(Columns::ALL),
        };
        Self { before, after, columns }
    }

    /// The columns that changed, in the order of the struct.
    pub fn columns(&self) -> impl Iterator<Item = &'static str> {
        let changed = self.columns;
        M::COLUMNS
            .iter()
            .enumerate()
            .filter(move |(place, _)| changed.contains(*place))
            .map(|(_, column)| column.field)
    }

    /// Whether no column changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns().next().is_none()
    }

    /// The column at this place, if it changed; for the methods that `#[derive(Emits)]` writes.
    #[doc(hidden)]
    #[must_use]
    pub fn column<T>(&self, place: usize, column: impl Fn(&'e M::Row) -> &'e T) -> Option<Change<'e, T>> {
        self.columns
            .contains(place)
            .then(|| Change { old: self.before.map(&column), new: column(self.after) })
    }
}

impl<M: Model> Clone for Diff<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Model> Copy for Diff<'_, M> {}

impl<M: Model> fmt::Debug for Diff<'_, M> {
    /// Names the columns and shows no values: rows hold users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.columns()).finish()
    }
}

/// Whether two values differ, for `#[derive(Emits)]`.
pub fn differ<T: ComparedColumn + ?Sized>(a: &T, b: &T) -> bool {
    T::differ(a, b)
}

/// A column of a model that emits updates: each is compared with what it was.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a column of a model that emits updates",
    label = "has to be comparable: an update tells which columns changed",
    note = "derive `PartialEq` on `{Self}`, or leave the field out of events with `#[emits(skip)]`"
)]
pub trait ComparedColumn {
    /// Whether two values differ.
    fn differ(a: &Self, b: &Self) -> bool;
}

#[diagnostic::do_not_recommend]
impl<T: PartialEq + ?Sized> ComparedColumn for T {
    fn differ(a: &Self, b: &Self) -> bool {
        a != b
    }
}

/// A column that changed.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<'e, T: ?Sized> {
    /// Its value before; `None` when the row before is not known.
    pub old: Option<&'e T>,
    /// Its value now.
    pub new: &'e T,
}

impl<T: ?Sized> Clone for Change<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Change<'_, T> {}

/// One row of an event of any operation, and what the write did to it.
///
/// Filters are made of it: `where` looks at the [`row`](Self::row), `data` at what the write
/// [`sets`](Self::sets).
pub struct ChangedRow<'e, M: Model> {
    before: Before<'e, M>,
    after: Option<&'e M::Row>,
    /// As far as it is known.
    set: Columns,
}

/// The row before the write.
enum Before<'e, M: Model> {
    Row(&'e M::Row),
    /// There was none: it is an insert.
    Absent,
    /// Its origin did not keep it, or cannot tell whether there was one.
    Unknown,
}

impl<'e, M: Model> ChangedRow<'e, M> {
    fn inserted(row: &'e M::Row) -> Self {
        Self { before: Before::Absent, after: Some(row), set: Columns::ALL }
    }

    fn deleted(row: &'e M::Row) -> Self {
        Self { before: Before::Row(row), after: None, set: Columns::NONE }
    }

    fn updated(before: Option<&'e M::Row>, after: &'e M::Row, set: Option<Columns>) -> Self {
        let changed = |before| M::differing(before, after);
        Self {
            set: set.or_else(|| before.map(changed)).unwrap_or(Columns::NONE),
            before: before.map_or(Before::Unknown, Before::Row),
            after: Some(after),
        }
    }

    /// The row as it is now; as it was for a delete.
    #[must_use]
    pub fn row(&self) -> &'e M::Row {
        let row = self.after.or_else(|| self.before());
        row.unwrap_or_else(|| unreachable!("a deleted row is known"))
    }

    /// The row before the write; `None` for an insert, and where its origin did not keep it.
    #[must_use]
    pub fn before(&self) -> Option<&'e M::Row> {
        match self.before {
            Before::Row(row) => Some(row),
            Before::Absent | Before::Unknown => None,
        }
    }

    /// The row as it is now; `None` for a delete.
    #[must_use]
    pub fn after(&self) -> Option<&'e M::Row> {
        self.after
    }

    /// The row as it is now, if the write set the column at this place in
    /// [`Model::COLUMNS`]: an insert sets every column, a delete none, an update those of its
    /// statement, also to the value that they had.
    #[must_use]
    pub fn sets(&self, place: usize) -> Option<&'e M::Row> {
        self.after.filter(|_| self.set.contains(place))
    }

    /// Whether the column at this place is known to have another value than before. A row that
    /// was inserted or deleted did not change.
    #[must_use]
    pub fn changes(&self, place: usize) -> bool {
        match (&self.before, self.after) {
            (Before::Row(before), Some(after)) => M::differing(before, after).contains(place),
            _ => false,
        }
    }

    /// Whether `before` is known to hold of the row before, and `after` of the row now.
    #[must_use]
    pub fn moves(&self, before: impl Fn(&'e M::Row) -> bool, after: impl Fn(&'e M::Row) -> bool) -> bool {
        match (&self.before, self.after) {
            (Before::Row(old), Some(new)) => before(old) && after(new),
            _ => false,
        }
    }

    /// Whether the condition is known not to have held before, and holds now. A row that is
    /// inserted enters it.
    #[must_use]
    pub fn enters(&self, condition: impl Fn(&'e M::Row) -> bool) -> bool {
        let held = match self.before {
            Before::Row(row) => condition(row),
            Before::Absent => false,
            Before::Unknown => return false,
        };
        !held && self.after.is_some_and(condition)
    }

    /// Whether the condition is known to have held before, and does not hold now. A row that is
    /// deleted leaves it.
    #[must_use]
    pub fn leaves(&self, condition: impl Fn(&'e M::Row) -> bool) -> bool {
        self.before().is_some_and(&condition) && !self.after.is_some_and(condition)
    }
}

impl<M: Model> fmt::Debug for ChangedRow<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangedRow").field("set", &self.set).finish_non_exhaustive()
    }
}

impl<'e, M: Model> BodyRef<'e, M> {
    /// The columns that the write set, where that is known and not obvious; of updates those that
    /// changed, if nobody said more.
    pub(crate) fn set(&self) -> Option<Columns> {
        match *self {
            Self::Update(body) => {
                let before = body.before.as_ref();
                body.set.or_else(|| before.map(|before| M::differing(before, &body.after)))
            }
            Self::UpdateMany(body) => body.set,
            Self::Upsert(body) => body.set,
            Self::Create(_) | Self::CreateMany(_) | Self::Delete(_) | Self::DeleteMany(_) => None,
        }
    }

    /// Calls `f` with each row of the event until it says `true`, and returns whether it did. An
    /// event whose rows are not known has none.
    // Not generic in `f`: it would be compiled for each filter of each listener.
    pub(crate) fn any_row(&self, f: &mut dyn FnMut(ChangedRow<'e, M>) -> bool) -> bool {
        for place in 0..self.rows().unwrap_or_default() {
            let Images { before, after } = self.images(place);
            let row = match (self, before, after) {
                (Self::Upsert(Upserted { inserted: Some(true), .. }), _, Some(after)) => {
                    ChangedRow::inserted(after)
                }
                (Self::Upsert(body), _, Some(after)) => ChangedRow::updated(None, after, body.set),
                (Self::Update(body), before, Some(after)) => ChangedRow::updated(before, after, body.set),
                (Self::UpdateMany(body), before, Some(after)) => ChangedRow::updated(before, after, body.set),
                (_, None, Some(after)) => ChangedRow::inserted(after),
                (_, Some(before), _) => ChangedRow::deleted(before),
                (_, None, None) => continue,
            };
            if f(row) {
                return true;
            }
        }
        false
    }

    /// How many rows it carries; `None` where only their count is known.
    pub(crate) fn rows(&self) -> Option<usize> {
        match *self {
            Self::Create(_) | Self::Update(_) | Self::Upsert(_) | Self::Delete(_) => Some(1),
            Self::CreateMany(CreatedMany { rows, .. }) | Self::DeleteMany(DeletedMany { rows, .. }) => {
                Some(rows.as_ref()?.len())
            }
            Self::UpdateMany(body) => Some(body.rows.as_ref()?.len()),
        }
    }

    /// One of its rows, before and after, as far as the operation has them.
    pub(crate) fn images(&self, place: usize) -> Images<'e, M> {
        let of = |before, after| Images { before, after };
        match *self {
            Self::Create(body) => of(None, Some(&body.row)),
            Self::Upsert(body) => of(None, Some(&body.row)),
            Self::Delete(body) => of(Some(&body.row), None),
            Self::Update(body) => of(body.before.as_ref(), Some(&body.after)),
            Self::CreateMany(body) => of(None, at(&body.rows, place)),
            Self::DeleteMany(body) => of(at(&body.rows, place), None),
            Self::UpdateMany(body) => match at(&body.rows, place) {
                Some(row) => of(row.before.as_ref(), Some(&row.after)),
                None => of(None, None),
            },
        }
    }
}

/// A row before and after.
pub(crate) struct Images<'e, M: Model> {
    pub(crate) before: Option<&'e M::Row>,
    pub(crate) after: Option<&'e M::Row>,
}

fn at<T>(rows: &Option<Vec<T>>, place: usize) -> Option<&T> {
    match rows {
        Some(rows) => rows.get(place),
        None => None,
    }
}
