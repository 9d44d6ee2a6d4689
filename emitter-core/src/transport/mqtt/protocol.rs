//! What rumqttc's two clients, for MQTT 5 and for MQTT 3.1.1, do differently.
//!
//! Here a connection is made, told what to send, and turned into [`Signal`]s; nothing is decided.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::{NetworkOptions, Outgoing, v5};
use tokio::time::Instant;

use super::address::Scheme;
use super::config::{MqttConfig, MqttVersion, Presence};
use super::subscriptions::Request;
use crate::transport::{Confirmed, Message, Properties, QoS};

/// One connection to the broker, from its first packet to its last.
///
/// It is never used again: rumqttc carries packets over to the next connection in ways that lose
/// some (rumqtt issues 349, 1014, 1056), so each connection begins with an empty client and what
/// is still to be sent is kept by us.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) events: Events,
}

/// What differs between the publishing and the subscribing connection.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) client_id: String,
    /// Whether the broker keeps subscriptions and unacknowledged messages for the next connection.
    pub(super) persistent: bool,
    /// How many packet ids rumqttc uses before it begins again.
    pub(super) packet_ids: u16,
    /// How many requests rumqttc must be able to hold, so that handing one over never fails.
    pub(super) requests: usize,
    /// Whether the broker tells others when it goes without a word.
    pub(super) will: bool,
}

/// The sending half.
#[derive(Clone)]
pub(super) enum Client {
    V5(v5::AsyncClient),
    V311(rumqttc::AsyncClient),
}

/// The half that does the I/O. Boxed, for rumqttc's are large.
pub(super) enum Events {
    V5(Box<v5::EventLoop>),
    V311(Box<rumqttc::EventLoop>),
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Signal {
    Connected(Welcome),
    /// A PUBLISH was written; id 0 means QoS 0.
    Written(u16),
    /// A PUBLISH is held back until its id is free.
    Collided(u16),
    /// PUBACK: the answer to QoS 1.
    Acknowledged(u16, Verdict),
    /// PUBREC: the first answer to QoS 2.
    Received(u16, Verdict),
    /// PUBCOMP: the last answer to QoS 2.
    Completed(u16, Verdict),
    /// SUBACK, one answer a filter.
    Subscribed(Vec<Result<(), String>>),
    Unsubscribed,
    Delivered(Incoming),
    /// Our DISCONNECT was written.
    Disconnected,
}

const NOT_AUTHORIZED: &str = "user name or password are wrong, or the broker does not allow this client id, or its last will \
                              below `_nodes` (allow that, or switch `announce` off)";

/// What the broker said to one publish: its reason, when it refused.
pub(super) type Verdict = Result<Confirmed, String>;

const CONFIRMED: Verdict = Ok(Confirmed { had_subscribers: true });

/// What the broker said when it accepted the connection.
#[derive(Debug, Default)]
pub(super) struct Welcome {
    pub(super) session_present: bool,
    /// The largest packet that it takes (MQTT 5).
    pub(super) max_packet: Option<usize>,
    /// Its window for our publishes (MQTT 5).
    pub(super) receive_maximum: Option<u16>,
    /// The keep-alive that it wants instead of ours (MQTT 5).
    pub(super) keep_alive: Option<Duration>,
}

/// A PUBLISH from the broker.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) properties: Properties,
    /// It was kept for who subscribes, and is sent because somebody did.
    pub(super) retained: bool,
    /// `None` for QoS 0, which is not acknowledged.
    pub(super) receipt: Option<Receipt>,
}

/// What an acknowledgement must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receipt {
    id: u16,
    exactly_once: bool,
}

/// rumqttc's queue took no request: the connection is gone, or the queue's bound was reckoned
/// wrongly. The request is still the caller's.
#[derive(Debug)]
pub(super) struct NotTaken;

impl Connection {
    /// Nothing is sent before the first [`Events::poll`].
    pub(super) fn new(config: &MqttConfig, role: &Role) -> Self {
        match config.version {
            MqttVersion::V5 => {
                let (client, events) = v5::AsyncClient::new(v5_options(config, role), role.requests);
                Self { client: Client::V5(client), events: Events::V5(Box::new(events)) }
            }
            MqttVersion::V311 => {
                let options = v311_options(config, role);
                let (client, mut events) = rumqttc::AsyncClient::new(options, role.requests);
                events.set_network_options(network_options(config));
                Self { client: Client::V311(client), events: Events::V311(Box::new(events)) }
            }
        }
    }
}

