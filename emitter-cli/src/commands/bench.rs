//! What a broker does with as many messages as it takes.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use clap::Args;
use emitter_diesel::EventId;
use emitter_diesel::emit::QoS;
use emitter_diesel::topic::{Topic, TopicFilter};
use emitter_diesel::transport::mqtt::{ClientId, MqttTransport};
use emitter_diesel::transport::{Confirmation, Delivery, Message, PublishError, Transport};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::Place;
use crate::report::{self, Failure, Out, Verdict};

/// How many messages, and which.
#[derive(Args)]
pub(crate) struct Bench {
    /// How many messages
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    messages: u32,

    /// How many bytes each has
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(12..=1_000_000))]
    bytes: u32,

    /// How many a second [default: as many as the broker takes; then each has waited for others, too]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// 0 or 1: whether the broker confirms each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,

    /// How long nothing may come before it is over
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

#[derive(Serialize)]
struct Report {
    messages: u32,
    bytes: u32,
    qos: u8,
    /// Until the last one was handed over, and confirmed where that is asked for.
    published_per_second: f64,
    /// Until the last one came.
    received_per_second: f64,
    received: u32,
    lost: u32,
    /// From handing a message over to its coming.
    latency_us: Option<Latency>,
    findings: Vec<String>,
}

/// In microseconds.
#[derive(Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

impl Latency {
    fn of(mut all: Vec<u64>) -> Option<Self> {
        all.sort_unstable();
        let last = all.len().checked_sub(1)?;
        let at = |percent: usize| all[(all.len() * percent / 100).min(last)];
        Some(Self { p50: at(50), p90: at(90), p99: at(99), max: all[last] })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes, qos, published_per_second, received_per_second, received, .. } = self;
        writeln!(f, "messages   {messages} of {bytes} bytes, QoS {qos}")?;
        writeln!(f, "published  {published_per_second:.0} a second")?;
        writeln!(f, "received   {received}, {received_per_second:.0} a second")?;
        if let Some(Latency { p50, p90, p99, max }) = &self.latency_us {
            writeln!(f, "latency    p50 {p50} us, p90 {p90} us, p99 {p99} us, max {max} us")?;
        }
        report::list(f, &self.findings)
    }
}

/// A message begins with its number and its moment.
const HEAD: usize = 12;

