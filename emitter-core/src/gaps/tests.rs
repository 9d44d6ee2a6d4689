//! What a receiver does with single numbers; with any numbers in any order: `properties`.

use super::track::LONGEST;
use super::*;

mod properties;

const MODEL: &str = "order";

fn number(epoch: u64, base: u64, sequence: u64) -> Number {
    Number { outbox: "box".into(), lane: 1, epoch, base, sequence, row: None }
}

fn stream() -> Stream {
    Stream { outbox: "box".into(), lane: 1, model: MODEL.into() }
}

fn life_of(number: u128) -> Stream {
    Stream { outbox: life(Uuid::from_u128(number)), lane: 0, model: MODEL.into() }
}

/// A number that a life gave.
fn own(sequence: u64) -> Number {
    Number::of_life(&life_of(1).outbox, sequence).unwrap()
}

/// A receiver that does what the intake of a node does, and notes what goes on.
struct Receiver {
    gaps: Gaps<u64>,
    stream: Stream,
    heard: Vec<u64>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { gaps: Gaps::default(), stream: stream(), heard: Vec::new() }
    }
}

impl Receiver {
    fn take(&mut self, number: &Number) {
        match self.gaps.arrived(number, "Order") {
            Arrival::Goes => self.heard.push(number.sequence),
            Arrival::GoesFirst => {
                self.heard.push(number.sequence);
                self.release();
            }
            Arrival::Waits => {
                let _ = self.gaps.hold(number, MODEL, 1, 1, number.sequence);
                self.go_on();
            }
        }
    }

    /// What has waited for too long.
    fn go_on(&mut self) {
        if !self.gaps.impatient().is_empty() {
            self.release();
        }
    }

    fn release(&mut self) {
        while let Some(sequence) = self.gaps.next_held(&self.stream.outbox, self.stream.lane, MODEL) {
            self.heard.push(sequence);
        }
    }

    /// What an outbox that has all of them up to `settled`, and gave `last`, answers.
    fn ask(&mut self, now: Duration, (epoch, base): (u64, u64), settled: u64, last: u64, most: u64) -> usize {
        let due = self.gaps.due(now);
        for (asked, after) in &due {
            let After::Sequence(after) = *after else { panic!("{after:?}") };
            let covered = settled.min(after + most).max(after);
            let told = Told { epoch, base, after, covered, last };
            if self.gaps.wants(asked, &told) {
                for sequence in after + 1..=covered {
                    let held = self.gaps.take_held(asked, sequence);
                    self.heard.push(held.unwrap_or(sequence));
                }
                self.gaps.answered(asked, &told);
                self.release();
            }
        }
        due.len()
    }
}

/// Who published has forgotten one that came here, and not the next one.
#[test]
fn what_waits_goes_before_what_an_answer_tells_after_it() {
    let mut receiver = receiver_of_a_life([1, 8, 9]);
    let due = receiver.gaps.due(LONGEST);
    let [(asked, After::Sequence(1))] = &due[..] else { panic!("{due:?}") };
    assert_eq!(receiver.gaps.held_within(asked, 1, 9).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(receiver.gaps.held_before(asked, 8, 9), None, "it is before what the answer begins with");
    assert_eq!(receiver.gaps.held_before(asked, 1, 9), Some(8));
    assert_eq!(receiver.gaps.held_before(asked, 1, 9), None);
    assert_eq!(receiver.gaps.take_held(asked, 9), Some(9));
}

#[test]
fn what_waits_for_too_long_goes_on_before_what_comes_then() {
    let mut receiver = receiver_of_a_life([1, 3, 4]);
    let mut now = Duration::ZERO;
    while receiver.gaps.impatient().is_empty() {
        now += 100 * MILLI;
        receiver.gaps.due(now);
    }
    assert_eq!(receiver.gaps.arrived(&own(5), MODEL), Arrival::Waits);
    assert_eq!(
        receiver.gaps.arrived(&own(2), MODEL),
        Arrival::GoesFirst,
        "what is missing waits for nothing"
    );
    receiver.take(&own(6));
    assert_eq!(receiver.heard, [1, 3, 4, 6]);
}

#[test]
fn what_follows_a_missing_one_waits_for_it() {
    let mut receiver = Receiver::default();
    for sequence in [7, 8, 10, 11, 8] {
        receiver.take(&number(1, 0, sequence));
    }
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[7, 8, 8][..], 1));
    // Nobody answers, and it is not asked again at once.
    assert_eq!(receiver.gaps.due(Duration::ZERO), [(stream(), After::Sequence(8))]);
    assert_eq!(receiver.gaps.due(Duration::from_millis(400)), []);
    assert_eq!(receiver.ask(Duration::from_millis(600), (1, 0), 10, 11, 100), 1);
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[7, 8, 8, 9, 10, 11][..], 0));
    // It was only late.
    for sequence in [13, 12] {
        receiver.take(&number(1, 0, sequence));
    }
    assert_eq!((&receiver.heard[6..], receiver.gaps.behind()), (&[12, 13][..], 0));
}