fn network_options(config: &MqttConfig) -> NetworkOptions {
    // Not `default()`: its connect time-out is 0.
    let mut options = NetworkOptions::new();
    // With Nagle's algorithm the 99th percentile of QoS 0 is 23-28 ms instead of under 1 ms.
    options.set_tcp_nodelay(true);
    options.set_connection_timeout(whole_seconds(config.connect_timeout));
    options
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn v5_options(config: &MqttConfig, role: &Role) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(&role.client_id, config.target(), config.port);
    options
        .set_network_options(network_options(config))
        .set_connection_timeout(whole_seconds(config.connect_timeout))
        .set_keep_alive(config.keep_alive)
        .set_clean_start(!role.persistent)
        .set_manual_acks(true)
        .set_max_packet_size(Some(config.max_packet))
        .set_outgoing_inflight_upper_limit(role.packet_ids);
    if role.persistent {
        let expiry = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
        options.set_session_expiry_interval(Some(expiry)).set_receive_maximum(Some(config.receive_maximum));
    }
    if let Some(credentials) = &config.credentials {
        options.set_credentials(credentials.user.expose(), credentials.password.expose());
    }
    if let Some(presence) = last_will(config, role) {
        let (topic, offline) = (presence.topic.as_str(), presence.offline.clone());
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        options.set_last_will(v5::mqttbytes::v5::LastWill::new(topic, offline, qos, true, None));
    }
    options.set_transport(transport(config));
    options
}

fn last_will<'c>(config: &'c MqttConfig, role: &Role) -> Option<&'c Presence> {
    config.presence.as_ref().filter(|_| role.will && config.announce)
}

/// What carries the packets. A scheme whose feature is absent has been refused by [`MqttConfig::new`].
fn transport(config: &MqttConfig) -> rumqttc::Transport {
    match config.scheme {
        Scheme::Mqtt => rumqttc::Transport::Tcp,
        #[cfg(feature = "mqtt-tls")]
        Scheme::Mqtts => rumqttc::Transport::Tls(encryption(config)),
        #[cfg(feature = "mqtt-websocket")]
        Scheme::Ws => rumqttc::Transport::Ws,
        #[cfg(all(feature = "mqtt-tls", feature = "mqtt-websocket"))]
        Scheme::Wss => rumqttc::Transport::Wss(encryption(config)),
        #[cfg(not(all(feature = "mqtt-tls", feature = "mqtt-websocket")))]
        other => unreachable!("{other:?} is not in this build"),
    }
}

/// Without anybody to trust, which [`MqttConfig::prepare`] has refused, no broker is trusted.
#[cfg(feature = "mqtt-tls")]
fn encryption(config: &MqttConfig) -> rumqttc::TlsConfiguration {
    let trusted = config.tls.as_ref().and_then(|tls| tls.client().ok());
    rumqttc::TlsConfiguration::Rustls(trusted.unwrap_or_else(super::tls::nobody))
}

fn v311_options(config: &MqttConfig, role: &Role) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(&role.client_id, config.target(), config.port);
    let max_packet = config.max_packet as usize;
    options
        .set_keep_alive(config.keep_alive)
        .set_clean_session(!role.persistent)
        .set_manual_acks(true)
        .set_max_packet_size(max_packet, max_packet)
        .set_inflight(role.packet_ids);
    if let Some(credentials) = &config.credentials {
        options.set_credentials(credentials.user.expose(), credentials.password.expose());
    }
    if let Some(presence) = last_will(config, role) {
        let (topic, offline) = (presence.topic.as_str(), presence.offline.clone());
        options.set_last_will(rumqttc::LastWill::new(topic, offline, rumqttc::QoS::AtLeastOnce, true));
    }
    options.set_transport(transport(config));
    options
}

