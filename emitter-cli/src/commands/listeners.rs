//! Which nodes there are, and what they listen to, as they say on the bus.

use std::fmt;
use std::time::Duration;

use clap::Args;
use emitter_diesel::EventId;
use emitter_diesel::announcement::{AnnouncedListener, Announcement, Announcements};
use emitter_diesel::topic::{Layout, ModelTopic, TopicPrefix, Topics};
use emitter_diesel::transport::mqtt::{ClientId, MqttTransport};
use emitter_diesel::transport::{Delivery, Transport};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// Whose.
#[derive(Args)]
pub(crate) struct Listeners {
    /// Of the nodes of this service
    #[arg(long)]
    service: Option<String>,

    /// Listeners of this model
    #[arg(long)]
    model: Option<String>,

    /// Those of nodes that are gone, too
    #[arg(long)]
    gone: bool,

    /// How long the broker may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

#[derive(Serialize)]
struct Report {
    nodes: Vec<Announcement>,
    findings: Vec<String>,
}

/// What the broker has kept comes at once.
const QUIET: Duration = Duration::from_millis(700);

impl Listeners {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let report = self.report(announced(place, self.patience)?);
        out.print(&report)?;
        Ok(Verdict::of(&report.findings))
    }

    fn report(&self, heard: Vec<Announcement>) -> Report {
        let is_meant = |node: &Announcement| {
            let of_service = self.service.as_ref().is_none_or(|service| *service == node.service);
            of_service && (self.gone || node.is_online())
        };
        let mut nodes: Vec<Announcement> = heard.into_iter().filter(is_meant).collect();
        if let Some(model) = &self.model {
            for listeners in nodes.iter_mut().filter_map(|node| node.listeners.as_mut()) {
                listeners.retain(|listener| listener.model.eq_ignore_ascii_case(model));
            }
        }
        let is_heard =
            |node: &Announcement| node.listeners.as_ref().is_some_and(|listeners| !listeners.is_empty());
        let mut findings = Vec::new();
        if nodes.is_empty() {
            findings.push(
                "no node says that it is there: does one run, with `announce`, and below this `--prefix`?"
                    .to_owned(),
            );
        } else if let Some(model) = self.model.as_ref().filter(|_| !nodes.iter().any(is_heard)) {
            findings.push(format!("none of these nodes listens to {model}"));
        }
        Report { nodes, findings }
    }
}

/// What the nodes below the place's prefix say of themselves, by service and name. The broker may take so long.
pub(super) fn announced(place: &Place, patience: Duration) -> Result<Vec<Announcement>, Failure> {
    let config = place.mqtt()?;
    let prefix = place.prefix().map(TopicPrefix::new).transpose().map_err(|error| error.to_string())?;
    let topics = Topics::new(prefix.unwrap_or_default(), Layout::default());
    let nodes = ModelTopic::new("_nodes").map_err(|error| error.to_string())?;
    let filter = topics.model_filter(&nodes);
    let name = format!("emitter-listeners-{}", EventId::now());
    let name = ClientId::new(&name).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let broker = MqttTransport::start(config, name);
        broker.subscribe(filter);
        let heard = hear(&broker, patience).await;
        let _ = broker.close(Duration::from_millis(200)).await;
        heard
    })
}

async fn hear(broker: &MqttTransport, patience: Duration) -> Result<Vec<Announcement>, Failure> {
    let begun = Instant::now();
    while broker.status().subscriptions == 0 {
        let status = broker.status();
        let refused = status.refused_subscriptions.first();
        let refused = refused.map(|(filter, reason)| format!("it refuses {filter}: {reason}"));
        let late = (begun.elapsed() > patience).then(|| "it does not answer in time".to_owned());
        if let Some(why) = refused.or(status.subscriber.last_error).or(late) {
            return Err(Failure::said(format!("the broker: {why}; `emitter doctor` says more")));
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut nodes = Announcements::default();
    while begun.elapsed() < patience {
        let Ok(Some(Delivery { topic, payload, ack, .. })) = timeout(QUIET, broker.next()).await else {
            break;
        };
        // Whoever may publish there may say anything.
        if let Some(name) = topic.rsplit('/').next() {
            nodes.hear(name, &payload);
        }
        ack.done();
    }
    Ok(nodes.all())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Announcement { service, node, status, since, listeners, more, .. } in &self.nodes {
            let since = since.as_ref().map_or(String::new(), |since| format!(", since {}", Plain(since)));
            writeln!(f, "{}/{}  {}{since}", Plain(service), Plain(node), Plain(status))?;
            for AnnouncedListener { name, model, operation, hears, group, .. } in listeners.iter().flatten() {
                let operation = Plain(operation.as_deref().unwrap_or("everything"));
                let group =
                    group.as_ref().map_or(String::new(), |group| format!(", in the group {}", Plain(group)));
                writeln!(
                    f,
                    "  {}  {operation} of {}, hears {}{group}",
                    Plain(name),
                    Plain(model),
                    Plain(hears)
                )?;
            }
            if *more > 0 {
                writeln!(f, "  and {more} more")?;
            }
        }
        report::list(f, &self.findings)
    }
}
