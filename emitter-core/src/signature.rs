//! That the holder of a trusted key wrote an event: what nodes put on the events that they send, and check on
//! those that come.
//!
//! A broker knows who connects, and may be told who publishes where; once a message is delivered, nobody
//! can tell who wrote it. With [`Signatures`] each event carries a signature of its origin's key, as the
//! last member of its JSON:
//!
//! ```json
//! {"model":"user", …, "signature":"2026-11:uEIY3cB4qF…"}
//! ```
//!
//! What is signed is the topic and all of the event, its id and origin included; of CloudEvents in binary
//! mode also the user properties that came with it, of other forms nothing beside the payload. So an event
//! that is altered, or moved to another topic, is refused like one that is not signed.
//!
//! What a signature does not tell: which of the key's holders wrote, for the origin is what they say it
//! is; and whether it was sent before. Somebody who overhears an event may send it again as it is. It
//! is dropped as a duplicate as long as its id is remembered ([`DedupConfig`](crate::dedup::DedupConfig)), which
//! is in memory: not by a node that was started since. And it hides nothing. Against both, let nobody else
//! read the topics: access control, and TLS.
//!
//! A key has a name, which the signature carries. To change keys: have all nodes
//! [trust](Signatures::trusting) the new one, then sign with it, then trust the old one no longer.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
#[cfg(feature = "ed25519")]
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::Sha256;

use crate::envelope::has_attributes;
use crate::properties::Properties;

/// The keys of a node: the one that signs its events, and those whose events it takes.
///
/// A node that has them refuses every event that none of the trusted keys signed: it is counted
/// ([`unauthentic`](crate::metrics::Stats::unauthentic)), logged, acknowledged, and nothing else.
///
/// ```
/// use emitter_core::signature::{Signatures, SigningKey, VerifyingKey};
///
/// # let (new, old) = ([7; 32], [8; 32]);
/// let signatures = Signatures::new(SigningKey::hmac_sha256("2026-11", &new)?)
///     .trusting(VerifyingKey::hmac_sha256("2026-05", &old)?);
/// let builder = emitter_core::Emitter::builder().signatures(signatures);
/// # drop(builder);
/// # Ok::<(), emitter_core::signature::BadKey>(())
/// ```
#[derive(Debug, Clone)]
pub struct Signatures {
    own: Option<SigningKey>,
    trusted: Vec<VerifyingKey>,
    unsigned: bool,
}

impl Signatures {
    /// Signs with this key, and trusts it.
    #[must_use]
    pub fn new(own: SigningKey) -> Self {
        let trusted = vec![own.verifying_key()];
        Self { own: Some(own), trusted, unsigned: false }
    }

    /// Signs nothing: of a node that only listens, for what it published would be refused. It trusts nobody
    /// until [`trusting`](Self::trusting).
    #[must_use]
    pub fn listening_only() -> Self {
        Self { own: None, trusted: Vec::new(), unsigned: false }
    }

    /// Takes events that this key signed, too.
    #[must_use]
    pub fn trusting(mut self, key: VerifyingKey) -> Self {
        self.trusted.push(key);
        self
    }

    /// Takes events that are not signed at all, while nodes learn to sign one after the other. One that is
    /// wrongly signed is still refused, but whoever can publish need not sign: switch it off when all do.
    #[must_use]
    pub fn dangerous_accept_unsigned(mut self) -> Self {
        self.unsigned = true;
        self
    }

    /// Whether it trusts nobody, so that nothing would be taken.
    pub(crate) fn trusts_nobody(&self) -> bool {
        self.trusted.is_empty() && !self.unsigned
    }

    /// How many bytes a signature adds to an event.
    pub(crate) fn bytes(&self) -> usize {
        self.own.as_ref().map_or(0, |own| BEGIN.len() + own.name.len() + 1 + own.secret.bytes() + 1)
    }

