//! Settings of the MQTT transport: where the broker is, and how much, how long, how often.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::address::{Scheme, credentials, host, invalid_url, parse_url, port, query};
use super::settings;
#[cfg(feature = "mqtt-tls")]
use super::tls::Tls;
use crate::retry::Backoff;
use crate::topic::Topic;

/// Where the broker is and how to talk to it.
///
/// It is valid by construction: whatever takes a value that could be wrong returns an error that
/// names the field and what is allowed.
///
/// ```
/// use std::time::Duration;
/// use emitter_core::transport::mqtt::{MqttConfig, Overflow};
///
/// let config = MqttConfig::new("mqtt://shop:secret@broker.local")?
///     .keep_alive(Duration::from_secs(30))?
///     .overflow(Overflow::DropOldest);
/// assert_eq!(config.address(), "broker.local:1883");
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), emitter_core::transport::mqtt::MqttConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct MqttConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) credentials: Option<Credentials>,
    pub(super) client_id: Option<ClientId>,
    pub(super) version: MqttVersion,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) window: u16,
    pub(super) queue_messages: usize,
    pub(super) queue_bytes: usize,
    pub(super) overflow: Overflow,
    pub(super) publish_attempts: u32,
    pub(super) reconnect: Backoff,
    pub(super) max_retries: Option<u32>,
    pub(super) clean: bool,
    pub(super) announce: bool,
    pub(super) canary: Option<Duration>,
    /// Set by the emitter, which knows the topics.
    pub(super) presence: Option<Presence>,
    pub(super) session_expiry: Duration,
    pub(super) receive_maximum: u16,
    pub(super) max_packet: u32,
    pub(super) scheme: Scheme,
    /// Of a WebSocket, with its query, in which there may be a token.
    pub(super) path: Secret,
    #[cfg(feature = "mqtt-tls")]
    pub(super) tls: Option<Tls>,
}

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// MQTT 5. The default: only here a broker can say that it refuses a message, how large a
    /// packet it takes, and that nobody is subscribed.
    #[default]
    V5,
    /// MQTT 3.1.1, for brokers that know no other.
    V311,
}

/// What happens to a message for which the publish queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is refused with [`QueueFull`](crate::transport::PublishError::QueueFull). The default.
    #[default]
    Refuse,
    /// The oldest waiting messages make room and end as
    /// [`Displaced`](crate::transport::PublishError::Displaced). Those already on the wire stay:
    /// if they alone fill the queue, the new one is refused.
    DropOldest,
    /// The emitter holds back what it would publish until there is room. It waits unencoded in the emitter's
    /// own queue, and is refused only when that is full too
    /// ([`Builder::publish_queue`](crate::Builder::publish_queue)); writers never wait.
    Wait,
}

/// A client id: 1 to 257 bytes of `A-Z a-z 0-9 _ . -`.
///
/// The transport makes two of it, `{client_id}` and `{client_id}-subscriber`. Two processes with
/// the same one push each other off the broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(String);

/// Why a setting was refused: the field, and what is allowed there. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MqttConfigError {
    /// A setting is outside of what is allowed. Give it a value in the range that the text names.
    #[error("mqtt {field}: {reason}")]
    Invalid {
        /// The setting's name, as in the method that sets it.
        field: &'static str,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// The URL asks for something that this build cannot do: `mqtts://` and `wss://` need the feature
    /// `mqtt-tls`, `ws://` and `wss://` the feature `mqtt-websocket`.
    #[error(
        "mqtt url: {scheme}:// is not in this build: mqtts:// needs the feature `mqtt-tls`, ws:// `mqtt-websocket`, wss:// both"
    )]
    NotInThisBuild {
        /// The scheme that was asked for.
        scheme: String,
    },
}