impl Bench {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let config = place.mqtt()?;
        let topic =
            format!("{}/_canary/emitter-cli.{}", place.prefix().unwrap_or("prisma/events"), EventId::now());
        let topic = Topic::parse(&topic).map_err(|error| error.to_string())?;
        let name =
            ClientId::new(&format!("emitter-bench-{}", EventId::now())).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let report = runtime.block_on(async {
            let broker = MqttTransport::start(config, name);
            broker.subscribe(TopicFilter::of(&topic));
            let report = match self.connected(&broker).await {
                Ok(()) => self.measured(&broker, &topic).await,
                Err(failure) => Err(failure),
            };
            // What is on its way is of no worth.
            let _ = broker.close(Duration::from_millis(500)).await;
            report
        })?;
        out.print(&report)?;
        Ok(Verdict::of(&report.findings))
    }

    async fn connected(&self, broker: &MqttTransport) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let status = broker.status();
            if let Some((filter, reason)) = status.refused_subscriptions.first() {
                return Err(Failure::said(format!(
                    "the broker refuses {filter}: {reason}; `emitter doctor` says more"
                )));
            }
            if status.publisher.connected && status.subscriptions > 0 {
                return Ok(());
            }
            let failed = status.publisher.last_error.or(status.subscriber.last_error);
            if failed.is_some() || begun.elapsed() > self.patience {
                let why = failed.unwrap_or_else(|| "it does not answer in time".to_owned());
                return Err(Failure::said(format!("the broker: {why}; `emitter doctor` says more")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn measured(&self, broker: &MqttTransport, topic: &Topic) -> Result<Report, Failure> {
        // To stderr, and only where that is a terminal.
        let progress = ProgressBar::new(self.messages.into()).with_style(
            ProgressStyle::with_template("{bar:40} {pos} of {len}, {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let begun = Instant::now();
        let (published, (latencies, last)) =
            tokio::join!(self.publish(broker, topic, begun), self.receive(broker, begun, &progress));
        progress.finish_and_clear();
        let published = published?;
        let received = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
        let lost = self.messages.saturating_sub(received);
        let per_second = |messages: u32, took: Duration| f64::from(messages) / took.as_secs_f64().max(1e-9);
        let why = if self.qos == 0 {
            "at QoS 0 a broker may drop what it has no room for"
        } else {
            "the broker confirmed them: it drops what it has no room for (mosquitto: `max_queued_messages`)"
        };
        let findings =
            (lost > 0).then(|| format!("{lost} messages did not come within {:?}: {why}", self.patience));
        Ok(Report {
            messages: self.messages,
            bytes: self.bytes,
            qos: self.qos,
            published_per_second: per_second(self.messages, published),
            received_per_second: per_second(received, last),
            received,
            lost,
            latency_us: Latency::of(latencies),
            findings: findings.into_iter().collect(),
        })
    }

    /// Returns how long that took, with the confirmations.
    async fn publish(
        &self,
        broker: &MqttTransport,
        topic: &Topic,
        begun: Instant,
    ) -> Result<Duration, Failure> {
        let failed = |error: PublishError| Failure::said(format!("it is not published: {error}"));
        let qos = if self.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let late = || Failure::said("the broker confirms nothing any more; `emitter doctor` says more");
        let confirmed = async |confirmation: Confirmation| match timeout(self.patience, confirmation).await {
            Ok(outcome) => outcome.map(drop).map_err(failed),
            Err(_) => Err(late()),
        };
        let mut unconfirmed = VecDeque::new();
        for number in 0..self.messages {
            if let Some(rate) = self.rate {
                sleep_until(begun + Duration::from_secs(1) * number / rate).await;
            }
            let room = std::future::poll_fn(|cx| broker.poll_room(cx));
            timeout(self.patience, room).await.map_err(|_| late())?;
            let mut payload = vec![b' '; self.bytes as usize];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            payload[4..HEAD].copy_from_slice(&micros(begun.elapsed()).to_be_bytes());
            let message = Message { qos, ..Message::new(topic.clone(), payload) };
            unconfirmed.push_back(broker.publish(message).map_err(failed)?);
            // Not all of them are kept: those at the front have settled long since.
            if unconfirmed.len() > MOST_UNCONFIRMED
                && let Some(first) = unconfirmed.pop_front()
            {
                confirmed(first).await?;
            }
        }
        for confirmation in unconfirmed {
            confirmed(confirmation).await?;
        }
        Ok(begun.elapsed())
    }

    /// Returns the latency of each that came, and when the last one did.
    async fn receive(
        &self,
        broker: &MqttTransport,
        begun: Instant,
        progress: &ProgressBar,
    ) -> (Vec<u64>, Duration) {
        let mut seen = vec![false; self.messages as usize];
        let (mut latencies, mut last) = (Vec::new(), Duration::ZERO);
        while latencies.len() < seen.len() {
            // At a rate the next one may be longer on its way.
            let pause = self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
            let next = timeout(self.patience + pause, broker.next()).await;
            let Ok(Some(Delivery { payload, ack, .. })) = next else { break };
            ack.done();
            let Some((number, rest)) = payload.split_first_chunk::<4>() else { continue };
            let Some((moment, _)) = rest.split_first_chunk::<8>() else { continue };
            // One that comes again is none more.
            let Some(first) = seen.get_mut(u32::from_be_bytes(*number) as usize).filter(|seen| !**seen)
            else {
                continue;
            };
            *first = true;
            last = begun.elapsed();
            latencies.push(micros(last).saturating_sub(u64::from_be_bytes(*moment)));
            progress.set_position(latencies.len() as u64);
        }
        (latencies, last)
    }
}

/// More than a connection has on its way.
const MOST_UNCONFIRMED: usize = 2_000;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_that_of_so_many_in_a_hundred() {
        let of = |all: &[u64]| {
            Latency::of(all.to_vec()).map(|Latency { p50, p90, p99, max }| [p50, p90, p99, max])
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some([7; 4]));
        let all: Vec<u64> = (0..1_000).rev().collect();
        assert_eq!(of(&all), Some([500, 900, 990, 999]));
    }
}