    /// Signs an event that goes out on this topic.
    pub(crate) fn sign(&self, topic: &str, properties: &Properties, payload: &mut Vec<u8>) {
        let Some(own) = &self.own else { return };
        // All forms are objects that are not empty.
        if payload.last() != Some(&b'}') {
            return;
        }
        payload.pop();
        let signature = own.secret.sign(&signed(topic, properties, payload));
        payload.extend_from_slice(BEGIN);
        payload.extend_from_slice(own.name.as_bytes());
        payload.push(b':');
        payload.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
        payload.extend_from_slice(END);
    }

    /// Whether somebody who is trusted wrote what came on this topic.
    pub(crate) fn check(
        &self,
        topic: &str,
        properties: &Properties,
        payload: &[u8],
    ) -> Result<Checked, Unauthentic> {
        let Some((content, name, signature)) = split(payload) else {
            return self.unsigned();
        };
        let mut known = self.trusted.iter().filter(|key| *key.name == *name).peekable();
        if known.peek().is_none() {
            return Err(Unauthentic::UnknownKey);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Unauthentic::Wrong)?;
        let signed = signed(topic, properties, content);
        if known.any(|key| key.public.verifies(&signed, &signature)) {
            Ok(Checked::Signed)
        } else {
            Err(Unauthentic::Wrong)
        }
    }

    /// What becomes of a message that cannot be signed.
    pub(crate) fn unsigned(&self) -> Result<Checked, Unauthentic> {
        if self.unsigned { Ok(Checked::Unsigned) } else { Err(Unauthentic::Unsigned) }
    }
}

/// What a check found, of a message that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Signed,
    /// Not at all, which this node allows.
    Unsigned,
}

/// Whether an event carries a signature, of whomever.
pub(crate) fn is_signed(payload: &[u8]) -> bool {
    split(payload).is_some()
}

/// An event without its signature.
pub(crate) fn unsigned(payload: &[u8]) -> Vec<u8> {
    match split(payload) {
        Some((content, ..)) => [content, b"}"].concat(),
        None => payload.to_vec(),
    }
}

/// Why an event is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unauthentic {
    #[error("it is not signed, and this node has `signatures`: give its writer a key")]
    Unsigned,
    #[error("it is signed with a key that this node does not trust: add it with `.trusting(…)`")]
    UnknownKey,
    #[error("its signature does not fit: it was altered, moved to another topic, or signed with another key")]
    Wrong,
}

const BEGIN: &[u8] = br#","signature":""#;
const END: &[u8] = br#""}"#;

/// The longest name, the colon, and the longest signature.
const MAX_TEXT: usize = MAX_NAME + 1 + 86;

