//! Looks for what is set up wrongly.

use std::fmt;
use std::time::Duration;

use clap::Args;
use emitter_diesel::EventId;
use emitter_diesel::outbox::Control;
use emitter_diesel::tables::VERSION;
use emitter_diesel::topic::{Topic, TopicFilter};
use emitter_diesel::transport::mqtt::{ClientId, MqttConfig, MqttTransport};
use emitter_diesel::transport::{Message, PublishError, Transport};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What is asked of the broker.
#[derive(Args)]
pub(crate) struct Doctor {
    /// The largest event that is to get through, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256 * 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    largest: u32,

    /// How long the broker may take for each answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
}

/// Something that was looked at.
#[derive(Serialize)]
struct Check {
    area: &'static str,
    check: &'static str,
    state: State,
    /// What was found, and the cure where one is needed.
    found: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Skipped,
    Warning,
    Error,
}

impl Report {
    fn tell(&mut self, area: &'static str, check: &'static str, state: State, found: impl Into<String>) {
        self.checks.push(Check { area, check, state, found: found.into() });
    }

    fn verdict(&self) -> Verdict {
        match self.checks.iter().map(|check| check.state).max() {
            Some(State::Error) => Verdict::NotDone,
            Some(State::Warning) => Verdict::Look,
            _ => Verdict::Well,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { area, check, state, found } in &self.checks {
            let mark = match state {
                State::Ok => "ok     ",
                State::Skipped => "skipped",
                State::Warning => "WARNING",
                State::Error => "ERROR  ",
            };
            writeln!(f, "{mark}  {area}: {check}: {}", Plain(found))?;
        }
        Ok(())
    }
}

impl Doctor {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let mut report = Report { checks: Vec::new() };
        let (has_database, has_broker) = place.said();
        if !has_database && !has_broker {
            return Err(Failure::said("of what? Give `--database URL`, `--mqtt URL`, or a profile"));
        }
        if has_database {
            database(place, &mut report)?;
        } else {
            report.tell(
                "database",
                "connection",
                State::Skipped,
                "give `--database URL` to have it looked at",
            );
        }
        if has_broker {
            self.broker(place, &mut report)?;
        } else {
            report.tell("broker", "connection", State::Skipped, "give `--mqtt URL` to have it looked at");
        }
        // Errors of libraries are among it.
        report.checks.iter_mut().for_each(|check| check.found = place.hide(&check.found));
        out.print(&report)?;
        Ok(report.verdict())
    }
}

fn database(place: &Place, report: &mut Report) -> Result<(), Failure> {
    const AREA: &str = "database";
    let tables = place.tables()?;
    let version = match tables.version() {
        Ok(version) => version,
        Err(error) => {
            let found =
                format!("{error}; does it run, and are address, user, password and its access rules right?");
            report.tell(AREA, "connection", State::Error, found);
            return Ok(());
        }
    };
    report.tell(AREA, "connection", State::Ok, "it answers");
    let (state, found) = match version {
        0 => (
            State::Error,
            "they are not there: `emitter migrate`, or `Tables::migrate` in the program; or is \
                             `--schema` or `--table-prefix` missing?"
                .to_owned(),
        ),
        VERSION => (State::Ok, format!("they are of version {version}")),
        older if older < VERSION => (State::Error, format!("they are of version {older}: `emitter migrate`")),
        newer => (
            State::Error,
            format!("they are of version {newer}, this program works with {VERSION}: use a newer one"),
        ),
    };
    report.tell(AREA, "tables", state, found);
    if state == State::Error {
        return Ok(());
    }
    let mut outbox = Control::open(&tables)?;
    let doubts = outbox.doubts()?;
    if doubts.is_empty() {
        report.tell(
            AREA,
            "settings and clock",
            State::Ok,
            "it keeps what it has committed, and has this machine's time",
        );
    }
    for doubt in doubts {
        report.tell(AREA, "settings and clock", State::Warning, doubt);
    }
    let findings = super::outbox::findings_now(&mut outbox)?;
    if findings.is_empty() {
        report.tell("outbox", "state", State::Ok, "nothing stands still");
    }
    for finding in findings {
        report.tell("outbox", "state", State::Warning, finding);
    }
    Ok(())
}

/// A broker, and what it does with a message to oneself.
const BROKER: &str = "broker";

