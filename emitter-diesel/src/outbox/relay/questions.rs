//! Questions of other nodes that wait for their answers: bounded, and each who asks has its turn. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use emitter_core::gaps::{After, Stream};

/// A question about one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) from: String,
    pub(super) stream: Stream,
    pub(super) after: After,
    pub(super) came: Instant,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// By who asks, and none without any.
    nodes: HashMap<String, Asked>,
    /// Whose turn it is: each of them once.
    turns: VecDeque<String>,
    len: usize,
}

/// What one node asks. A later question about a stream takes the place of the one before.
#[derive(Debug, Default)]
struct Asked {
    order: VecDeque<Stream>,
    streams: HashMap<Stream, (After, Instant)>,
}

/// How many questions wait at most; who asks in vain asks again.
const MOST: usize = 1_000;

/// How many of one node.
const MOST_OF_ONE: usize = 500;

impl Questions {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes a question, if there is room for it.
    pub(super) fn put(&mut self, question: Question) {
        let Question { from, stream, after, came } = question;
        let is_full = self.len >= MOST;
        let Some(asked) = self.nodes.get_mut(&from) else {
            if !is_full {
                let streams = HashMap::from([(stream.clone(), (after, came))]);
                self.nodes.insert(from.clone(), Asked { order: VecDeque::from([stream]), streams });
                self.turns.push_back(from);
                self.len += 1;
            }
            return;
        };
        if let Some(known) = asked.streams.get_mut(&stream) {
            *known = (after, came);
        } else if !is_full && asked.order.len() < MOST_OF_ONE {
            asked.order.push_back(stream.clone());
            asked.streams.insert(stream, (after, came));
            self.len += 1;
        }
    }

    /// The next that is to be answered: one of each node in turn.
    pub(super) fn next(&mut self) -> Option<Question> {
        let from = self.turns.pop_front()?;
        let asked = self.nodes.get_mut(&from)?;
        let stream = asked.order.pop_front()?;
        let (after, came) = asked.streams.remove(&stream)?;
        self.len -= 1;
        if asked.order.is_empty() {
            self.nodes.remove(&from);
        } else {
            self.turns.push_back(from.clone());
        }
        Some(Question { from, stream, after, came })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(from: &str, lane: u32, after: u64) -> Question {
        let stream = Stream { outbox: "box".into(), lane, model: "order".into() };
        Question { from: from.to_owned(), stream, after: After::Sequence(after), came: Instant::now() }
    }

    fn all(questions: &mut Questions) -> Vec<(String, u32)> {
        std::iter::from_fn(|| questions.next())
            .map(|question| (question.from, question.stream.lane))
            .collect()
    }

    #[test]
    fn each_node_has_its_turn_and_one_question_about_a_stream() {
        let mut questions = Questions::default();
        for lane in 0..3 {
            questions.put(question("a", lane, 1));
        }
        questions.put(question("b", 7, 1));
        questions.put(question("a", 1, 9));
        assert!(!questions.is_empty());
        let first = questions.next().unwrap();
        assert_eq!((&*first.from, first.stream.lane), ("a", 0));
        // It may be put back.
        questions.put(first);
        let turns: Vec<(String, u32, After)> = std::iter::from_fn(|| questions.next())
            .map(|question| (question.from, question.stream.lane, question.after))
            .collect();
        let turn = |from: &str, lane, after| (from.to_owned(), lane, After::Sequence(after));
        assert_eq!(turns, [turn("b", 7, 1), turn("a", 1, 9), turn("a", 2, 1), turn("a", 0, 1)]);
        assert!(questions.is_empty());
    }

    #[test]
    fn a_flood_is_bounded_and_leaves_room_for_others() {
        let mut questions = Questions::default();
        for lane in 0..100_000 {
            questions.put(question("flood", lane, 1));
        }
        questions.put(question("b", 1, 1));
        assert_eq!(questions.len, MOST_OF_ONE + 1);
        for node in 0..10_000 {
            questions.put(question(&format!("n{node}"), 1, 1));
        }
        assert_eq!(questions.len, MOST);
        let answered = all(&mut questions);
        assert_eq!((answered.len(), &answered[1]), (MOST, &("b".to_owned(), 1)));
        assert!(questions.nodes.is_empty() && questions.turns.is_empty());
    }
}