/// What stands before the signature of an event, its key's name, and itself. Only at the very end is one
/// looked for, so that nothing within a row can pass for it.
fn split(payload: &[u8]) -> Option<(&[u8], &str, &str)> {
    let rest = payload.strip_suffix(END)?;
    let from = rest.len().saturating_sub(BEGIN.len() + MAX_TEXT);
    let at = from + rest[from..].windows(BEGIN.len()).rposition(|part| part == BEGIN)?;
    let text = std::str::from_utf8(&rest[at + BEGIN.len()..]).ok()?;
    let (name, signature) = text.split_once(':')?;
    (is_name(name) && signature.bytes().all(is_base64url)).then_some((&rest[..at], name, signature))
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Each part with its length before it, so that no two events have the same.
fn signed(topic: &str, properties: &Properties, content: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(64 + topic.len() + content.len() + properties.bytes());
    all.extend_from_slice(b"emitter event 1\0");
    let mut part = |bytes: &[u8]| {
        all.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        all.extend_from_slice(bytes);
    };
    part(topic.as_bytes());
    part(content);
    // Where they are a part of the event. Else somebody might add them to one that was signed without.
    if has_attributes(properties) {
        for (name, value) in &properties.user {
            part(name.as_bytes());
            part(value.as_bytes());
        }
    }
    all
}

/// A key that signs. Nobody sees it: `Debug` shows its name.
///
/// As a text it is `hmac-sha256:NAME:BASE64` or `ed25519:NAME:BASE64`, so that it can be read from a
/// secret in the environment:
///
/// ```
/// use emitter_core::signature::SigningKey;
///
/// let key: SigningKey = "hmac-sha256:2026-11:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse()?;
/// assert_eq!(format!("{key:?}"), "SigningKey(2026-11)");
/// # Ok::<(), emitter_core::signature::BadKey>(())
/// ```
///
/// `openssl rand -base64 32` makes the last part for both kinds. Of Ed25519, `key.verifying_key().public_text()` is
/// what other nodes are given.
#[derive(Clone)]
pub struct SigningKey {
    name: Arc<str>,
    secret: Secret,
}

/// A key that signatures are checked with. Of HMAC it is the secret itself, of Ed25519 the public part. As
/// a text it is as a [`SigningKey`] is, with the public part for Ed25519.
#[derive(Clone)]
pub struct VerifyingKey {
    name: Arc<str>,
    public: Public,
}

#[derive(Clone)]
enum Secret {
    Hmac(Arc<Hmac<Sha256>>),
    #[cfg(feature = "ed25519")]
    Ed25519(Arc<Ed25519KeyPair>),
}

#[derive(Clone)]
enum Public {
    Hmac(Arc<Hmac<Sha256>>),
    #[cfg(feature = "ed25519")]
    Ed25519([u8; 32]),
}

/// The fewest bytes of a secret for HMAC: as many as the hash has (RFC 2104).
const MIN_HMAC: usize = 32;

/// The longest name of a key.
const MAX_NAME: usize = 64;

impl SigningKey {
    /// HMAC-SHA256 ([RFC 2104](https://www.rfc-editor.org/rfc/rfc2104)): whoever can check a signature can
    /// make one, so all nodes with the key trust each other. `secret` is at least 32 bytes of the system's
    /// randomness.
    ///
    /// # Errors
    /// [`BadKey`] for a shorter secret, or a name that is not 1 to 64 letters, digits, '-', '_', '.'.
    pub fn hmac_sha256(name: &str, secret: &[u8]) -> Result<Self, BadKey> {
        Ok(Self { name: checked(name)?, secret: Secret::Hmac(hmac(secret)?) })
    }

    /// Ed25519 ([RFC 8032](https://www.rfc-editor.org/rfc/rfc8032)) of this seed, the private key: 32 bytes
    /// of the system's randomness. Others need only its [`verifying_key`](Self::verifying_key), with which
    /// nobody can sign.
    ///
    /// # Errors
    /// [`BadKey`] for a name that is not 1 to 64 letters, digits, '-', '_', '.'.
    #[cfg(feature = "ed25519")]
    pub fn ed25519(name: &str, seed: &[u8; 32]) -> Result<Self, BadKey> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| BadKey::Length { bytes: seed.len() })?;
        Ok(Self { name: checked(name)?, secret: Secret::Ed25519(Arc::new(pair)) })
    }

    /// What its signatures are checked with.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        let public = match &self.secret {
            Secret::Hmac(secret) => Public::Hmac(Arc::clone(secret)),
            #[cfg(feature = "ed25519")]
            Secret::Ed25519(pair) => {
                let mut public = [0; 32];
                public.copy_from_slice(pair.public_key().as_ref());
                Public::Ed25519(public)
            }
        };
        VerifyingKey { name: Arc::clone(&self.name), public }
    }
}

impl VerifyingKey {
    /// As [`SigningKey::hmac_sha256`].
    ///
    /// # Errors
    /// As there.
    pub fn hmac_sha256(name: &str, secret: &[u8]) -> Result<Self, BadKey> {
        Ok(Self { name: checked(name)?, public: Public::Hmac(hmac(secret)?) })
    }

    /// The public part of an Ed25519 key.
    ///
    /// # Errors
    /// [`BadKey`] for a name that is not 1 to 64 letters, digits, '-', '_', '.'.
    #[cfg(feature = "ed25519")]
    pub fn ed25519(name: &str, public: &[u8; 32]) -> Result<Self, BadKey> {
        Ok(Self { name: checked(name)?, public: Public::Ed25519(*public) })
    }