#[test]
fn a_new_owner_counts_what_was_not_settled_anew() {
    let mut receiver = Receiver::default();
    for sequence in 1..=5 {
        receiver.take(&number(1, 0, sequence));
    }
    // Only three were settled: what comes is no gap.
    receiver.take(&number(2, 3, 4));
    assert_eq!((receiver.heard.len(), receiver.gaps.behind()), (6, 0));
    // What the old one had on its way counts nothing, and goes on when its turn comes.
    receiver.take(&number(1, 0, 6));
    assert_eq!((receiver.heard.len(), receiver.gaps.behind()), (6, 1));
    receiver.take(&number(2, 3, 5));
    assert_eq!((receiver.heard.len(), receiver.gaps.behind()), (8, 0));
    // One that began behind what came here: what is between is missing.
    receiver.take(&number(3, 8, 9));
    assert_eq!(
        (receiver.heard.len(), receiver.gaps.due(Duration::ZERO)),
        (8, vec![(stream(), After::Sequence(5))])
    );
}

#[test]
fn what_a_former_owner_settled_comes_in_its_turn_however_late() {
    let mut receiver = Receiver::default();
    receiver.gaps.resume([], Since::Beginning);
    receiver.gaps.head(&Head { stream: stream(), epoch: 2, base: 3, last: 3 });
    // The second is missing, and only three were settled.
    for sequence in [1, 3, 4] {
        receiver.take(&number(1, 0, sequence));
    }
    assert_eq!(receiver.heard, [1]);
    receiver.ask(Duration::ZERO, (2, 3), 3, 3, 100);
    assert_eq!(receiver.heard, [1, 2, 3, 4]);
    // It was not the fourth of this owner, who may have another one.
    assert_eq!(receiver.gaps.behind(), 0);
    receiver.gaps.head(&Head { stream: stream(), epoch: 2, base: 3, last: 4 });
    assert_eq!(receiver.gaps.behind(), 1);
}

/// As of a database that was restored from before the last owners.
#[test]
fn owners_that_count_from_before_are_heard_after_a_while() {
    let mut receiver = Receiver::default();
    receiver.take(&number(9, 0, 1));
    receiver.take(&number(4, 0, 3));
    let mut now = Duration::ZERO;
    while receiver.gaps.impatient().is_empty() && now < LONGEST * 10 {
        now += Duration::from_millis(100);
        receiver.gaps.due(now);
    }
    receiver.release();
    assert_eq!(receiver.heard, [1, 3]);
}

impl Receiver {
    /// Half a minute and more, in which what is asked is answered so.
    fn wait(&mut self, now: &mut Duration, owner: (u64, u64), last: u64) {
        for _ in 0..600 {
            *now += 100 * MILLI;
            self.ask(*now, owner, last, last, 1_000);
            self.go_on();
        }
    }

    fn has_heard(&self, sequences: impl IntoIterator<Item = u64>) -> bool {
        sequences.into_iter().all(|sequence| self.heard.contains(&sequence))
    }
}

fn receiver_at(epoch: u64, sequence: u64) -> Receiver {
    let mut receiver = Receiver::default();
    receiver.gaps.resume([Position { stream: stream(), epoch, sequence }], Since::Now);
    receiver
}