impl Client {
    pub(super) fn publish(&self, message: &Message) -> Result<(), NotTaken> {
        let topic = message.topic.as_str();
        let payload = message.payload.clone();
        match self {
            Self::V5(client) => {
                let (qos, retain) = (v5_qos(message.qos), message.retain);
                let sent = match v5_properties(message) {
                    None => client.try_publish(topic, qos, retain, payload),
                    Some(properties) => {
                        client.try_publish_with_properties(topic, qos, retain, payload, properties)
                    }
                };
                sent.map_err(|_| NotTaken)
            }
            Self::V311(client) => client
                .try_publish(topic, v311_qos(message.qos), message.retain, payload)
                .map_err(|_| NotTaken),
        }
    }

    pub(super) fn request(&self, request: &Request) -> Result<(), NotTaken> {
        match (self, request) {
            (Self::V5(client), Request::Subscribe(filters)) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                let filters = filters.iter().map(|f| v5::mqttbytes::v5::Filter::new(f, qos));
                client.try_subscribe_many(filters).map_err(|_| NotTaken)
            }
            (Self::V311(client), Request::Subscribe(filters)) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                let filters = filters.iter().map(|f| rumqttc::SubscribeFilter::new(f.clone(), qos));
                client.try_subscribe_many(filters).map_err(|_| NotTaken)
            }
            (Self::V5(client), Request::Unsubscribe(filter)) => {
                client.try_unsubscribe(filter).map_err(|_| NotTaken)
            }
            (Self::V311(client), Request::Unsubscribe(filter)) => {
                client.try_unsubscribe(filter).map_err(|_| NotTaken)
            }
        }
    }

    pub(super) fn acknowledge(&self, receipt: Receipt) -> Result<(), NotTaken> {
        match self {
            Self::V5(client) => client.try_ack(&receipt.v5()).map_err(|_| NotTaken),
            Self::V311(client) => client.try_ack(&receipt.v311()).map_err(|_| NotTaken),
        }
    }

    pub(super) fn disconnect(&self) -> Result<(), NotTaken> {
        match self {
            Self::V5(client) => client.try_disconnect().map_err(|_| NotTaken),
            Self::V311(client) => client.try_disconnect().map_err(|_| NotTaken),
        }
    }
}

impl Receipt {
    /// A packet with nothing in it but what rumqttc reads to write the acknowledgement.
    fn v5(self) -> v5::mqttbytes::v5::Publish {
        let qos = v5_qos(self.qos());
        v5::mqttbytes::v5::Publish { pkid: self.id, qos, ..Default::default() }
    }

    fn v311(self) -> rumqttc::Publish {
        let mut publish = rumqttc::Publish::from_bytes("", v311_qos(self.qos()), Bytes::new());
        publish.pkid = self.id;
        publish
    }

    fn qos(self) -> QoS {
        if self.exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
    }
}

/// What travels beside a message; `None` where nothing does.
fn v5_properties(message: &Message) -> Option<PublishProperties> {
    if message.expires.is_none() && message.properties.is_empty() {
        return None;
    }
    let message_expiry_interval = message.expires.map(|expires| {
        let left = whole_seconds(expires.saturating_duration_since(Instant::now()));
        u32::try_from(left).unwrap_or(u32::MAX)
    });
    let Properties { content_type, user } = &message.properties;
    Some(PublishProperties {
        message_expiry_interval,
        content_type: content_type.as_deref().map(str::to_owned),
        user_properties: user.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        ..PublishProperties::default()
    })
}

fn v5_qos(qos: QoS) -> v5::mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
    }
}

fn v311_qos(qos: QoS) -> rumqttc::QoS {
    match qos {
        QoS::AtMostOnce => rumqttc::QoS::AtMostOnce,
        QoS::AtLeastOnce => rumqttc::QoS::AtLeastOnce,
        QoS::ExactlyOnce => rumqttc::QoS::ExactlyOnce,
    }
}

