//! Where the broker is, as a URL says it.

use std::collections::BTreeMap;

use url::Url;

use super::config::{Credentials, MqttConfigError, Secret, invalid};
use super::settings;

/// How the broker is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    const fn of(name: &str) -> Option<Self> {
        Some(match name.as_bytes() {
            b"mqtt" | b"tcp" => Self::Mqtt,
            b"mqtts" | b"ssl" => Self::Mqtts,
            b"ws" => Self::Ws,
            b"wss" => Self::Wss,
            _ => return None,
        })
    }

    pub(super) const fn is_encrypted(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub(super) const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    const fn is_in_this_build(self) -> bool {
        (cfg!(feature = "mqtt-tls") || !self.is_encrypted())
            && (cfg!(feature = "mqtt-websocket") || !self.is_websocket())
    }

    const fn port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }
}

/// Errors of the parser do not hold the URL, and neither do ours: it may hold a password.
pub(super) fn parse_url(url: &str) -> Result<(Url, Scheme), MqttConfigError> {
    let url = Url::parse(url)
        .map_err(|error| invalid_url(&format!("{error}; write it as in mqtt://localhost:1883")))?;
    // The scheme is not shown: in "user:password@host", it is the user.
    let scheme = Scheme::of(url.scheme()).ok_or_else(|| {
        invalid_url("the scheme must be mqtt, mqtts, ws or wss, as in mqtt://localhost:1883")
    })?;
    if !scheme.is_in_this_build() {
        return Err(MqttConfigError::NotInThisBuild { scheme: url.scheme().to_owned() });
    }
    let plain = matches!(url.path(), "" | "/") || scheme.is_websocket();
    if !plain || url.fragment().is_some() {
        return Err(invalid_url(
            "a path or fragment is not allowed; '/', '?', '#', '@' in a password are written %2F, %3F, %23, %40",
        ));
    }
    Ok((url, scheme))
}

/// Our settings in a query, and the rest of it as it was written, which is a WebSocket's own.
pub(super) fn query(url: &Url) -> Result<(BTreeMap<String, String>, Option<String>), MqttConfigError> {
    let (mut settings, mut rest) = (BTreeMap::new(), Vec::new());
    for pair in url.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode(name)?;
        if !settings::is_known(&name) {
            rest.push(pair);
        } else if settings.insert(name, percent_decode(value)?).is_some() {
            return Err(invalid_url("its query has a setting twice"));
        }
    }
    Ok((settings, (!rest.is_empty()).then(|| rest.join("&"))))
}

pub(super) fn host(url: &Url) -> Result<String, MqttConfigError> {
    match url.host_str() {
        Some(host) if !host.is_empty() => Ok(host.to_owned()),
        _ => Err(invalid_url("there is no host; write it as in mqtt://localhost:1883")),
    }
}

pub(super) fn port(url: &Url, scheme: Scheme) -> Result<u16, MqttConfigError> {
    match url.port() {
        Some(0) => Err(invalid_url("the port must be 1 to 65535")),
        port => Ok(port.unwrap_or(scheme.port())),
    }
}

pub(super) fn credentials(url: &Url) -> Result<Option<Credentials>, MqttConfigError> {
    if url.username().is_empty() {
        return match url.password() {
            None => Ok(None),
            Some(_) => Err(invalid_url("there is a password without a user name")),
        };
    }
    let user = Secret(percent_decode(url.username())?);
    let password = Secret(percent_decode(url.password().unwrap_or_default())?);
    // MQTT has two bytes for the length of each.
    if [&user, &password].into_iter().any(|secret| secret.expose().len() > usize::from(u16::MAX)) {
        return Err(invalid_url("user name and password may have 65535 bytes each"));
    }
    Ok(Some(Credentials { user, password }))
}

/// `url` gives user and password as they were written, and its own decoder, for forms, takes '+'
/// for a space.
fn percent_decode(text: &str) -> Result<String, MqttConfigError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.first_chunk::<2>().filter(|_| first == b'%').and_then(hex_byte);
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).map_err(|_| invalid_url("user name and password must be UTF-8, percent-encoded"))
}

fn hex_byte(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

pub(super) fn invalid_url(reason: &str) -> MqttConfigError {
    invalid("url", reason.to_owned())
}