/// As of a database that was restored, or a stand-by that had not got the last owners.
#[test]
fn an_outbox_that_went_back_is_followed_when_nobody_else_has_spoken_for_half_a_minute() {
    let (mut receiver, mut now) = (receiver_at(9, 100), Duration::ZERO);
    // Its fifth owner began at 60, and some of what he and the one before counted was lost.
    for this in [number(4, 40, 58), number(5, 60, 62), number(5, 60, 102)] {
        receiver.take(&this);
    }
    receiver.wait(&mut now, (5, 60), 103);
    assert!(receiver.has_heard(41..=103), "{:?}", receiver.heard);
    assert_eq!((receiver.gaps.behind(), receiver.gaps.silent()), (0, 0));
    assert_eq!(receiver.gaps.positions()[0].epoch, 5, "the next life begins there");
    // From then on gaps are mended as they are found.
    receiver.take(&number(5, 60, 105));
    assert!(!receiver.heard.contains(&105));
    assert_eq!(receiver.ask(now + MILLI, (5, 60), 105, 105, 1_000), 1);
    assert_eq!(receiver.heard[receiver.heard.len() - 2..], [104, 105]);
    // So it is where nothing comes but word of how far it is.
    let (mut receiver, mut now) = (receiver_at(9, 100), Duration::ZERO);
    receiver.gaps.head(&Head { stream: stream(), epoch: 5, base: 60, last: 70 });
    receiver.wait(&mut now, (5, 60), 70);
    assert!(receiver.has_heard(61..=70), "{:?}", receiver.heard);
    assert_eq!(receiver.gaps.behind(), 0);
}

/// More than may wait: what was dropped was acknowledged.
#[test]
fn what_an_outbox_that_went_back_sends_in_a_torrent_is_not_lost() {
    let (mut receiver, mut now) = (receiver_at(9, 100), Duration::ZERO);
    let last = 102 + MOST_HELD as u64 * 2;
    (102..=last).for_each(|sequence| receiver.take(&number(5, 60, sequence)));
    receiver.wait(&mut now, (5, 60), last);
    assert!(receiver.has_heard(61..=last));
    assert_eq!(receiver.gaps.behind(), 0);
}

/// A forged word is one of an owner that nobody follows.
#[test]
fn an_owner_that_is_none_is_given_up_for_the_one_that_answers() {
    let (mut receiver, mut now) = (receiver_at(9, 100), Duration::ZERO);
    receiver.take(&number(9, 90, 101));
    receiver.take(&number(9, 90, 103));
    receiver.gaps.head(&Head { stream: stream(), epoch: i64::MAX as u64, base: 0, last: 0 });
    receiver.gaps.head(&Head { stream: stream(), epoch: 9, base: 90, last: 103 });
    receiver.wait(&mut now, (9, 90), 103);
    assert!(receiver.has_heard(91..=103), "{:?}", receiver.heard);
    assert_eq!((receiver.gaps.behind(), receiver.gaps.positions()[0].epoch), (0, 9));
}

/// While an owner speaks, though he has nothing new to say, no former one is followed, and neither is who says to be one.
#[test]
fn a_stream_whose_owner_speaks_does_not_go_back() {
    for answers in [false, true] {
        let (mut receiver, mut now) = (receiver_at(9, 100), Duration::ZERO);
        for second in 0..300 {
            now += 1_000 * MILLI;
            // What came late, from a former owner and from nowhere.
            if second % 30 == 0 {
                receiver.take(&number(8, 80, 120));
                receiver.gaps.head(&Head { stream: stream(), epoch: 3, base: 0, last: 200 });
            }
            for (asked, after) in receiver.gaps.due(now) {
                let After::Sequence(after) = after else { panic!("{after:?}") };
                if answers {
                    let told = Told { epoch: 9, base: 90, after, covered: 100, last: 100 };
                    if receiver.gaps.wants(&asked, &told) {
                        receiver.gaps.answered(&asked, &told);
                        receiver.release();
                    }
                }
                let old = Told { epoch: 8, base: 0, after, covered: after.max(130), last: after.max(130) };
                assert!(!receiver.gaps.wants(&asked, &old), "{second}");
            }
            receiver.go_on();
            if second % 10 == 0 {
                receiver.gaps.head(&Head { stream: stream(), epoch: 9, base: 90, last: 100 });
            }
        }
        assert_eq!(receiver.gaps.positions(), [Position { stream: stream(), epoch: 9, sequence: 100 }]);
    }
}