/// A node that tells that it is there.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    /// Where.
    pub(crate) topic: Topic,
    /// What it says as long as it is there.
    pub(crate) said: Arc<Said>,
    /// What the broker says when it is gone.
    pub(crate) offline: Bytes,
    /// Where it tries whether its messages arrive.
    pub(crate) canary: Topic,
}

/// What a node says of itself, which may change.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// With whether it is news.
    text: Mutex<(Bytes, bool)>,
    changed: Notify,
}

impl Said {
    /// It says this from now on.
    pub(crate) fn set(&self, text: Bytes) {
        let mut said = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if said.0 != text {
            *said = (text, true);
            self.changed.notify_one();
        }
    }

    /// What it says now, which is no news from here on.
    pub(super) fn text(&self) -> Bytes {
        let mut said = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        said.1 = false;
        said.0.clone()
    }

    /// Whether nobody was told what it says now.
    pub(super) fn is_news(&self) -> bool {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Returns when it says something else.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A user name and its password.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) user: Secret,
    pub(super) password: Secret,
}

/// A text that is not printed.
#[derive(Clone)]
pub(super) struct Secret(pub(super) String);

/// Room that a PUBLISH takes at most beside topic, payload and what each property says of itself: fixed
/// header 5, topic length 2, packet id 2, length of the properties 4, message expiry 5.
pub(super) const PUBLISH_OVERHEAD: usize = 18;

/// The largest packet that MQTT knows.
const LARGEST_PACKET: u32 = 268_435_455;

impl MqttConfig {
    /// A broker's address, `mqtt://[user[:password]@]host[:port]`, with every setting at its
    /// default. `tcp://` means the same. With the feature `mqtt-tls`, `mqtts://` (or `ssl://`) is a
    /// connection by TLS; with `mqtt-websocket`, `ws://` is one over a WebSocket, of which the path
    /// counts, too (many brokers want `/mqtt`); and with both, `wss://`. The port is 1883 unless
    /// given, 8883 with TLS, and 80 and 443 for WebSockets; user name and password are
    /// percent-decoded. The query may have [settings by name](Self::from_env).
    ///
    /// Nothing here logs a secret. What speaks WebSockets for rumqttc does, at the level `trace` of the
    /// target `tungstenite`: each frame in full, of which the first holds the password. Leave that off.
    ///
    /// # Errors
    /// [`MqttConfigError::Invalid`] for what is no such URL, or has a fragment or, but for
    /// WebSockets, a path; [`MqttConfigError::NotInThisBuild`] for a scheme whose feature is
    /// not there.
    pub fn new(url: &str) -> Result<Self, MqttConfigError> {
        Self::with_url(url, BTreeMap::new())
    }

    /// With these settings by name, which win over those of the URL.
    pub(super) fn with_url(url: &str, given: BTreeMap<String, String>) -> Result<Self, MqttConfigError> {
        let (mut url, scheme) = parse_url(url)?;
        let (mut settings, rest) = query(&url)?;
        settings.extend(given);
        if !scheme.is_websocket() && rest.is_some() {
            // Their names are not shown: the query may be part of a password.
            return Err(invalid_url(&format!(
                "its query has an unknown setting; {}; '?' in a password is written %3F",
                settings::known()
            )));
        }
        url.set_query(rest.as_deref());
        let config = Self {
            host: host(&url)?,
            port: port(&url, scheme)?,
            credentials: credentials(&url)?,
            client_id: None,
            version: MqttVersion::default(),
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            window: 100,
            queue_messages: 65_536,
            queue_bytes: 64 << 20,
            overflow: Overflow::default(),
            publish_attempts: 3,
            max_retries: None,
            clean: false,
            announce: true,
            canary: Some(Duration::from_secs(60)),
            presence: None,
            reconnect: Backoff {
                base: Duration::from_secs(1),
                cap: Duration::from_secs(60),
                jitter: Duration::from_secs(1),
            },
            session_expiry: Duration::from_secs(3_600),
            receive_maximum: 100,
            max_packet: 1 << 20,
            scheme,
            path: Secret(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()),
            #[cfg(feature = "mqtt-tls")]
            tls: None,
        };
        config.with_settings(&settings)
    }

