//! The columns of a model's row, and sets of them.

use std::fmt;

use crate::model::{EventBody, Model};

/// A column, as `#[derive(Emits)]` found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// The field's name in Rust, such as `user_id`.
    pub field: &'static str,
    /// Its name in JSON, such as `userId`.
    pub json: &'static str,
    /// Its place among the fields of the model, skipped ones included, from 0: the place at which
    /// it is loaded. `None` where that cannot be told from the struct.
    pub place: Option<usize>,
    /// Its type as the model writes it, such as `Option<String>`.
    pub type_name: &'static str,
    /// Whether a row without it can be read: an `Option`, or one with serde's `default`.
    pub may_be_absent: bool,
}

impl Column {
    /// A column with these names and this type, at this place.
    #[must_use]
    pub const fn new(
        field: &'static str,
        json: &'static str,
        type_name: &'static str,
        place: Option<usize>,
    ) -> Self {
        Self { field, json, place, type_name, may_be_absent: false }
    }

    /// Whether its value is hidden from listeners, so that nobody can tell whether it changed.
    #[must_use]
    pub fn is_redacted(&self) -> bool {
        // As `#[derive(Emits)]` writes it; no type of Rust's is called so.
        self.type_name == "redacted"
    }

    /// Whether listeners see a hash in place of its value.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        self.type_name == "hashed"
    }

    /// The same, which a row may lack.
    #[must_use]
    pub const fn absent(mut self) -> Self {
        self.may_be_absent = true;
        self
    }
}

/// A set of a model's columns, by their places in
/// [`Model::COLUMNS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Columns([u64; 2]);

impl Columns {
    /// How many columns a model may have, which is what Diesel has at most, too.
    pub const MAX: usize = 128;

    /// No column.
    pub const NONE: Self = Self([0; 2]);

    /// Every column.
    pub const ALL: Self = Self([u64::MAX; 2]);

    /// The columns whose flag is set, in their order.
    #[must_use]
    pub fn from_flags<const N: usize>(flags: [bool; N]) -> Self {
        const { assert!(N <= Self::MAX, "an emitting model has at most 128 fields") }
        let mut columns = Self::NONE;
        for (place, set) in flags.into_iter().enumerate() {
            columns.0[place / 64] |= u64::from(set) << (place % 64);
        }
        columns
    }

    /// The columns of `known` that `wanted` names by their names in JSON; other names are passed
    /// over.
    #[must_use]
    pub fn named<'n>(known: &[Column], wanted: impl IntoIterator<Item = &'n str>) -> Self {
        let mut columns = Self::NONE;
        for name in wanted {
            if let Some(place) = known.iter().position(|column| column.json == name) {
                columns.insert(place);
            }
        }
        columns
    }

    /// Adds the column at this place. A place beyond [`MAX`](Self::MAX) is no column.
    pub const fn insert(&mut self, place: usize) {
        if place < Self::MAX {
            self.0[place / 64] |= 1 << (place % 64);
        }
    }

    /// Whether the column at this place is in the set.
    #[must_use]
    pub const fn contains(self, place: usize) -> bool {
        place < Self::MAX && self.0[place / 64] & (1 << (place % 64)) != 0
    }

    /// The columns of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    /// Whether no column is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0
    }
}

impl fmt::Debug for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            _ => f.debug_set().entries((0..Self::MAX).filter(|place| self.contains(*place))).finish(),
        }
    }
}

/// The place of a field in an event's model, for filters. The compiler has looked for the field
/// before, so it is there.
#[must_use]
pub const fn place_of<T: EventBody>(field: &str) -> usize {
    place(<T::Model as Model>::COLUMNS, field)
}

const fn place(columns: &[Column], field: &str) -> usize {
    let mut place = 0;
    while place < columns.len() {
        if same(columns[place].field.as_bytes(), field.as_bytes()) {
            return place;
        }
        place += 1;
    }
    panic!("no column of that name")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const USER: [Column; 3] = [
        Column::new("id", "id", "i32", None),
        Column::new("user_id", "userId", "i32", None),
        Column::new("kind", "type", "String", None),
    ];

    #[test]
    fn columns_are_found_by_both_names() {
        assert_eq!(place(&USER, "user_id"), 1);
        let named = Columns::named(&USER, ["type", "userId", "nobody"]);
        assert_eq!(named, Columns::from_flags([false, true, true]));
    }

    proptest! {
        /// Against a plain set of numbers.
        #[test]
        fn agrees_with_a_plain_set(places in prop::collection::btree_set(0..Columns::MAX, 0..20)) {
            let mut columns = Columns::NONE;
            places.iter().for_each(|place| columns.insert(*place));
            let back: BTreeSet<usize> = (0..200).filter(|place| columns.contains(*place)).collect();
            prop_assert_eq!(columns.is_empty(), places.is_empty());
            let (low, high): (Vec<usize>, Vec<usize>) = places.iter().partition(|place| **place < 70);
            let of = |places: Vec<usize>| Columns::from_flags(std::array::from_fn::<_, 128, _>(|place| places.contains(&place)));
            prop_assert_eq!(of(low).union(of(high)), columns);
            prop_assert_eq!(columns, Columns::from_flags(std::array::from_fn::<_, 128, _>(|place| places.contains(&place))));
            prop_assert_eq!(back, places);
        }
    }
}