    /// Its text, to be given to other nodes. `None` of HMAC, where it is the secret.
    #[must_use]
    pub fn public_text(&self) -> Option<String> {
        match &self.public {
            Public::Hmac(_) => None,
            #[cfg(feature = "ed25519")]
            Public::Ed25519(public) => Some(format!("ed25519:{}:{}", self.name, STANDARD.encode(public))),
        }
    }
}

impl Secret {
    /// How long its signatures are as text.
    fn bytes(&self) -> usize {
        match self {
            Self::Hmac(_) => 43,
            #[cfg(feature = "ed25519")]
            Self::Ed25519(_) => 86,
        }
    }

    fn sign(&self, signed: &[u8]) -> Signed {
        match self {
            Self::Hmac(keyed) => {
                let mut keyed = Hmac::clone(keyed);
                keyed.update(signed);
                Signed::Hmac(keyed.finalize().into_bytes().into())
            }
            #[cfg(feature = "ed25519")]
            Self::Ed25519(pair) => Signed::Ed25519(pair.sign(signed)),
        }
    }
}

/// A signature.
enum Signed {
    Hmac([u8; 32]),
    #[cfg(feature = "ed25519")]
    Ed25519(ring::signature::Signature),
}

impl AsRef<[u8]> for Signed {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Hmac(signature) => signature,
            #[cfg(feature = "ed25519")]
            Self::Ed25519(signature) => signature.as_ref(),
        }
    }
}

impl Public {
    /// In a time that tells nothing of how much of it fits.
    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(keyed) => {
                let mut keyed = Hmac::clone(keyed);
                keyed.update(signed);
                keyed.verify_slice(signature).is_ok()
            }
            #[cfg(feature = "ed25519")]
            Self::Ed25519(public) => {
                UnparsedPublicKey::new(&ED25519, public).verify(signed, signature).is_ok()
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn checked(name: &str) -> Result<Arc<str>, BadKey> {
    if is_name(name) { Ok(name.into()) } else { Err(BadKey::Name) }
}

fn hmac(secret: &[u8]) -> Result<Arc<Hmac<Sha256>>, BadKey> {
    if secret.len() < MIN_HMAC {
        return Err(BadKey::Short { bytes: secret.len() });
    }
    // HMAC takes keys of any length.
    Hmac::new_from_slice(secret).map(Arc::new).map_err(|_| BadKey::Short { bytes: secret.len() })
}

/// The parts of `hmac-sha256:NAME:BASE64`.
fn parts(text: &str) -> Result<(&str, &str, Vec<u8>), BadKey> {
    let mut parts = text.trim().splitn(3, ':');
    let (Some(kind), Some(name), Some(bytes)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(BadKey::Text);
    };
    Ok((kind, name, STANDARD.decode(bytes).map_err(|_| BadKey::Text)?))
}

#[cfg(feature = "ed25519")]
fn of_32(bytes: &[u8]) -> Result<[u8; 32], BadKey> {
    bytes.try_into().map_err(|_| BadKey::Length { bytes: bytes.len() })
}

impl FromStr for SigningKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        match parts(text)? {
            ("hmac-sha256", name, secret) => Self::hmac_sha256(name, &secret),
            #[cfg(feature = "ed25519")]
            ("ed25519", name, seed) => Self::ed25519(name, &of_32(&seed)?),
            #[cfg(not(feature = "ed25519"))]
            ("ed25519", ..) => Err(BadKey::NotInThisBuild),
            _ => Err(BadKey::Text),
        }
    }
}

impl FromStr for VerifyingKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        match parts(text)? {
            ("hmac-sha256", name, secret) => Self::hmac_sha256(name, &secret),
            #[cfg(feature = "ed25519")]
            ("ed25519", name, public) => Self::ed25519(name, &of_32(&public)?),
            #[cfg(not(feature = "ed25519"))]
            ("ed25519", ..) => Err(BadKey::NotInThisBuild),
            _ => Err(BadKey::Text),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.name)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.name)
    }
}