/// An owner that slept answers late, while the present one says nothing for long.
#[test]
fn what_a_former_owner_says_too_late_loses_nothing() {
    let (mut receiver, mut now) = (receiver_at(9, 100), Duration::ZERO);
    receiver.take(&number(9, 90, 102));
    receiver.wait(&mut now, (8, 80), 95);
    assert_eq!(receiver.gaps.positions()[0].epoch, 8);
    receiver.take(&number(9, 90, 104));
    receiver.wait(&mut now, (9, 90), 105);
    assert!(receiver.has_heard(101..=105), "{:?}", receiver.heard);
    assert_eq!((receiver.gaps.behind(), receiver.gaps.positions()[0].epoch), (0, 9));
}

#[test]
fn what_an_owner_left_behind_a_gap_is_forgotten() {
    let mut receiver = Receiver::default();
    for sequence in [1, 3, 4] {
        receiver.take(&number(1, 0, sequence));
    }
    receiver.take(&number(2, 2, 3));
    receiver.ask(Duration::ZERO, (2, 2), 2, 3, 100);
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[1, 2, 3][..], 0));
}

#[test]
fn a_head_shows_what_is_missing_at_the_end() {
    let mut receiver = Receiver::default();
    let head = |last| Head { stream: stream(), epoch: 1, base: 0, last };
    receiver.gaps.head(&head(20));
    assert_eq!(receiver.gaps.behind(), 0, "nothing of before its time");
    receiver.gaps.head(&head(23));
    // It may be on its way.
    assert_eq!(receiver.ask(Duration::from_millis(10_000), (1, 0), 23, 23, 2), 0);
    assert_eq!(receiver.ask(Duration::from_millis(10_900), (1, 0), 23, 23, 2), 0);
    assert_eq!(receiver.ask(Duration::from_millis(11_000), (1, 0), 23, 23, 2), 1);
    assert_eq!(receiver.ask(Duration::from_millis(11_001), (1, 0), 23, 23, 2), 1);
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[21, 22, 23][..], 0));
}

#[test]
fn a_number_that_nobody_gave_is_forgotten_with_the_next_answer() {
    let mut receiver = Receiver::default();
    receiver.take(&number(1, 0, 1));
    receiver.take(&number(1, 0, u64::MAX));
    receiver.take(&number(1, 0, 2));
    assert_eq!(receiver.ask(Duration::ZERO, (1, 0), 2, 2, 100), 1);
    assert_eq!(receiver.gaps.behind(), 0);
    receiver.take(&number(1, 0, 3));
    assert_eq!(receiver.heard, [1, 2, 3]);
}

#[test]
fn what_nobody_answers_for_goes_on_after_half_a_minute() {
    let mut receiver = Receiver::default();
    for sequence in [1, 3, 5] {
        receiver.take(&number(1, 0, sequence));
    }
    let mut now = Duration::ZERO;
    while receiver.gaps.impatient().is_empty() {
        now += Duration::from_millis(100);
        receiver.gaps.due(now);
    }
    assert!((Duration::from_secs(20)..Duration::from_secs(40)).contains(&now), "{now:?}");
    receiver.release();
    receiver.take(&number(1, 0, 6));
    assert_eq!(receiver.heard, [1, 3, 5, 6]);
    // It is still asked for.
    now += LONGEST;
    assert_eq!(receiver.ask(now, (1, 0), 6, 6, 100), 1);
    assert_eq!((receiver.gaps.behind(), &receiver.heard[4..]), (0, &[2, 3, 4, 5, 6][..]));
}

#[test]
fn more_than_may_wait_is_asked_for_again() {
    let mut receiver = Receiver::default();
    let last = 3 + MOST_HELD as u64 * 2;
    receiver.take(&number(1, 0, 1));
    (3..=last).for_each(|sequence| receiver.take(&number(1, 0, sequence)));
    let mut now = Duration::ZERO;
    while receiver.gaps.behind() > 0 {
        now += LONGEST;
        receiver.ask(now, (1, 0), last, last, 700);
    }
    receiver.heard.sort_unstable();
    receiver.heard.dedup();
    assert_eq!(receiver.heard, (1..=last).collect::<Vec<_>>());
}

