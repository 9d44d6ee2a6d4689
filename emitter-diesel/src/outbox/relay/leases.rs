//! Which lanes are this relay's, and for how long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::Emitter;
use tracing::warn;

use super::{Count, Owned, Relay, millis};
use crate::tables::Lane;

impl Relay {
    /// Says that the relay is there, and takes its share of the lanes.
    pub(super) fn beat(&mut self, emitter: &Emitter, ending: bool) -> QueryResult<()> {
        let lease = millis(self.config.lease);
        let beat = self.store.beat(&self.id, &self.node, self.relays, lease);
        let (relays, free) = (self.store.relays(&self.id, &self.node), self.store.free(&self.id, &self.node));
        let (handlers, paused) = (self.store.handlers(), self.store.paused());
        let owned = self.store.owned(&self.id);
        let database = self.database()?;
        database.run(&beat)?;
        let there = database.pairs(relays)?;
        let is_paused = database.pairs(paused)?.iter().any(|lanes| lanes.number > 0);
        let handlers = database.pairs(handlers)?;
        let owned = database.lanes(owned)?;
        let free = database.lanes(free)?;
        self.keep_only(&owned);
        self.rest(is_paused);
        self.next_beat = Instant::now() + self.config.lease / 3;
        self.changes = there.len() > 1;
        if ending {
            return Ok(());
        }
        // Taken, and then something came between: whoever takes them next knows where their numbers are.
        let unknown: Vec<i64> = owned
            .iter()
            .map(|owned| owned.lane)
            .filter(|lane| !self.lanes.contains_key(lane))
            .map(i64::from)
            .collect();
        if !unknown.is_empty() {
            let release = self.store.release(&self.id, unknown);
            self.database()?.change(release)?;
        }
        self.inherit(emitter, &handlers, &there)?;
        self.find_strays(&handlers)?;
        if !self.relays {
            return Ok(());
        }
        let relays = there.iter().filter(|relay| relay.number != 0).count();
        let share = (self.all_lanes as usize).div_ceil(relays.max(1));
        let staying = self.lanes.values().filter(|lane| !lane.leaving).count();
        if staying > share {
            let too_many = staying - share;
            self.lanes
                .values_mut()
                .rev()
                .filter(|lane| !lane.leaving)
                .take(too_many)
                .for_each(|lane| lane.leaving = true);
        }
        let mut taken = Vec::new();
        for Lane { lane, .. } in free.into_iter().take(share.saturating_sub(staying)) {
            let take = self.store.take(lane, &self.id, &self.node, lease);
            if self.database()?.change(take)? == 1 {
                taken.push(lane);
            }
        }
        // Others that are free now may be taken soon.
        if staying + taken.len() < share {
            self.next_beat = Instant::now() + (self.config.lease / 15).min(Duration::from_secs(1));
        }
        if !taken.is_empty() {
            self.enter(&taken)?;
        }
        self.give_back()
    }

    /// Forgets lanes that are another's now, and what was on its way from them.
    pub(super) fn keep_only(&mut self, owned: &[Lane]) {
        let still = |lane: i32, epoch: i64| owned.contains(&Lane { lane, epoch });
        let before = self.lanes.len();
        self.lanes.retain(|lane, owned| still(*lane, owned.epoch));
        if self.lanes.len() < before {
            warn!(
                lanes = before - self.lanes.len(),
                "the lease of lanes ran out: another relay may have them"
            );
            self.on_the_way.retain(|row| still(row.at.lane, row.at.epoch));
            let on_the_way = &self.on_the_way;
            self.held.retain(|line, _| on_the_way.of_line(line).next().is_some());
            self.held
                .values_mut()
                .for_each(|rows| rows.retain(|_, lane| owned.iter().any(|owned| owned.lane == *lane)));
            self.confirmed.retain(|row| still(row.lane, row.epoch));
            self.failed.retain(|row| still(row.at.lane, row.at.epoch));
        }
    }

    /// Reads where the numbers of lanes are that were just taken: after that, for what their last owner did
    /// is to be seen.
    pub(super) fn enter(&mut self, taken: &[i32]) -> QueryResult<()> {
        let (owned, numbers) =
            (self.store.owned(&self.id), self.store.numbers(taken.iter().map(|lane| i64::from(*lane))));
        let database = self.database()?;
        let owned = database.lanes(owned)?;
        let numbers = database.pairs(numbers)?;
        for Lane { lane, epoch } in owned.into_iter().filter(|owned| taken.contains(&owned.lane)) {
            let counts = numbers.iter().filter_map(|pair| {
                let (of, model) = pair.text.split_once('/')?;
                (of.parse() == Ok(lane)).then(|| (model.to_owned(), Count::new(pair.number)))
            });
            let counts = counts.collect();
            self.lanes.insert(lane, Owned { epoch, counts, leaving: false, is_full: false });
        }
        self.next_poll = Instant::now();
        Ok(())
    }

    /// Gives back what is another's share, when nothing of it is on its way.
    pub(super) fn give_back(&mut self) -> QueryResult<()> {
        let busy: BTreeSet<i32> = self
            .on_the_way
            .rows()
            .map(|row| row.at.lane)
            .chain(self.confirmed.iter().map(|row| row.lane))
            .chain(self.failed.iter().map(|row| row.at.lane))
            .collect();
        let free: Vec<i32> = self
            .lanes
            .iter()
            .filter(|(lane, owned)| owned.leaving && !busy.contains(lane))
            .map(|(lane, _)| *lane)
            .collect();
        if free.is_empty() {
            return Ok(());
        }
        let release = self.store.release(&self.id, free.iter().map(|lane| i64::from(*lane)));
        self.database()?.change(release)?;
        free.iter().for_each(|lane| drop(self.lanes.remove(lane)));
        Ok(())
    }
}
