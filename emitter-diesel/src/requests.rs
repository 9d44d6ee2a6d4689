//! What a running node is asked to do by whoever has no listeners: to redrive dead letters, or to replay events of a mirror.
//!
//! A command line, a dashboard or a job at night [asks](Requests::ask); a node of the service that has an [`Attendant`] does
//! it, and writes down how far it is.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use diesel::{Connection, SqliteConnection};
//! use emitter_diesel::Emitter;
//! use emitter_diesel::dead_letters::Selection;
//! use emitter_diesel::requests::{Attendant, Requests, Work};
//! use emitter_diesel::tables::Tables;
//!
//! let tables = Tables::new(|| SqliteConnection::establish("shop.db")).migrate();
//! let attendant = Attendant::new(tables.clone());
//! let emitter = Emitter::builder().service("shop").node("a").with(attendant).start().await?;
//!
//! // In another process, which has none of the listeners. It blocks, as Diesel does.
//! let requests = Requests::open(&tables)?;
//! let letters = Selection { listener: Some("notify".to_owned()), ..Selection::default() };
//! let id = requests.ask("shop", &Work::Redrive { letters, per_second: 50 }, Some("alice"))?;
//! let request = requests.state(id)?;
//! println!("{:?}: {} of {:?}", request.status, request.progress.done(), request.progress.total);
//! # Ok(())
//! # }
//! ```
//!
//! # What is done, and how often
//! A request is for what is there when it is asked: letters that were kept, and events that were written down, by then. One
//! node at a time has it, for as long as its lease lasts, which it renews while it works, by the database's clock. Where that
//! node dies, another one takes it over: a replay goes on behind the last step that was noted, of which at most 200 events come
//! once more; a redrive tries all letters that are left. A node that finds that it has its request no more ends what it does
//! with the events that it had begun, so two nodes may have listeners called for the same event then, as with every replay. A
//! node that shuts down gives its request back.
//!
//! Where something hinders a node, such as a database that takes no more connections, the request rests: for 5 s, and each time
//! twice as long. What was taken up [five times](MOST_CLAIMS) and came to no end is failed, so that a request which kills its nodes
//! does not kill them for ever.

use std::sync::mpsc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use emitter_core::event::Timestamp;
use emitter_core::{BeginCompanion, Builder, Extension, WeakEmitter};
use tokio::runtime::Handle;

use crate::bounds::within;
use crate::companion::{self, Activity};
use crate::mirror::Cursor;
use crate::tables::{RequestRow, Session, Tables};

mod asking;
mod attending;
mod store;
mod work;

pub use self::asking::{RequestError, Requests};
use self::attending::{Attending, Trouble};
pub use self::store::MOST_CLAIMS;
pub use self::work::Work;

/// The part of a node that does what its service is asked to do, one request at a time.
///
/// Given to the builder of an emitter by [`with`](Builder::with). Any number of nodes may have one; their requests are shared
/// out among them.
#[derive(Debug, Clone)]
#[must_use = "it is given to the builder of an emitter: `.with(attendant)`"]
pub struct Attendant {
    tables: Tables,
    lease: Duration,
}

impl Attendant {
    /// One that looks for requests in these tables, once a second. Letters and events are in the same ones.
    pub fn new(tables: Tables) -> Self {
        Self { tables, lease: Duration::from_secs(30) }
    }

    /// For how long a request belongs to a node that says nothing more, by the database's clock: when it died, another one goes on
    /// after that time. Default 30 s; 2 s to 1 h: the nearest of these is used, and a start says so.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }
}

