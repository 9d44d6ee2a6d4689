//! Filters of topics, against MQTT's rule; and filters of listeners, against their documentation: what was written here and
//! what came from elsewhere.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::Arbitrary;
use emitter_core::columns::Columns;
use emitter_core::model::{
    Body, Created, CreatedMany, Deleted, DeletedMany, ModelEvent, RowChange, Updated, UpdatedMany, Upserted,
};
use emitter_core::topic::{Layout, ModelTopic, TopicPrefix, Topics};
use emitter_core::{Emits, Emitter, Event, Operation, Scope, Source, State, listener};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[derive(Debug, Arbitrary)]
pub(crate) enum Input<'a> {
    Topic {
        prefix: &'a str,
        layout: &'a str,
        model: &'a str,
        topic: &'a str,
    },
    Write {
        operation: u8,
        /// Only their count is told.
        is_counted: bool,
        set: Option<[bool; 4]>,
        inserted: Option<bool>,
        rows: Vec<(Option<Row>, Row)>,
    },
}

#[derive(Debug, Clone, Arbitrary)]
pub(crate) struct Row {
    id: bool,
    status: Status,
    pen_name: Option<bool>,
    views: u8,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) enum Status {
    Draft,
    Active,
    Blocked,
}

impl Input<'_> {
    pub(crate) fn check(&self) {
        match self {
            Self::Topic { prefix, layout, model, topic } => {
                let prefix = TopicPrefix::new(prefix).unwrap_or_default();
                let layout = layout.parse::<Layout>().unwrap_or_default();
                let Ok(model) = ModelTopic::new(model) else { return };
                let filter = Topics::new(prefix, layout).model_filter(&model);
                let levels = |text: &'_ str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
                assert_eq!(
                    filter.matches(topic),
                    matches(&levels(filter.as_str()), &levels(topic)),
                    "{filter}"
                );
            }
            Self::Write { operation, is_counted, set, inserted, rows } => {
                let operation = Operation::ALL[usize::from(*operation) % Operation::ALL.len()];
                let rows = rows.iter().map(|(before, after)| (before.as_ref().map(article), article(after)));
                let rows: Vec<_> = rows.take(4).collect();
                Write { operation, is_counted: *is_counted, set: *set, inserted: *inserted, rows }.check();
            }
        }
    }
}