#[test]
fn a_later_life_begins_where_listeners_were() {
    let mut gaps = Gaps::<u64>::default();
    gaps.resume([], Since::Beginning);
    for sequence in 1..=4 {
        assert_eq!(gaps.arrived(&number(1, 0, sequence), MODEL), Arrival::Goes);
    }
    for sequence in [1, 3, 4] {
        gaps.closed(&number(1, 0, sequence), MODEL);
    }
    let positions = gaps.positions();
    assert_eq!(positions, [Position { stream: stream(), epoch: 1, sequence: 1 }]);
    let mut next = Gaps::<u64>::default();
    next.resume(positions, Since::Now);
    assert_eq!(next.arrived(&number(1, 0, 3), MODEL), Arrival::Waits);
    let _ = next.hold(&number(1, 0, 3), MODEL, 1, 0, 3);
    assert_eq!(next.due(Duration::ZERO), [(stream(), After::Sequence(1))]);
}

#[test]
fn a_gap_that_closed_by_itself_was_not_asked_for_in_vain() {
    let mut receiver = Receiver::default();
    receiver.take(&number(1, 0, 1));
    let mut now = Duration::ZERO;
    for sequence in (2..100).step_by(2) {
        receiver.take(&number(1, 0, sequence + 1));
        now += Duration::from_secs(1);
        receiver.gaps.due(now);
        receiver.take(&number(1, 0, sequence));
    }
    assert_eq!((receiver.gaps.behind(), receiver.heard.len()), (0, 99));
    // So the next one is waited for as the first one was.
    receiver.take(&number(1, 0, 101));
    assert_eq!((receiver.heard.len(), receiver.gaps.due(now)), (99, vec![(stream(), After::Sequence(99))]));
}

#[test]
fn an_answer_of_a_new_owner_begins_where_that_did() {
    let mut receiver = Receiver::default();
    // Five are settled, and this owner's seventh comes; its eighth is missing.
    for sequence in [1, 2, 3, 4, 5, 6, 7, 9] {
        receiver.take(&number(1, 0, sequence));
    }
    // The next one counts from five on. What it answers to the old question begins behind what it counted anew.
    assert_eq!(receiver.ask(Duration::ZERO, (2, 5), 8, 8, 100), 1);
    assert_eq!(receiver.heard.len(), 7, "nothing of it is taken");
    assert_eq!(receiver.ask(LONGEST, (2, 5), 8, 8, 100) + receiver.ask(LONGEST * 2, (2, 5), 8, 8, 100), 1);
    assert_eq!((&receiver.heard[7..], receiver.gaps.behind()), (&[6, 7, 8][..], 0));
}

#[test]
fn a_lane_that_came_to_be_while_a_node_was_away_is_heard_from_its_beginning() {
    let mut gaps = Gaps::<u64>::default();
    gaps.resume([Position { stream: stream(), epoch: 1, sequence: 5 }], Since::Now);
    let other = Number { lane: 2, ..number(1, 0, 2) };
    assert_eq!(gaps.arrived(&other, MODEL), Arrival::Waits);
    assert_eq!(gaps.arrived(&Number { outbox: "new".into(), ..other }, MODEL), Arrival::Goes);
}

#[test]
fn a_stream_is_begun_at_a_time() {
    let mut gaps = Gaps::<u64>::default();
    gaps.resume([], Since::Time(5));
    assert_eq!(gaps.arrived(&number(1, 3, 10), MODEL), Arrival::Waits);
    let _ = gaps.hold(&number(1, 3, 10), MODEL, 1, 0, 10);
    assert_eq!(gaps.due(Duration::ZERO), [(stream(), After::Time(5))]);
    assert_eq!(gaps.positions(), [], "how far it is, is not known");
    let told = Told { epoch: 1, base: 3, after: 6, covered: 9, last: 10 };
    assert!(gaps.wants(&stream(), &told));
    gaps.answered(&stream(), &told);
    assert_eq!((gaps.next_held("box", 1, MODEL), gaps.behind()), (Some(10), 0));
}