/// Does what the service is asked to do, beside its other work.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
/// where the database cannot be reached or its tables are not those of this version.
impl Extension for Attendant {
    fn extend(self, builder: Builder) -> Builder {
        let Attendant { tables, lease } = self;
        let trouble = Arc::new(Trouble::default());
        let asked = Arc::clone(&trouble);
        let (end, ended) = mpsc::channel();
        let begin: BeginCompanion = Box::new(move |emitter| {
            // Listeners' time is the runtime's.
            let runtime = Handle::current();
            let open = move |_: &WeakEmitter| {
                let [least, most] = [2, 3600].map(Duration::from_secs);
                let lease = within("the attendant", "lease", lease, least, most);
                Ok(Attending::new(Session::open(&tables)?, runtime, lease, trouble))
            };
            let run = move |mut attending: Attending, emitter, activity: &Arc<Activity>| {
                attending.run(&emitter, &ended, activity);
            };
            // Dropped with its emitter, it ends the thread as well. A request that is attended keeps the emitter until it is
            // over: its letters and events need one.
            companion::thread("emitter-attendant", open, run, move || drop::<mpsc::Sender<()>>(end))(emitter)
        });
        let told = move || asked.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        builder.troubles(told).companion("attendant", begin)
    }
}

/// A request, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Its number, in the order in which they were asked.
    pub id: i64,
    /// The service whose nodes are asked.
    pub service: String,
    /// What is to be done; the problem, where this program cannot read what another version of it wrote.
    pub work: Result<Work, String>,
    /// Who asked, as they said.
    pub asked_by: Option<String>,
    /// When, by the database's clock.
    pub created_at: Timestamp,
    /// How it stands.
    pub status: Status,
    /// The node that has it, or had it last.
    pub node: Option<String>,
    /// Whether that node has said so within its lease; also while the request rests because something hindered it, before it is
    /// taken up again.
    pub is_attended: bool,
    /// How much is done.
    pub progress: Progress,
    /// How far a replay is: where to go on, should it not be done ([`Selection::after`](crate::mirror::Selection::after)).
    pub cursor: Option<Cursor>,
    /// What hindered it last.
    pub problem: Option<String>,
    /// When it came to an end, by the database's clock.
    pub finished_at: Option<Timestamp>,
}

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// No node has it.
    Asked,
    /// A node has begun.
    UnderWay,
    /// All of it was tried.
    Done,
    /// It cannot be done; [`Request::problem`] says why.
    Failed,
    /// Somebody took it back.
    Cancelled,
}

impl Status {
    /// All of them, with the name that each has in the table.
    const NAMES: [(Self, &'static str); 5] = [
        (Self::Asked, "ASKED"),
        (Self::UnderWay, "UNDER_WAY"),
        (Self::Done, "DONE"),
        (Self::Failed, "FAILED"),
        (Self::Cancelled, "CANCELLED"),
    ];

    /// What it is called in lower case, such as `under_way`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::UnderWay => "under_way",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will be done.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// How much of a request is done, in letters or events. Of a node that died, what it did in its last moments is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many there were when a node began; `None` before that.
    pub total: Option<u64>,
    /// Handed on: letters that are done with, events for which listeners were called.
    pub handled: u64,
    /// Letters that failed again, events that could not be read.
    pub failed: u64,
    /// Letters that were not tried, because an earlier one of their listener and key failed.
    pub skipped: u64,
    /// Those for which the node has no listener.
    pub unheard: u64,
}

impl Progress {
    /// How many nothing more is done with.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.handled.saturating_add(self.failed).saturating_add(self.skipped).saturating_add(self.unheard)
    }
}

impl From<RequestRow> for Request {
    fn from(row: RequestRow) -> Self {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        let status = Status::NAMES.into_iter().find(|(_, name)| *name == row.status);
        let status = status.map_or(Status::Failed, |(status, _)| status);
        Self {
            id: row.id,
            service: row.service,
            work: Work::read(&row.action, &row.work),
            asked_by: row.asked_by,
            created_at: Timestamp::from_millis(row.created),
            status,
            node: row.node,
            is_attended: status == Status::UnderWay && row.claimed != 0,
            progress: Progress {
                total: row.total.map(unsigned),
                handled: unsigned(row.handled),
                failed: unsigned(row.failed),
                skipped: unsigned(row.skipped),
                unheard: unsigned(row.unheard),
            },
            cursor: row.place.and_then(|place| place.parse().ok()),
            problem: row.last_error,
            finished_at: row.finished.map(Timestamp::from_millis),
        }
    }
}
