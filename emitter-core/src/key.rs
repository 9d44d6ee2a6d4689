//! What tells the rows of one model apart.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// A row's key: the value of its primary key column, or of all of them in order.
///
/// Events of one model and one key reach each listener in the order in which they were emitted.
/// Its `Display` is fit for cache keys and logs: `7`, `alice`, `7,de`. In JSON it is the plain
/// value, or an array of them; it is not read back from there, for a text may look like a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Key {
    /// A whole number up to `i64`.
    Int(i64),
    /// A whole number beyond `i64`.
    Uint(u64),
    /// A UUID.
    Uuid(Uuid),
    /// A text.
    Text(Box<str>),
    /// The columns of a composite key, in the order in which the model lists them.
    Composite(Box<[Key]>),
}

impl Key {
    /// The key of several columns, in the order in which the model lists them.
    #[must_use]
    pub fn composite<const N: usize>(parts: [Self; N]) -> Self {
        Self::Composite(Box::new(parts))
    }

    /// A number that is the same on every node and in every version of this program, so that
    /// lanes can be assigned by it: FNV-1a over texts and UUIDs, a multiplication for numbers.
    #[must_use]
    pub fn stable_hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325;
        self.feed(&mut hash);
        hash
    }

    fn feed(&self, hash: &mut u64) {
        let mut bytes = |bytes: &[u8]| {
            for byte in bytes {
                *hash = (*hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        match self {
            Self::Int(value) => *hash = mixed(*hash ^ value.cast_unsigned()),
            Self::Uint(value) => *hash = mixed(*hash ^ value),
            Self::Uuid(value) => bytes(value.as_bytes()),
            Self::Text(value) => bytes(value.as_bytes()),
            Self::Composite(parts) => parts.iter().for_each(|part| {
                part.feed(hash);
                // Parts are told apart, so that ("a", "bc") and ("ab", "c") differ.
                *hash = (*hash ^ 0xff).wrapping_mul(0x0100_0000_01b3);
            }),
        }
    }
}

/// Spreads the differences of near numbers over all bits. The factor is 2^64 divided by the golden
/// ratio, as in Fibonacci hashing.
const fn mixed(number: u64) -> u64 {
    let product = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Uuid(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::Composite(parts) => parts.iter().enumerate().try_for_each(|(i, part)| {
                if i > 0 {
                    f.write_str(",")?;
                }
                part.fmt(f)
            }),
        }
    }
}

/// A column type that can be a key, or a part of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of an emitting model",
    note = "integers, `String`, `uuid::Uuid` and `bool` can, and a type of yours that implements `KeyColumn`; an `Option` cannot",
    note = "name other columns with `#[emits(key(…))]`"
)]
pub trait KeyColumn {
    /// This value as a key.
    fn to_key(&self) -> Key;
}

macro_rules! signed { ($($t:ty),*) => { $(impl KeyColumn for $t {
    fn to_key(&self) -> Key { Key::Int(i64::from(*self)) }
})* } }
macro_rules! text { ($($t:ty),*) => { $(impl KeyColumn for $t {
    fn to_key(&self) -> Key { Key::Text(Box::from(AsRef::<str>::as_ref(self))) }
})* } }

signed!(i8, i16, i32, i64, u8, u16, u32, bool);
text!(String, str, Box<str>, std::sync::Arc<str>);

impl KeyColumn for u64 {
    fn to_key(&self) -> Key {
        // One number has one form, so that keys compare equal whatever column type they come from.
        i64::try_from(*self).map_or(Key::Uint(*self), Key::Int)
    }
}

impl KeyColumn for Uuid {
    fn to_key(&self) -> Key {
        Key::Uuid(*self)
    }
}

impl<T: KeyColumn + ?Sized> KeyColumn for &T {
    fn to_key(&self) -> Key {
        (**self).to_key()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts, among them those that look like something else; but no UUIDs.
    fn text() -> impl Strategy<Value = Key> {
        prop_oneof![
            any::<String>(),
            "[a-c,7]{0,4}",
            any::<i64>().prop_map(|number| number.to_string()),
            Just("null".to_owned()),
        ]
        .prop_filter("no UUID", |text| Uuid::try_parse(text).is_err())
        .prop_map(|text| text.to_key())
    }

    fn number() -> impl Strategy<Value = Key> {
        prop_oneof![any::<i64>().prop_map(|n| n.to_key()), any::<u64>().prop_map(|n| n.to_key())]
    }

    fn column() -> impl Strategy<Value = Key> {
        prop_oneof![number(), text(), any::<u128>().prop_map(|bits| Uuid::from_u128(bits).to_key())]
    }

    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            3 => column(),
            1 => prop::collection::vec(column(), 2..4).prop_map(|parts| Key::Composite(parts.into())),
        ]
    }

    fn plain(key: &Key) -> serde_json::Value {
        match key {
            Key::Int(number) => (*number).into(),
            Key::Uint(number) => (*number).into(),
            Key::Uuid(uuid) => uuid.to_string().into(),
            Key::Text(text) => text.to_string().into(),
            Key::Composite(parts) => parts.iter().map(plain).collect(),
        }
    }

    /// Two keys of one model, often near each other.
    fn two_of_a_model() -> impl Strategy<Value = (Key, Key)> {
        let pair =
            |(a, b): ((Key, Key), (Key, Key))| (Key::composite([a.0, a.1]), Key::composite([b.0, b.1]));
        prop_oneof![
            (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.to_key(), b.to_key())),
            (any::<i64>(), any::<i64>()).prop_map(|(a, b)| (a.to_key(), b.to_key())),
            (-3..3_i64, -3..3_i64).prop_map(|(a, b)| (a.to_key(), b.to_key())),
            (text(), text()),
            ((text(), text()), (text(), text())).prop_map(pair),
            ((number(), text()), (number(), text())).prop_map(pair),
        ]
    }

    proptest! {
        #[test]
        fn json_is_the_plain_value(key in key()) {
            prop_assert_eq!(serde_json::to_value(&key).unwrap(), plain(&key));
        }

        #[test]
        fn equal_keys_have_equal_hashes_and_others_do_not((one, other) in two_of_a_model()) {
            prop_assert_eq!(one.stable_hash() == other.stable_hash(), one == other);
            prop_assert_eq!(one.clone().stable_hash(), one.stable_hash());
        }

        #[test]
        fn a_number_has_one_form_whatever_its_column(number in any::<u32>()) {
            prop_assert_eq!(number.to_key(), u64::from(number).to_key());
            prop_assert_eq!(number.to_key(), i64::from(number).to_key());
        }

        #[test]
        fn it_reads_as_its_value(number in any::<i64>(), text in any::<String>()) {
            prop_assert_eq!(number.to_key().to_string(), number.to_string());
            prop_assert_eq!(text.to_key().to_string(), text.clone());
            let both = Key::composite([number.to_key(), text.to_key()]);
            prop_assert_eq!(both.to_string(), format!("{number},{text}"));
        }
    }

    #[test]
    fn the_hash_is_fnv_1a_for_ever() {
        // The published vectors: other nodes and versions count on these.
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8_u64)]
        {
            assert_eq!(text.to_key().stable_hash(), hash, "{text:?}");
        }
    }

    #[test]
    fn borders_between_parts_count() {
        let key = |a: &str, b: &str| Key::composite([a.to_key(), b.to_key()]).stable_hash();
        assert_ne!(key("a", "bc"), key("ab", "c"));
        assert_ne!(key("", "a"), key("a", ""));
    }
}