    /// The client id. Default: none, the emitter gives one. Give one that is stable across
    /// restarts: the broker keeps missed messages under it.
    #[must_use]
    pub fn client_id(mut self, id: ClientId) -> Self {
        self.client_id = Some(id);
        self
    }

    /// User name and password. Default: those of the URL, or none. Without TLS they travel in the
    /// clear.
    ///
    /// # Errors
    /// If either is longer than 65,535 bytes or the user name is empty.
    pub fn credentials(mut self, user: &str, password: &str) -> Result<Self, MqttConfigError> {
        let lengths = 1..=usize::from(u16::MAX);
        within("credentials", "the user name's length", user.len(), lengths)?;
        within("credentials", "the password's length", password.len(), 0..=usize::from(u16::MAX))?;
        self.credentials =
            Some(Credentials { user: Secret(user.to_owned()), password: Secret(password.to_owned()) });
        Ok(self)
    }

    /// Which MQTT is spoken. Default: [`MqttVersion::V5`].
    #[must_use]
    pub fn protocol(mut self, version: MqttVersion) -> Self {
        self.version = version;
        self
    }

    /// How often an idle connection is pinged, in whole seconds. Default: 60 s. A broker that died
    /// without a word is found out after two of them; each costs two packets of two bytes.
    ///
    /// # Errors
    /// If under 5 s or over 65,535 s.
    pub fn keep_alive(mut self, every: Duration) -> Result<Self, MqttConfigError> {
        within("keep_alive", "seconds", every.as_secs(), 5..=65_535)?;
        self.keep_alive = Duration::from_secs(every.as_secs());
        Ok(self)
    }

    /// How long connecting may take, CONNACK included. Default: 10 s. A longer one only delays the
    /// next attempt; nothing else waits for it.
    ///
    /// # Errors
    /// If under 1 ms or over 1 h.
    pub fn connect_timeout(mut self, longest: Duration) -> Result<Self, MqttConfigError> {
        within("connect_timeout", "milliseconds", longest.as_millis(), 1..=3_600_000)?;
        self.connect_timeout = longest;
        Ok(self)
    }

    /// How many publishes may be on the wire and not confirmed. Default: 100. Measured with
    /// mosquitto at QoS 1: 1 gives 15k messages/s, 10 32k, 100 44k, 500 55k. After a disconnection
    /// at most so many come twice. Each costs some 450 bytes. With QoS 2 keep it at 20 or less.
    ///
    /// Over MQTT 5 the broker may allow less: mosquitto 20, unless its `max_inflight_messages` says more. That
    /// is the limit on a long way, where the rate is the window divided by the round trip.
    ///
    /// # Errors
    /// If 0 or over 60,000.
    pub fn window(mut self, publishes: u16) -> Result<Self, MqttConfigError> {
        within("window", "messages", publishes, 1..=60_000)?;
        self.window = publishes;
        Ok(self)
    }

    /// How many messages may be accepted and not confirmed, on the wire or waiting. Default:
    /// 65,536. At 1,000 events/s that bridges a minute without the broker.
    ///
    /// # Errors
    /// If 0.
    pub fn queue_messages(mut self, messages: usize) -> Result<Self, MqttConfigError> {
        within("queue_messages", "messages", messages, 1..=usize::MAX)?;
        self.queue_messages = messages;
        Ok(self)
    }

    /// How many bytes of topics and payloads may be accepted and not confirmed. Default: 64 MiB,
    /// which is the memory that it costs at worst.
    ///
    /// # Errors
    /// If 0.
    pub fn queue_bytes(mut self, bytes: usize) -> Result<Self, MqttConfigError> {
        within("queue_bytes", "bytes", bytes, 1..=usize::MAX)?;
        self.queue_bytes = bytes;
        Ok(self)
    }

