//! The settings of an [`MqttConfig`] by name: as an environment, a URL or a configuration file has them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::config::{ClientId, MqttConfig, MqttConfigError, MqttVersion, Overflow, invalid};
#[cfg(feature = "mqtt-tls")]
use super::tls::Tls;
use crate::retry::Backoff;

/// A setting: its name, and how a text becomes its value.
struct Setting {
    name: &'static str,
    set: fn(MqttConfig, &str, Field) -> Result<MqttConfig, MqttConfigError>,
}

/// The name of a setting, for errors about its value; which they do not show, for it may be a secret.
#[derive(Clone, Copy)]
struct Field(&'static str);

macro_rules! settings {
    ($($(#[$condition:meta])* $name:literal => |$config:ident, $text:ident, $field:ident| $set:expr;)*) => {
        /// All of them, in an order in which they can be set.
        const SETTINGS: &[Setting] = &[$(
            $(#[$condition])*
            Setting { name: $name, set: |$config, $text, $field| $set },
        )*];
    };
}

settings! {
    "client_id" => |config, text, _field| Ok(config.client_id(ClientId::new(text)?));
    "username" => |config, text, _field| {
        let password = config.password().to_owned();
        config.credentials(text, &password)
    };
    "password" => |config, text, field| match config.username().map(str::to_owned) {
        Some(user) => config.credentials(&user, text),
        None => Err(field.wrong("there is no `username`")),
    };
    "protocol" => |config, text, field| match text {
        "5" => Ok(config.protocol(MqttVersion::V5)),
        "3.1.1" => Ok(config.protocol(MqttVersion::V311)),
        _ => Err(field.wrong("`5` and `3.1.1` are known")),
    };
    "keep_alive" => |config, text, field| config.keep_alive(field.time(text)?);
    "connect_timeout" => |config, text, field| config.connect_timeout(field.time(text)?);
    "window" => |config, text, field| config.window(field.number(text)?);
    "queue_messages" => |config, text, field| config.queue_messages(field.number(text)?);
    "queue_bytes" => |config, text, field| config.queue_bytes(field.number(text)?);
    "overflow" => |config, text, field| match text {
        "refuse" => Ok(config.overflow(Overflow::Refuse)),
        "drop_oldest" => Ok(config.overflow(Overflow::DropOldest)),
        "wait" => Ok(config.overflow(Overflow::Wait)),
        _ => Err(field.wrong("`refuse`, `drop_oldest` and `wait` are known")),
    };
    "publish_attempts" => |config, text, field| config.publish_attempts(field.number(text)?);
    "max_retries" => |config, text, field| config.max_retries(field.number(text)?);
    "reconnect_period" => |config, text, field| config.reconnect_period(field.time(text)?);
    "reconnect_cap" => |config, text, field| {
        // They are checked together, when all are there.
        Ok(MqttConfig { reconnect: Backoff { cap: field.time(text)?, ..config.reconnect }, ..config })
    };
    "reconnect_base" => |config, text, field| {
        // They are checked together, when all are there.
        Ok(MqttConfig { reconnect: Backoff { base: field.time(text)?, ..config.reconnect }, ..config })
    };
    "reconnect_jitter" => |config, text, field| {
        // They are checked together, when all are there.
        Ok(MqttConfig { reconnect: Backoff { jitter: field.time(text)?, ..config.reconnect }, ..config })
    };
    "clean" => |config, text, field| Ok(config.clean(field.truth(text)?));
    "announce" => |config, text, field| Ok(config.announce(field.truth(text)?));
    "canary" => |config, text, field| match text {
        "never" => config.canary(None),
        text => config.canary(Some(field.time(text)?)),
    };
    "session_expiry" => |config, text, field| config.session_expiry(field.time(text)?);
    "receive_maximum" => |config, text, field| config.receive_maximum(field.number(text)?);
    "max_packet" => |config, text, field| config.max_packet(field.number(text)?);
    "tls_authority" => |config, text, field| field.authority(config, text);
    "tls_identity" => |config, text, field| field.identity(config, text);
}

impl Field {
    fn wrong(self, reason: &str) -> MqttConfigError {
        invalid(self.0, reason.to_owned())
    }

    fn time(self, text: &str) -> Result<Duration, MqttConfigError> {
        humantime::parse_duration(text).map_err(|_| self.wrong("write a time as in `30s`, `500ms` or `1h`"))
    }

    fn truth(self, text: &str) -> Result<bool, MqttConfigError> {
        text.parse().map_err(|_| self.wrong("`true` and `false` are known"))
    }

    fn number<N: std::str::FromStr>(self, text: &str) -> Result<N, MqttConfigError> {
        text.parse().map_err(|_| self.wrong("write a whole number that is not too large"))
    }

    #[cfg(feature = "mqtt-tls")]
    fn authority(self, config: MqttConfig, file: &str) -> Result<MqttConfig, MqttConfigError> {
        let pem = self.file(&config, file)?;
        Ok(config.tls(Tls::authority(&pem)?))
    }

    #[cfg(feature = "mqtt-tls")]
    fn identity(self, config: MqttConfig, file: &str) -> Result<MqttConfig, MqttConfigError> {
        let pem = self.file(&config, file)?;
        let tls = config.tls.clone().map_or_else(Tls::system, Ok)?;
        Ok(config.tls(tls.identity(&pem, &pem)?))
    }

    /// A file for TLS. What is written for its name is not shown: it may be the key itself.
    #[cfg(feature = "mqtt-tls")]
    fn file(self, config: &MqttConfig, path: &str) -> Result<Vec<u8>, MqttConfigError> {
        if !config.scheme.is_encrypted() {
            return Err(self.wrong("it is for `mqtts://` and `wss://`, and the URL has another scheme"));
        }
        std::fs::read(path)
            .map_err(|error| self.wrong(&format!("the file that it names cannot be read: {error}")))
    }

    #[cfg(not(feature = "mqtt-tls"))]
    fn authority(self, _: MqttConfig, _: &str) -> Result<MqttConfig, MqttConfigError> {
        Err(self.wrong("it needs the feature `mqtt-tls`"))
    }

    #[cfg(not(feature = "mqtt-tls"))]
    fn identity(self, config: MqttConfig, file: &str) -> Result<MqttConfig, MqttConfigError> {
        self.authority(config, file)
    }
}

impl MqttConfig {
    /// The settings of the environment: `EMITTER_MQTT_URL`, and for each other setting the variable
    /// `EMITTER_MQTT_{NAME}`, as in `EMITTER_MQTT_KEEP_ALIVE=30s`. `None` when there is no URL, or
    /// `EMITTER_MQTT_ENABLED` is `false`: then events stay on this node.
    ///
    /// The same names are understood in the query of a URL, `mqtt://broker?keep_alive=30s&window=50`,
    /// and in a configuration file that is read by serde, where an `MqttConfig` is a URL or a table of
    /// them with its `url`. What is set by a name of its own wins over the URL. Times are written as
    /// in `30s`, `500ms` or `1h`.
    ///
    /// | name | what it is |
    /// |---|---|
    /// | `url` | [`new`](Self::new) |
    /// | `client_id` | [`client_id`](Self::client_id) |
    /// | `username`, `password` | [`credentials`](Self::credentials) |
    /// | `protocol` | [`protocol`](Self::protocol): `5` or `3.1.1` |
    /// | `keep_alive` | [`keep_alive`](Self::keep_alive) |
    /// | `connect_timeout` | [`connect_timeout`](Self::connect_timeout) |
    /// | `window` | [`window`](Self::window) |
    /// | `queue_messages`, `queue_bytes` | [`queue_messages`](Self::queue_messages), [`queue_bytes`](Self::queue_bytes) |
    /// | `overflow` | [`overflow`](Self::overflow): `refuse`, `drop_oldest` or `wait` |
    /// | `publish_attempts` | [`publish_attempts`](Self::publish_attempts) |
    /// | `max_retries` | [`max_retries`](Self::max_retries) |
    /// | `reconnect_period` | [`reconnect_period`](Self::reconnect_period) |
    /// | `clean` | [`clean`](Self::clean): `true` or `false` |
    /// | `announce` | [`announce`](Self::announce): `true` or `false` |
    /// | `canary` | [`canary`](Self::canary), or `never` |
    /// | `reconnect_base`, `reconnect_cap`, `reconnect_jitter` | [`reconnect`](Self::reconnect) |
    /// | `session_expiry` | [`session_expiry`](Self::session_expiry) |
    /// | `receive_maximum` | [`receive_maximum`](Self::receive_maximum) |
    /// | `max_packet` | [`max_packet`](Self::max_packet) |
    /// | `tls_authority` | a PEM file for `Tls::authority` (feature `mqtt-tls`) |
    /// | `tls_identity` | a PEM file with certificate and key for `Tls::identity` (feature `mqtt-tls`) |
    ///
    /// # Errors
    /// [`MqttConfigError`], which names the setting and what is allowed, and shows no value.
    pub fn from_env() -> Result<Option<Self>, MqttConfigError> {
        Self::from_variables(|variable| match std::env::var(variable) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(invalid("url", format!("{variable} is not UTF-8"))),
        })
    }

    fn from_variables(
        variable: impl Fn(&str) -> Result<Option<String>, MqttConfigError>,
    ) -> Result<Option<Self>, MqttConfigError> {
        let named = |name: &str| -> Result<Option<String>, MqttConfigError> {
            let value = variable(&format!("EMITTER_MQTT_{}", name.to_ascii_uppercase()))?;
            Ok(value.filter(|value| !value.is_empty()))
        };
        let enabled = match named("enabled")?.as_deref() {
            None => None,
            Some("true") => Some(true),
            Some("false") => return Ok(None),
            Some(_) => return Err(invalid("enabled", "`true` and `false` are known".to_owned())),
        };
        let Some(url) = named("url")? else {
            return match enabled {
                None => Ok(None),
                Some(_) => {
                    Err(invalid("url", "there is none, though EMITTER_MQTT_ENABLED is `true`".to_owned()))
                }
            };
        };
        let mut given = BTreeMap::new();
        for Setting { name, .. } in SETTINGS {
            if let Some(value) = named(name)? {
                given.insert((*name).to_owned(), value);
            }
        }
        Self::with_url(&url, given).map(Some)
    }

    /// Sets what has a name; all of them are known.
    pub(super) fn with_settings(mut self, given: &BTreeMap<String, String>) -> Result<Self, MqttConfigError> {
        for Setting { name, set } in SETTINGS {
            if let Some(value) = given.get(*name) {
                self = set(self, value, Field(name))?;
            }
        }
        let backoff = self.reconnect;
        self.reconnect(backoff)
    }
}

pub(super) fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name == name)
}

/// What is known, for whoever wrote something else.
pub(super) fn known() -> String {
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    format!("known settings are {}", names.join(", "))
}

/// As a configuration file has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Url(String),
    Table(BTreeMap<String, Value>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(u64),
    Truth(bool),
}

/// From a URL, or a table of [settings by name](MqttConfig::from_env) with its `url`.
impl<'de> Deserialize<'de> for MqttConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = match Form::deserialize(deserializer)? {
            Form::Url(url) => Self::new(&url),
            Form::Table(table) => {
                let text = |value| match value {
                    Value::Text(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::Truth(truth) => truth.to_string(),
                };
                from_table(table.into_iter().map(|(name, value)| (name, text(value))).collect())
            }
        };
        config.map_err(D::Error::custom)
    }
}

