//! Every form of filter, on every operation, for local and remote events.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::columns::Columns;
use emitter_core::dead_letter::Reason;
use emitter_core::model::{
    Created, CreatedMany, Deleted, DeletedMany, RowChange, Updated, UpdatedMany, Upserted,
};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Emits, Emitter, Event, Model, Scope, Source, State, listener};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(all)]
#[serde(rename_all = "camelCase")]
struct Article {
    id: i64,
    status: String,
    pen_name: Option<String>,
    views: i64,
}

/// Which listeners were called.
type Log = Arc<Mutex<BTreeSet<&'static str>>>;

const FIRST: i64 = 1;

macro_rules! listeners {
    ($($name:ident [$($filter:tt)*])*) => { $(
        #[listener(model = "article", allow_remote, $($filter)*)]
        async fn $name(event: Event<ArticleEvent>, heard: State<Log>) {
            assert!(heard.lock().unwrap().insert(stringify!($name)), "{:?} came twice", event.id());
        }
    )* };
}

listeners! {
    where_id [where(id = FIRST)]
    where_list [where(status = ["ACTIVE", "BLOCKED"])]
    where_null [where(pen_name = None)]
    where_text [where(pen_name = "al")]
    where_column [where(views = |views| *views > 100)]
    where_row [where(|row| row.views > 100)]
    where_two [where(id = 1, status = "ACTIVE")]
    data_value [data(status = "ACTIVE")]
    data_list [data(status = ["ACTIVE", "BLOCKED"])]
    data_set [data(status)]
    data_null [data(pen_name = None)]
    data_column [data(status = |status| status.starts_with('A'))]
    data_row [data(|row| row.views > 100)]
    data_moves [data(status: "DRAFT" -> "ACTIVE")]
    data_moves_away [data(status: ["DRAFT", "BLOCKED"] -> |status| status != "DRAFT")]
    data_moves_from_null [data(pen_name: None -> "al")]
    changed_status [changed(status)]
    changed_any [changed(status, pen_name)]
    enters_active [enters(status = "ACTIVE")]
    leaves_active [leaves(status = "ACTIVE")]
    where_and_data [where(id = 1), data(status = "ACTIVE")]
}

fn article(id: i64, status: &str, pen_name: Option<&str>, views: i64) -> Article {
    Article { id, status: status.to_owned(), pen_name: pen_name.map(str::to_owned), views }
}

/// The columns with these names.
fn set(fields: &[&str]) -> Option<Columns> {
    let flags = Article::COLUMNS.iter().map(|column| fields.contains(&column.field)).collect::<Vec<_>>();
    Some(Columns::from_flags::<4>(flags.try_into().unwrap()))
}

/// What the listeners of two nodes hear of an event that the first emits.
struct Pair {
    broker: MemoryBroker,
    nodes: [(Emitter, Log); 2],
}

impl Pair {
    async fn start() -> Self {
        let broker = MemoryBroker::new();
        let nodes = [node(&broker, "a").await, node(&broker, "b").await];
        Self { broker, nodes }
    }

    /// The names of those that were called, on each node.
    async fn heard(self) -> [BTreeSet<&'static str>; 2] {
        let [(a, here), (b, there)] = self.nodes;
        assert!(a.shutdown(Duration::from_secs(10)).await.is_clean());
        eventually(|| b.stats().received == self.broker.published().len() as u64).await;
        assert!(b.shutdown(Duration::from_secs(10)).await.is_clean());
        assert_eq!((b.stats().bad_messages, a.stats().panicked + b.stats().panicked), (0, 0));
        [here, there].map(|log| std::mem::take(&mut *log.lock().unwrap()))
    }
}

async fn node(broker: &MemoryBroker, name: &str) -> (Emitter, Log) {
    let log = Log::default();
    let builder = Emitter::builder().node(name).state(Arc::clone(&log)).transport(broker.connect(name));
    let emitter = builder.start().await.unwrap();
    eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
    (emitter, log)
}

