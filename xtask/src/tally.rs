//! Counts passed tests by kind, from what nextest and libtest print.

use std::collections::BTreeMap;
use std::fmt;

/// The tests that passed, and the runners' closing lines.
pub(crate) struct Tally {
    /// Names of the test targets that start servers.
    server_suites: Vec<String>,
    /// Kind → suite → number of passed tests.
    passed: BTreeMap<Kind, BTreeMap<String, usize>>,
    /// What nextest said at the end.
    closing: Vec<String>,
    /// The suite whose tests libtest is printing.
    suite: Suite,
}

/// What a test is, as far as its place tells: the declaration's order is the summary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Beside the code that it tests.
    Unit,
    /// In a module, file or target called `properties`, or a function `prop_…`.
    Property,
    /// In a target called `ui`: what the compiler says to users.
    Ui,
    /// In any other test target.
    Integration,
    /// In a target that requires the feature `servers`.
    Servers,
    /// Code in documentation.
    Doc,
}

/// The executable that a test is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Suite {
    /// The tests inside a library or program.
    Inside(String),
    /// A test target.
    Target(String),
    /// The documentation of a library.
    Docs(String),
}

impl Tally {
    pub(crate) fn new(server_suites: Vec<String>) -> Self {
        Self {
            server_suites,
            passed: BTreeMap::new(),
            closing: Vec::new(),
            suite: Suite::Inside(String::new()),
        }
    }

    /// Takes notice of a line of a test runner.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some((suite, test)) = nextest_pass(line) {
            // After its closing line it may repeat some tests.
            if self.closing.is_empty() {
                self.count(&suite, test);
            }
        } else if let Some(suite) = libtest_suite(line) {
            self.suite = suite;
        } else if let Some(test) = libtest_pass(line) {
            self.count(&self.suite.clone(), test);
        } else if line.starts_with("Summary [") {
            self.closing.push(line.to_owned());
        }
    }

    fn count(&mut self, suite: &Suite, test: &str) {
        let suites = self.passed.entry(self.kind(suite, test)).or_default();
        *suites.entry(suite.name().to_owned()).or_default() += 1;
    }

    fn kind(&self, suite: &Suite, test: &str) -> Kind {
        let is_property = |name: &str| name == "properties" || name.starts_with("prop_");
        match suite {
            Suite::Docs(_) => Kind::Doc,
            Suite::Target(name) if self.server_suites.contains(name) => Kind::Servers,
            Suite::Target(name) if name == "ui" => Kind::Ui,
            Suite::Target(name) if is_property(name) => Kind::Property,
            _ if test.split("::").any(is_property) => Kind::Property,
            Suite::Target(_) => Kind::Integration,
            Suite::Inside(_) => Kind::Unit,
        }
    }
}

impl Suite {
    fn name(&self) -> &str {
        let (Self::Inside(name) | Self::Target(name) | Self::Docs(name)) = self;
        name
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = 0;
        for (kind, suites) in &self.passed {
            let count: usize = suites.values().sum();
            let parts: Vec<_> = suites.iter().map(|(suite, count)| format!("{suite} {count}")).collect();
            let kind = format!("{kind:?}").to_lowercase();
            writeln!(f, "{count:>12}  {kind} tests: {}", parts.join(", "))?;
            total += count;
        }
        writeln!(f, "{total:>12}  tests passed")?;
        for line in &self.closing {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// `PASS [   0.013s] ( 1/50) emitter-tests::brokers two_nodes`
fn nextest_pass(line: &str) -> Option<(Suite, &str)> {
    let (status, rest) = line.split_once('[')?;
    if !matches!(status.trim(), "PASS" | "LEAK") {
        return None;
    }
    let (_, mut rest) = rest.split_once(']')?;
    if let Some((_, after_counter)) =
        rest.trim_start().strip_prefix('(').and_then(|counter| counter.split_once(')'))
    {
        rest = after_counter;
    }
    let (binary, test) = rest.trim().split_once(' ')?;
    let suite = match binary.split_once("::") {
        Some((_, target)) if !target.contains('/') => Suite::Target(target.to_owned()),
        Some((package, _)) => Suite::Inside(package.to_owned()),
        None => Suite::Inside(binary.to_owned()),
    };
    Some((suite, test.trim()))
}

/// `Running tests/ui.rs (target/debug/deps/ui-0123)`, `Doc-tests emitter_core`
fn libtest_suite(line: &str) -> Option<Suite> {
    if let Some(library) = line.strip_prefix("Doc-tests ") {
        return Some(Suite::Docs(library.replace('_', "-")));
    }
    let (source, file) = line.strip_prefix("Running ")?.split_once(" (")?;
    let name = file.rsplit('/').next()?.rsplit_once('-')?.0;
    if source.starts_with("unittests ") {
        Some(Suite::Inside(name.replace('_', "-")))
    } else {
        Some(Suite::Target(name.to_owned()))
    }
}

/// `test dispatcher::tests::keeps_order ... ok`
fn libtest_pass(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... ok")
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn check(lines: &str, expected: &str) {
        let mut tally = Tally::new(vec!["brokers".to_owned()]);
        lines.lines().for_each(|line| tally.read(line));
        assert_eq!(tally.to_string(), expected);
    }

    #[test]
    fn nextest() {
        check(
            "    Starting 8 tests across 5 binaries
        PASS [   0.005s] ( 1/8) emitter-core event::tests::has_an_id
        PASS [   0.005s] ( 2/8) emitter-core dedup::properties::window_is_bounded
        PASS [   0.005s] ( 3/8) xtask::bin/xtask tally::tests::nextest
        PASS [   0.005s] ( 4/8) emitter-macros::ui mistakes
        PASS [   0.005s] emitter-tests::brokers two_processes
        LEAK [   0.005s] (10/8) embedded-broker::round_trip a_message_comes_back
        FAIL [   0.005s] ( 7/8) embedded-broker::round_trip another
        SLOW [> 60.000s] ( 8/8) embedded-broker::round_trip another
     Summary [   1.234s] 8 tests run: 7 passed (1 leaky), 1 failed, 0 skipped
        LEAK [   0.005s] (10/8) embedded-broker::round_trip a_message_comes_back",
            "           2  unit tests: emitter-core 1, xtask 1
           1  property tests: emitter-core 1
           1  ui tests: ui 1
           1  integration tests: round_trip 1
           1  servers tests: brokers 1
           6  tests passed
Summary [   1.234s] 8 tests run: 7 passed (1 leaky), 1 failed, 0 skipped
",
        );
    }

    #[test]
    fn libtest_and_doctests() {
        check(
            "     Running unittests src/lib.rs (target/debug/deps/emitter_core-7a7cba48ce2c3517)
test event::tests::has_an_id ... ok
test event::tests::prop_ids_grow ... ok
test event::tests::broken ... FAILED
test event::tests::slow ... ignored
test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/brokers.rs (target/debug/deps/brokers-b25c1912ebfb9bdf)
test two_processes ... ok
   Doc-tests emitter_core
test emitter-core/src/lib.rs - (line 6) ... ok
test emitter-core/src/lib.rs - Key (line 6) - compile fail ... ok",
            "           1  unit tests: emitter-core 1
           1  property tests: emitter-core 1
           1  servers tests: brokers 1
           2  doc tests: emitter-core 2
           5  tests passed
",
        );
    }
}