/// A receiver of what a life publishes.
fn receiver_of_a_life(sequences: impl IntoIterator<Item = u64>) -> Receiver {
    let mut receiver = Receiver { stream: life_of(1), ..Receiver::default() };
    sequences.into_iter().for_each(|sequence| receiver.take(&own(sequence)));
    receiver
}

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn what_a_life_published_is_asked_for_and_heard_in_its_turn() {
    let mut receiver = receiver_of_a_life([7, 9, 8, 11]);
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[7, 8, 9][..], 1));
    assert_eq!(
        receiver.ask(110 * MILLI, (0, 0), 10, 10, 100),
        1,
        "the last is on its way, for all that it tells"
    );
    assert_eq!((&receiver.heard[3..], receiver.gaps.behind(), receiver.gaps.lost()), (&[10, 11][..], 0, 0));
    assert_eq!(receiver.gaps.positions(), [], "nobody answers for it in the next life");
}

/// Nor may anybody's word drop what is not acknowledged.
#[test]
fn a_life_has_no_later_owner() {
    let mut receiver = receiver_of_a_life([1, 3, 4]);
    receiver.gaps.head(&Head { stream: life_of(1), epoch: 1, base: 0, last: 0 });
    assert_eq!(receiver.ask(110 * MILLI, (1, 0), 4, 4, 100), 1);
    assert_eq!((receiver.gaps.messages, receiver.gaps.bytes), (2, 2));
    assert_eq!(receiver.ask(710 * MILLI, (0, 0), 4, 4, 100), 1);
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[1, 2, 3, 4][..], 0));
    assert_eq!((receiver.gaps.messages, receiver.gaps.bytes), (0, 0));
}