/// The same listeners hear the event on the node that wrote and on the other.
async fn check(event: impl Into<emitter_core::model::Body<Article>>, expected: &[&'static str]) {
    let pair = Pair::start().await;
    let event = <ArticleEvent as emitter_core::model::ModelEvent<Article>>::from_body(event.into());
    let emitter = &pair.nodes[0].0;
    emitter.emit(emitter.event::<Article>(event.unwrap(), Scope::BOTH));
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    let [here, there] = pair.heard().await;
    assert_eq!(here, expected, "where it was written");
    assert_eq!(there, expected, "on the other node");
}

/// The same for a message as the npm package sends it.
async fn check_foreign(message: &str, expected: &[&'static str]) {
    let pair = Pair::start().await;
    pair.broker.publish("prisma/events/article/all", message.to_owned());
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    eventually(|| pair.nodes.iter().all(|(node, _)| node.stats().received == 1)).await;
    assert_eq!(pair.heard().await, [expected.clone(), expected]);
}

#[tokio::test]
async fn a_create_sets_every_column() {
    check(
        Created::new(article(1, "ACTIVE", None, 0)),
        &[
            "where_id",
            "where_list",
            "where_null",
            "where_two",
            "data_value",
            "data_list",
            "data_set",
            "data_null",
            "data_column",
            "enters_active",
            "where_and_data",
        ],
    )
    .await;
    check(
        Created::new(article(2, "DRAFT", Some("al"), 101)),
        &["where_text", "where_column", "where_row", "data_set", "data_row"],
    )
    .await;
}

#[tokio::test]
async fn one_row_of_many_is_enough() {
    let rows = vec![article(1, "DRAFT", Some("bo"), 0), article(2, "ACTIVE", Some("bo"), 0)];
    let heard = ["where_id", "where_list"];
    let written = ["data_value", "data_list", "data_set", "data_column", "enters_active"];
    // But not one row for the one condition and another for the other: not `where_two`.
    check(CreatedMany::new(2, Some(rows.clone())), &[&heard[..], &written].concat()).await;
    check(DeletedMany::new(2, Some(rows)), &[&heard[..], &["leaves_active"]].concat()).await;
}

#[tokio::test]
async fn an_update_sets_what_its_statement_names() {
    let (draft, active) = (article(1, "DRAFT", None, 0), article(1, "ACTIVE", None, 0));
    let is_active = ["where_id", "where_list", "where_null", "where_two"];
    let sets_active = ["data_value", "data_list", "data_set", "data_column", "where_and_data"];
    let moved = ["data_moves", "data_moves_away", "changed_status", "changed_any", "enters_active"];
    check(
        Updated::new(Some(draft.clone()), active.clone(), set(&["status"])),
        &[&is_active[..], &sets_active, &moved].concat(),
    )
    .await;
    // To the value that it had.
    check(
        Updated::new(Some(active.clone()), active.clone(), set(&["status"])),
        &[&is_active[..], &sets_active].concat(),
    )
    .await;
    // The row before is not known.
    check(Updated::new(None, active.clone(), set(&["status"])), &[&is_active[..], &sets_active].concat())
        .await;
    // Another column.
    check(Updated::new(Some(active.clone()), active.clone(), set(&["views"])), &is_active).await;
    // What it set is not known, but what changed.
    check(Updated::new(Some(draft), active.clone(), None), &[&is_active[..], &sets_active, &moved].concat())
        .await;
    // Nothing is known of it but the row.
    check(Updated::new(None, active.clone(), None), &is_active).await;
    // It set a column that listeners do not see, and a trigger the others.
    check(
        Updated::new(Some(article(1, "DRAFT", None, 0)), active, set(&[])),
        &[&is_active[..], &moved].concat(),
    )
    .await;
}

#[tokio::test]
async fn nulls_are_values_of_their_own() {
    let (nameless, al) = (article(3, "", None, 0), article(3, "", Some("al"), 0));
    check(
        Updated::new(Some(nameless.clone()), al.clone(), set(&["pen_name"])),
        &["where_text", "data_moves_from_null", "changed_any"],
    )
    .await;
    check(Updated::new(Some(al), nameless, set(&["pen_name"])), &["where_null", "data_null", "changed_any"])
        .await;
}

#[tokio::test]
async fn a_bulk_update_is_judged_row_by_row() {
    let change = |before: &str, after: &str| {
        let before = article(2, before, Some("bo"), 0);
        RowChange::new(Some(before), article(2, after, Some("bo"), 0))
    };
    let rows = vec![change("ACTIVE", "GONE"), change("DRAFT", "DRAFT")];
    check(
        UpdatedMany::new(2, Some(rows), set(&["status"])),
        &["data_set", "changed_status", "changed_any", "leaves_active"],
    )
    .await;
    check(
        UpdatedMany::new(1, Some(vec![change("BLOCKED", "ACTIVE")]), set(&["status"])),
        &[
            "where_list",
            "data_value",
            "data_list",
            "data_set",
            "data_column",
            "data_moves_away",
            "changed_status",
            "changed_any",
            "enters_active",
        ],
    )
    .await;
}

#[tokio::test]
async fn an_upsert_sets_what_it_wrote_and_hides_the_row_before() {
    let row = article(1, "ACTIVE", None, 101);
    let is = ["where_id", "where_list", "where_null", "where_two", "where_column", "where_row"];
    let sets = ["data_value", "data_list", "data_set", "data_column", "data_row", "where_and_data"];
    check(Upserted::new(row.clone(), set(&["id", "status"]), None), &[&is[..], &sets].concat()).await;
    check(Upserted::new(row.clone(), set(&["id", "views"]), None), &[&is[..], &["data_row"]].concat()).await;
    // What it wrote is not known.
    check(Upserted::new(row, None, None), &[&is[..], &["data_row"]].concat()).await;
}

#[tokio::test]
async fn a_delete_sets_nothing() {
    check(
        Deleted::new(article(1, "ACTIVE", Some("al"), 101)),
        &["where_id", "where_list", "where_text", "where_column", "where_row", "where_two", "leaves_active"],
    )
    .await;
}

#[tokio::test]
async fn what_is_only_counted_matches_nothing() {
    check(CreatedMany::new(2, None), &[]).await;
    check(UpdatedMany::new(2, None, set(&["status"])), &[]).await;
    check(DeletedMany::new(2, None), &[]).await;
}

#[tokio::test]
async fn other_programs_tell_by_their_args_what_they_set() {
    let message = |operation: &str, args: &str| {
        let result = r#"{"id":1,"status":"ACTIVE","penName":"bo","views":0}"#;
        format!(r#"{{"model":"Article","operation":"{operation}","args":{args},"result":{result}}}"#)
    };
    let is = ["where_id", "where_list", "where_two"];
    let sets = ["data_value", "data_list", "data_set", "data_column", "where_and_data"];
    let both = [&is[..], &sets].concat();
    check_foreign(&message("update", r#"{"where":{"id":1},"data":{"status":"ACTIVE"}}"#), &both).await;
    check_foreign(&message("update", r#"{"where":{"id":1},"data":{"penName":"bo","nobody":1}}"#), &is).await;
    check_foreign(&message("update", r#"{"where":{"id":1}}"#), &is).await;
    check_foreign(&message("update", "null"), &is).await;
    let upsert = r#"{"where":{"id":1},"create":{"id":1},"update":{"status":"ACTIVE"}}"#;
    check_foreign(&message("upsert", upsert), &both).await;
}

/// At run time a filter is a closure, and of several all have to let the event through.
#[tokio::test]
async fn filters_at_run_time() {
    let emitter = Emitter::builder().select_listeners(|_| false).start().await.unwrap();
    let heard: Arc<Mutex<Vec<(i64, Source)>>> = Arc::default();
    let log = Arc::clone(&heard);
    let _stays = emitter
        .on::<ArticleUpdated>()
        .filter(|event| event.changed().status().is_some_and(|status| status.new == "ACTIVE"))
        .filter(|event| event.any_row(|row| row.row().views > 100))
        .filter(|event| if event.after.id == 5 { panic!("a filter of the user's") } else { true })
        .run(move |event| {
            log.lock().unwrap().push((event.after.id, event.source()));
            std::future::ready(())
        });
    let update = |id, before: &str, views| {
        let after = article(id, "ACTIVE", None, views);
        let body = Updated::new(Some(article(id, before, None, views)), after, set(&["status"]));
        emitter.emit(emitter.event::<Article>(ArticleEvent::Updated(body), Scope::BOTH));
    };
    update(1, "DRAFT", 101);
    update(2, "ACTIVE", 101);
    update(3, "DRAFT", 100);
    update(5, "DRAFT", 101);
    update(4, "DRAFT", 102);
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    assert_eq!(*heard.lock().unwrap(), [(1, Source::Local), (4, Source::Local)]);
    let stats = emitter.stats();
    assert_eq!((stats.handled, stats.filtered, stats.panicked, stats.given_up), (2, 2, 1, 1));
    let [letter] = &emitter.dead_letters()[..] else { panic!("{stats:?}") };
    assert_eq!((letter.reason, letter.attempts, &*letter.error), (Reason::Unhandled, 1, "it panicked"));
}

/// What changed, with old and new values, each by a method of its own.
#[test]
fn a_diff_has_a_method_for_each_column() {
    let (before, after) = (article(1, "DRAFT", None, 7), article(1, "ACTIVE", Some("al"), 7));
    let update = Updated::<Article>::new(Some(before), after.clone(), None);
    let diff = update.changed();
    let status = diff.status().unwrap();
    assert_eq!((status.old.map(String::as_str), status.new.as_str()), (Some("DRAFT"), "ACTIVE"));
    assert_eq!(diff.pen_name().unwrap().old, Some(&None));
    assert!(diff.views().is_none() && diff.id().is_none());
    assert_eq!(diff.columns().collect::<Vec<_>>(), ["status", "pen_name"]);
    // Without the row before, what was set may have changed; where that is unknown, everything.
    let update = Updated::<Article>::new(None, after.clone(), set(&["views"]));
    assert_eq!(update.changed().views().unwrap().old, None);
    assert_eq!(update.changed().columns().collect::<Vec<_>>(), ["views"]);
    assert_eq!(Updated::<Article>::new(None, after.clone(), None).changed().columns().count(), 4);
    assert!(Updated::<Article>::new(Some(after.clone()), after, None).changed().is_empty());
}