    /// What happens when the queue is full. Default: [`Overflow::Refuse`].
    #[must_use]
    pub fn overflow(mut self, policy: Overflow) -> Self {
        self.overflow = policy;
        self
    }

    /// How often a message is sent that the broker refuses for the moment (MQTT 5: its quota is used up, or
    /// it says no reason), the first time included. Default: 3, after 1 s and 2 s; nothing else is sent
    /// meanwhile, so that the order stays. What it refuses for good, such as for want of a right, is not
    /// sent again.
    ///
    /// # Errors
    /// If 0 or over 100.
    pub fn publish_attempts(mut self, times: u32) -> Result<Self, MqttConfigError> {
        within("publish_attempts", "times", times, 1..=100)?;
        self.publish_attempts = times;
        Ok(self)
    }

    /// How many attempts to connect may fail in a row. After the last one this connection is given up:
    /// what waits to be published ends as [`Closed`](crate::transport::PublishError::Closed), and only a new
    /// start connects again. Default: there is no last attempt, for a broker that is repaired after a night
    /// should find its clients.
    ///
    /// # Errors
    /// If 0.
    pub fn max_retries(mut self, times: u32) -> Result<Self, MqttConfigError> {
        within("max_retries", "times", times, 1..=u32::MAX)?;
        self.max_retries = Some(times);
        Ok(self)
    }

    /// Waits the same time between attempts to connect, without jitter: [`reconnect`](Self::reconnect)
    /// for whoever has one broker and one client.
    ///
    /// # Errors
    /// If under 1 ms or over a day.
    pub fn reconnect_period(self, period: Duration) -> Result<Self, MqttConfigError> {
        self.reconnect(Backoff { base: period, cap: period, jitter: Duration::ZERO })
    }

    /// Whether the subscribing session ends with its connection, so that what is published while this node
    /// is away is never sent to it. Default: no.
    #[must_use]
    pub fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    /// The same for a connection whose session is kept in any case, with at least this window.
    pub(super) fn keep_session(&mut self, window: u16) {
        self.clean = false;
        self.receive_maximum = self.receive_maximum.max(window);
    }

    /// Whether the node says on `{prefix}/_nodes/{service}.{node}` that it is there and which listeners it has (16 KiB of them at
    /// most), in a retained message that the broker replaces by its last will when it goes without a word. Default: yes.
    #[must_use]
    pub fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// How often a message to itself tries whether what is published really arrives, on
    /// `{prefix}/_canary/{service}.{node}`; `None` for never. Default: 60 s. It is there for nodes
    /// that hear others, and [`Emitter::health`](crate::Emitter::health) tells what it found.
    ///
    /// # Errors
    /// If under 100 ms or over a day.
    pub fn canary(mut self, every: Option<Duration>) -> Result<Self, MqttConfigError> {
        if let Some(every) = every {
            within("canary", "milliseconds", every.as_millis(), 100..=86_400_000)?;
        }
        self.canary = every;
        Ok(self)
    }

    /// How long to wait between attempts to connect, and to subscribe to what was refused.
    /// Default: 1 s, doubling up to 60 s, plus up to 1 s at random. There is no last attempt.
    ///
    /// # Errors
    /// If the base is under 1 ms, or the cap under the base or over a day, or the jitter over an
    /// hour.
    pub fn reconnect(mut self, backoff: Backoff) -> Result<Self, MqttConfigError> {
        const DAY: u128 = 86_400_000;
        let [base, cap, jitter] = [backoff.base, backoff.cap, backoff.jitter].map(|time| time.as_millis());
        within("reconnect", "milliseconds of base", base, 1..=DAY)?;
        within("reconnect", "milliseconds of cap", cap, base..=DAY)?;
        within("reconnect", "milliseconds of jitter", jitter, 0..=3_600_000)?;
        self.reconnect = backoff;
        Ok(self)
    }