/// Something is no key. None of the texts repeats a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKey {
    /// Its name would not fit into a signature.
    #[error("a key's name has 1 to 64 letters, digits, '-', '_', '.'")]
    Name,
    /// Its secret can be guessed.
    #[error(
        "the secret has {bytes} bytes; give at least 32 of the system's randomness, as from `openssl rand -base64 32`"
    )]
    Short {
        /// How many there were.
        bytes: usize,
    },
    /// Its text is none.
    #[error(
        "write a key as `hmac-sha256:NAME:BASE64` or `ed25519:NAME:BASE64`, in one line, in the alphabet with + and /, padded"
    )]
    Text,
    /// It is not as long as a key of Ed25519.
    #[error("a key of Ed25519 has 32 bytes, this one {bytes}")]
    Length {
        /// How many there were.
        bytes: usize,
    },
    /// Its algorithm needs a feature of this crate.
    #[error("keys of Ed25519 need the feature `ed25519`")]
    NotInThisBuild,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str, byte: u8) -> SigningKey {
        SigningKey::hmac_sha256(name, &[byte; 32]).unwrap()
    }

    /// One of each kind.
    fn all() -> Vec<Signatures> {
        vec![
            Signatures::new(key("k1", 1)),
            #[cfg(feature = "ed25519")]
            Signatures::new(SigningKey::ed25519("k1", &[1; 32]).unwrap()),
        ]
    }

    fn binary(id: &str) -> Properties {
        Properties::of_type("application/json").with("specversion", "1.0").with("id", id)
    }

    const PLAIN: &Properties = &Properties { content_type: None, user: Vec::new() };
    const EVENT: &[u8] = br#"{"model":"user","result":{"id":1,"signature":"k1:AAAA"}}"#;

    fn sign(signatures: &Signatures, topic: &str, properties: &Properties) -> Vec<u8> {
        let mut payload = EVENT.to_vec();
        signatures.sign(topic, properties, &mut payload);
        assert_eq!(payload.len(), EVENT.len() + signatures.bytes());
        serde_json::from_slice::<serde_json::Value>(&payload).expect("it is still JSON");
        payload
    }

    #[test]
    fn only_what_was_signed_is_taken() {
        for signatures in all() {
            let payload = sign(&signatures, "a/b", PLAIN);
            assert_eq!(signatures.check("a/b", PLAIN, &payload), Ok(Checked::Signed));
            assert_eq!(signatures.check("a/c", PLAIN, &payload), Err(Unauthentic::Wrong));
            assert_eq!(signatures.check("a/b", PLAIN, EVENT), Err(Unauthentic::Unsigned));
            assert_eq!(signatures.check("a/b", PLAIN, b""), Err(Unauthentic::Unsigned));
            // What says nothing of the event may change on its way, and what makes it another may not.
            let traced = PLAIN.clone().with("traceparent", "00-…");
            assert_eq!(signatures.check("a/b", &traced, &payload), Ok(Checked::Signed));
            assert_eq!(signatures.check("a/b", &binary("1"), &payload), Err(Unauthentic::Wrong));
            let payload = sign(&signatures, "a/b", &binary("1"));
            assert_eq!(signatures.check("a/b", &binary("1"), &payload), Ok(Checked::Signed));
            assert_eq!(signatures.check("a/b", &binary("2"), &payload), Err(Unauthentic::Wrong));
            assert_eq!(signatures.check("a/b", PLAIN, &payload), Err(Unauthentic::Wrong));
        }
    }

    #[test]
    fn keys_are_changed_one_after_the_other() {
        let (old, new) = (key("old", 1), key("new", 2));
        let learning = Signatures::new(old.clone()).trusting(new.verifying_key());
        let changed = Signatures::new(new.clone());
        assert_eq!(learning.check("t", PLAIN, &sign(&changed, "t", PLAIN)), Ok(Checked::Signed));
        let late = Signatures::new(old);
        assert_eq!(changed.check("t", PLAIN, &sign(&late, "t", PLAIN)), Err(Unauthentic::UnknownKey));
        let same_name = Signatures::new(key("new", 3));
        assert_eq!(changed.check("t", PLAIN, &sign(&same_name, "t", PLAIN)), Err(Unauthentic::Wrong));
        let both = same_name.trusting(new.verifying_key());
        assert_eq!(both.check("t", PLAIN, &sign(&changed, "t", PLAIN)), Ok(Checked::Signed));

        let listening = Signatures::listening_only();
        assert!(listening.trusts_nobody() && listening.bytes() == 0);
        assert_eq!(sign(&listening, "t", PLAIN), EVENT);
        assert!(!listening.trusting(new.verifying_key()).trusts_nobody());

        let lenient = Signatures::new(new).dangerous_accept_unsigned();
        assert_eq!(lenient.check("t", PLAIN, EVENT), Ok(Checked::Unsigned));
        assert_eq!(lenient.check("t", PLAIN, &sign(&late, "t", PLAIN)), Err(Unauthentic::UnknownKey));
    }

    #[test]
    fn keys_are_texts_and_nobody_sees_them() {
        let text = format!("hmac-sha256:k1:{}", STANDARD.encode([1; 32]));
        let (one, other) = (Signatures::new(text.parse().unwrap()), Signatures::new(key("k1", 1)));
        assert_eq!(one.check("t", PLAIN, &sign(&other, "t", PLAIN)), Ok(Checked::Signed));
        let seen = format!("{one:?}");
        assert!(seen.contains("SigningKey(k1)") && !seen.contains(&STANDARD.encode([1; 32])[..8]), "{seen}");
        assert_eq!(key("k1", 1).verifying_key().public_text(), None);
        for wrong in ["", "k1", "hmac-sha256:k1", "hmac-sha256:k1:!", "none:k1:AAAA"] {
            assert_eq!(wrong.parse::<SigningKey>().unwrap_err(), BadKey::Text, "{wrong}");
        }
        assert_eq!("hmac-sha256:k1:AAAA".parse::<SigningKey>().unwrap_err(), BadKey::Short { bytes: 3 });
        #[cfg(feature = "ed25519")]
        assert_eq!("ed25519:k1:AAAA".parse::<SigningKey>().unwrap_err(), BadKey::Length { bytes: 3 });
        #[cfg(not(feature = "ed25519"))]
        assert_eq!("ed25519:k1:AAAA".parse::<SigningKey>().unwrap_err(), BadKey::NotInThisBuild);
        assert_eq!(SigningKey::hmac_sha256("a b", &[1; 32]).unwrap_err(), BadKey::Name);
        assert_eq!(VerifyingKey::hmac_sha256(&"k".repeat(65), &[1; 32]).unwrap_err(), BadKey::Name);
    }

    /// RFC 8032, 7.1, test 1.
    #[cfg(feature = "ed25519")]
    #[test]
    fn it_is_ed25519() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let key = SigningKey::ed25519("k1", seed.as_slice().try_into().unwrap()).unwrap();
        let expected = format!("ed25519:k1:{}", STANDARD.encode(&public));
        assert_eq!(key.verifying_key().public_text().as_deref(), Some(&*expected));
        let text = format!("ed25519:k1:{}", STANDARD.encode(&seed));
        let listening = Signatures::listening_only().trusting(expected.parse().unwrap());
        let signing = Signatures::new(text.parse().unwrap());
        assert_eq!(listening.check("t", PLAIN, &sign(&signing, "t", PLAIN)), Ok(Checked::Signed));
    }

    proptest! {
        /// Whatever one byte becomes, it is refused.
        #[test]
        fn no_byte_may_change(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            for signatures in all() {
                let mut payload = sign(&signatures, "a/b", PLAIN);
                let place = place.index(payload.len());
                prop_assume!(payload[place] != byte);
                payload[place] = byte;
                prop_assert!(signatures.check("a/b", PLAIN, &payload).is_err());
            }
        }

        #[test]
        fn any_bytes_are_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            for signatures in all() {
                prop_assert!(signatures.check("a/b", PLAIN, &payload).is_err());
            }
        }
    }
}
