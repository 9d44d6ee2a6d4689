//! Every metric that there is: what is told to exporters is told by these, and `docs/METRICS.md`, the alerts and the dashboard
//! are checked against them.
//!
//! The values of labels are names of models, operations and listeners, outcomes and reasons. Nothing that comes over the wire is one,
//! and of listeners, which may get their names at run time, 1,000 are told apart, so their number is bounded.

use ::metrics::Unit;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, in the form that Prometheus asks for.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// In what it is counted.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
    /// The alert of `ops/alerts.yml` that uses it.
    pub alert: Option<&'static str>,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, from the start of the node.
    Counter,
    /// It is as it is now.
    Gauge,
    /// Many values, counted by their size.
    Histogram,
}

impl MetricKind {
    /// `counter`, `gauge`, `histogram`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $constant:ident: $kind:ident $name:literal $unit:ident [$($label:literal),*] $(=> $alert:literal)?;)*) => {
        $(
            $(#[doc = $doc])+
            pub const $constant: Metric = Metric {
                name: $name,
                kind: MetricKind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: concat!($($doc),+).trim_ascii(),
                alert: metrics!(@alert $($alert)?),
            };
        )*

        /// All of them.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
    (@alert) => { None };
    (@alert $alert:literal) => { Some($alert) };
}

metrics! {
    /// Events that this node wrote, by where they go: `local` to its own listeners, `remote` to other nodes.
    EMITTED: Counter "emitter_emitted_total" Count ["model", "operation", "to"];
    /// Events that were not emitted, because too many caused each other up to them.
    LOOPS: Counter "emitter_loops_total" Count [] => "EmitterEventsLost";
    /// Events on their way to the broker, by what became of them: `confirmed`, `nobody` (confirmed, and nobody is subscribed), `failed` (too large, refused by the broker, not encodable), `refused` (the queue was full), `postponed` (an outbox has it still, and tries again or gives it up).
    PUBLISHED: Counter "emitter_published_total" Count ["outcome"] => "EmitterEventsLost";
    /// From handing a message to the transport to the broker's confirmation, for each event of it.
    PUBLISH_SECONDS: Histogram "emitter_publish_seconds" Seconds [];
    /// Events of `.queued()`: `taken`, and of these `written` into the outbox or `failed`; `refused`, for too many waited.
    QUEUED: Counter "emitter_queued_total" Count ["outcome"] => "EmitterEventsLost";
    /// Messages that came from the broker; one may be a batch of events.
    MESSAGES: Counter "emitter_messages_total" Count [];
    /// Events of other nodes that were handed to listeners here.
    RECEIVED: Counter "emitter_received_total" Count ["model", "operation"];
    /// Messages, or parts of a batch, that were no event: `bad`, or `unauthentic`, which nobody signed who is trusted.
    REJECTED: Counter "emitter_rejected_total" Count ["reason"];
    /// Own events that came back, and were dropped.
    ECHOES: Counter "emitter_echoes_total" Count [];
    /// Events that came again, and were dropped.
    DUPLICATES: Counter "emitter_duplicates_total" Count [];
    /// Events under this node's name that another node wrote.
    NAMESAKES: Counter "emitter_namesakes_total" Count [];
    /// Events for which no listener was left.
    UNHEARD: Counter "emitter_unheard_total" Count [];
    /// Times that events were missing, and asked for.
    GAPS: Counter "emitter_gaps_total" Count [];
    /// Events that were missing: `recovered`, or `lost`, for nobody has them any more.
    MISSED: Counter "emitter_missed_total" Count ["outcome"] => "EmitterEventsLost";
    /// Events that were handed to listeners once more, from a record or a mirror.
    REPLAYS: Counter "emitter_replays_total" Count [];
    /// Calls of listeners, by how they ended: `ok`, `failed`, `panicked`, `timed_out`, `unready` (what they need was not there: no attempt).
    HANDLED: Counter "emitter_handled_total" Count ["model", "listener", "outcome"] => "EmitterListenerFailing";
    /// How long a call of a listener took.
    HANDLE_SECONDS: Histogram "emitter_handle_seconds" Seconds ["model", "listener"];
    /// From the write, by its node's clock and in whole milliseconds, to the end of the call that ended well.
    COMMIT_TO_EFFECT_SECONDS: Histogram "emitter_commit_to_effect_seconds" Seconds ["model", "listener"];
    /// Calls that were not made, for filters held the event back.
    FILTERED: Counter "emitter_filtered_total" Count ["model", "listener"];
    /// Calls that were made because an earlier one for the same event failed.
    RETRIES: Counter "emitter_retries_total" Count ["model", "listener"];
    /// Events that a listener did not handle in all its attempts.
    GIVEN_UP: Counter "emitter_given_up_total" Count ["model", "listener"];
    /// Events that a listener missed, because its queue was full; `*` is every listener of the model, for the model's was.
    OVERFLOWED: Counter "emitter_overflowed_total" Count ["model", "listener"] => "EmitterEventsLost";
    /// Dead letters: `undecodable` (of no model), `unhandled`, `unpublished`.
    DEAD_LETTERS: Counter "emitter_dead_letters_total" Count ["model", "reason"] => "EmitterDeadLetters";
    /// Dead letters that were forgotten, or did not get where they go.
    DEAD_LETTERS_LOST: Counter "emitter_dead_letters_lost_total" Count [] => "EmitterEventsLost";
    /// Reasons why the node is not healthy, as `health()` has them.
    DEGRADED: Gauge "emitter_degraded_reasons" Count [] => "EmitterDegraded";
    /// Connections, by what they are for (`publisher`, `subscriber`, `group`): those that are `standing` and those that are `lost`. Without a transport there is none of these.
    CONNECTIONS: Gauge "emitter_connections" Count ["link", "state"] => "EmitterDisconnected";
    /// Connections that were lost and are made again, by why: `broken` (refused, or ended by the broker or the network), `unreachable`, `silent`, `unanswered`, `untaken`, `other`.
    RECONNECTS: Counter "emitter_reconnects_total" Count ["link", "cause"];
    /// Subscriptions: `confirmed` by the broker, or `refused`.
    SUBSCRIPTIONS: Gauge "emitter_subscriptions" Count ["state"];
    /// How long the last message of this node to itself was under way.
    CANARY_SECONDS: Gauge "emitter_canary_round_trip_seconds" Seconds [];
    /// Messages of this node to itself in a row that did not come back.
    CANARY_MISSED: Gauge "emitter_canary_missed" Count [] => "EmitterCanaryMissing";
    /// Events that wait to be handed to the transport.
    PUBLISHING: Gauge "emitter_publishing_events" Count [];
    /// Messages that the transport has, and the broker has not confirmed.
    UNCONFIRMED: Gauge "emitter_unconfirmed_messages" Count [];
    /// How many messages may be on the wire at a time, by what the settings and the broker allow: `used`, or `free`.
    WINDOW: Gauge "emitter_window_messages" Count ["state"];
    /// Events that wait for listeners, or that these work on.
    LISTENING: Gauge "emitter_listening_events" Count ["model"];
    /// Events of `.queued()` that wait in memory to be written down.
    QUEUED_EVENTS: Gauge "emitter_queued_events" Count [];
    /// How long the oldest of them has waited.
    QUEUED_OLDEST_SECONDS: Gauge "emitter_queued_oldest_seconds" Seconds [] => "EmitterOutboxBehind";
    /// Rows of the outbox, by status: `pending`, `waiting`, `processing`, `failed`, `unreadable`, `orphaned`. Each node tells of the same table.
    OUTBOX_ROWS: Gauge "emitter_outbox_rows" Count ["status"] => "EmitterOutboxGivenUp";
    /// How long ago the oldest row was written that is still to be published, by the database's clock: the outbox's lag.
    OUTBOX_OLDEST_SECONDS: Gauge "emitter_outbox_oldest_seconds" Seconds [] => "EmitterOutboxBehind";
    /// Lanes of the outbox: `owned` by a relay, or `free`.
    OUTBOX_LANES: Gauge "emitter_outbox_lanes" Count ["state"];
    /// Lanes that this node relays.
    OUTBOX_LANES_HERE: Gauge "emitter_outbox_lanes_here" Count [];
    /// Whether somebody paused the outbox: 1, or 0.
    OUTBOX_PAUSED: Gauge "emitter_outbox_paused" Count [];
    /// Events that came to the mirror: `recorded`, `duplicate`, `failed` (the database took everything else), `refused` (no events, or not trusted).
    MIRRORED: Counter "emitter_mirrored_total" Count ["outcome"] => "EmitterEventsLost";
    /// Whether it is this node that writes the mirror: 1, or 0.
    MIRROR_WRITES: Gauge "emitter_mirror_writes" Count [];
    /// Visitors of the streams for pages.
    STREAM_VISITORS: Gauge "emitter_stream_visitors" Count [];
    /// Events told to pages, once for each visitor.
    STREAM_TOLD: Counter "emitter_stream_told_total" Count [];
    /// Visitors that were dropped, because they took nothing, or did not answer.
    STREAM_DROPPED: Counter "emitter_stream_dropped_total" Count [];
    /// Visitors that were told to reload.
    STREAM_RELOADS: Counter "emitter_stream_reloads_total" Count [];
}

/// Bounds of buckets for [`PUBLISH_SECONDS`], [`HANDLE_SECONDS`] and [`COMMIT_TO_EFFECT_SECONDS`], in seconds: from the tenth of
/// a millisecond that a call without I/O takes to a listener's default time-out.
pub const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