/// MQTT 5.0, 4.7.1: `+` is one level, `#` the parent and all below.
fn matches(filter: &[String], topic: &[String]) -> bool {
    match (filter, topic) {
        ([many], _) if many == "#" => true,
        ([one, filter @ ..], [level, topic @ ..]) => (one == "+" || one == level) && matches(filter, topic),
        (filter, topic) => filter.is_empty() && topic.is_empty(),
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(all)]
#[serde(rename_all = "camelCase")]
struct Article {
    id: i64,
    status: String,
    pen_name: Option<String>,
    views: i64,
}

fn article(row: &Row) -> Article {
    let status = match row.status {
        Status::Draft => "DRAFT",
        Status::Active => "ACTIVE",
        Status::Blocked => "BLOCKED",
    };
    let pen_name = row.pen_name.map(|al| if al { "al" } else { "bo" }.to_owned());
    Article { id: row.id.into(), status: status.to_owned(), pen_name, views: row.views.into() }
}

/// Which listeners were called, for events of which source.
type Log = Arc<Mutex<BTreeSet<(&'static str, bool)>>>;

macro_rules! listeners {
    ($($name:ident [$($filter:tt)*] => $seen:expr;)*) => {
        $(
            #[listener(model = "article", allow_remote, $($filter)*)]
            async fn $name(event: Event<ArticleEvent>, heard: State<Log>) {
                let is_new = heard.lock().unwrap().insert((stringify!($name), event.source() == Source::Remote));
                assert!(is_new, "called twice");
            }
        )*

        /// What the documentation says of each, of one row.
        const EXPECTED: &[(&str, fn(&Seen<'_>) -> bool)] = &[$((stringify!($name), $seen)),*];
    };
}

listeners! {
    where_value [where(id = 1)] => |seen| seen.row().id == 1;
    where_list [where(status = ["ACTIVE", "BLOCKED"])] => |seen| seen.row().status != "DRAFT";
    where_null [where(pen_name = None)] => |seen| seen.row().pen_name.is_none();
    where_text [where(pen_name = "al")] => |seen| seen.row().pen_name.as_deref() == Some("al");
    where_row [where(|row| row.views > 100)] => |seen| seen.row().views > 100;
    data_set [data(status)] => |seen| seen.sets("status").is_some();
    data_value [data(status = "ACTIVE")] => |seen| seen.sets("status").is_some_and(|row| row.status == "ACTIVE");
    data_null [data(pen_name = None)] => |seen| seen.sets("pen_name").is_some_and(|row| row.pen_name.is_none());
    data_row [data(|row| row.views > 100)] => |seen| seen.after.is_some_and(|row| row.views > 100);
    data_moves [data(status: "DRAFT" -> "ACTIVE")] =>
        |seen| seen.both().is_some_and(|(old, new)| old.status == "DRAFT" && new.status == "ACTIVE");
    changed_any [changed(status, pen_name)] =>
        |seen| seen.both().is_some_and(|(old, new)| old.status != new.status || old.pen_name != new.pen_name);
    enters [enters(status = "ACTIVE")] => |seen| {
        let held = match seen.before {
            Before::Row(row) => Some(row.status == "ACTIVE"),
            Before::Absent => Some(false),
            Before::Unknown => None,
        };
        held == Some(false) && seen.after.is_some_and(|row| row.status == "ACTIVE")
    };
    leaves [leaves(status = "ACTIVE")] => |seen| {
        let held = matches!(seen.before, Before::Row(row) if row.status == "ACTIVE");
        held && seen.after.is_none_or(|row| row.status != "ACTIVE")
    };
    all_of_one_row [where(id = 1), data(status = "ACTIVE")] =>
        |seen| seen.row().id == 1 && seen.sets("status").is_some_and(|row| row.status == "ACTIVE");
}

/// What is known of one row of a write.
struct Seen<'a> {
    before: Before<'a>,
    after: Option<&'a Article>,
    set: Vec<&'static str>,
}

#[derive(Clone, Copy)]
enum Before<'a> {
    Row(&'a Article),
    Absent,
    Unknown,
}

impl<'a> Seen<'a> {
    fn row(&self) -> &'a Article {
        match (self.after, self.before) {
            (Some(row), _) | (None, Before::Row(row)) => row,
            (None, _) => panic!("a deleted row is known"),
        }
    }

    fn both(&self) -> Option<(&'a Article, &'a Article)> {
        match self.before {
            Before::Row(before) => Some((before, self.after?)),
            Before::Absent | Before::Unknown => None,
        }
    }

    fn sets(&self, column: &str) -> Option<&'a Article> {
        self.after.filter(|_| self.set.contains(&column))
    }
}

const FIELDS: [&str; 4] = ["id", "status", "pen_name", "views"];

/// The names in JSON of the same.
const JSON: [&str; 4] = ["id", "status", "penName", "views"];

/// What was written.
struct Write {
    operation: Operation,
    is_counted: bool,
    set: Option<[bool; 4]>,
    inserted: Option<bool>,
    /// Before and after.
    rows: Vec<(Option<Article>, Article)>,
}

/// How a message tells of a row before.
#[derive(Debug, Clone, Copy)]
enum Told {
    Whole,
    /// By what differs.
    Differing,
}

impl Told {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "before",
            Self::Differing => "was",
        }
    }

    fn of(self, before: Option<&Article>, after: &Article) -> Value {
        let (mut before, after) = (json!(before), json!(after));
        if let (Self::Differing, Some(columns)) = (self, before.as_object_mut()) {
            columns.retain(|name, was| after[name] != *was);
        }
        before
    }
}

impl Write {
    fn check(&self) {
        let is_update = matches!(self.operation, Operation::Update | Operation::UpdateMany);
        for before in [Told::Whole, Told::Differing].into_iter().take(if is_update { 2 } else { 1 }) {
            self.check_told(before);
        }
    }

    fn check_told(&self, told: Told) {
        let Some(body) = self.body() else { return };
        let expected: BTreeSet<_> = EXPECTED
            .iter()
            .filter(|(_, holds)| self.seen().iter().any(holds))
            .flat_map(|(name, _)| [(*name, false), (*name, true)])
            .collect();
        assert_eq!(heard(body, &self.message(told)), expected, "of {:?}; `true` is remote", self.operation);
    }

    fn is_bulk(&self) -> bool {
        matches!(self.operation, Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany)
    }

    /// As it is emitted here; `None` where there is no row for it.
    fn body(&self) -> Option<Body<Article>> {
        let (before, after) = self.rows.first()?.clone();
        let set = self.set.map(Columns::from_flags);
        let count = self.rows.len() as u64;
        let rows = || self.told().map(|rows| rows.iter().map(|(_, after)| after.clone()).collect());
        let changes = |rows: &[(Option<Article>, Article)]| {
            rows.iter().map(|(before, after)| RowChange::new(before.clone(), after.clone())).collect()
        };
        Some(match self.operation {
            Operation::Create => Created::new(after).into(),
            Operation::CreateMany => CreatedMany::new(count, rows()).into(),
            Operation::Update => Updated::new(before, after, set).into(),
            Operation::UpdateMany => UpdatedMany::new(count, self.told().map(changes), set).into(),
            Operation::Upsert => Upserted::new(after, set, self.inserted).into(),
            Operation::Delete => Deleted::new(after).into(),
            Operation::DeleteMany => DeletedMany::new(count, rows()).into(),
        })
    }

    fn told(&self) -> Option<&[(Option<Article>, Article)]> {
        Some(&*self.rows).filter(|_| !self.is_counted)
    }

