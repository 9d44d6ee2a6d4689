//! Whatever is lost, late or sent again, and whoever takes over.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::gaps::ring::Ring;

/// What becomes of an outbox and of what it sends.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The next event is sent, and may be lost.
    Publish {
        lost: bool,
    },
    /// The oldest that is on its way comes.
    Deliver,
    /// So many are settled at most, and somebody else takes the lane: what is left is sent again. His word is faster than what
    /// is on its way.
    TakeOver {
        unsettled: u64,
        lost: bool,
    },
    Ask,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|lost| Step::Publish { lost }),
        4 => Just(Step::Deliver),
        1 => (0..5_u64, any::<bool>()).prop_map(|(unsettled, lost)| Step::TakeOver { unsettled, lost }),
        1 => Just(Step::Ask),
    ]
}

proptest! {
    /// Whoever takes over, and however late comes what the former owners had on its way.
    #[test]
    fn what_owners_left_on_the_way_overtakes_nothing(steps in prop::collection::vec(any_step(), 1..200)) {
        let mut receiver = Receiver::default();
        receiver.gaps.resume([], Since::Beginning);
        let mut on_the_way = std::collections::VecDeque::new();
        let (mut epoch, mut base, mut last, mut now) = (1, 0, 0_u64, Duration::ZERO);
        for step in steps {
            now += Duration::from_millis(100);
            match step {
                Step::Publish { lost } => {
                    last += 1;
                    on_the_way.extend((!lost).then(|| number(epoch, base, last)));
                }
                Step::Deliver => on_the_way.pop_front().iter().for_each(|number| receiver.take(number)),
                Step::TakeOver { unsettled, lost } => {
                    (epoch, base) = (epoch + 1, base.max(last.saturating_sub(unsettled)));
                    receiver.gaps.head(&Head { stream: stream(), epoch, base, last: base });
                    let again = (base + 1..=last).filter(|_| !lost);
                    on_the_way.extend(again.map(|sequence| number(epoch, base, sequence)));
                }
                Step::Ask => drop(receiver.ask(now, (epoch, base), base, last, 100)),
            }
        }
        on_the_way.iter().for_each(|number| receiver.take(number));
        receiver.gaps.head(&Head { stream: stream(), epoch, base, last });
        for _ in 0..500 {
            if receiver.gaps.behind() == 0 {
                break;
            }
            now += LONGEST;
            receiver.ask(now, (epoch, base), last, last, 100);
        }
        prop_assert_eq!(receiver.gaps.behind(), 0);
        let mut first = Vec::new();
        for sequence in receiver.heard {
            if !first.contains(&sequence) {
                first.push(sequence);
            }
        }
        prop_assert_eq!(first, (1..=last).collect::<Vec<_>>());
    }

    /// A database goes back, to a time of which some receivers had heard more; owners change, and a broker loses what it will. What
    /// is written from then on is heard.
    #[test]
    fn what_is_written_after_a_database_went_back_is_heard(
        before in 1..100_u64, kept in 0..100_u64,
        after in prop::collection::vec((any::<bool>(), 0..20_u8, 0..4_000_u32), 1..150), most in 1..300_u64
    ) {
        let (mut receiver, mut now) = (receiver_at(9, 0), Duration::ZERO);
        (1..=before).for_each(|sequence| receiver.take(&number(9, 0, sequence)));
        let mut last = kept.min(before);
        let (mut epoch, mut base) = (3, last);
        // What is written in its place is another event.
        let mut written = BTreeMap::new();
        let mut heard: Vec<u64> = Vec::new();
        let tell = |receiver: &mut Receiver, heard: &mut Vec<u64>, written: &BTreeMap<u64, u64>, now, (epoch, base, last)| {
            for (asked, after) in receiver.gaps.due(now) {
                let After::Sequence(after) = after else { panic!("{after:?}") };
                let covered = (after + most).min(last).max(after);
                let told = Told { epoch, base, after, covered, last: covered.max(last) };
                if receiver.gaps.wants(&asked, &told) {
                    for sequence in after + 1..=covered {
                        let held = receiver.gaps.take_held(&asked, sequence);
                        heard.extend(held.or(written.get(&sequence).copied()));
                    }
                    receiver.gaps.answered(&asked, &told);
                    receiver.release();
                }
            }
            receiver.go_on();
            heard.append(&mut receiver.heard);
        };
        receiver.heard.clear();
        // Of an owner of whom nothing comes it is not known that he was there.
        receiver.gaps.head(&Head { stream: stream(), epoch, base, last });
        for (lost, fate, pause) in after {
            if fate == 0 && epoch < 8 {
                (epoch, base) = (epoch + 1, last);
                receiver.gaps.head(&Head { stream: stream(), epoch, base, last });
            }
            last += 1;
            let id = 1_000 + last;
            written.insert(last, id);
            if !lost {
                let this = number(epoch, base, last);
                match receiver.gaps.arrived(&this, MODEL) {
                    Arrival::Waits => { let _ = receiver.gaps.hold(&this, MODEL, 1, 0, id); }
                    Arrival::Goes | Arrival::GoesFirst => receiver.heard.push(id),
                }
                receiver.release();
                receiver.go_on();
            }
            now += MILLI * pause;
            tell(&mut receiver, &mut heard, &written, now, (epoch, base, last));
        }
        // Outboxes say now and then how far they are.
        for second in 0..200 + 2_000 / most {
            if second % 10 == 0 {
                receiver.gaps.head(&Head { stream: stream(), epoch, base, last });
            }
            now += MILLI * 1_000;
            tell(&mut receiver, &mut heard, &written, now, (epoch, base, last));
        }
        let missing: Vec<u64> = written.values().filter(|id| !heard.contains(id)).copied().collect();
        prop_assert!(missing.is_empty(), "{:?}", missing);
        prop_assert_eq!((receiver.gaps.behind(), receiver.gaps.positions()[0].epoch), (0, epoch));
    }

    /// Whatever a broker loses or sends twice, and whenever owners change: in the end everything was heard, and
    /// each first time in order.
    #[test]
    fn everything_is_heard_in_order(
        fates in prop::collection::vec((0..10_u8, any::<bool>()), 1..200), settled_behind in 0..20_u64, most in 1..50_u64
    ) {
        let mut receiver = Receiver::default();
        // From the beginning, so that the first may be missing, too.
        receiver.gaps.resume([], Since::Beginning);
        let (mut epoch, mut base, mut now) = (1, 0, Duration::ZERO);
        let all = fates.len() as u64;
        for (sequence, (fate, ask)) in (1..).zip(fates) {
            let this = number(epoch, base, sequence);
            match fate {
                0..3 => {}
                3 => { receiver.take(&this); receiver.take(&this); }
                // A new owner, which begins with what is settled: with everything.
                4 => { receiver.take(&this); (epoch, base) = (epoch + 1, sequence); }
                _ => receiver.take(&this),
            }
            now += Duration::from_millis(100);
            if ask {
                receiver.ask(now, (epoch, base), sequence.saturating_sub(settled_behind).max(base), sequence, most);
            }
        }
        receiver.gaps.head(&Head { stream: stream(), epoch, base, last: all });
        for _ in 0..500 {
            if receiver.gaps.behind() == 0 {
                break;
            }
            now += LONGEST;
            receiver.ask(now, (epoch, base), all, all, most);
        }
        prop_assert_eq!(receiver.gaps.behind(), 0);
        let mut first = Vec::new();
        for sequence in receiver.heard {
            if !first.contains(&sequence) {
                first.push(sequence);
            }
        }
        prop_assert_eq!(first, (1..=all).collect::<Vec<_>>());
    }

    /// Whatever a broker loses of what a life published, and however little of it the life keeps: what it has is heard, each
    /// first time in order as long as somebody answers, and the rest is counted.
    #[test]
    fn everything_that_a_life_has_is_heard(
        fates in prop::collection::vec((0..10_u8, 0..400_u64, any::<bool>()), 1..200), kept in 1..120_usize, answers in any::<bool>(), most in 1..50_u64
    ) {
        let mut receiver = receiver_of_a_life([]);
        let mut ring = Ring::new(RingLimits { events: kept, bytes: usize::MAX });
        let model = ring.add_model(MODEL);
        let (mut now, mut lost, mut came) = (Duration::ZERO, 0, Vec::new());
        let ask = |receiver: &mut Receiver, ring: &Ring<u64>, now, lost: &mut u64| {
            for (asked, after) in receiver.gaps.due(now) {
                let After::Sequence(after) = after else { panic!("{after:?}") };
                if !answers { continue }
                let (known, events) = ring.after(&asked.model, after).unwrap();
                let covered = known.settled.min(after + most).max(after);
                let told = Told { epoch: 0, base: 0, after, covered, last: known.settled.max(after) };
                if receiver.gaps.wants(&asked, &told) {
                    let kept: Vec<u64> = events.map(|(sequence, _)| sequence).take_while(|sequence| *sequence <= covered).collect();
                    let untold = receiver.gaps.held_within(&asked, after, covered).filter(|held| !kept.contains(held)).count();
                    *lost += known.lost(covered).saturating_sub(untold as u64);
                    for sequence in kept {
                        while let Some(earlier) = receiver.gaps.held_before(&asked, after, sequence) {
                            receiver.heard.push(earlier);
                        }
                        let held = receiver.gaps.take_held(&asked, sequence);
                        receiver.heard.push(held.unwrap_or(sequence));
                    }
                    receiver.gaps.answered(&asked, &told);
                    receiver.release();
                }
            }
            *lost += receiver.gaps.lost();
        };
        for (fate, pause, asks) in fates {
            let place = ring.give(model);
            ring.keep(place, 1, place.sequence);
            // It begins with the first one that it hears.
            if fate < 7 || place.sequence == 1 {
                receiver.take(&own(place.sequence));
                came.push(place.sequence);
            }
            now += MILLI * u32::try_from(pause).unwrap();
            ask(&mut receiver, &ring, now, &mut lost);
            // What is asked may be what patience ends with, and the next one comes before that is looked at.
            if asks {
                receiver.go_on();
            }
        }
        let (_, last) = ring.heads().next().unwrap();
        receiver.gaps.head(&Head { stream: life_of(1), epoch: 0, base: 0, last });
        for _ in 0..2_000 {
            if receiver.gaps.behind() == 0 { break }
            now += 100 * MILLI;
            ask(&mut receiver, &ring, now, &mut lost);
            receiver.go_on();
        }
        prop_assert_eq!(receiver.gaps.behind(), 0);
        // Nothing that came overtakes what came before it, whether anybody answers or not.
        let heard = |sequence: &u64| receiver.heard.iter().position(|heard| heard == sequence);
        prop_assert!(came.iter().map(heard).is_sorted(), "{:?}", receiver.heard);
        let mut first = Vec::new();
        for sequence in &receiver.heard {
            if !first.contains(sequence) { first.push(*sequence) }
        }
        prop_assert!(came.iter().all(|sequence| first.contains(sequence)));
        prop_assert_eq!(first.len() as u64 + lost, last, "{:?}", first);
        if answers {
            prop_assert!(first.is_sorted(), "{:?}", first);
        }
    }
}
