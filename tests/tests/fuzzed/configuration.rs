//! Settings of MQTT in any text: a URL, settings by name, a configuration file. What is wrong is an error that names it, what
//! is right means the same whichever way it is said, and a password is shown nowhere.

use std::collections::BTreeMap;
use std::error::Error;

use arbitrary::{Arbitrary, Unstructured};
use emitter_core::transport::mqtt::{ClientId, MqttConfig, MqttConfigError};
use serde::Deserialize;
use serde_json::Value;

/// Stands for what is secret.
const CANARY: &str = "c4n4ry";

#[derive(Debug, Arbitrary)]
pub(crate) enum Input<'a> {
    Url(&'a str),
    /// A URL with a password that has the canary in it.
    Password {
        scheme: Scheme,
        user: &'a str,
        before: &'a str,
        after: &'a str,
        /// The host, and what is behind it.
        place: &'a str,
    },
    /// As an environment or a configuration file has them.
    Settings {
        settings: Vec<(Name<'a>, &'a str)>,
        url: &'a str,
    },
    /// A configuration file.
    Json(&'a str),
}

#[derive(Debug, Arbitrary)]
pub(crate) enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

/// The name of a setting, more often than not one that there is.
#[derive(Debug)]
pub(crate) struct Name<'a>(&'a str);

const SETTINGS: &str = concat!(
    "client_id|username|password|protocol|keep_alive|connect_timeout|window|queue_messages|queue_bytes|",
    "overflow|publish_attempts|max_retries|reconnect_period|reconnect_cap|reconnect_base|",
    "reconnect_jitter|clean|announce|canary|session_expiry|receive_maximum|max_packet|tls_authority|",
    "tls_identity",
);

impl<'a> Arbitrary<'a> for Name<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let place = usize::from(u8::arbitrary(u)?);
        let known = SETTINGS.split('|').chain(["url", "enabled"]).nth(place);
        known.map_or_else(|| u.arbitrary().map(Self), |name| Ok(Self(name)))
    }
}

impl Input<'_> {
    pub(crate) fn check(&self) {
        match *self {
            Self::Url(text) => {
                let config = shown(&MqttConfig::new(text));
                assert_eq!(shown(&MqttConfig::try_from(text)), config);
                assert_eq!(config, from_json(&Value::from(text)));
                client_id(text);
            }
            Self::Password { ref scheme, user, before, after, place } if !place.contains(CANARY) => {
                password(scheme, user, &[before, CANARY, after].concat(), place);
            }
            Self::Password { .. } => {}
            Self::Settings { ref settings, url } => {
                by_name(url, settings.iter().map(|(Name(name), value)| (*name, *value)).collect());
            }
            Self::Json(text) => json(text),
        }
    }
}

fn password(scheme: &Scheme, user: &str, password: &str, place: &str) {
    let scheme = match scheme {
        Scheme::Mqtt => "mqtt",
        Scheme::Mqtts => "mqtts",
        Scheme::Ws => "ws",
        Scheme::Wss => "wss",
    };
    let whole = MqttConfig::new(&format!("{scheme}://{}:{}@{place}", encoded(user), encoded(password)));
    hides_the_canary(&whole);
    let bare = MqttConfig::new(&format!("{scheme}://{place}"));
    if bare.is_ok() && !place.contains('@') && !place.starts_with(|c: char| "/\\".contains(c) || c <= ' ') {
        assert_eq!(whole.is_ok(), !user.is_empty(), "any text can be a password");
    }
    // Where it should have been encoded, and is not, a part of it may be taken for the host.
    let plain = MqttConfig::new(&format!("{scheme}://{user}:{password}@{place}"));
    if !user.contains(['/', '?', '#', '\\']) && !password.contains(['/', '?', '#', '\\']) {
        hides_the_canary(&plain);
    }
    shown(&plain);
    if let Ok(config) = bare {
        hides_the_canary(&config.credentials(user, password));
    }
}

/// Settings mean the same as texts and as numbers of a table, and in the query of a URL.
fn by_name(url: &str, mut settings: BTreeMap<&str, &str>) {
    settings.remove("url");
    if settings.keys().any(|name| name.contains(CANARY)) {
        // What is unknown is named.
        return;
    }
    let table = |value: fn(&str) -> Value| {
        let all = settings.iter().chain([(&"url", &url)]);
        from_json(&all.map(|(name, text)| ((*name).to_owned(), value(text))).collect())
    };
    let config = table(|text| Value::from(text));
    assert_eq!(table(as_number), config);
    // A client id is no secret, and neither is a host.
    let id = settings.get("client_id").is_some_and(|id| id.contains(CANARY));
    assert!(id || url.contains(CANARY) || !config.contains(CANARY), "{config}");
    let is_whole = !url.contains(['?', '#']) && url.trim_matches(|c| c <= ' ') == url;
    if is_whole && settings.keys().all(|name| SETTINGS.split('|').any(|known| known == *name)) {
        let query: Vec<_> = settings.iter().map(|(name, text)| format!("{name}={}", encoded(text))).collect();
        let other = shown(&MqttConfig::new(&format!("{url}?{}", query.join("&"))));
        // Of what is wrong in two ways either may be told.
        let wrong = |shown: &str| shown.starts_with("mqtt url: ");
        assert!(other == config || wrong(&other) && wrong(&config), "{other}, and not {config}");
    }
}

/// As a number or a truth where it is written as one.
fn as_number(text: &str) -> Value {
    match (text.parse::<u64>(), text.parse::<bool>()) {
        (Ok(number), _) if number.to_string() == text => number.into(),
        (_, Ok(truth)) => truth.into(),
        _ => text.into(),
    }
}

fn json(text: &str) {
    let outcome = serde_json::from_str::<MqttConfig>(text);
    let Ok(value) = serde_json::from_str::<Value>(text) else { return assert!(outcome.is_err()) };
    let names = value.as_object().into_iter().flatten().map(|(name, _)| name);
    if names.into_iter().any(|name| name.contains(CANARY)) {
        // What is unknown is named.
        return;
    }
    let read = shown(&outcome);
    assert!(from_json(&value) == read || outcome.is_err(), "{read}");
}

fn from_json(value: &Value) -> String {
    shown(&MqttConfig::deserialize(value))
}

fn client_id(text: &str) {
    let good = (1..=257).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    assert_eq!(ClientId::new(text).is_ok(), good);
}

/// What anybody may see of it. An error shows the canary never, wherever it stands.
fn shown<E: Error>(outcome: &Result<MqttConfig, E>) -> String {
    match outcome {
        Ok(config) => {
            assert!(!config.address().starts_with(':') && !config.address().ends_with(":0"));
            assert!(config.largest_message() > 0);
            format!("{config:?}")
        }
        Err(error) => {
            let all = format!("{error} {error:?} {error:#?}");
            assert!(!all.contains(CANARY), "{all}");
            error.to_string()
        }
    }
}

fn hides_the_canary(outcome: &Result<MqttConfig, MqttConfigError>) {
    let shown = shown(outcome);
    let address = outcome.as_ref().map(MqttConfig::address).unwrap_or_default();
    assert!(!shown.contains(CANARY) && !address.contains(CANARY), "{shown}");
}

/// As it has to be written in a URL: every byte that could mean something there.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        match byte {
            byte if byte.is_ascii_alphanumeric() => url.push(byte.into()),
            byte => url.push_str(&format!("%{byte:02x}")),
        }
        url
    })
}