impl Doctor {
    fn broker(&self, place: &Place, report: &mut Report) -> Result<(), Failure> {
        let config = place.mqtt()?;
        let topic =
            format!("{}/_canary/emitter-cli.{}", place.prefix().unwrap_or("prisma/events"), EventId::now());
        let topic = Topic::parse(&topic).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(self.ask(config, &topic, report))
    }

    async fn ask(&self, config: MqttConfig, topic: &Topic, report: &mut Report) -> Result<(), Failure> {
        let name = format!("emitter-doctor-{}", EventId::now());
        let name = ClientId::new(&name).map_err(|error| error.to_string())?;
        let asked = config.clone();
        let broker = MqttTransport::start(config, name);
        broker.subscribe(TopicFilter::of(topic));
        if self.connects(&broker, report).await {
            self.lets_through(&broker, topic, "a message to oneself", 2, report).await;
            if !report.checks.iter().any(is_of_broker) {
                self.lets_through(
                    &broker,
                    topic,
                    "a large message to oneself",
                    self.largest as usize,
                    report,
                )
                .await;
            }
            if !report.checks.iter().any(is_of_broker) {
                self.keeps(&broker, topic, report).await;
            }
        }
        // What is on its way is of no worth.
        let _ = broker.close(Duration::from_millis(500)).await;
        if !report.checks.iter().any(is_of_broker) {
            self.version(asked, report).await?;
        }
        Ok(())
    }

    /// What the broker says of itself: MQTT has no word for it, but most keep one on a topic of theirs. As a client of its own, for some
    /// end the connection of who asks.
    async fn version(&self, config: MqttConfig, report: &mut Report) -> Result<(), Failure> {
        let name = format!("emitter-doctor-{}", EventId::now());
        let name = ClientId::new(&name).map_err(|error| error.to_string())?;
        let broker = MqttTransport::start(config, name);
        broker.subscribe(TopicFilter::broker_version());
        let told = timeout(self.patience.min(VERSION_PATIENCE), broker.next()).await;
        let told = told.ok().flatten().map(|delivery| {
            let told = String::from_utf8_lossy(&delivery.payload).chars().take(100).collect::<String>();
            delivery.ack.done();
            told
        });
        let _ = broker.close(Duration::from_millis(100)).await;
        match told {
            None => report.tell(
                BROKER,
                "version",
                State::Skipped,
                "the broker does not tell it on $SYS/broker/version",
            ),
            Some(told) if overruns(&told) => {
                let found = format!(
                    "{told}: before 2.0.13 it does not keep to the window of unacknowledged deliveries while messages wait for a client, and a node \
                     that comes back again and again is sent more duplicates each time (docs/PROOF.md): use a newer one"
                );
                report.tell(BROKER, "version", State::Warning, found);
            }
            Some(told) => report.tell(BROKER, "version", State::Ok, told),
        }
        Ok(())
    }

