//! What a transaction did to each row in the end, instead of all that it did on the way.
//!
//! Pure: it is shown what the events did to which keys, and says which of them are to be one.

use std::any::TypeId;
use std::collections::HashMap;

use crate::columns::Columns;
use crate::event::Operation;
use crate::key::Key;

/// An event of a transaction, as far as it counts here.
#[derive(Debug)]
pub(crate) struct Change<'e> {
    pub(crate) model: TypeId,
    /// Events that do not go the same way stay apart: whoever hears one may not hear the other.
    pub(crate) way: usize,
    pub(crate) operation: Operation,
    /// The key of each row; `None` when it only carries their count.
    pub(crate) keys: Option<&'e [Key]>,
    pub(crate) set: Option<Columns>,
    pub(crate) inserted: Option<bool>,
    /// It may have given a row another key.
    pub(crate) moves: bool,
    /// What a row of it becomes that was deleted and is there again; `None` where the model has no
    /// event for that.
    pub(crate) replaced: Option<Operation>,
}

/// What to emit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// This event, as it is.
    Same(usize),
    /// An event made of several.
    Net(Net),
}

/// An event that is made of the rows of others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Net {
    /// The event in whose place it stands, and whose way it goes.
    pub(crate) of: usize,
    pub(crate) operation: Operation,
    pub(crate) rows: Vec<NetRow>,
    pub(crate) set: Option<Columns>,
    pub(crate) inserted: Option<bool>,
}

/// Where the images of a row are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetRow {
    /// Has the row before, if any has.
    pub(crate) first: Place,
    /// Has the row after; of a delete, the row before if nothing else has it.
    pub(crate) last: Place,
}

impl NetRow {
    /// Whether it is made of more than one.
    pub(crate) fn is_merged(self) -> bool {
        self.first != self.last
    }
}

/// A row of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) event: usize,
    pub(crate) row: usize,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Created,
    Updated,
    /// Inserted or updated; which of both, where that is known.
    Upserted(Option<bool>),
    Deleted,
    /// Was deleted, and is there again.
    Replaced,
    /// Is now what it was before.
    Vanished,
}

impl Fate {
    fn of(change: &Change<'_>) -> Self {
        match change.operation {
            Operation::Create | Operation::CreateMany => Self::Created,
            Operation::Update | Operation::UpdateMany => Self::Updated,
            Operation::Upsert => Self::Upserted(change.inserted),
            Operation::Delete | Operation::DeleteMany => Self::Deleted,
        }
    }

    /// Both, one after the other; `None` where the second cannot follow the first, so that something
    /// must have happened in between that nobody was told of.
    fn then(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Created, Self::Updated | Self::Upserted(_)) => Some(Self::Created),
            (Self::Created | Self::Upserted(Some(true)), Self::Deleted) => Some(Self::Vanished),
            (Self::Updated, Self::Updated | Self::Upserted(_)) => Some(Self::Updated),
            (Self::Upserted(how), Self::Updated | Self::Upserted(_)) => Some(Self::Upserted(how)),
            (Self::Updated | Self::Upserted(_) | Self::Replaced, Self::Deleted) => Some(Self::Deleted),
            (Self::Deleted, Self::Created | Self::Upserted(_))
            | (Self::Replaced, Self::Updated | Self::Upserted(_)) => Some(Self::Replaced),
            _ => None,
        }
    }
}

/// A row of which a net change is made.
#[derive(Debug)]
struct Row {
    way: usize,
    fate: Fate,
    set: Option<Columns>,
    /// Where its event stands: where the row was touched first or, if it is gone, where it went.
    stands: usize,
    images: NetRow,
}

