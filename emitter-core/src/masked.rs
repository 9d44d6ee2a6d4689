//! What listeners are handed in place of a value that they may not see.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

/// The type of a field that is `#[emits(redact)]`: the column is there, and its value is not.
///
/// In JSON it is the text `[redacted]`. Whatever another program sends in its place is dropped
/// while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Redacted;

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Redacted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Redacted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|IgnoredAny| Self)
    }
}

/// The type of a field that is `#[emits(hash)]`: HMAC-SHA256 of the value's JSON under the
/// application's [`HashKey`]. Equal values have equal hashes on all nodes with the same key, and
/// without the key nobody can try values out.
///
/// In JSON it is 64 hexadecimal digits. Whatever else another program sends in its place is
/// dropped while it is read, and the hash is [absent](Self::is_absent).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hashed(Option<[u8; 32]>);

impl Hashed {
    /// Whether there is no hash: no key was given, or the sender does not hash this column.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// The hash.
    #[must_use]
    pub const fn as_bytes(&self) -> Option<&[u8; 32]> {
        self.0.as_ref()
    }

    fn from_hex(text: &str) -> Option<Self> {
        let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let [high, low] = [digits[0], digits[1]].map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).ok()?;
        }
        Some(Self(Some(bytes)))
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hashed({self})")
    }
}

impl fmt::Display for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            None => f.write_str("absent"),
        }
    }
}

impl Serialize for Hashed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_absent() { serializer.serialize_none() } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for Hashed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Sent {
            Text(String),
            Other(IgnoredAny),
        }

        Ok(match Sent::deserialize(deserializer)? {
            Sent::Text(text) => Self::from_hex(&text).unwrap_or_default(),
            Sent::Other(IgnoredAny) => Self::default(),
        })
    }
}

/// The key of an application's [hashed](Hashed) columns, the same on all its nodes: at least 16
/// bytes of the system's randomness, kept like a password. Cloning it clones a pointer.
///
/// ```
/// use emitter_core::masked::HashKey;
///
/// # let from_your_secrets = b"0123456789abcdef0123456789abcdef";
/// let key = HashKey::new(from_your_secrets)?;
/// assert_eq!(key.hash("alice@example.org"), key.hash("alice@example.org"));
/// assert_ne!(key.hash("alice@example.org"), key.hash("bob@example.org"));
/// # Ok::<(), emitter_core::masked::ShortKey>(())
/// ```
#[derive(Clone)]
pub struct HashKey(Arc<Hmac<Sha256>>);

impl HashKey {
    /// The fewest bytes of a key.
    pub const MIN_BYTES: usize = 16;

    /// A key of these bytes.
    ///
    /// # Errors
    /// [`ShortKey`] when there are fewer than [`MIN_BYTES`](Self::MIN_BYTES).
    pub fn new(key: &[u8]) -> Result<Self, ShortKey> {
        if key.len() < Self::MIN_BYTES {
            return Err(ShortKey { bytes: key.len() });
        }
        // HMAC takes keys of any length.
        let keyed = Hmac::new_from_slice(key).map_err(|_| ShortKey { bytes: key.len() })?;
        Ok(Self(Arc::new(keyed)))
    }

    /// The hash of a value's JSON; absent when it has none.
    #[must_use]
    pub fn hash<T: Serialize + ?Sized>(&self, value: &T) -> Hashed {
        Hashed(serde_json::to_vec(value).ok().map(|json| {
            let mut keyed = Hmac::clone(&self.0);
            keyed.update(&json);
            keyed.finalize().into_bytes().into()
        }))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// A key for hashed columns is too short to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key for hashed columns has {bytes} bytes; give at least {min}, better 32, of the system's randomness", min = HashKey::MIN_BYTES)]
pub struct ShortKey {
    /// How many there were.
    pub bytes: usize,
}

/// The hash of a value, for `#[derive(Emits)]`; absent without a key.
#[must_use]
pub fn hash<T: Serialize + ?Sized>(key: Option<&HashKey>, value: &T) -> Hashed {
    key.map_or_else(Hashed::default, |key| key.hash(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HashKey {
        HashKey::new(&[7; 32]).unwrap()
    }

    #[test]
    fn a_redacted_value_is_dropped_while_it_is_read() {
        for sent in ["\"secret\"", "null", "{\"a\":[1,2]}", "17"] {
            let Redacted = serde_json::from_str(sent).unwrap();
        }
        assert_eq!(serde_json::to_string(&Redacted).unwrap(), "\"[redacted]\"");
    }

    /// RFC 4231, test case 2, with the text as JSON would not have it: so by way of a raw value.
    #[test]
    fn it_is_hmac_sha256() {
        let mut keyed = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        keyed.update(b"what do ya want for nothing?");
        let hashed = Hashed(Some(keyed.finalize().into_bytes().into()));
        assert_eq!(hashed.to_string(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_hash_travels_and_anything_else_is_no_hash() {
        let hashed = key().hash("alice@example.org");
        let json = serde_json::to_string(&hashed).unwrap();
        assert_eq!(serde_json::from_str::<Hashed>(&json).unwrap(), hashed);
        assert_ne!(HashKey::new(&[8; 32]).unwrap().hash("alice@example.org"), hashed);
        let letters = format!("\"{}\"", "g".repeat(64));
        for sent in ["\"alice@example.org\"", "null", "17", "{\"a\":1}", &*letters] {
            assert!(serde_json::from_str::<Hashed>(sent).unwrap().is_absent(), "{sent}");
        }
        assert_eq!(serde_json::to_string(&Hashed::default()).unwrap(), "null");
    }

    #[test]
    fn a_key_is_long_and_nobody_sees_it() {
        assert_eq!(HashKey::new(b"short").err(), Some(ShortKey { bytes: 5 }));
        assert_eq!(format!("{:?}", key()), "HashKey");
    }
}