    /// Both of the connections, and the subscription.
    async fn connects(&self, broker: &MqttTransport, report: &mut Report) -> bool {
        let begun = Instant::now();
        loop {
            let status = broker.status();
            let (publisher, subscriber) = (&status.publisher, &status.subscriber);
            if let Some((filter, reason)) = status.refused_subscriptions.first() {
                let found = format!(
                    "the broker refuses {filter}: {reason}; allow it in its access list (docs/mosquitto.acl)"
                );
                report.tell(BROKER, "connection", State::Ok, "it answers");
                report.tell(BROKER, "subscription", State::Error, found);
                return false;
            }
            if publisher.connected && subscriber.connected && status.subscriptions > 0 {
                report.tell(BROKER, "connection", State::Ok, format!("it answers, after {}", since(begun)));
                report.tell(BROKER, "subscription", State::Ok, "it is confirmed");
                if let Some(window) = status.window {
                    let (state, found) = breadth(window.size);
                    report.tell(BROKER, "window", state, found);
                }
                return true;
            }
            let failed = publisher.last_error.as_ref().or(subscriber.last_error.as_ref());
            if begun.elapsed() > self.patience || failed.is_some() {
                let why = failed.map_or("it does not answer in time", String::as_str);
                let found = format!(
                    "{why}; does it run, and are address, user and password right? Does it take more connections (mosquitto: \
                     `max_connections`)?"
                );
                report.tell(BROKER, "connection", State::Error, found);
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn lets_through(
        &self,
        broker: &MqttTransport,
        topic: &Topic,
        check: &'static str,
        bytes: usize,
        report: &mut Report,
    ) {
        let begun = Instant::now();
        let payload = vec![b' '; bytes];
        let published = async {
            let confirmation = broker.publish(Message::new(topic.clone(), payload))?;
            match timeout(self.patience, confirmation).await {
                Ok(outcome) => outcome.map(|_| true),
                Err(_) => Ok(false),
            }
        };
        let (state, found) = match published.await {
            Err(PublishError::TooLarge { size, limit }) => (
                State::Warning,
                format!(
                    "{size} bytes are too many, the limit is {limit}: raise the broker's (mosquitto: `max_packet_size`), or `max_packet` \
                     of the node; larger events become dead letters"
                ),
            ),
            Err(error) => (State::Error, format!("{error}; allow it in the broker's access list (docs/mosquitto.acl)")),
            Ok(false) => (State::Error, "the broker does not confirm it: does it work, take messages of QoS 1 (mosquitto: `max_qos`), or end the connection for the \
                 message's size (mosquitto: `message_size_limit`)?"
                    .to_owned()),
            Ok(true) => match timeout(self.patience, comes(broker, bytes)).await {
                Ok(true) => (State::Ok, format!("{bytes} bytes came back after {}", since(begun))),
                _ => (
                    State::Error,
                    "it was confirmed and did not come back: the broker's access list forbids it (over MQTT 3.1.1 nothing else tells), \
                     or its queues are full"
                        .to_owned(),
                ),
            },
        };
        report.tell(BROKER, check, state, found);
    }
}

impl Doctor {
    /// Whether it takes messages that it is to keep for who comes later: an empty one, of which it keeps nothing.
    async fn keeps(&self, broker: &MqttTransport, topic: &Topic, report: &mut Report) {
        let message = Message { retain: true, ..Message::new(topic.clone(), Vec::<u8>::new()) };
        let is_taken = match broker.publish(message) {
            Ok(confirmation) => matches!(timeout(self.patience, confirmation).await, Ok(Ok(_))),
            Err(_) => false,
        };
        let (state, found) = if is_taken {
            (State::Ok, "it is confirmed")
        } else {
            let found = "the broker does not take it, so that nodes cannot say that they are there (`emitter listeners`): allow it \
                         (mosquitto: `retain_available`), or switch the nodes' `announce` off";
            (State::Warning, found)
        };
        report.tell(BROKER, "a retained message", state, found);
    }
}

/// Of fewer messages on their way a node can send no more in a round trip than a handful.
const NARROW: usize = 10;

/// What is to be said of so many messages that may be on their way.
fn breadth(window: usize) -> (State, String) {
    let messages = if window == 1 { "message" } else { "messages" };
    let found = format!("{window} {messages} at a time may be on their way to the broker");
    if window >= NARROW {
        return (State::Ok, found);
    }
    let cure = "raise the broker's limit (mosquitto: `max_inflight_messages`), or `window` of the address";
    (State::Warning, format!("{found}, and in each round trip no more: {cure}"))
}

/// How long a broker may take to tell its version: it is there at once, or never.
const VERSION_PATIENCE: Duration = Duration::from_secs(2);

/// Whether this broker, as it calls itself, does not keep to the window of unacknowledged deliveries.
fn overruns(told: &str) -> bool {
    let Some(version) = told.trim().strip_prefix("mosquitto version ") else { return false };
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => (major, minor, patch) < (2, 0, 13),
        _ => false,
    }
}

fn is_of_broker(check: &Check) -> bool {
    check.area == BROKER && check.state == State::Error
}

/// Takes messages until one of this size comes.
async fn comes(broker: &MqttTransport, bytes: usize) -> bool {
    while let Some(delivery) = broker.next().await {
        let is_it = delivery.payload.len() == bytes;
        delivery.ack.done();
        if is_it {
            return true;
        }
    }
    false
}

fn since(begun: Instant) -> String {
    report::age(report::millis(begun.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_overruns_is_known_by_its_version() {
        for (told, is_old) in [
            ("mosquitto version 2.0.11", true),
            ("mosquitto version 1.6.12", true),
            ("mosquitto version 2.0.13", false),
            ("mosquitto version 2.1.0", false),
            ("mosquitto version 2.0.18-rc1", false),
            ("RabbitMQ 3.10.8", false),
            ("", false),
        ] {
            assert_eq!(overruns(told), is_old, "{told}");
        }
    }
}
