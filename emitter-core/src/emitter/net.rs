//! Events of a transaction that become fewer before they leave.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Emission, Emitter};
use crate::emit::EmitConfig;
use crate::event::Operation;
use crate::model_info::{AnyEvent, ModelInfo};
use crate::net::{Change, NetRow, Planned, plan};

impl Emitter {
    /// Emits what a transaction did in the end, instead of all that it did on the way: of each row
    /// one event, with the row as it was first, as it is now, and the columns of all its updates.
    /// What was inserted and deleted again is no event, nor are updates back to what was, though each
    /// of them asked for its own. A row
    /// that was deleted and inserted again was updated; where its model has no event for that, it
    /// was upserted, and else it stays two events; but if it is as it was, as the row of a join table
    /// is that has no other columns, it is none.
    ///
    /// The rows of a bulk write stay in one event where the same became of them. An event that
    /// several were merged to has an id of its own.
    ///
    /// Events stay apart that go different ways (other nodes or this one only, another quality of
    /// service, trace or idempotency key), and an update that sets a key is merged with nothing.
    /// A net change stands where its row was touched first, a delete where it was deleted.
    pub fn emit_net(&self, emissions: Vec<Emission>) {
        self.emit(self.net(emissions));
    }

    /// The events that [`emit_net`](Self::emit_net) would emit of these.
    #[must_use]
    pub fn net(&self, emissions: Vec<Emission>) -> Vec<Emission> {
        let config = &self.node.shared.emit;
        let ways = ways(&emissions);
        let changes: Vec<_> =
            emissions.iter().zip(ways).map(|(emission, way)| change(emission, way, config)).collect();
        let events: Vec<Arc<dyn AnyEvent>> =
            emissions.iter().map(|emission| Arc::clone(&emission.event)).collect();
        let same = |row: NetRow| (emissions[row.first.event].model.info.same)(row, &events);
        let planned = plan(&changes, &same);
        let mut emissions: Vec<Option<Emission>> = emissions.into_iter().map(Some).collect();
        let net = planned.into_iter().filter_map(|planned| match planned {
            Planned::Same(event) => emissions[event].take(),
            Planned::Net(net) => {
                let of = emissions[net.of].as_ref()?;
                Some(of.with((of.model.info.merge)(&net, &events)?))
            }
        });
        net.collect()
    }
}

/// For each event, the number of its way.
fn ways(emissions: &[Emission]) -> Vec<usize> {
    let mut known = HashMap::new();
    let way = |emission| {
        let next = known.len();
        *known.entry(Emission::way(emission)).or_insert(next)
    };
    emissions.iter().map(way).collect()
}

fn change<'e>(emission: &'e Emission, way: usize, config: &EmitConfig) -> Change<'e> {
    let info = emission.model.info;
    let meta = emission.event.meta();
    let set = emission.event.set();
    let allowed = |operation: &Operation| {
        info.operations.contains(operation)
            && emission.allowed.and(config.scope(*operation)) == emission.allowed
    };
    let keys: &[_] = &meta.keys;
    Change {
        model: info.type_id,
        way,
        operation: meta.operation,
        // One that only carries their count has none.
        keys: Some(keys).filter(|keys| !keys.is_empty()),
        set,
        inserted: emission.event.inserted(),
        moves: matches!(meta.operation, Operation::Update | Operation::UpdateMany)
            && sets_key(info, &*emission.event),
        replaced: [Operation::Update, Operation::UpdateMany, Operation::Upsert].into_iter().find(allowed),
    }
}

/// Whether an update may have given a row another key.
fn sets_key(info: &ModelInfo, event: &dyn AnyEvent) -> bool {
    let Some(set) = event.set() else { return true };
    info.columns
        .iter()
        .enumerate()
        .any(|(place, column)| set.contains(place) && info.key_columns.contains(&column.json))
}