    /// How long the broker keeps subscriptions and missed messages after a disconnection, in whole
    /// seconds. Default: 1 h. Longer ones cost the broker memory for nodes that never return.
    /// MQTT 3.1.1 cannot say it: there the broker's own settings count.
    ///
    /// # Errors
    /// If under 1 s or over 4,294,967,294 s.
    pub fn session_expiry(mut self, after: Duration) -> Result<Self, MqttConfigError> {
        within("session_expiry", "seconds", after.as_secs(), 1..=u64::from(u32::MAX - 1))?;
        self.session_expiry = after;
        Ok(self)
    }

    /// How many deliveries may be unacknowledged. Default: 100. With MQTT 5 the broker holds the
    /// others back; with MQTT 3.1.1 its own window counts, and this bounds only what waits here.
    /// It costs at worst so many times [`max_packet`](Self::max_packet) of memory.
    ///
    /// # Errors
    /// If 0.
    pub fn receive_maximum(mut self, deliveries: u16) -> Result<Self, MqttConfigError> {
        within("receive_maximum", "deliveries", deliveries, 1..=u16::MAX)?;
        self.receive_maximum = deliveries;
        Ok(self)
    }

    /// The largest packet in either direction, in bytes. Default: 1 MiB. It must be larger than
    /// the largest payload plus its topic. With MQTT 5 the broker is told and sends no larger one;
    /// with MQTT 3.1.1 a larger one ends the connection each time the broker sends it, so there it
    /// must be no smaller than the broker's own limit.
    ///
    /// # Errors
    /// If under 1,024 or over 268,435,455.
    pub fn max_packet(mut self, bytes: u32) -> Result<Self, MqttConfigError> {
        within("max_packet", "bytes", bytes, 1_024..=LARGEST_PACKET)?;
        self.max_packet = bytes;
        Ok(self)
    }

    /// Whom a connection by `mqtts://` trusts, and who this node says that it is. Default:
    /// [`Tls::system`]. With `mqtt://` it is of no effect.
    #[cfg(feature = "mqtt-tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Says whose presence is told, and where.
    pub(crate) fn set_presence(&mut self, presence: Presence) {
        self.presence = Some(presence);
    }

    /// Loads what the system trusts, where that is what counts.
    pub(crate) fn prepare(&mut self) -> Result<(), MqttConfigError> {
        #[cfg(feature = "mqtt-tls")]
        if self.scheme.is_encrypted() && self.tls.is_none() {
            self.tls = Some(Tls::system()?);
        }
        Ok(())
    }

    /// Whether what is sent can be read by everybody on the way.
    pub(super) fn is_exposed(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        let here = host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        !self.scheme.is_encrypted() && !here
    }

    /// Whether something can travel beside payloads.
    pub(crate) fn carries_properties(&self) -> bool {
        self.version == MqttVersion::V5
    }

    /// How many bytes of topic, payload and properties together fit into one packet, as far as this side goes.
    #[must_use]
    pub fn largest_message(&self) -> usize {
        self.max_packet as usize - PUBLISH_OVERHEAD
    }

    /// Which fit into the queue, too.
    pub(super) fn largest_accepted(&self) -> usize {
        self.largest_message().min(self.queue_bytes)
    }

    /// Where rumqttc connects to: the host, or all of a WebSocket's address but the credentials,
    /// which travel within MQTT.
    pub(super) fn target(&self) -> String {
        let (host, port, path) = (&self.host, self.port, self.path.expose());
        match self.scheme {
            Scheme::Mqtt => host.clone(),
            // As it is compared with the names in the certificate.
            Scheme::Mqtts => host.trim_matches(['[', ']']).to_owned(),
            Scheme::Ws => format!("ws://{host}:{port}{path}"),
            Scheme::Wss => format!("wss://{host}:{port}{path}"),
        }
    }

