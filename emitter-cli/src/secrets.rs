//! Addresses that may hold a password, and errors that may hold such an address.

use std::fmt;

/// An address as it was given. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address(String);

impl From<String> for Address {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address")
    }
}

impl Address {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before `://`; `None` of a path.
    pub(crate) fn scheme(&self) -> Option<&str> {
        self.0.split_once("://").map(|(scheme, _)| scheme)
    }

    /// Whether there is a password, or something that might be one, in it.
    pub(crate) fn has_secret(&self) -> bool {
        !self.secrets().is_empty()
    }

    /// What of it nobody is to see: the password, and the values of its query.
    fn secrets(&self) -> Vec<&str> {
        let Some((_, rest)) = self.0.split_once("://") else { return Vec::new() };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let user = rest.rsplit_once('@').map(|(user, _)| user);
        let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        // Another place of it, where the password has a question mark that is not written %3F.
        let short =
            place.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, password)| password);
        let values = query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = name.to_ascii_lowercase();
            // The name of a file is none.
            let is_file = matches!(&*name, "passfile" | "sslkey" | "sslkeylogfile");
            let is_secret = ["pass", "secret", "token", "key"].iter().any(|part| name.contains(part));
            (is_secret && !is_file).then_some(value)
        });
        password.into_iter().chain(short).chain(values).filter(|secret| !secret.is_empty()).collect()
    }

    /// A text of somebody else's, such as an error of a library, without the secrets of this address: written as in the
    /// address, and as they are meant.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut hidden = text.to_owned();
        for secret in self.secrets() {
            hidden = hidden.replace(secret, "***").replace(&decoded(secret), "***");
        }
        hidden
    }

    /// Whether whoever reads it will read it as it was meant: an `@` or `/` that is a part of a password makes a part of the
    /// password into a host, which errors name.
    pub(crate) fn is_plain(&self) -> bool {
        let Some((scheme, rest)) = self.0.split_once("://") else { return true };
        if matches!(scheme, "sqlite" | "file") {
            return true;
        }
        let (user, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
        let hosts = hosts.split(['/', '?', '#']).next().unwrap_or_default();
        let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
        let is_port = |host: &str| {
            host.ends_with(']')
                || port(host).is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        };
        !user.contains(['@', '/', '?', '#']) && hosts.split(',').all(is_port)
    }
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address(text.to_owned())
    }

    #[test]
    fn a_password_is_found_and_hidden_however_it_is_written() {
        for (text, secret) in [
            ("postgres://shop:sesame@db/shop", "sesame"),
            ("mysql://shop:se%40same@db", "se@same"),
            ("postgres:///shop?user=shop&password=sesame", "sesame"),
            ("postgres://shop:ses?ame@db/shop", "ses?ame"),
            ("mqtts://shop:ses:ame@broker", "ses:ame"),
            ("wss://broker/mqtt?token=sesame", "sesame"),
            ("postgres:///shop?password=/ses/ame", "/ses/ame"),
        ] {
            assert!(address(text).has_secret(), "{text}");
            let hidden = address(text).hide(&format!("cannot reach {text}, with <{secret}>"));
            assert!(!hidden.contains(secret) && hidden.contains("<***>"), "{hidden}");
            assert_eq!(format!("{:?}", address(text)), "Address");
        }
        for text in
            ["postgres://shop@db/shop?passfile=/etc/pgpass", "shop.db", "mqtt://broker", "mysql://a:@b/c"]
        {
            assert!(!address(text).has_secret(), "{text}");
            assert_eq!(address(text).hide(text), text);
        }
    }

    #[test]
    fn an_address_that_could_be_misread_is_not_plain() {
        for text in
            ["postgres://a:b@c@d/e", "postgres://a:b/c@d/e", "postgres://a:secret/db", "mysql://a:b#c@d"]
        {
            assert!(!address(text).is_plain(), "{text}");
        }
        for text in [
            "postgres://a:b%40c@d:5432/e",
            "postgres://a@[::1]/e",
            "postgres://a@b:1,c:2/e",
            "dir@/x.db",
            "sqlite:///a@b:c/x.db",
            "postgres:///x",
        ] {
            assert!(address(text).is_plain(), "{text}");
        }
    }
}
