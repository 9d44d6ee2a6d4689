//! Which names say that their values are nobody's business.
//!
//! `emitter generate` reads this file, too: what it writes is to compile.

/// Words of a name that say that its value is nobody's business.
const SECRET: [&str; 22] = [
    "password",
    "passwords",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "secrets",
    "token",
    "tokens",
    "otp",
    "totp",
    "pin",
    "ssn",
    "iban",
    "card",
    "cvv",
    "cvc",
    "credential",
    "credentials",
    "salt",
    "jwt",
];

/// The same for two words that stand beside each other.
const SECRET_PAIRS: [[&str; 2]; 6] = [
    ["api", "key"],
    ["private", "key"],
    ["access", "key"],
    ["encryption", "key"],
    ["signing", "key"],
    ["recovery", "codes"],
];

/// Whether the name of a field or column looks secret.
pub(super) fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split('_').collect();
    let pair = |pair: &[&str]| SECRET_PAIRS.iter().any(|secret| pair == secret);
    let hash = words.len() > 1 && words.last() == Some(&"hash");
    hash || words.iter().any(|word| SECRET.contains(word)) || words.windows(2).any(pair)
}

#[cfg(test)]
mod tests {
    use super::looks_secret;

    #[test]
    fn names_that_look_secret() {
        for secret in [
            "password",
            "password_hash",
            "passwd",
            "client_secret",
            "reset_token",
            "otp",
            "api_key",
            "API_KEY",
            "private_key",
            "ssn",
            "iban",
            "card_number",
            "commit_hash",
        ] {
            assert!(looks_secret(secret), "{secret}");
        }
        for harmless in [
            "id",
            "name",
            "discard",
            "tokenizer",
            "secretary",
            "key",
            "public_key",
            "api",
            "hash",
            "pinned",
            "scorecard",
        ] {
            assert!(!looks_secret(harmless), "{harmless}");
        }
    }
}
