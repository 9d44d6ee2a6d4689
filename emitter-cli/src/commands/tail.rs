//! Events as they pass on the bus.

use std::fmt;
use std::time::Duration;

use clap::Args;
use emitter_diesel::event::Timestamp;
use emitter_diesel::{Bus, Emitter, EventId, Operation, Sighting};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// Which events, and for how long.
#[derive(Args)]
pub(crate) struct Tail {
    /// Of this model, whatever the case of its letters
    #[arg(long)]
    model: Option<String>,

    /// Of this kind, such as user_created
    #[arg(long)]
    kind: Option<String>,

    /// Of the row with this key
    #[arg(long)]
    key: Option<String>,

    /// Shows the events themselves: they are users' data
    #[arg(long)]
    payload: bool,

    /// Ends after as many events; exit code 1 where they do not come within --for
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Ends after this time
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
}

/// How long the first connection may take.
const CONNECTING: Duration = Duration::from_secs(10);

/// How often is looked how the connection stands.
const LOOK: Duration = Duration::from_millis(500);

impl Tail {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let config = place.mqtt()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        // A name of its own for each, so that none takes another's place.
        let name = format!("tail-{}", EventId::now());
        let builder =
            Emitter::builder().service("emitter-cli").node(&*name).mqtt(config).select_listeners(|_| false);
        let builder = builder.topic_layout(place.layout());
        let builder = match place.prefix() {
            Some(prefix) => builder.topic_prefix(prefix),
            None => builder,
        };
        runtime.block_on(async {
            let emitter = builder.start().await.map_err(|error| error.to_string())?;
            let mut bus = emitter
                .bus(&format!("emitter-cli-{name}"))
                .ok_or("the broker cannot be listened to".to_owned())?;
            let heard = self.hear(&mut bus, out).await;
            tokio::task::block_in_place(|| bus.close(Duration::from_secs(2)));
            // It has published nothing.
            let _ = emitter.shutdown(Duration::from_secs(2)).await;
            heard
        })
    }

    async fn hear(&self, bus: &mut Bus, out: Out) -> Result<Verdict, Failure> {
        let begun = Instant::now();
        let end = self.time.and_then(|time| begun.checked_add(time));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut subscribed, mut told) = (0, false, Vec::new());
        loop {
            tokio::select! {
                biased;
                stop = tokio::signal::ctrl_c() => {
                    stop.map_err(|error| format!("signals cannot be heard: {error}"))?;
                    return Ok(Verdict::Well);
                }
                () = ending(end) => {
                    return Ok(if self.count.is_some() { Verdict::Look } else { Verdict::Well });
                }
                _ = look.tick() => {
                    let troubles = bus.troubles();
                    if !subscribed && bus.status().subscriptions > 0 {
                        subscribed = true;
                        eprintln!("listening");
                    }
                    if !subscribed && begun.elapsed() > CONNECTING {
                        return Err(Failure::said(troubles.join("; ")));
                    }
                    // What changes is told; that it is still so, is not.
                    if subscribed && troubles != told {
                        troubles.iter().for_each(|trouble| eprintln!("! {}", Plain(trouble)));
                        told = troubles;
                    }
                }
                passing = bus.next() => {
                    let passing = passing.ok_or_else(|| Failure::said("the connection was closed"))?;
                    for sighting in passing.events.iter().filter(|sighting| self.wants(sighting)) {
                        let is_read = out.more(&Seen::of(sighting, &passing.topic, self.payload))?;
                        seen += 1;
                        if !is_read || self.count == Some(seen) {
                            passing.ack.done();
                            return Ok(Verdict::Well);
                        }
                    }
                    passing.ack.done();
                }
            }
        }
    }

    fn wants(&self, sighting: &Sighting) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let of_model = self.model.as_ref().is_none_or(|wanted| {
            sighting.model.as_ref().is_some_and(|model| model.eq_ignore_ascii_case(wanted))
        });
        of_model && is(&self.kind, &sighting.kind) && is(&self.key, &sighting.key)
    }
}

async fn ending(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// An event that passed.
#[derive(Serialize)]
struct Seen {
    seen_at: Timestamp,
    topic: String,
    model: Option<String>,
    operation: Option<&'static str>,
    kind: Option<String>,
    key: Option<String>,
    id: Option<String>,
    origin: Option<String>,
    trace_id: Option<String>,
    signed: bool,
    bytes: usize,
    payload: Option<String>,
}

impl Seen {
    fn of(sighting: &Sighting, topic: &str, payload: bool) -> Self {
        Self {
            seen_at: Timestamp::now(),
            topic: topic.to_owned(),
            model: sighting.model.clone(),
            operation: sighting.operation.map(Operation::as_str),
            kind: sighting.kind.clone(),
            key: sighting.key.clone(),
            id: sighting.id.map(|id| id.to_string()),
            origin: sighting.origin.as_ref().map(ToString::to_string),
            trace_id: sighting.trace_id.map(|id| id.to_string()),
            signed: sighting.signed,
            bytes: sighting.payload.len(),
            payload: payload.then(|| sighting.text().to_owned()),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen_at, topic, kind, key, id, origin, trace_id, payload, .. } = self;
        let dash = |text: &Option<String>| report::or_dash(text.as_deref()).to_string();
        let what = kind.as_deref().unwrap_or(topic);
        let (key, origin, id, trace) = (dash(key), dash(origin), dash(id), dash(trace_id));
        writeln!(f, "{seen_at}  {}  key {key}  from {origin}  id {id}  trace {trace}", Plain(what))?;
        payload.as_ref().map_or(Ok(()), |payload| writeln!(f, "  {}", Plain(payload)))
    }
}
