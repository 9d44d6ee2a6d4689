//! Which publish is where between its acceptance and its confirmation. No I/O and no clock.

use std::collections::{HashMap, VecDeque};

/// All messages that were accepted and not yet settled, in order of acceptance.
///
/// A message waits; is handed to the client library; is written under a packet id; and leaves when
/// the broker has answered. The client library tells packet ids in the order in which it was handed
/// the messages, so matching them first-in-first-out is exact. When a connection is lost, whatever
/// was not settled waits again, in its old order.
#[derive(Debug)]
pub(super) struct InFlight<T> {
    bounds: Bounds,
    accepted: u64,
    bytes: usize,
    waiting: VecDeque<Entry<T>>,
    /// In the order in which the client library was handed them; `None` stands for a message of QoS 0 that
    /// is nobody's.
    handed: VecDeque<Option<Entry<T>>>,
    /// How many of those there are.
    nobodys: usize,
    /// Handed, and held back by the client library until the older message with this packet id is
    /// acknowledged. There is at most one: it stops taking messages meanwhile.
    colliding: Option<(u16, Entry<T>)>,
    written: HashMap<u16, Entry<T>>,
    /// QoS 2 after the broker's PUBREC: the id may be reused before PUBCOMP settles it.
    received: HashMap<u16, Entry<T>>,
    /// Something was settled on this connection.
    progressed: bool,
    /// The last connection ended before anything on it was settled: the next message is sent alone,
    /// so that one that ends connections is known.
    alone: bool,
}

/// How much may be in flight. All of them are at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Messages handed or written and not settled.
    pub(super) window: usize,
    /// Messages accepted and not settled.
    pub(super) messages: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    /// Whether the oldest waiting ones make room for a newer one.
    pub(super) displace: bool,
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    bytes: usize,
    /// How many connections in a row ended with it as the oldest on the wire, and nothing settled.
    ends: u32,
    item: T,
}

/// There is no room, and none may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// The client library told something that does not fit what it was handed. The connection's
/// bookkeeping cannot be trusted any more; [`InFlight::disconnected`] makes it good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Confused;