    /// As another node sends it.
    fn message(&self, told: Told) -> Vec<u8> {
        let (before, after) = &self.rows[0];
        let mut message = json!({
            "model": "article", "operation": self.operation.as_str(), "result": after,
            "origin": { "service": "shop", "node": "there", "incarnation": "01935a3b-0000-7000-8000-00000000000a" },
        });
        if self.is_bulk() {
            message["result"] = json!({ "count": self.rows.len() });
        }
        if let Some(rows) = self.told().filter(|_| self.is_bulk()) {
            message["rows"] =
                rows.iter().map(|(before, after)| self.images(told, before.as_ref(), after)).collect();
        }
        if self.operation == Operation::Update {
            message[told.name()] = told.of(before.as_ref(), after);
        }
        if let Some(set) = self.set.filter(|_| self.can_set()) {
            message["changed"] =
                JSON.iter().zip(set).filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        }
        if self.operation == Operation::Upsert {
            // For filters of the npm package, and not for ours.
            message["args"] = json!({ "where": { "id": after.id }, "create": after, "update": after });
            message["inserted"] = json!(self.inserted);
        }
        message.to_string().into_bytes()
    }

    fn can_set(&self) -> bool {
        matches!(self.operation, Operation::Update | Operation::UpdateMany | Operation::Upsert)
    }

    fn images(&self, told: Told, before: Option<&Article>, row: &Article) -> Value {
        match self.operation {
            Operation::CreateMany => json!({ "after": row }),
            Operation::DeleteMany => json!({ "before": row }),
            _ => json!({ told.name(): told.of(before, row), "after": row }),
        }
    }

    /// What its rows show to a filter.
    fn seen(&self) -> Vec<Seen<'_>> {
        let rows = if self.is_bulk() { self.told().unwrap_or_default() } else { &self.rows[..1] };
        rows.iter().map(|(before, row)| self.seen_of(before.as_ref(), row)).collect()
    }

    fn seen_of<'a>(&self, before: Option<&'a Article>, row: &'a Article) -> Seen<'a> {
        let all = FIELDS.to_vec();
        let told = self
            .set
            .map(|set| FIELDS.into_iter().zip(set).filter(|(_, set)| *set).map(|(name, _)| name).collect());
        let known = before.map_or(Before::Unknown, Before::Row);
        match self.operation {
            Operation::Create | Operation::CreateMany => {
                Seen { before: Before::Absent, after: Some(row), set: all }
            }
            Operation::Upsert if self.inserted == Some(true) => {
                Seen { before: Before::Absent, after: Some(row), set: all }
            }
            Operation::Upsert => {
                Seen { before: Before::Unknown, after: Some(row), set: told.unwrap_or_default() }
            }
            Operation::Delete | Operation::DeleteMany => {
                Seen { before: Before::Row(row), after: None, set: Vec::new() }
            }
            Operation::Update | Operation::UpdateMany => {
                let changed = || before.map(|before| differing(before, row)).unwrap_or_default();
                Seen { before: known, after: Some(row), set: told.unwrap_or_else(changed) }
            }
        }
    }
}

fn differing(before: &Article, after: &Article) -> Vec<&'static str> {
    let differ = [
        before.id != after.id,
        before.status != after.status,
        before.pen_name != after.pen_name,
        before.views != after.views,
    ];
    FIELDS.into_iter().zip(differ).filter(|(_, differ)| *differ).map(|(name, _)| name).collect()
}

/// A node, and what its listeners heard.
struct Node {
    emitter: Emitter,
    log: Log,
    runtime: Runtime,
}

thread_local! {
    static NODE: Node = Node::start();
}

impl Node {
    fn start() -> Self {
        // With its time paused nothing waits: the queue gathers events for a millisecond.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let (runtime, log) = (runtime.unwrap(), Log::default());
        let builder = Emitter::builder().node("here").state(Arc::clone(&log));
        let emitter = runtime.block_on(builder.start()).unwrap();
        Self { emitter, log, runtime }
    }

    /// How often a listener was called, or was not because of its filter.
    fn calls(&self) -> u64 {
        let stats = self.emitter.stats();
        assert_eq!((stats.panicked, stats.failed, stats.overflowed), (0, 0, 0));
        stats.handled + stats.filtered
    }
}

/// Which listeners hear an event that is written here, and which a message from elsewhere.
fn heard(body: Body<Article>, message: &[u8]) -> BTreeSet<(&'static str, bool)> {
    NODE.with(|node| {
        let Node { emitter, log, runtime } = node;
        let calls = node.calls();
        let event = ArticleEvent::from_body(body).expect("it emits all operations");
        runtime.block_on(async {
            emitter.emit(emitter.event::<Article>(event, Scope::BOTH));
            emitter.replay(message).unwrap();
            while node.calls() < calls + 2 * EXPECTED.len() as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        std::mem::take(&mut *log.lock().unwrap())
    })
}
