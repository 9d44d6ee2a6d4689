//! Events that wait for a commit, with a mark for each open savepoint.
//!
//! Pure: it is told how deep the transactions are and what became of the innermost.

/// What was emitted since the outermost transaction began, in order.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    events: Vec<T>,
    /// For each open transaction: how many events there were when it began.
    marks: Vec<usize>,
}

impl<T> Buffer<T> {
    pub(crate) const fn new() -> Self {
        Self { events: Vec::new(), marks: Vec::new() }
    }

    /// How many events wait.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn push(&mut self, event: T) {
        self.events.push(event);
    }

    /// A transaction, or a savepoint in it, has begun: `depth` are open now.
    pub(crate) fn begun(&mut self, depth: usize) {
        self.marks.resize(depth, self.events.len());
    }

    /// Transactions have been committed: `depth` are still open. When none is, everything that
    /// waited is returned: it is true now.
    pub(crate) fn committed(&mut self, depth: usize) -> Vec<T> {
        self.marks.truncate(depth);
        if depth == 0 { std::mem::take(&mut self.events) } else { Vec::new() }
    }

    /// Whether one of those that wait is so.
    pub(crate) fn any(&self, is_so: impl Fn(&T) -> bool) -> bool {
        self.events.iter().any(is_so)
    }

    /// Transactions have been rolled back: `depth` are still open. What they emitted never was.
    pub(crate) fn rolled_back(&mut self, depth: usize) {
        if let Some(mark) = self.marks.get(depth) {
            self.events.truncate(*mark);
            self.marks.truncate(depth);
        }
        if depth == 0 {
            self.events.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Emit,
        Begin,
        Commit,
        RollBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![3 => Just(Step::Emit), 2 => Just(Step::Begin), 1 => Just(Step::Commit), 1 => Just(Step::RollBack)]
    }

    proptest! {
        /// The naive model: a stack of lists, as a database would keep them.
        #[test]
        fn sends_exactly_what_a_database_would_keep(steps in prop::collection::vec(step(), 0..100)) {
            let mut buffer = Buffer::new();
            let mut open: Vec<Vec<usize>> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Emit => if let Some(innermost) = open.last_mut() {
                        innermost.push(number);
                        buffer.push(number);
                    },
                    Step::Begin => {
                        open.push(Vec::new());
                        buffer.begun(open.len());
                    }
                    Step::Commit => if let Some(done) = open.pop() {
                        let sent = buffer.committed(open.len());
                        match open.last_mut() {
                            Some(outer) => {
                                outer.extend(done);
                                prop_assert!(sent.is_empty());
                            }
                            None => prop_assert_eq!(sent, done),
                        }
                    },
                    Step::RollBack => if open.pop().is_some() {
                        buffer.rolled_back(open.len());
                    },
                }
                prop_assert_eq!(buffer.len(), open.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