#[test]
fn a_long_gap_of_a_life_is_filled_without_a_pause_between_answers() {
    let mut receiver = receiver_of_a_life([1, 100]);
    let mut now = MILLI;
    for _ in 0..10 {
        now += MILLI;
        receiver.ask(now, (0, 0), 100, 100, 10);
    }
    assert_eq!(receiver.heard, (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_dead_life_holds_nothing_up_for_long_and_what_it_had_is_counted() {
    let mut receiver = receiver_of_a_life([1, 3, 6, 7]);
    let mut now = Duration::ZERO;
    while receiver.gaps.impatient().is_empty() {
        now += 10 * MILLI;
        receiver.gaps.due(now);
    }
    assert!((2_000 * MILLI..4_000 * MILLI).contains(&now), "{now:?}");
    assert_eq!((&*receiver.heard, receiver.gaps.silent()), (&[1][..], 0));
    receiver.release();
    // What comes then goes on at once, also what was only very late.
    receiver.take(&own(9));
    receiver.take(&own(4));
    assert_eq!(receiver.heard, [1, 3, 6, 7, 9, 4]);
    while receiver.gaps.behind() > 0 {
        assert_eq!(receiver.gaps.lost(), 0);
        now += 100 * MILLI;
        receiver.gaps.due(now);
    }
    assert!((20_000 * MILLI..45_000 * MILLI).contains(&now), "{now:?}");
    assert_eq!(receiver.gaps.lost(), 3, "2, 5 and 8");
    // Nothing waits for it from then on, until it says something.
    receiver.take(&own(11));
    assert_eq!((receiver.heard.last(), receiver.gaps.behind()), (Some(&11), 1));
    receiver.gaps.head(&Head { stream: life_of(1), epoch: 0, base: 0, last: 11 });
    assert_eq!(
        receiver.ask(now + LONGEST, (0, 0), 11, 11, 100)
            + receiver.ask(now + LONGEST * 2, (0, 0), 11, 11, 100),
        1
    );
    assert_eq!((receiver.gaps.behind(), receiver.gaps.lost()), (0, 0));
    receiver.take(&own(13));
    assert_eq!((receiver.heard.last(), receiver.gaps.behind()), (Some(&11), 1));
}

#[test]
fn what_a_life_lost_last_is_found_by_its_head_and_given_up_when_nobody_has_it() {
    let mut receiver = receiver_of_a_life([1, 2]);
    receiver.gaps.head(&Head { stream: life_of(1), epoch: 0, base: 0, last: 5 });
    let mut now = Duration::ZERO;
    let mut asked = 0;
    while receiver.gaps.behind() > 0 {
        now += 100 * MILLI;
        asked += receiver.gaps.due(now).len();
    }
    assert_eq!((asked, receiver.gaps.lost()), (6, 3));
    receiver.take(&own(6));
    assert_eq!(receiver.heard, [1, 2, 6]);
}

#[test]
fn more_of_a_life_than_may_wait_does_not_and_nothing_is_dropped() {
    // The one that is too much is there, and goes with the next.
    let last = 4 + MOST_MESSAGES as u64;
    let receiver = receiver_of_a_life((1..=last).filter(|sequence| *sequence != 2));
    assert_eq!(receiver.heard.len() as u64, last - 1);
    assert_eq!(receiver.gaps.messages, 0);
    // A number that nobody gave holds up itself alone, and not for ever.
    let mut receiver = receiver_of_a_life([1, i64::MAX as u64, 2, 3]);
    let mut now = Duration::ZERO;
    while receiver.gaps.behind() > 0 {
        now += 100 * MILLI;
        receiver.ask(now, (0, 0), 3, 3, 100);
        receiver.release();
    }
    assert_eq!((&*receiver.heard, receiver.gaps.lost()), (&[1, 2, 3, i64::MAX as u64][..], 0));
    assert!(now < LONGEST);
    receiver.take(&own(5));
    assert_eq!(receiver.gaps.behind(), 1, "gaps are found as before");
}

#[test]
fn the_streams_that_were_not_heard_of_for_longest_are_forgotten_and_lives_first() {
    let mut gaps = Gaps::<u64>::default();
    gaps.resume([], Since::Beginning);
    gaps.head(&Head { stream: stream(), epoch: 1, base: 0, last: 0 });
    let arrives = |gaps: &mut Gaps<u64>, which: u128, sequence| {
        gaps.arrived(&Number::of_life(&life_of(which).outbox, sequence).unwrap(), MODEL)
    };
    // The first has something that waits.
    assert_eq!(arrives(&mut gaps, 1, 1), Arrival::Goes);
    assert_eq!(arrives(&mut gaps, 1, 3), Arrival::Waits);
    let _ = gaps.hold(&own(3), MODEL, 1, 0, 3);
    for which in 2..MOST_STREAMS as u64 * 2 {
        arrives(&mut gaps, which.into(), 1);
        arrives(&mut gaps, 2, which);
        assert!(gaps.tracks.len() <= MOST_STREAMS);
    }
    assert!(gaps.tracks.len() > MOST_STREAMS - FORGOTTEN - 1);
    assert_eq!(arrives(&mut gaps, 1, 5), Arrival::Waits);
    assert_eq!(
        arrives(&mut gaps, 2, MOST_STREAMS as u64 * 2 + 1),
        Arrival::Waits,
        "it was heard of all the time"
    );
    assert_eq!(arrives(&mut gaps, 3, 5), Arrival::Goes, "forgotten: it begins with what it hears");
    assert_eq!(gaps.arrived(&number(1, 0, 2), MODEL), Arrival::Waits, "outboxes are kept");
    assert!(!gaps.forgot);
}

#[test]
fn an_outbox_that_was_forgotten_is_not_heard_from_its_beginning_again() {
    let mut gaps = Gaps::<u64>::default();
    gaps.resume([], Since::Beginning);
    let of = |lane: u32, sequence| Number { lane, ..number(1, 0, sequence) };
    let most = u32::try_from(MOST_STREAMS).unwrap();
    for lane in 0..=most {
        gaps.arrived(&of(lane, 1), MODEL);
        gaps.closed(&of(lane, 1), MODEL);
    }
    assert!(gaps.forgot && gaps.tracks.len() <= MOST_STREAMS);
    assert_eq!(gaps.arrived(&of(0, 9), MODEL), Arrival::Goes);
    assert_eq!(gaps.arrived(&of(most, 9), MODEL), Arrival::Waits);
}

#[test]
fn what_came_while_nobody_listened_is_not_missing() {
    let mut receiver = receiver_of_a_life([1, 2]);
    receiver.gaps.forget_lives("Order");
    receiver.take(&own(9));
    assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[1, 2, 9][..], 0));
}