impl Row {
    /// Takes up what came later; `false` where it cannot.
    fn take(&mut self, place: Place, changes: &[Change<'_>], same: &dyn Fn(NetRow) -> bool) -> bool {
        let change = &changes[place.event];
        let images = NetRow { last: place, ..self.images };
        let first = &changes[self.images.first.event];
        let fate = match (self.fate.then(Fate::of(change)), Fate::of(first)) {
            // Whether the row was there before is as unknown as ever.
            (Some(Fate::Replaced), how @ Fate::Upserted(_)) => Some(how),
            (Some(Fate::Replaced), _) if operation(Fate::Replaced, first).is_none() => {
                same(images).then_some(Fate::Vanished)
            }
            (fate, _) => fate,
        };
        let Some(fate) = fate.filter(|_| self.way == change.way) else { return false };
        self.set = match self.fate {
            Fate::Deleted => Some(Columns::ALL),
            _ => self.set.zip(change.set).map(|(one, other)| one.union(other)),
        };
        self.stands = if fate == Fate::Deleted { place.event } else { self.images.first.event };
        self.images = images;
        self.fate = fate;
        true
    }
}

/// The operation of a row with this fate whose event stands in the place of this one.
fn operation(fate: Fate, stands: &Change<'_>) -> Option<Operation> {
    match fate {
        Fate::Replaced if Fate::of(stands) != Fate::Updated => stands.replaced,
        Fate::Vanished => None,
        _ => Some(stands.operation),
    }
}

/// Which events of a transaction, given in order, are to be emitted, and which are to be made of
/// them. Of each row there is one, unless its key was set, or its changes go different ways.
///
/// A net change stands where its row was touched first, a delete where the row went: so a row is
/// there before another refers to it, and goes after. `same` says of a row that was deleted and is
/// there again whether it is as it was.
pub(crate) fn plan(changes: &[Change<'_>], same: &dyn Fn(NetRow) -> bool) -> Vec<Planned> {
    let mut rows: Vec<Row> = Vec::new();
    let mut open: HashMap<(TypeId, &Key), usize> = HashMap::new();
    for (event, change) in changes.iter().enumerate() {
        let Some(keys) = change.keys.filter(|_| !change.moves) else {
            // Nobody knows which rows it touched: what was is closed.
            open.retain(|(model, _), _| *model != change.model);
            continue;
        };
        for (row, key) in keys.iter().enumerate() {
            let place = Place { event, row };
            let known = open.get(&(change.model, key)).copied();
            if let Some(known) = known
                && rows[known].take(place, changes, same)
            {
                if rows[known].fate == Fate::Vanished {
                    open.remove(&(change.model, key));
                }
                continue;
            }
            open.insert((change.model, key), rows.len());
            rows.push(Row {
                way: change.way,
                fate: Fate::of(change),
                set: change.set,
                stands: event,
                images: NetRow { first: place, last: place },
            });
        }
    }
    in_order(changes, &rows)
}

/// The events in whose places these rows stand.
fn in_order(changes: &[Change<'_>], rows: &[Row]) -> Vec<Planned> {
    let mut standing: Vec<Vec<&Row>> = changes.iter().map(|_| Vec::new()).collect();
    rows.iter().for_each(|row| standing[row.stands].push(row));
    let mut planned = Vec::new();
    for (event, rows) in standing.into_iter().enumerate() {
        let change = &changes[event];
        let all = change.keys.filter(|_| !change.moves).map(<[Key]>::len);
        let untouched = |row: &&Row| !row.images.is_merged() && row.images.first.event == event;
        if all.is_none_or(|all| all == rows.len() && rows.iter().all(untouched)) {
            planned.push(Planned::Same(event));
            continue;
        }
        let mut nets: Vec<Net> = Vec::new();
        for row in rows {
            let Some(operation) = operation(row.fate, change) else { continue };
            let inserted = match row.fate {
                Fate::Upserted(how) => how,
                // By an upsert, where the model has no update.
                Fate::Replaced => Some(false),
                _ => None,
            };
            let alike =
                |net: &&mut Net| is_bulk(operation) && (net.operation, net.set) == (operation, row.set);
            match nets.iter_mut().find(alike) {
                Some(net) => net.rows.push(row.images),
                None => {
                    nets.push(Net { of: event, operation, rows: vec![row.images], set: row.set, inserted });
                }
            }
        }
        planned.extend(nets.into_iter().map(Planned::Net));
    }
    planned
}

const fn is_bulk(operation: Operation) -> bool {
    matches!(operation, Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What one statement of a random transaction does, to rows 0 to 5.
    #[derive(Debug, Clone)]
    struct Write {
        does: Does,
        rows: Vec<i64>,
        many: bool,
        /// What it writes into them.
        content: u8,
        way: usize,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Does {
        Insert,
        /// Tells or not whether it inserted.
        Upsert(bool),
        Update,
        Delete,
    }

    fn write(ways: usize) -> impl Strategy<Value = Write> {
        let does = prop_oneof![
            2 => Just(Does::Insert),
            2 => any::<bool>().prop_map(Does::Upsert),
            4 => Just(Does::Update),
            3 => Just(Does::Delete),
        ];
        let rows = prop::collection::btree_set(0..6_i64, 1..4);
        (does, rows, any::<bool>(), 0..3_u8, 0..ways).prop_map(|(does, rows, many, content, way)| Write {
            does,
            rows: rows.into_iter().collect(),
            many: many && !matches!(does, Does::Upsert(_)),
            content,
            way,
        })
    }

    fn transaction() -> impl Strategy<Value = Vec<Write>> {
        prop_oneof![2 => Just(1), 1 => Just(2)]
            .prop_flat_map(|ways| prop::collection::vec(write(ways), 0..12))
    }

    type Table = BTreeMap<i64, u8>;

    #[derive(Debug)]
    struct Event {
        operation: Operation,
        keys: Vec<Key>,
        /// Of each row, what was in it and what is.
        images: Vec<(Option<u8>, Option<u8>)>,
        inserted: Option<bool>,
        way: usize,
    }

    /// Does to a table what a database would, and returns the events of it.
    fn run(table: &mut Table, writes: Vec<Write>) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for Write { does, mut rows, many, content, way } in writes {
            let operations = match does {
                Does::Insert => [Operation::Create, Operation::CreateMany],
                Does::Upsert(_) => [Operation::Upsert; 2],
                Does::Update => [Operation::Update, Operation::UpdateMany],
                Does::Delete => [Operation::Delete, Operation::DeleteMany],
            };
            rows.retain(|row| match does {
                Does::Insert => !table.contains_key(row),
                Does::Upsert(_) => true,
                Does::Update | Does::Delete => table.contains_key(row),
            });
            let size = if many { rows.len().max(1) } else { 1 };
            for rows in rows.chunks(size) {
                let write = |row: &i64| match does {
                    Does::Delete => (table.remove(row), None),
                    Does::Insert | Does::Upsert(_) | Does::Update => {
                        (table.insert(*row, content), Some(content))
                    }
                };
                let images: Vec<_> = rows.iter().map(write).collect();
                let inserted = (does == Does::Upsert(true)).then(|| images[0].0.is_none());
                let keys = rows.iter().copied().map(Key::Int).collect();
                events.push(Event { operation: operations[usize::from(many)], keys, images, inserted, way });
            }
        }
        events
    }

    fn changes(events: &[Event], replaced: Option<Operation>) -> Vec<Change<'_>> {
        let change = |event: &'_ Event| Change {
            model: TypeId::of::<()>(),
            way: event.way,
            operation: event.operation,
            keys: None,
            set: Some(Columns::NONE),
            inserted: event.inserted,
            moves: false,
            replaced,
        };
        events.iter().map(|event| Change { keys: Some(&event.keys), ..change(event) }).collect()
    }

    fn key(events: &[Event], place: Place) -> i64 {
        match &events[place.event].keys[place.row] {
            Key::Int(key) => *key,
            other => panic!("{other:?}"),
        }
    }

    /// Each row of what was planned: its operation and way, its key, and what it has then.
    fn rows(events: &[Event], planned: &[Planned]) -> Vec<(Operation, usize, i64, Option<u8>)> {
        let row = |operation, of: usize, place: Place| {
            (operation, events[of].way, key(events, place), events[place.event].images[place.row].1)
        };
        let mut rows = Vec::new();
        for planned in planned {
            match planned {
                Planned::Same(event) => {
                    let places = (0..events[*event].keys.len()).map(|row| Place { event: *event, row });
                    rows.extend(places.map(|place| row(events[*event].operation, *event, place)));
                }
                Planned::Net(net) => {
                    assert!(!net.rows.is_empty());
                    assert!(net.rows.len() == 1 || is_bulk(net.operation), "{net:?}");
                    for image in &net.rows {
                        assert_eq!(key(events, image.first), key(events, image.last));
                        assert_eq!(events[image.first.event].way, events[image.last.event].way);
                        rows.push(row(net.operation, net.of, image.last));
                    }
                }
            }
        }
        rows
    }

    proptest! {
        /// The judge: whoever applies the net changes has the same table as whoever applies all.
        #[test]
        fn net_changes_lead_where_all_changes_lead(
            there in prop::collection::btree_map(0..6_i64, 0..3_u8, 0..6),
            writes in transaction(),
            replaced in prop::sample::select(vec![None, Some(Operation::Update), Some(Operation::Upsert)]),
            compares in any::<bool>(),
        ) {
            let mut after = there.clone();
            let events = run(&mut after, writes);
            let same = |row: NetRow| {
                let before = events[row.first.event].images[row.first.row].0;
                compares && before == events[row.last.event].images[row.last.row].1
            };
            let planned = plan(&changes(&events, replaced), &same);
            let mut replica = there.clone();
            let mut told: BTreeMap<i64, Vec<Operation>> = BTreeMap::new();
            for (operation, _, row, content) in rows(&events, &planned) {
                told.entry(row).or_default().push(operation);
                match (operation, content) {
                    (Operation::Create | Operation::CreateMany, Some(content)) => {
                        prop_assert_eq!(replica.insert(row, content), None);
                    }
                    (Operation::Update | Operation::UpdateMany, Some(content)) => {
                        prop_assert!(replica.insert(row, content).is_some());
                    }
                    (Operation::Upsert, Some(content)) => {
                        replica.insert(row, content);
                    }
                    (Operation::Delete | Operation::DeleteMany, None) => {
                        replica.remove(&row);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(&replica, &after);
            if events.iter().any(|event| event.way > 0) {
                return Ok(());
            }
            // One of each row, but for a row that is gone and there again and has no word for it.
            let most = if replaced.is_none() { 2 } else { 1 };
            for (row, operations) in told {
                let twice = operations.len() == most && matches!(operations[0], Operation::Delete | Operation::DeleteMany);
                prop_assert!(operations.len() == 1 || twice, "{row}: {operations:?}");
            }
        }
    }

    fn event(operation: Operation, keys: &[i64]) -> Event {
        let images = keys.iter().map(|_| (None, None)).collect();
        let keys = keys.iter().copied().map(Key::Int).collect();
        Event { operation, keys, images, inserted: None, way: 0 }
    }

    #[test]
    fn what_cannot_follow_stays_apart() {
        // Somebody else deleted the row in between, and nobody was told.
        let events = [event(Operation::Create, &[1]), event(Operation::Create, &[1])];
        assert_eq!(plan(&changes(&events, None), &|_| false), [Planned::Same(0), Planned::Same(1)]);
    }

    #[test]
    fn a_row_that_is_there_again_as_it_was_is_nothing() {
        let events = [
            event(Operation::DeleteMany, &[1, 2]),
            event(Operation::CreateMany, &[2, 3]),
            event(Operation::Delete, &[2]),
        ];
        let changes = changes(&events, None);
        let rows = |plan: &[Planned]| {
            rows(&events, plan).into_iter().map(|(operation, _, key, _)| (operation, key)).collect::<Vec<_>>()
        };
        let (gone, there) = (Operation::DeleteMany, Operation::CreateMany);
        assert_eq!(rows(&plan(&changes[..2], &|_| true)), [(gone, 1), (there, 3)]);
        assert_eq!(rows(&plan(&changes[..2], &|_| false)), [(gone, 1), (gone, 2), (there, 2), (there, 3)]);
        assert_eq!(rows(&plan(&changes, &|_| true)), [(gone, 1), (there, 3), (Operation::Delete, 2)]);
    }

    #[test]
    fn nothing_is_taken_across_a_change_of_keys() {
        let events = [Operation::Create, Operation::Update, Operation::Update, Operation::Delete]
            .map(|operation| event(operation, &[1]));
        let mut changes = changes(&events, None);
        changes[1].moves = true;
        let last = |first: usize, last: usize| NetRow {
            first: Place { event: first, row: 0 },
            last: Place { event: last, row: 0 },
        };
        let gone = Net {
            of: 3,
            operation: Operation::Delete,
            rows: vec![last(2, 3)],
            set: Some(Columns::NONE),
            inserted: None,
        };
        assert_eq!(plan(&changes, &|_| false), [Planned::Same(0), Planned::Same(1), Planned::Net(gone)]);
        // Nor across an event whose rows nobody knows.
        changes[1].moves = false;
        changes[1].keys = None;
        assert_eq!(plan(&changes, &|_| false).len(), 3);
    }

    #[test]
    fn rows_of_a_bulk_event_stay_together_where_the_same_became_of_them() {
        let events = [
            event(Operation::CreateMany, &[1, 2, 3]),
            event(Operation::Update, &[2]),
            event(Operation::Delete, &[3]),
            event(Operation::UpdateMany, &[4, 5]),
            event(Operation::Update, &[5]),
        ];
        let mut changes = changes(&events, None);
        changes[4].set = Some(Columns::ALL);
        let shown: Vec<String> = plan(&changes, &|_| false)
            .into_iter()
            .map(|planned| match planned {
                Planned::Same(event) => format!("same {event}"),
                Planned::Net(net) => format!("{} {}", net.operation, net.rows.len()),
            })
            .collect();
        assert_eq!(shown, ["createMany 2", "updateMany 1", "updateMany 1"]);
    }
}