    pub(super) fn username(&self) -> Option<&str> {
        self.credentials.as_ref().map(|credentials| credentials.user.expose())
    }

    /// Empty without credentials.
    pub(super) fn password(&self) -> &str {
        self.credentials.as_ref().map_or("", |credentials| credentials.password.expose())
    }

    /// `host:port`, for logs.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl ClientId {
    /// Checks and takes a client id.
    ///
    /// # Errors
    /// [`MqttConfigError::Invalid`] if it is empty, longer than 257 bytes, or holds anything but
    /// `A-Z a-z 0-9 _ . -`.
    pub fn new(id: &str) -> Result<Self, MqttConfigError> {
        within("client_id", "bytes", id.len(), 1..=257)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        match id.chars().find(|c| !allowed(*c)) {
            None => Ok(Self(id.to_owned())),
            Some(wrong) => Err(invalid("client_id", format!("{wrong:?} is not among A-Z a-z 0-9 _ . -"))),
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Secret {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

fn within<N: Copy + PartialOrd + fmt::Display>(
    field: &'static str,
    unit: &str,
    value: N,
    allowed: std::ops::RangeInclusive<N>,
) -> Result<(), MqttConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (least, most) = allowed.into_inner();
    Err(invalid(field, format!("{unit}: {value} is outside of {least} to {most}")))
}

pub(super) fn invalid(field: &'static str, reason: String) -> MqttConfigError {
    MqttConfigError::Invalid { field, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected`: host, port, user, password.
    fn check(url: &str, expected: (&str, u16, Option<(&str, &str)>)) {
        let config = MqttConfig::new(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let credentials = config.credentials.as_ref().map(|c| (c.user.expose(), c.password.expose()));
        assert_eq!((config.host.as_str(), config.port, credentials), expected, "{url}");
    }

    fn check_error(url: &str, expected: &str) {
        let error = MqttConfig::new(url).expect_err(url).to_string();
        assert!(error.starts_with("mqtt url: ") && error.contains(expected), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{url}: {error}");
    }

    #[test]
    fn urls() {
        check("mqtt://localhost", ("localhost", 1883, None));
        check("tcp://10.0.0.1:1884/", ("10.0.0.1", 1884, None));
        check("mqtt://[::1]:1884", ("[::1]", 1884, None));
        check("mqtt://shop@broker", ("broker", 1883, Some(("shop", ""))));
        check("mqtt://a%40b:p%2Fw+%25@broker", ("broker", 1883, Some(("a@b", "p/w+%"))));
    }

    #[test]
    fn wrong_urls_name_what_is_allowed_and_show_no_password() {
        check_error("localhost:1883", "scheme must be mqtt, mqtts");
        check_error("hunter2", "write it as in mqtt://localhost:1883");
        check_error("hunter2:hunter2@host", "scheme must be mqtt, mqtts");
        check_error("mqtt://u:hunter2@", "");
        check_error("mqtt://", "no host");
        check_error("mqtt:///path", "path");
        check_error("mqtt://u:hunter2@host/path", "path or fragment is not allowed");
        check_error("mqtt://u:hunter2@host?hunter2=a", "unknown setting; known settings are client_id");
        check_error("mqtt://u:hunter2?x@host", "");
        check_error("mqtt://u:hunter2#@host", "");
        check_error("mqtt://:hunter2@host", "password without a user name");
        check_error("mqtt://u:hunter2%FF@host", "UTF-8");
        check_error(&format!("mqtt://u:{}@host", "hunter2".repeat(10_000)), "65535 bytes");
        check_error("mqtt://host:0", "1 to 65535");
        check_error("mqtt://u:hunter2@host:70000", "");
        if cfg!(feature = "mqtt-websocket") {
            check("ws://shop:s@broker:9001/mqtt?a=b", ("broker", 9001, Some(("shop", "s"))));
            check("ws://broker", ("broker", 80, None));
            check_error("ws://u:hunter2@host/mqtt#x", "fragment");
            let target = |url: &str| MqttConfig::new(url).expect("valid").target();
            assert_eq!(target("ws://shop:s@broker:9001/mqtt?a=b"), "ws://broker:9001/mqtt?a=b");
            let mixed = "ws://broker/mqtt?b=%2B%20x&window=7&a=1&a=2";
            assert_eq!(target(mixed), "ws://broker:80/mqtt?b=%2B%20x&a=1&a=2");
            assert_eq!(target("ws://broker/mqtt?window=7"), "ws://broker:80/mqtt");
            assert_eq!(MqttConfig::new(mixed).expect("valid").window, 7);
            check("ws://broker/mqtt?username=u&pass%77ord=p+w", ("broker", 80, Some(("u", "p+w"))));
            assert_eq!(target("ws://broker/mqtt?username=u&pass%77ord=pw"), "ws://broker:80/mqtt");
            check_error("ws://broker?window=5&window=7", "twice");
        } else {
            check_error("ws://u:hunter2@host", "needs the feature");
        }
        if cfg!(feature = "mqtt-tls") {
            check("mqtts://shop@broker", ("broker", 8883, Some(("shop", ""))));
            check("ssl://broker:8884", ("broker", 8884, None));
            assert_eq!(MqttConfig::new("mqtts://[::1]").expect("valid").target(), "::1");
        } else {
            check_error("mqtts://u:hunter2@host", "needs the feature");
        }
    }

    #[test]
    fn plain_text_to_another_host_is_exposed() {
        let exposed = |url: &str| MqttConfig::new(url).expect("valid").is_exposed();
        assert!(exposed("mqtt://broker") && exposed("mqtt://10.0.0.1") && exposed("mqtt://[2001:db8::1]"));
        assert!(
            !exposed("mqtt://localhost") && !exposed("mqtt://127.0.0.2") && !exposed("mqtt://[::1]:1884")
        );
    }

    #[test]
    fn settings_out_of_range_name_their_field() {
        let config = || MqttConfig::new("mqtt://localhost").expect("valid");
        let reconnect = |base, cap| {
            let jitter = Duration::ZERO;
            let [base, cap] = [base, cap].map(Duration::from_millis);
            config().reconnect(Backoff { base, cap, jitter })
        };
        for (field, outcome) in [
            ("keep_alive", config().keep_alive(Duration::from_secs(4))),
            ("connect_timeout", config().connect_timeout(Duration::ZERO)),
            ("window", config().window(0)),
            ("window", config().window(60_001)),
            ("queue_messages", config().queue_messages(0)),
            ("queue_bytes", config().queue_bytes(0)),
            ("receive_maximum", config().receive_maximum(0)),
            ("session_expiry", config().session_expiry(Duration::ZERO)),
            ("max_packet", config().max_packet(1_023)),
            ("max_packet", config().max_packet(LARGEST_PACKET + 1)),
            ("reconnect", reconnect(0, 1)),
            ("reconnect", reconnect(2, 1)),
            ("credentials", config().credentials("", "password")),
        ] {
            let error = outcome.expect_err(field).to_string();
            assert!(error.starts_with(&format!("mqtt {field}: ")), "{error}");
        }
        for id in ["", "a b", "ä", &"a".repeat(258)] {
            assert!(ClientId::new(id).is_err(), "{id}");
        }
        assert_eq!(ClientId::new("shop-1.a_b").expect("valid").as_str(), "shop-1.a_b");
    }

    #[test]
    fn the_password_is_not_printed() {
        let config = MqttConfig::new("mqtt://u:hunter2@host").expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
        if cfg!(feature = "mqtt-websocket") {
            let config = MqttConfig::new("ws://host/mqtt?token=hunter2").expect("valid");
            assert!(!format!("{config:?} {}", config.address()).contains("hunter2"));
        }
    }
}