impl<T> InFlight<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            accepted: 0,
            bytes: 0,
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            nobodys: 0,
            colliding: None,
            written: HashMap::new(),
            received: HashMap::new(),
            progressed: false,
            alone: false,
        }
    }

    /// Messages accepted and not settled.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.on_the_wire()
    }

    /// Messages handed over or written, and not settled.
    pub(super) fn on_the_wire(&self) -> usize {
        let colliding = usize::from(self.colliding.is_some());
        self.handed.len() - self.nobodys + colliding + self.written.len() + self.received.len()
    }

    /// The one of them that was accepted first.
    pub(super) fn oldest(&self) -> Option<&T> {
        let colliding = self.colliding.iter().map(|(_, entry)| entry);
        let handed = self.handed.iter().flatten().chain(colliding);
        let on_the_wire = handed.chain(self.written.values()).chain(self.received.values());
        let all = on_the_wire.chain(self.waiting.front());
        all.min_by_key(|entry| entry.number).map(|entry| &entry.item)
    }

    /// Whether a message of so many bytes would be taken in.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.len() < self.bounds.messages && self.bytes.saturating_add(bytes) <= self.bounds.bytes
    }

    /// Takes a message in; it waits. Returns those that were displaced for it, oldest first.
    pub(super) fn accept(&mut self, item: T, bytes: usize) -> Result<Vec<T>, Full> {
        let displaced = self.make_room(bytes)?;
        self.bytes += bytes;
        self.waiting.push_back(Entry { number: self.accepted, bytes, ends: 0, item });
        self.accepted += 1;
        Ok(displaced)
    }

    /// Decides how many must go before touching any: nobody is displaced for a message that does
    /// not fit all the same.
    fn make_room(&mut self, bytes: usize) -> Result<Vec<T>, Full> {
        let full = Full { messages: self.len(), bytes: self.bytes };
        let mut messages_left = self.len();
        let mut bytes_left = self.bytes;
        let mut displaced = 0;
        while messages_left >= self.bounds.messages || bytes_left + bytes > self.bounds.bytes {
            let oldest = self.waiting.get(displaced).filter(|_| self.bounds.displace).ok_or(full)?;
            bytes_left -= oldest.bytes;
            messages_left -= 1;
            displaced += 1;
        }
        self.bytes = bytes_left;
        Ok(self.waiting.drain(..displaced).map(|entry| entry.item).collect())
    }

    /// The message to be handed over next, if the window has room.
    pub(super) fn next(&self) -> Option<&T> {
        let window = if self.alone { 1 } else { self.bounds.window };
        if self.on_the_wire() >= window {
            return None;
        }
        self.waiting.front().map(|entry| &entry.item)
    }

    /// The [`next`](Self::next) one was handed to the client library.
    pub(super) fn handed_over(&mut self) {
        self.handed.extend(self.waiting.pop_front().map(Some));
    }

    /// A message of QoS 0 was handed to the client library that nobody waits for.
    pub(super) fn handed_over_nobodys(&mut self) {
        self.handed.push_back(None);
        self.nobodys += 1;
    }

    /// Takes the [`next`](Self::next) one out, unsent.
    pub(super) fn withdraw(&mut self) -> Option<T> {
        let entry = self.waiting.pop_front()?;
        Some(self.removed(entry))
    }

    /// A message was written under this packet id. With id 0 it was QoS 0, and this settles it.
    pub(super) fn written(&mut self, id: u16) -> Result<Option<T>, Confused> {
        let entry = match self.colliding.take_if(|(awaited, _)| *awaited == id) {
            Some((_, entry)) => entry,
            None => match self.handed.pop_front().ok_or(Confused)? {
                Some(entry) => entry,
                None => {
                    self.nobodys -= 1;
                    return if id == 0 { Ok(None) } else { Err(Confused) };
                }
            },
        };
        if id == 0 {
            return Ok(Some(self.settle(entry)));
        }
        if self.written.contains_key(&id) {
            self.handed.push_front(Some(entry));
            return Err(Confused);
        }
        self.written.insert(id, entry);
        Ok(None)
    }

    /// A message is held back until the older one with the same packet id is acknowledged.
    pub(super) fn collided(&mut self, id: u16) -> Result<(), Confused> {
        if self.colliding.is_some() {
            return Err(Confused);
        }
        let entry = self.handed.pop_front_if(|handed| handed.is_some()).flatten();
        self.colliding = Some((id, entry.ok_or(Confused)?));
        Ok(())
    }

    /// The broker answered the message under this packet id for good: PUBACK, or PUBREC with an
    /// error. `None` when there is no such message.
    pub(super) fn answered(&mut self, id: u16) -> Option<T> {
        let entry = self.written.remove(&id)?;
        Some(self.settle(entry))
    }

    /// The broker took the first step of QoS 2: PUBREC.
    pub(super) fn received(&mut self, id: u16) {
        if let Some(entry) = self.written.remove(&id) {
            self.received.insert(id, entry);
        }
    }

    /// The broker took the second step of QoS 2: PUBCOMP. `None` when there is no such message.
    pub(super) fn completed(&mut self, id: u16) -> Option<T> {
        let entry = self.received.remove(&id)?;
        Some(self.settle(entry))
    }

    /// Whether a message is held back for this packet id.
    pub(super) fn is_awaited(&self, id: u16) -> bool {
        self.colliding.as_ref().is_some_and(|(awaited, _)| *awaited == id)
    }

    /// Whether the [`next`](Self::next) one has ended so many connections, alone at last.
    pub(super) fn next_ends_connections(&self, times: u32) -> bool {
        self.waiting.front().is_some_and(|entry| entry.ends >= times)
    }

    /// The message that was written under this packet id and has no answer.
    pub(super) fn on_the_wire_as(&self, id: u16) -> Option<&T> {
        self.written.get(&id).map(|entry| &entry.item)
    }

    /// The broker refused the message under this packet id for now: it waits again, in its place.
    /// `None` when there is no such message.
    pub(super) fn refused_for_now(&mut self, id: u16) -> Option<&mut T> {
        let entry = self.written.remove(&id)?;
        let place = self.waiting.partition_point(|waiting| waiting.number < entry.number);
        self.waiting.insert(place, entry);
        self.waiting.get_mut(place).map(|entry| &mut entry.item)
    }

    /// Takes out of the waiting ones those that are of no use any more.
    pub(super) fn withdraw_if(&mut self, mut useless: impl FnMut(&T) -> bool) -> Vec<T> {
        let (gone, left): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|entry| useless(&entry.item));
        self.waiting = left.into();
        gone.into_iter().map(|entry| self.removed(entry)).collect()
    }

    /// The connection is gone: whatever was not settled waits again, in order of acceptance.
    /// `hung_up` when the other side ended it, perhaps for what it was sent. Returns whether it did before
    /// anything was settled.
    pub(super) fn disconnected(&mut self, hung_up: bool) -> bool {
        let sent = self.written.values().chain(self.received.values());
        let oldest = sent.map(|entry| entry.number).min();
        self.wait_again();
        let fruitless = oldest.filter(|_| hung_up && !self.progressed);
        if let Some(oldest) = fruitless {
            self.alone = true;
            if let Some(entry) = self.waiting.iter_mut().find(|entry| entry.number == oldest) {
                entry.ends += 1;
            }
        }
        self.progressed = false;
        fruitless.is_some()
    }

    /// The first moment at which one of those that wait is of no use any more.
    pub(super) fn first_expiry<I: Ord>(&self, expires: impl Fn(&T) -> Option<I>) -> Option<I> {
        self.waiting.iter().filter_map(|entry| expires(&entry.item)).min()
    }

    fn wait_again(&mut self) {
        let mut again: Vec<Entry<T>> = self.handed.drain(..).flatten().collect();
        self.nobodys = 0;
        again.extend(self.colliding.take().map(|(_, entry)| entry));
        again.extend(self.written.drain().map(|(_, entry)| entry));
        again.extend(self.received.drain().map(|(_, entry)| entry));
        again.sort_unstable_by_key(|entry| entry.number);
        // Messages are handed over in order, so all of them are older than any that still waits; but for
        // one that was refused for now.
        let last = again.last().map(|entry| entry.number);
        let mixed = last > self.waiting.front().map(|entry| entry.number);
        for entry in again.into_iter().rev() {
            self.waiting.push_front(entry);
        }
        if mixed {
            self.waiting.make_contiguous().sort_unstable_by_key(|entry| entry.number);
        }
    }

    /// Gives everything up that is not settled, in order of acceptance.
    pub(super) fn give_up(&mut self) -> Vec<T> {
        self.wait_again();
        self.bytes = 0;
        self.waiting.drain(..).map(|entry| entry.item).collect()
    }

    fn settle(&mut self, entry: Entry<T>) -> T {
        self.progressed = true;
        self.alone = false;
        self.removed(entry)
    }

    fn removed(&mut self, entry: Entry<T>) -> T {
        self.bytes -= entry.bytes;
        entry.item
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { window: 4, messages: 12, bytes: 1_000, displace: false };

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Accept {
            qos: u8,
        },
        HandOver,
        /// The client library takes the next message from its channel.
        Take,
        /// The broker answers one of the unanswered ones, not always the oldest.
        Answer(usize),
        /// The broker refuses one of the unanswered ones for now.
        RefuseForNow(usize),
        Disconnect {
            hung_up: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..=2_u8).prop_map(|qos| Step::Accept { qos }),
            4 => Just(Step::HandOver),
            4 => Just(Step::Take),
            5 => any::<usize>().prop_map(Step::Answer),
            1 => any::<usize>().prop_map(Step::RefuseForNow),
            1 => any::<bool>().prop_map(|hung_up| Step::Disconnect { hung_up }),
        ]
    }

    /// What a message is in these tests.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Numbered {
        number: usize,
        qos: u8,
    }

    /// The client library and the broker behind it, as far as packet ids go: ids run in a circle
    /// of `circle`; one that is still taken holds the message back.
    struct Library {
        circle: u16,
        last_id: u16,
        channel: VecDeque<Numbered>,
        slots: BTreeMap<u16, Numbered>,
        released: BTreeMap<u16, Numbered>,
        held_back: Option<(u16, Numbered)>,
    }

    impl Library {
        fn new(circle: u16) -> Self {
            Self {
                circle,
                last_id: 0,
                channel: VecDeque::new(),
                slots: BTreeMap::new(),
                released: BTreeMap::new(),
                held_back: None,
            }
        }

        fn next_id(&mut self) -> u16 {
            self.last_id = self.last_id % self.circle + 1;
            self.last_id
        }
    }

    /// The whole, and what came of every message.
    struct World {
        in_flight: InFlight<Numbered>,
        library: Library,
        accepted: Vec<Numbered>,
        settled: Vec<usize>,
        /// What was handed over on this connection.
        handed: Vec<usize>,
    }

    impl World {
        fn new(bounds: Bounds, circle: u16) -> Self {
            Self {
                in_flight: InFlight::new(bounds),
                library: Library::new(circle),
                accepted: Vec::new(),
                settled: Vec::new(),
                handed: Vec::new(),
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Accept { qos } => self.accept(qos),
                Step::HandOver => self.hand_over(),
                Step::Take => self.take(),
                Step::Answer(choice) => self.answer(choice),
                Step::RefuseForNow(choice) => self.refuse_for_now(choice),
                Step::Disconnect { hung_up } => self.disconnect(hung_up),
            }
            assert!(self.in_flight.on_the_wire() <= self.in_flight.bounds.window);
            assert!(self.in_flight.len() <= self.in_flight.bounds.messages);
            assert_eq!(self.in_flight.len() + self.settled.len(), self.accepted.len());
        }

        fn accept(&mut self, qos: u8) {
            let message = Numbered { number: self.accepted.len(), qos };
            let room = self.in_flight.len() < self.in_flight.bounds.messages;
            let outcome = self.in_flight.accept(message, 1);
            assert_eq!(outcome.is_ok(), room);
            if room {
                self.accepted.push(message);
            }
        }

        fn hand_over(&mut self) {
            if let Some(&message) = self.in_flight.next() {
                self.in_flight.handed_over();
                self.library.channel.push_back(message);
                self.handed.push(message.number);
            }
        }

        fn take(&mut self) {
            let inflight_full =
                self.library.slots.len() + self.library.released.len() >= usize::from(self.library.circle);
            if self.library.held_back.is_some() || inflight_full {
                return;
            }
            let Some(message) = self.library.channel.pop_front() else { return };
            if message.qos == 0 {
                let settled = self.in_flight.written(0).expect("it was handed over");
                return self.settle(settled, message);
            }
            let id = self.library.next_id();
            if self.library.slots.contains_key(&id) {
                self.library.held_back = Some((id, message));
                self.in_flight.collided(id).expect("it was handed over");
            } else {
                self.write(id, message);
            }
        }

        fn write(&mut self, id: u16, message: Numbered) {
            self.library.slots.insert(id, message);
            assert_eq!(self.in_flight.written(id), Ok(None));
        }

        fn answer(&mut self, choice: usize) {
            let unanswered = self.library.slots.len() + self.library.released.len();
            if unanswered == 0 {
                return;
            }
            let chosen = choice % unanswered;
            if chosen < self.library.slots.len() {
                let id = *self.library.slots.keys().nth(chosen).expect("in range");
                self.answer_publish(id);
            } else {
                let chosen = chosen - self.library.slots.len();
                let id = *self.library.released.keys().nth(chosen).expect("in range");
                let message = self.library.released.remove(&id).expect("in range");
                let settled = self.in_flight.completed(id);
                self.settle(settled, message);
            }
        }

        fn answer_publish(&mut self, id: u16) {
            // A broker answers the release of an id before it answers the next publish under it.
            if self.library.released.contains_key(&id) {
                return;
            }
            let message = self.library.slots.remove(&id).expect("chosen from the slots");
            if message.qos == 2 {
                self.in_flight.received(id);
                self.library.released.insert(id, message);
            } else {
                let settled = self.in_flight.answered(id);
                self.settle(settled, message);
            }
            if let Some((_, held)) = self.library.held_back.take_if(|(held, _)| *held == id) {
                assert!(self.in_flight.is_awaited(id));
                self.write(id, held);
            }
        }

        fn settle(&mut self, told: Option<Numbered>, truth: Numbered) {
            assert_eq!(told, Some(truth), "the wrong message was settled");
            assert!(!self.settled.contains(&truth.number), "settled twice");
            self.settled.push(truth.number);
        }

        /// Of QoS 1 and with no other waiting for its id, as its user sees to.
        fn refuse_for_now(&mut self, choice: usize) {
            let slots = &self.library.slots;
            let held = self.library.held_back.map(|(id, _)| id);
            let of_qos_1 = |(id, message): &(&u16, &Numbered)| message.qos == 1 && Some(**id) != held;
            let ids: Vec<u16> = slots.iter().filter(of_qos_1).map(|(id, _)| *id).collect();
            let Some(id) = ids.get(choice % ids.len().max(1)) else { return };
            let message = self.library.slots.remove(id).expect("chosen from the slots");
            assert_eq!(self.in_flight.refused_for_now(*id), Some(&mut { message }));
            // It may come after younger ones now.
            self.handed.clear();
        }

        fn disconnect(&mut self, hung_up: bool) {
            assert!(self.handed.is_sorted(), "handed over out of order: {:?}", self.handed);
            self.in_flight.disconnected(hung_up);
            self.library = Library::new(self.library.circle);
            self.handed.clear();
        }

        /// A good connection at last: everything gets through.
        fn finish(mut self) {
            self.disconnect(true);
            for choice in 0.. {
                if self.in_flight.len() == 0 {
                    break;
                }
                self.hand_over();
                self.take();
                self.answer(choice);
            }
            assert!(self.handed.is_sorted());
            assert!(self.in_flight.waiting.is_empty() && !self.in_flight.alone);
            assert_eq!(self.in_flight.bytes, 0);
            self.settled.sort_unstable();
            assert!(self.settled.into_iter().eq(0..self.accepted.len()), "something was lost");
        }
    }

    proptest! {
        /// Nothing is lost, nothing settled twice or for another, the order holds after every
        /// disconnection, the window is kept: with ids that collide (a circle as small as the
        /// window or smaller) and with ids that do not.
        #[test]
        fn every_message_is_settled_once_and_for_itself(
            steps in prop::collection::vec(step(), 0..200),
            circle in 2..9_u16,
        ) {
            let mut world = World::new(BOUNDS, circle);
            for step in steps {
                world.step(step);
            }
            world.finish();
        }
    }

    /// Fills a queue of 3 messages and 10 bytes, of which `wire` are on the wire, and accepts one.
    fn check_room(displace: bool, wire: usize, bytes: usize, expected: Result<&[u8], Full>) {
        let bounds = Bounds { window: 3, messages: 3, bytes: 10, displace };
        let mut in_flight = InFlight::new(bounds);
        for item in 0..3 {
            in_flight.accept(item, 2).expect("there is room");
        }
        (0..wire).for_each(|_| in_flight.handed_over());
        assert_eq!(in_flight.accept(3, bytes), expected.map(<[u8]>::to_vec));
    }

    #[test]
    fn a_full_queue_refuses_or_displaces_the_oldest_waiting() {
        let full = Full { messages: 3, bytes: 6 };
        check_room(false, 0, 1, Err(full));
        check_room(true, 0, 1, Ok(&[0]));
        check_room(true, 0, 8, Ok(&[0, 1]));
        check_room(true, 2, 1, Ok(&[2]));
        check_room(true, 3, 1, Err(full));
        // Would not fit even then, so nobody is displaced for it.
        check_room(true, 0, 11, Err(full));
    }

    #[test]
    fn a_message_that_ends_connections_is_found() {
        let mut in_flight = InFlight::new(Bounds { window: 3, ..BOUNDS });
        for item in ["good", "poison", "fine"] {
            in_flight.accept(item, 1).expect("there is room");
        }
        let mut given_up = None;
        for connection in 1..20 {
            if in_flight.next_ends_connections(3) {
                given_up = in_flight.withdraw().map(|item| (connection, item));
            }
            let mut id = 0;
            let mut hung_up = false;
            let mut unanswered = Vec::new();
            while let Some(item) = in_flight.next().copied() {
                in_flight.handed_over();
                id += 1;
                in_flight.written(id).expect("it was handed over");
                hung_up |= item == "poison";
                if in_flight.alone && !hung_up {
                    assert_eq!(in_flight.answered(id), Some(item));
                } else {
                    unanswered.push(id);
                }
            }
            // Answers come too late where the connection ends.
            for id in unanswered.into_iter().filter(|_| !hung_up) {
                assert!(in_flight.answered(id).is_some());
            }
            in_flight.disconnected(hung_up);
        }
        // All were on the wire; then "good" alone, and the two behind it; both again; then "poison" alone.
        assert_eq!(given_up, Some((6, "poison")));
        assert_eq!(in_flight.len(), 0);
    }

    #[test]
    fn waiting_ones_can_be_withdrawn() {
        let mut in_flight = InFlight::new(BOUNDS);
        for item in 0..6 {
            in_flight.accept(item, 2).expect("there is room");
        }
        in_flight.handed_over();
        assert_eq!(in_flight.withdraw_if(|item| item % 2 == 0), [2, 4]);
        assert_eq!((in_flight.len(), in_flight.bytes), (4, 8));
        assert_eq!(in_flight.give_up(), [0, 1, 3, 5]);
    }

    #[test]
    fn nonsense_from_the_library_is_noticed_and_loses_nothing() {
        let mut in_flight = InFlight::new(BOUNDS);
        assert_eq!(in_flight.written(1), Err(Confused));
        assert_eq!(in_flight.collided(1), Err(Confused));
        assert_eq!(in_flight.answered(1), None);
        in_flight.accept('a', 1).expect("there is room");
        in_flight.accept('b', 1).expect("there is room");
        in_flight.handed_over();
        in_flight.handed_over();
        assert_eq!(in_flight.written(1), Ok(None));
        assert_eq!(in_flight.written(1), Err(Confused));
        assert_eq!(in_flight.give_up(), ['a', 'b']);
    }
}