fn from_table(mut table: BTreeMap<String, String>) -> Result<MqttConfig, MqttConfigError> {
    let url = table.remove("url").ok_or_else(|| invalid("url", "there is none".to_owned()))?;
    let unknown: Vec<&str> = table.keys().map(String::as_str).filter(|name| !is_known(name)).collect();
    if !unknown.is_empty() {
        return Err(invalid("settings", format!("unknown: {}; {}", unknown.join(", "), known())));
    }
    MqttConfig::with_url(&url, table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: &MqttConfig) -> String {
        format!("{config:?}")
    }

    /// Each setting with a value that is not its default.
    const VALUES: [(&str, &str); 21] = [
        ("client_id", "shop-1"),
        ("username", "shop"),
        ("password", "hunter2"),
        ("protocol", "3.1.1"),
        ("keep_alive", "30s"),
        ("connect_timeout", "500ms"),
        ("window", "50"),
        ("queue_messages", "1000"),
        ("queue_bytes", "1000000"),
        ("overflow", "wait"),
        ("publish_attempts", "5"),
        ("max_retries", "7"),
        ("clean", "true"),
        ("announce", "false"),
        ("canary", "never"),
        ("reconnect_base", "2s"),
        ("reconnect_cap", "1m"),
        ("reconnect_jitter", "0s"),
        ("session_expiry", "1day"),
        ("receive_maximum", "20"),
        ("max_packet", "65536"),
    ];

    fn by_methods() -> MqttConfig {
        let seconds = Duration::from_secs;
        let config = MqttConfig::new("mqtt://broker").expect("valid");
        let config = config.client_id(ClientId::new("shop-1").expect("valid")).protocol(MqttVersion::V311);
        let backoff = Backoff { base: seconds(2), cap: seconds(60), jitter: Duration::ZERO };
        config
            .credentials("shop", "hunter2")
            .and_then(|config| config.keep_alive(seconds(30)))
            .and_then(|config| config.connect_timeout(Duration::from_millis(500)))
            .and_then(|config| config.window(50))
            .and_then(|config| config.queue_messages(1000))
            .and_then(|config| config.queue_bytes(1_000_000))
            .and_then(|config| config.overflow(Overflow::Wait).clean(true).announce(false).reconnect(backoff))
            .and_then(|config| config.publish_attempts(5))
            .and_then(|config| config.max_retries(7))
            .and_then(|config| config.canary(None))
            .and_then(|config| config.session_expiry(seconds(86_400)))
            .and_then(|config| config.receive_maximum(20))
            .and_then(|config| config.max_packet(65_536))
            .expect("valid")
    }

    fn from_variables(variables: &[(&str, &str)]) -> Result<Option<MqttConfig>, MqttConfigError> {
        MqttConfig::from_variables(|wanted| {
            let found =
                variables.iter().find(|(name, _)| format!("EMITTER_MQTT_{}", name.to_uppercase()) == wanted);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    #[test]
    fn each_setting_is_the_same_by_every_way() {
        let expected = shown(&by_methods());
        let all = VALUES.iter().copied().chain([("url", "mqtt://broker")]);
        let environment = from_variables(&all.clone().collect::<Vec<_>>());
        assert_eq!(shown(&environment.expect("valid").expect("a URL")), expected);
        let query: Vec<String> = VALUES.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let url = format!("mqtt://broker?{}", query.join("&"));
        assert_eq!(shown(&MqttConfig::new(&url).expect("valid")), expected);
        let table: serde_json::Map<_, _> = all.map(|(name, value)| (name.to_owned(), value.into())).collect();
        assert_eq!(shown(&serde_json::from_value(table.into()).expect("valid")), expected);
        let default = shown(&MqttConfig::new("mqtt://broker").expect("valid"));
        assert_eq!(shown(&serde_json::from_str(r#""mqtt://broker""#).expect("valid")), default);
        // None is missing here but those of files, which the test of TLS has, and one that sets three.
        let tested: Vec<&str> = VALUES.iter().map(|(name, _)| *name).chain(["reconnect_period"]).collect();
        let period = |name: &str| MqttConfig::new(&format!("mqtt://broker?{name}")).expect("valid");
        let three = "reconnect_base=5s&reconnect_cap=5s&reconnect_jitter=0s";
        assert_eq!(shown(&period("reconnect_period=5s")), shown(&period(three)));
        assert!(
            SETTINGS.iter().all(|setting| tested.contains(&setting.name) || setting.name.starts_with("tls_"))
        );
    }

    #[test]
    fn without_a_url_there_is_no_broker() {
        for variables in
            [&[][..], &[("url", "")], &[("window", "0")], &[("url", "mqtt://a"), ("enabled", "false")]]
        {
            assert!(from_variables(variables).expect("valid").is_none(), "{variables:?}");
        }
        assert!(from_variables(&[("url", "mqtt://a"), ("enabled", "true")]).expect("valid").is_some());
        assert!(from_variables(&[("enabled", "true")]).is_err());
    }

    #[test]
    fn a_name_of_its_own_wins_over_the_url() {
        let variables =
            [("url", "mqtt://a:b@broker?window=7&keep_alive=9s"), ("username", "shop"), ("window", "8")];
        let config = from_variables(&variables).expect("valid").expect("a URL");
        let expected = MqttConfig::new("mqtt://shop:b@broker?window=8&keep_alive=9s").expect("valid");
        assert_eq!(shown(&config), shown(&expected));
    }

    #[test]
    fn parts_of_the_backoff_are_checked_together() {
        for query in ["reconnect_base=100ms&reconnect_cap=500ms", "reconnect_cap=5m&reconnect_base=2m"] {
            MqttConfig::new(&format!("mqtt://broker?{query}")).expect(query);
        }
        let variables = [
            ("url", "mqtt://a?reconnect_base=10s&reconnect_cap=20s"),
            ("reconnect_base", "1s"),
            ("reconnect_cap", "5s"),
        ];
        assert!(from_variables(&variables).expect("valid").is_some());
    }

    #[test]
    fn wrong_values_name_their_setting_and_are_not_shown() {
        for (name, value, expected) in [
            ("client_id", "hunter 2", "A-Z"),
            ("password", "hunter2", "no `username`"),
            ("protocol", "hunter2", "`3.1.1`"),
            ("keep_alive", "hunter2", "`30s`"),
            ("keep_alive", "1s", "5 to 65535"),
            ("window", "hunter2", "whole number"),
            ("window", "70000", "whole number"),
            ("overflow", "hunter2", "`drop_oldest`"),
            ("reconnect_cap", "1ms", "milliseconds of cap"),
            (
                "tls_authority",
                "hunter2",
                if cfg!(feature = "mqtt-tls") { "another scheme" } else { "the feature" },
            ),
        ] {
            let error =
                from_variables(&[("url", "mqtt://broker"), (name, value)]).expect_err(name).to_string();
            let setting = name.split('_').next().unwrap_or_default();
            assert!(error.contains(setting) && error.contains(expected), "{name}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let unknown =
            serde_json::from_str::<MqttConfig>(r#"{"url": "mqtt://a", "windows": 5}"#).expect_err("unknown");
        assert!(unknown.to_string().contains("unknown: windows; known settings are client_id"), "{unknown}");
        assert!(serde_json::from_str::<MqttConfig>(r#"{"window": 5}"#).is_err());
    }
}