impl Events {
    /// Waits until something happened, and returns all of it that is known by then; perhaps
    /// nothing that concerns us. Not cancel-safe: after a cancellation only
    /// [`leftovers`](Self::leftovers) may be called.
    ///
    /// # Errors
    /// The connection is gone, with the reason in words.
    pub(super) async fn poll(&mut self) -> Result<Vec<Signal>, String> {
        match self {
            Self::V5(events) => {
                let first = events.poll().await.map_err(|error| v5_error(&error))?;
                let batch = std::iter::once(first).chain(events.state.events.drain(..));
                Ok(batch.filter_map(v5_signal).collect())
            }
            Self::V311(events) => {
                let first = events.poll().await.map_err(|error| v311_error(&error))?;
                let batch = std::iter::once(first).chain(events.state.events.drain(..));
                Ok(batch.filter_map(v311_signal).collect())
            }
        }
    }

    /// What the dead connection had received before it died and not told yet: a confirmation
    /// among it is a real one. What it says of QoS 0 is left out, for that was not written.
    pub(super) fn leftovers(&mut self) -> Vec<Signal> {
        let all: Vec<Signal> = match self {
            Self::V5(events) => events.state.events.drain(..).filter_map(v5_signal).collect(),
            Self::V311(events) => events.state.events.drain(..).filter_map(v311_signal).collect(),
        };
        all.into_iter().filter(|signal| !matches!(signal, Signal::Written(0))).collect()
    }

    /// A broker may switch keep-alive off, which rumqttc takes for "ping without a pause": then
    /// ours stays.
    pub(super) fn keep_pinging(&mut self, every: Duration) {
        if let Self::V5(events) = self {
            events.options.set_keep_alive(every);
        }
    }
}

fn v5_signal(event: v5::Event) -> Option<Signal> {
    use v5::mqttbytes::v5::Packet;
    match event {
        v5::Event::Outgoing(outgoing) => outgoing_signal(&outgoing),
        v5::Event::Incoming(packet) => match packet {
            Packet::ConnAck(connack) => Some(Signal::Connected(v5_welcome(connack))),
            Packet::Publish(publish) => Some(Signal::Delivered(v5_incoming(publish))),
            Packet::PubAck(ack) => Some(Signal::Acknowledged(ack.pkid, v5_puback(ack.reason))),
            Packet::PubRec(rec) => Some(Signal::Received(rec.pkid, v5_pubrec(rec.reason))),
            Packet::PubComp(comp) => Some(Signal::Completed(comp.pkid, v5_pubcomp(comp.reason))),
            Packet::SubAck(ack) => {
                Some(Signal::Subscribed(ack.return_codes.into_iter().map(v5_suback).collect()))
            }
            Packet::UnsubAck(_) => Some(Signal::Unsubscribed),
            _ => None,
        },
    }
}

fn v5_welcome(connack: v5::mqttbytes::v5::ConnAck) -> Welcome {
    let session_present = connack.session_present;
    let Some(properties) = connack.properties else {
        return Welcome { session_present, ..Welcome::default() };
    };
    Welcome {
        session_present,
        max_packet: properties.max_packet_size.and_then(|size| usize::try_from(size).ok()),
        receive_maximum: properties.receive_max,
        keep_alive: properties.server_keep_alive.map(|s| Duration::from_secs(s.into())),
    }
}

fn v5_incoming(publish: v5::mqttbytes::v5::Publish) -> Incoming {
    let exactly_once = publish.qos == v5::mqttbytes::QoS::ExactlyOnce;
    Incoming {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload,
        properties: publish.properties.map(properties_of).unwrap_or_default(),
        retained: publish.retain,
        receipt: (publish.qos != v5::mqttbytes::QoS::AtMostOnce)
            .then_some(Receipt { id: publish.pkid, exactly_once }),
    }
}

fn properties_of(properties: PublishProperties) -> Properties {
    let user = properties.user_properties.into_iter().take(Properties::MOST);
    Properties {
        content_type: properties.content_type.map(Into::into),
        user: user.map(|(name, value)| (name.into(), value)).collect(),
    }
}

fn v5_puback(reason: v5::mqttbytes::v5::PubAckReason) -> Verdict {
    use v5::mqttbytes::v5::PubAckReason as Reason;
    match reason {
        Reason::Success => CONFIRMED,
        Reason::NoMatchingSubscribers => Ok(Confirmed { had_subscribers: false }),
        refused => Err(format!("{refused:?}")),
    }
}

fn v5_pubrec(reason: v5::mqttbytes::v5::PubRecReason) -> Verdict {
    use v5::mqttbytes::v5::PubRecReason as Reason;
    match reason {
        Reason::Success => CONFIRMED,
        Reason::NoMatchingSubscribers => Ok(Confirmed { had_subscribers: false }),
        refused => Err(format!("{refused:?}")),
    }
}

fn v5_pubcomp(reason: v5::mqttbytes::v5::PubCompReason) -> Verdict {
    match reason {
        v5::mqttbytes::v5::PubCompReason::Success => CONFIRMED,
        refused => Err(format!("{refused:?}")),
    }
}

fn v5_suback(code: v5::mqttbytes::v5::SubscribeReasonCode) -> Result<(), String> {
    match code {
        v5::mqttbytes::v5::SubscribeReasonCode::Success(_) => Ok(()),
        refused => Err(format!("{refused:?}")),
    }
}

fn v311_signal(event: rumqttc::Event) -> Option<Signal> {
    use rumqttc::Packet;
    match event {
        rumqttc::Event::Outgoing(outgoing) => outgoing_signal(&outgoing),
        rumqttc::Event::Incoming(packet) => match packet {
            Packet::ConnAck(connack) => Some(Signal::Connected(Welcome {
                session_present: connack.session_present,
                ..Welcome::default()
            })),
            Packet::Publish(publish) => Some(Signal::Delivered(v311_incoming(publish))),
            Packet::PubAck(ack) => Some(Signal::Acknowledged(ack.pkid, CONFIRMED)),
            Packet::PubRec(rec) => Some(Signal::Received(rec.pkid, CONFIRMED)),
            Packet::PubComp(comp) => Some(Signal::Completed(comp.pkid, CONFIRMED)),
            Packet::SubAck(ack) => {
                Some(Signal::Subscribed(ack.return_codes.into_iter().map(v311_suback).collect()))
            }
            Packet::UnsubAck(_) => Some(Signal::Unsubscribed),
            _ => None,
        },
    }
}

fn v311_incoming(publish: rumqttc::Publish) -> Incoming {
    let exactly_once = publish.qos == rumqttc::QoS::ExactlyOnce;
    Incoming {
        topic: publish.topic,
        payload: publish.payload,
        properties: Properties::default(),
        retained: publish.retain,
        receipt: (publish.qos != rumqttc::QoS::AtMostOnce)
            .then_some(Receipt { id: publish.pkid, exactly_once }),
    }
}

fn v311_suback(code: rumqttc::SubscribeReasonCode) -> Result<(), String> {
    match code {
        rumqttc::SubscribeReasonCode::Success(_) => Ok(()),
        rumqttc::SubscribeReasonCode::Failure => Err("refused".to_owned()),
    }
}

fn outgoing_signal(outgoing: &Outgoing) -> Option<Signal> {
    match outgoing {
        Outgoing::Publish(id) => Some(Signal::Written(*id)),
        Outgoing::AwaitAck(id) => Some(Signal::Collided(*id)),
        Outgoing::Disconnect => Some(Signal::Disconnected),
        _ => None,
    }
}

/// In words, without the packet that rumqttc would print: it may hold users' data.
fn v5_error(error: &v5::ConnectionError) -> String {
    match error {
        v5::ConnectionError::NotConnAck(_) => NOT_MQTT.to_owned(),
        other => advised(other),
    }
}

fn v311_error(error: &rumqttc::ConnectionError) -> String {
    match error {
        rumqttc::ConnectionError::NotConnAck(_) => NOT_MQTT.to_owned(),
        other => advised(other),
    }
}

fn advised(error: &dyn std::error::Error) -> String {
    let error = error.to_string();
    // Of MQTT 5, and of 3.1.1.
    if ["NotAuthorized", "BadUserNamePassword"].iter().any(|reason| error.contains(reason)) {
        return format!("{error}; {NOT_AUTHORIZED}");
    }
    #[cfg(feature = "mqtt-tls")]
    if let Some(advice) = super::tls::advice(&error) {
        return format!("{error}; {advice}");
    }
    error
}

const NOT_MQTT: &str = "the first packet from the other side was no CONNACK";
