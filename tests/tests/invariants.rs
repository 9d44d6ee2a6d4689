//! Holds the invariants of ARCHITECTURE.md by reading the project's sources.
//!
//! Each check takes sources and returns what breaks its invariant, so that its own test can hand
//! it a small source that does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;

/// A Rust file of the project without its tests, as tokens: comments and texts do not count.
struct Source {
    /// From the project's root, with `/`.
    path: String,
    tokens: Vec<Token>,
    /// What `use` items import, each by its whole path.
    imports: Vec<Token>,
}

/// A word or sign, `::` being one; or an imported path.
struct Token {
    text: String,
    line: usize,
}

/// A place that breaks an invariant.
#[derive(Debug, PartialEq)]
struct Breach {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Source {
    fn parse(path: &str, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path} is no Rust: {error}"));
        let mut source = Self { path: path.to_owned(), tokens: Vec::new(), imports: Vec::new() };
        source.items(file.items);
        source
    }

    fn items(&mut self, items: Vec<syn::Item>) {
        for item in items {
            if is_test(&item) {
                continue;
            }
            match item {
                syn::Item::Use(import) => {
                    let line = import.span().start().line;
                    self.import("", &import.tree, line);
                }
                syn::Item::Mod(syn::ItemMod { content: Some((_, items)), .. }) => self.items(items),
                item => self.code(item.to_token_stream()),
            }
        }
    }

    fn import(&mut self, before: &str, tree: &syn::UseTree, line: usize) {
        let mut found = |text| self.imports.push(Token { text, line });
        match tree {
            syn::UseTree::Path(path) => self.import(&format!("{before}{}::", path.ident), &path.tree, line),
            syn::UseTree::Name(name) => found(format!("{before}{}", name.ident)),
            syn::UseTree::Rename(name) => found(format!("{before}{}", name.ident)),
            syn::UseTree::Glob(_) => found(format!("{before}*")),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(before, tree, line));
            }
        }
    }

    fn code(&mut self, tokens: TokenStream) {
        for token in tokens {
            let line = token.span().start().line;
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                        proc_macro2::Delimiter::Brace => ("{", "}"),
                        proc_macro2::Delimiter::Bracket => ("[", "]"),
                        proc_macro2::Delimiter::None => ("", ""),
                    };
                    self.token(open, line);
                    self.code(group.stream());
                    self.token(close, group.span_close().end().line);
                }
                TokenTree::Ident(ident) => self.token(&ident.to_string(), line),
                TokenTree::Literal(_) => self.token("\"\"", line),
                TokenTree::Punct(sign) => match self.tokens.last_mut() {
                    Some(last) if last.text == ":" && sign.as_char() == ':' => {
                        "::".clone_into(&mut last.text);
                    }
                    _ => self.token(&sign.to_string(), line),
                },
            }
        }
    }

    fn token(&mut self, text: &str, line: usize) {
        self.tokens.push(Token { text: text.to_owned(), line });
    }

    /// Where these words and signs, written with spaces between, stand in a row in the code.
    fn lines_of(&self, row: &str) -> Vec<usize> {
        let row: Vec<&str> = row.split(' ').collect();
        let is_row = |window: &&[Token]| window.iter().zip(&row).all(|(token, word)| token.text == *word);
        self.tokens.windows(row.len()).filter(is_row).map(|window| window[0].line).collect()
    }

    /// Where a path, or a part of it, is imported or written: `std::net`, `Instant::now`, `tokio`.
    fn mentions(&self, path: &str) -> Vec<usize> {
        let whole = |text: &str| format!("::{text}::").contains(&format!("::{path}::"));
        let imported = self.imports.iter().filter(|import| whole(&import.text)).map(|import| import.line);
        imported.chain(self.lines_of(&path.replace("::", " :: "))).collect()
    }

    fn breaches(&self, lines: impl IntoIterator<Item = usize>, what: &str) -> Vec<Breach> {
        let breach = |line| Breach { path: self.path.clone(), line, what: what.to_owned() };
        lines.into_iter().map(breach).collect()
    }

    fn is_in(&self, module: &str) -> bool {
        self.path == format!("{module}.rs") || self.path.starts_with(&format!("{module}/"))
    }
}

fn is_test(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes
        .iter()
        .any(|attribute| attribute.to_token_stream().to_string().replace(' ', "") == "#[cfg(test)]")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the project").to_owned()
}

/// Every file of the project below a folder, by its path from the root.
fn files(below: &str) -> Vec<(String, PathBuf)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let relative =
                path.strip_prefix(&root).expect("it is below the root").to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                // What git keeps, and what cargo, fuzzers and property tests leave behind, is not the project's.
                if !matches!(name.as_str(), ".git" | "target" | "node_modules" | "proptest-regressions") {
                    folders.push(path);
                }
            } else {
                found.push((relative, path));
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The sources below a folder, without files of tests.
fn sources(below: &str) -> Vec<Source> {
    let code = |path: &str| {
        let test = path.ends_with("/tests.rs") || path.contains("/tests/");
        path.ends_with(".rs") && !test && !path.starts_with("tests/ui/")
    };
    let files = files(below).into_iter().filter(|(relative, _)| code(relative));
    files.map(|(relative, path)| Source::parse(&relative, &read(&path))).collect()
}

/// The libraries.
fn libraries() -> Vec<Source> {
    let folders = [
        "emitter-cli/src",
        "emitter-core/src",
        "emitter-diesel/src",
        "emitter-macros/src",
        "emitter-web/src",
    ];
    folders.into_iter().flat_map(sources).collect()
}

#[track_caller]
fn holds(invariant: &str, breaches: &[Breach]) {
    let list: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "\n{invariant}\n{}\n", list.join("\n"));
}

/// The check finds something at exactly these lines of a snippet, which is said to be at `path`.
#[track_caller]
fn finds(check: impl Fn(&[Source]) -> Vec<Breach>, path: &str, snippet: &str, lines: &[usize]) {
    let mut found: Vec<usize> =
        check(&[Source::parse(path, snippet)]).iter().map(|breach| breach.line).collect();
    found.sort_unstable();
    assert_eq!(found, lines, "in {path}:\n{snippet}");
}

// 1 · Who knows what -----------------------------------------------------------------------------

const DATABASES: &[&str] = &[
    "diesel",
    "diesel_async",
    "emitter_diesel",
    "rusqlite",
    "libsqlite3_sys",
    "sqlx",
    "postgres",
    "tokio_postgres",
    "mysql",
    "sea_orm",
];

fn databases_in_core(sources: &[Source]) -> Vec<Breach> {
    let core = || sources.iter().filter(|source| source.path.starts_with("emitter-core/"));
    let find = |source: &Source| {
        let lines = DATABASES.iter().flat_map(|database| source.mentions(database)).collect::<Vec<_>>();
        source.breaches(lines, "a database is named; what knows one belongs into emitter-diesel")
    };
    core().flat_map(find).collect()
}

fn databases_in_manifest(path: &str, manifest: &str) -> Vec<Breach> {
    let names_one = |line: &str| {
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default().trim_matches('"').replace('-', "_");
        let depends = line.contains('=') && DATABASES.contains(&name.as_str());
        depends
            || DATABASES
                .iter()
                .any(|database| line.contains(&format!("package = \"{}\"", database.replace('_', "-"))))
    };
    let lines = manifest.lines().enumerate().filter(|(_, line)| names_one(line));
    let breach =
        |(line, text): (usize, &str)| Breach { path: path.to_owned(), line: line + 1, what: text.to_owned() };
    lines.map(breach).collect()
}

#[test]
fn the_core_knows_no_database() {
    let invariant = "Invariant 1: emitter-core does not know what a database is.";
    holds(invariant, &databases_in_core(&libraries()));
    let manifest = "emitter-core/Cargo.toml";
    holds(invariant, &databases_in_manifest(manifest, &read(&root().join(manifest))));

    let snippet = "use diesel::prelude::*;\n/// As diesel does.\nfn a() { let text = \"diesel\"; }\nfn b() { rusqlite::open() }";
    finds(databases_in_core, "emitter-core/src/a.rs", snippet, &[1, 4]);
    finds(databases_in_core, "emitter-diesel/src/a.rs", snippet, &[]);
    let manifest = "[dependencies]\nserde = \"1\"\ndiesel.workspace = true\nd = { package = \"libsqlite3-sys\" }\n# diesel";
    let lines: Vec<usize> =
        databases_in_manifest("Cargo.toml", manifest).iter().map(|breach| breach.line).collect();
    assert_eq!(lines, [3, 4]);
}

fn rumqttc_elsewhere(sources: &[Source]) -> Vec<Breach> {
    let elsewhere = sources.iter().filter(|source| !source.is_in("emitter-core/src/transport/mqtt"));
    elsewhere.flat_map(|source| source.breaches(source.mentions("rumqttc"), "rumqttc is named")).collect()
}

#[test]
fn rumqttc_is_named_by_its_transport_alone() {
    holds("Invariant 1: rumqttc is named only under transport/mqtt.", &rumqttc_elsewhere(&libraries()));
    finds(
        rumqttc_elsewhere,
        "emitter-core/src/emitter.rs",
        "use rumqttc::v5::Event;\nfn a(b: rumqttc::QoS) {}",
        &[1, 2],
    );
    finds(rumqttc_elsewhere, "emitter-core/src/transport/mqtt/driver.rs", "use rumqttc::QoS;", &[]);
}

// 2 · No I/O, no clock -----------------------------------------------------------------------------

/// The modules that decide and do nothing; property tests reach all of them.
const PURE: &[&str] = &[
    "emitter-core/src/announcement.rs",
    "emitter-diesel/src/inbox/marks.rs",
    "emitter-diesel/src/untold.rs",
    "emitter-diesel/src/requests/store.rs",
    "emitter-diesel/src/requests/work.rs",
    "emitter-diesel/src/replica/order.rs",
    "emitter-diesel/src/replica/positions.rs",
    "emitter-diesel/src/dead_letters/store.rs",
    "emitter-core/src/record.rs",
    "emitter-diesel/src/capture/trigger.rs",
    "emitter-diesel/src/outbox/store.rs",
    "emitter-diesel/src/outbox/store/history.rs",
    "emitter-diesel/src/outbox/store/inheritance.rs",
    "emitter-diesel/src/outbox/store/leases.rs",
    "emitter-diesel/src/outbox/store/ledger.rs",
    "emitter-diesel/src/outbox/store/publishing.rs",
    "emitter-diesel/src/outbox/store/standing.rs",
    "emitter-diesel/src/outbox/store/writing.rs",
    "emitter-diesel/src/mirror/known.rs",
    "emitter-diesel/src/mirror/selection.rs",
    "emitter-diesel/src/mirror/store.rs",
    "emitter-diesel/src/tables/dialect.rs",
    "emitter-diesel/src/tables/doubts.rs",
    "emitter-diesel/src/tables/names.rs",
    "emitter-core/src/batch.rs",
    "emitter-core/src/signature.rs",
    "emitter-core/src/columns.rs",
    "emitter-core/src/dead_letter.rs",
    "emitter-core/src/dedup.rs",
    "emitter-core/src/net.rs",
    "emitter-core/src/diff.rs",
    "emitter-core/src/dispatcher/lanes.rs",
    "emitter-core/src/emit.rs",
    "emitter-core/src/envelope.rs",
    "emitter-core/src/envelope/args.rs",
    "emitter-core/src/envelope/cloud_events.rs",
    "emitter-core/src/envelope/differences.rs",
    "emitter-core/src/envelope/format.rs",
    "emitter-core/src/envelope/glimpse.rs",
    "emitter-core/src/envelope/json.rs",
    "emitter-core/src/envelope/specification.rs",
    "emitter-core/src/envelope/tracker.rs",
    "emitter-core/src/event.rs",
    "emitter-core/src/filter.rs",
    "emitter-core/src/gaps.rs",
    "emitter-core/src/gaps/ring.rs",
    "emitter-core/src/gaps/track.rs",
    "emitter-core/src/gaps/wire.rs",
    "emitter-core/src/key.rs",
    "emitter-core/src/metadata.rs",
    "emitter-core/src/model.rs",
    "emitter-core/src/properties.rs",
    "emitter-core/src/retry.rs",
    "emitter-core/src/schema.rs",
    "emitter-core/src/schema/document.rs",
    "emitter-core/src/schema/shape.rs",
    "emitter-core/src/schema/typescript.rs",
    "emitter-core/src/topic.rs",
    "emitter-core/src/topic/layout.rs",
    "emitter-core/src/transport/mqtt/ack_order.rs",
    "emitter-core/src/transport/mqtt/in_flight.rs",
    "emitter-core/src/plain.rs",
    "emitter-diesel/src/buffer.rs",
    "emitter-web/src/stream/cursor.rs",
    "emitter-web/src/stream/origin.rs",
    "emitter-web/src/stream/ring.rs",
    "emitter-web/src/stream/selection.rs",
];

const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "thread",
    "tokio",
    "println",
    "eprintln",
    "Instant::now",
    "SystemTime::now",
    "OffsetDateTime::now_utc",
    "now_v7",
    "elapsed",
];

/// Where an event is born it is given its moment and its id: two constructors, called by the emitter alone.
const BIRTH: [(&str, &str); 2] =
    [("emitter-core/src/event.rs", "SystemTime::now"), ("emitter-core/src/event.rs", "now_v7")];

fn impure(sources: &[Source]) -> Vec<Breach> {
    let find = |source: &Source| {
        let forbidden = IMPURE.iter().filter(|path| !BIRTH.contains(&(&source.path, path)));
        let found =
            |path: &&str| source.breaches(source.mentions(path), &format!("`{path}` in a pure module"));
        forbidden.flat_map(found).collect::<Vec<_>>()
    };
    let mut found: Vec<Breach> =
        sources.iter().filter(|source| PURE.contains(&source.path.as_str())).flat_map(find).collect();
    found.dedup_by(|a, b| (a.line, &a.path) == (b.line, &b.path));
    found
}

#[test]
fn what_decides_has_no_io_and_no_clock() {
    let sources = libraries();
    for pure in PURE.iter().copied() {
        assert!(
            sources.iter().any(|source| source.path == pure),
            "{pure} is gone: correct the list of pure modules"
        );
    }
    for (path, clock) in BIRTH {
        let source = sources.iter().find(|source| source.path == path).expect("it is among the pure ones");
        assert_eq!(source.mentions(clock).len(), 1, "{path} may name `{clock}` once, where an event is born");
    }
    holds("Invariant 2: these modules have no I/O and read no clock.", &impure(&sources));

    let snippet = "use std::{fmt, net::TcpStream};\nfn a() { Instant::now(); }\n#[cfg(test)]\nmod tests { fn b() { Instant::now(); } }\nasync fn c() {\n tokio::time::sleep(d).await }";
    finds(impure, "emitter-core/src/topic.rs", snippet, &[1, 2, 6]);
    finds(impure, "emitter-core/src/emitter.rs", snippet, &[]);
    finds(
        impure,
        "emitter-core/src/event.rs",
        "fn now() { SystemTime::now(); }\nfn a() { Instant::now(); }",
        &[2],
    );
}

// 3 · Dispatcher and transport -----------------------------------------------------------------------

fn acquaintances(sources: &[Source]) -> Vec<Breach> {
    let find = |source: &Source| {
        let stranger = match source {
            source if source.is_in("emitter-core/src/dispatcher") => "crate::transport",
            source if source.is_in("emitter-core/src/transport") => "crate::dispatcher",
            _ => return Vec::new(),
        };
        let imported = source.imports.iter().filter(|import| import.text.starts_with(stranger));
        let imported = imported.map(|import| import.line);
        let named = source.lines_of(&stranger.replace("::", " :: "));
        source.breaches(imported.chain(named), &format!("names `{stranger}`; only `emitter` knows both"))
    };
    sources.iter().flat_map(find).collect()
}

#[test]
fn dispatcher_and_transport_do_not_know_each_other() {
    holds(
        "Invariant 3: only `emitter` knows both the dispatcher and the transport.",
        &acquaintances(&libraries()),
    );
    let snippet = "use crate::transport::{Ack, Delivery};\nfn a(b: crate::transport::Message) {}\nuse crate::transport::Ack;";
    finds(acquaintances, "emitter-core/src/dispatcher/lanes.rs", snippet, &[1, 1, 2, 3]);
    finds(acquaintances, "emitter-core/src/transport/memory.rs", "use crate::dispatcher::Job;", &[1]);
    finds(acquaintances, "emitter-core/src/emitter.rs", snippet, &[]);
}

// 4 · Generated code ---------------------------------------------------------------------------------

/// What an expansion may name of the framework, each a public item of `emitter_core`.
const NAMED: &[&str] = &[
    "model",
    "event",
    "key",
    "columns",
    "diff",
    "emit",
    "Event",
    "Scope",
    "HashKey",
    "Redacted",
    "__private",
];

/// The variables that hold the framework's path.
const PATHS: &[&str] = &["krate", "located"];

fn named_by_expansions(sources: &[Source]) -> Vec<Breach> {
    let printers = sources.iter().filter(|source| source.path.ends_with("/expand.rs"));
    let find = |source: &Source| {
        let words: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
        let wrong = |index: &usize| match words[*index..] {
            ["#", path, "::", item, ..] if PATHS.contains(&path) => !NAMED.contains(&item),
            // A path from the root is one of the standard library: the framework may have another name.
            [before, "::", root, ..] => {
                let continues = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>');
                !continues && !matches!(root, "core" | "<") && !root.starts_with('#')
            }
            _ => false,
        };
        let lines: Vec<usize> =
            (0..words.len()).filter(wrong).map(|index| source.tokens[index].line).collect();
        source.breaches(lines, "generated code names what it may not")
    };
    printers.flat_map(find).collect()
}

#[test]
fn generated_code_names_public_items_only() {
    let sources = libraries();
    holds(
        "Invariant 4: generated code names public items of the framework, by the path that `crate = …` can override.",
        &named_by_expansions(&sources),
    );
    let lib =
        sources.iter().find(|source| source.path == "emitter-core/src/lib.rs").expect("a library has one");
    let text = read(&root().join(&lib.path));
    for item in ["pub mod model;", "pub mod event;", "pub mod key;", "pub mod __private {"] {
        assert!(text.contains(item), "{}: `{item}` is what generated code stands on", lib.path);
    }
    let snippet = "fn a() {\nquote!(#krate::registry::Registration);\nquote!(#krate::__private::Handler);\nquote!(::serde::Serialize);\nquote!(::core::fmt::Debug, Self::#a, <#b as C>::d) }";
    finds(named_by_expansions, "emitter-macros/src/emits/expand.rs", snippet, &[2, 4]);
}

// 5 · No globals -------------------------------------------------------------------------------------

/// What each thread has for itself, and what belongs to no node: the random numbers of ids, the
/// columns of tables, which are the same for the whole program, and whether connections are watched.
const NO_NODE: &[&str] = &[
    "emitter-core/src/cause.rs",
    "emitter-core/src/event.rs",
    "emitter-diesel/src/written.rs",
    "emitter-diesel/src/bypass.rs",
];

fn globals(sources: &[Source]) -> Vec<Breach> {
    let find = |source: &Source| {
        if NO_NODE.contains(&source.path.as_str()) {
            return Vec::new();
        }
        let is_static = |pair: &&[Token]| pair[1].text == "static" && pair[0].text != "'";
        let statics = source.tokens.windows(2).filter(is_static).map(|pair| pair[1].line);
        let first = source.tokens.first().filter(|token| token.text == "static").map(|token| token.line);
        let locals = source.lines_of("thread_local !");
        source.breaches(
            first.into_iter().chain(statics).chain(locals),
            "a global: two nodes must live in one process",
        )
    };
    sources.iter().flat_map(find).collect()
}

#[test]
fn nothing_is_global_but_the_lists_of_listeners_and_models() {
    let sources = libraries();
    holds(
        "Invariant 5: the only globals are the link-time lists of listeners and models.",
        &globals(&sources),
    );
    let lists: Vec<&str> = sources
        .iter()
        .flat_map(|source| {
            source.lines_of("inventory :: collect !").into_iter().map(|_| source.path.as_str())
        })
        .collect();
    assert_eq!(lists, ["emitter-core/src/registry.rs"; 2], "Invariant 5: two link-time lists");
    let snippet = "static A: u8 = 1;\nfn a(b: &'static str) {\nstatic mut C: u8 = 2; }\nthread_local! { static D: u8 = 3; }";
    finds(globals, "emitter-core/src/a.rs", snippet, &[1, 3, 4, 4]);
}

// 6 · Tasks ------------------------------------------------------------------------------------------

/// Where tasks are made, how often, and who awaits them.
const TASKS: &[(&str, usize, &str)] = &[
    ("emitter-core/src/dispatcher.rs", 1, "the worker's `JoinSet` of calls, which it drains before it ends"),
    ("emitter-core/src/emitter.rs", 2, "the node's `JoinSet` of workers, and intakes, awaited by `shutdown`"),
    ("emitter-core/src/emitter/bus.rs", 1, "the end of a bus, awaited by the thread that closes it"),
    ("emitter-core/src/emitter/builder.rs", 2, "publishing and burying, awaited by `shutdown`"),
    (
        "emitter-core/src/metrics/report.rs",
        1,
        "a companion that tells what is counted, whose end `shutdown` awaits",
    ),
    (
        "emitter-core/src/emitter/burying.rs",
        1,
        "the `JoinSet` of the task that buries, which it drains before it ends",
    ),
    ("emitter-core/src/emitter/shutdown.rs", 1, "the shutdown itself, awaited by everybody who calls it"),
    (
        "emitter-core/src/listener.rs",
        1,
        "a plain listener's call, awaited by the call that the dispatcher keeps",
    ),
    ("emitter-core/src/testing/contract/cases.rs", 2, "the case's own `JoinSet`, which it drains"),
    ("emitter-core/src/transport/mqtt.rs", 5, "the clients' `JoinSet`, awaited by `close`"),
    (
        "emitter-diesel/src/dead_letters/keeping.rs",
        1,
        "one thread at a time; each letter awaits its part, and the task that buries awaits each letter",
    ),
    (
        "emitter-diesel/src/requests/attending.rs",
        2,
        "a request's thread within a scope, and the redrive that it waits for; the attendant's is a companion",
    ),
    (
        "emitter-diesel/src/companion.rs",
        2,
        "a companion's thread, whose end `shutdown` awaits; a question to the database, awaited where it is asked",
    ),
    (
        "emitter-web/src/dashboard.rs",
        1,
        "the samples, which end with the dashboard or the node; nothing waits for them, and they keep nothing alive",
    ),
    (
        "emitter-web/src/dashboard/desk.rs",
        1,
        "a question to the database, awaited where it is asked, and no longer than anybody waits for a page",
    ),
    (
        "emitter-web/src/dashboard/work.rs",
        1,
        "a redrive, which ends with the emitter; `Dashboard::close` awaits all",
    ),
    (
        "emitter-web/src/stream/server_sent.rs",
        1,
        "a visit, which ends with its answer; `Stream::close` awaits all",
    ),
];

/// For the memory transport, which only tests use.
const TEST_TASKS: (&str, &str) = ("emitter-core/src/transport/memory", "its `JoinSet`, awaited by `close`");

fn spawns(source: &Source) -> Vec<usize> {
    let words = ["spawn", "spawn_blocking", "spawn_local", "spawn_on", "spawn_blocking_on"];
    words
        .iter()
        .flat_map(|word| [source.lines_of(&format!("{word} (")), source.lines_of(&format!("{word} ::"))])
        .flatten()
        .collect()
}

fn unowned_tasks(sources: &[Source]) -> Vec<Breach> {
    let find = |source: &Source| {
        let allowed = TASKS.iter().find(|(path, ..)| *path == source.path).map_or(0, |(_, count, _)| *count);
        let lines = if source.is_in(TEST_TASKS.0) { Vec::new() } else { spawns(source) };
        let what = "a task is made: say in `TASKS` of this test who awaits it";
        source.breaches(lines.into_iter().skip(allowed), what)
    };
    sources.iter().flat_map(find).collect()
}

#[test]
fn every_task_is_awaited() {
    let sources = libraries();
    holds("Invariant 6: every spawned task is awaited by `shutdown`.", &unowned_tasks(&sources));
    for (path, count, owner) in TASKS.iter().copied() {
        let found =
            sources.iter().find(|source| source.path == path).map_or(0, |source| spawns(source).len());
        assert_eq!(found, count, "{path} makes another number of tasks than `TASKS` says ({owner})");
    }
    let snippet =
        "fn a() {\ntokio::spawn(b);\ntasks.spawn(c);\ntokio::task::spawn_blocking(d); }\nfn spawns() {}";
    finds(unowned_tasks, "emitter-core/src/queue.rs", snippet, &[2, 3, 4]);
}

// 7 · unsafe, traits ---------------------------------------------------------------------------------

fn unsafe_code(sources: &[Source]) -> Vec<Breach> {
    let find = |source: &Source| source.breaches(source.lines_of("unsafe"), "`unsafe`");
    sources.iter().flat_map(find).collect()
}

/// Manifests of packages that do not take over the workspace's lints.
fn without_lints(manifests: &[(String, String)]) -> Vec<Breach> {
    let inherits = |text: &str| text.replace(' ', "").contains("[lints]\nworkspace=true");
    let lax = manifests.iter().filter(|(_, text)| text.contains("[package]") && !inherits(text));
    lax.map(|(path, _)| Breach {
        path: path.clone(),
        line: 1,
        what: "no `[lints] workspace = true`".to_owned(),
    })
    .collect()
}

#[test]
fn unsafe_is_forbidden() {
    holds("Invariant 7: `unsafe` is forbidden.", &unsafe_code(&sources("")));
    let manifests: Vec<(String, String)> = files("")
        .into_iter()
        .filter(|(relative, _)| relative.ends_with("Cargo.toml"))
        .map(|(relative, path)| (relative, read(&path)))
        .collect();
    assert!(manifests.len() > 4, "the manifests were not found");
    holds("Invariant 7: every package forbids `unsafe`.", &without_lints(&manifests));
    let workspace = read(&root().join("Cargo.toml"));
    assert!(
        workspace.contains("\nunsafe_code = \"forbid\"\n"),
        "Invariant 7: Cargo.toml: unsafe_code = \"forbid\""
    );

    finds(unsafe_code, "a.rs", "//! unsafe\n#![forbid(unsafe_code)]\nfn a() { unsafe { b() } }", &[3]);
    let lax = [("a/Cargo.toml".to_owned(), "[package]\nname = \"a\"\n".to_owned())];
    assert_eq!(without_lints(&lax).len(), 1);
}

/// Traits whose implementations a reader of tokens sees fewer of than there are.
const MANY_BY_MACRO: &[(&str, &str)] = &[
    ("ReplicaConnection", "`connections!` implements it for the connections of three databases"),
    ("InPlainFn", "`blocking!` implements it for the connections of three databases"),
    ("InAsyncFn", "`asynchronous!` implements it for the connections of three databases"),
    ("Database", "`databases!` implements it for the connections of three databases"),
    ("EmitsLocally", "`#[derive(Emits)]` for every model but those that say `remote`"),
    ("EmitsRemotely", "`#[derive(Emits)]` for every model but those that say `local`"),
    ("OperationType", "`bodies!` implements it for each of seven operations"),
    ("SingleRow", "`bodies!` for four bodies, `#[derive(Emits)]` for the enum, and for events with a key"),
    ("Kind", "`kinds!` implements it for five kinds of statements"),
    ("Model", "each `#[derive(Emits)]` is one"),
    ("ModelEvent", "the enum of each `#[derive(Emits)]` is one, and `Created` for events that are no rows"),
    ("Emits", "each operation of each `#[derive(Emits)]` is one, and each event that is no row"),
];

/// Traits that are no abstraction over implementations.
const NO_ABSTRACTION: &[(&str, &str)] = &[
    ("ComparedColumn", "has the compiler say in words of ours why a column has to be comparable"),
    ("IsModel", "has the compiler say in words of ours that an event belongs to another model"),
    ("Nullable", "has the compiler say that a column is never NULL, in words of ours"),
    (
        "Same",
        "type equality, to carry inference from a result to its statement: Rust has no other word for it",
    ),
    ("Bind", "an extension of `Emitter`, which lives in a crate that knows no connections"),
    ("Keyed", "keeps bounds for every lifetime out of reach of inference, which they would mislead"),
    (
        "BeginsBy",
        "makes a future generic over its handle, which is what lets the compiler see that it can be sent",
    ),
    ("AsyncFunc", "names an asynchronous closure's future, as diesel-async's own does, which is private"),
    ("Describe", "keeps the bounds of reading an update in one place, for each back end that does"),
    ("Copied", "keeps the bounds of writing a copy in one place, and says in words of ours what to derive"),
];

/// The traits that are implemented, with how often `impl … Trait … for` is written.
fn implementations(sources: &[Source]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for source in sources {
        let words: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
        for (index, _) in words.iter().enumerate().filter(|(_, word)| **word == "impl") {
            *count.entry(implemented(&words[index + 1..]).unwrap_or_default()).or_default() += 1;
        }
    }
    count
}

/// `Emits` of `<M: Model> Emits<Op> for Created<M> {`.
fn implemented(words: &[&str]) -> Option<String> {
    let (mut depth, mut name) = (0_usize, None);
    for (index, word) in words.iter().enumerate() {
        match *word {
            "<" => depth += 1,
            // Of `->`, the arrow of a function type.
            ">" if index > 0 && matches!(words[index - 1], "-" | "=") => {}
            ">" => depth = depth.checked_sub(1)?,
            "for" if depth == 0 => return name,
            "{" | ";" | "(" | "where" if depth == 0 => return None,
            word if depth == 0 && word.starts_with(char::is_alphabetic) => name = Some(word.to_owned()),
            _ => {}
        }
    }
    None
}

fn lonely_traits(sources: &[Source], known: &[Source]) -> Vec<Breach> {
    let implementations = implementations(known);
    let excused =
        |name: &str| MANY_BY_MACRO.iter().chain(NO_ABSTRACTION).any(|(excused, _)| *excused == name);
    let find = |source: &Source| {
        let traits =
            source.tokens.windows(3).filter(|words| words[0].text == "pub" && words[1].text == "trait");
        let lonely = traits.filter(|words| {
            implementations.get(&words[2].text).copied().unwrap_or_default() < 2 && !excused(&words[2].text)
        });
        lonely.map(|words| words[2].line).collect::<Vec<_>>()
    };
    let what = "a public trait with fewer than two implementations here: write a struct";
    sources.iter().flat_map(|source| source.breaches(find(source), what)).collect()
}

#[test]
fn a_public_trait_has_two_implementations() {
    let libraries = libraries();
    let known = sources("");
    holds("Invariant 7: a public trait has two implementations here.", &lonely_traits(&libraries, &known));
    let words: Vec<String> = libraries
        .iter()
        .flat_map(|source| source.tokens.windows(3))
        .filter(|words| words[1].text == "trait")
        .map(|words| words[2].text.clone())
        .collect();
    for (name, reason) in MANY_BY_MACRO.iter().chain(NO_ABSTRACTION) {
        assert!(
            words.iter().any(|word| word == name),
            "`{name}` is excused ({reason}) but there is no such trait"
        );
    }
    let check = |sources: &[Source]| lonely_traits(sources, sources);
    let snippet = "pub trait One {}\npub trait Two<T> {}\nimpl One for A {}\nimpl<T: One> Two<T> for B<T> {}\nimpl Two<fn() -> u8> for C {}\nimpl One {}\ntrait Private {}";
    finds(check, "emitter-core/src/a.rs", snippet, &[1]);
}

// 8 · Names ------------------------------------------------------------------------------------------

/// What has no room belongs to the noun that it speaks about.
const NOUNLESS: [&str; 9] =
    ["util", "utils", "helper", "helpers", "common", "misc", "types", "traits", "constants"];

fn nounless(path: &str) -> bool {
    path.split('/').any(|part| NOUNLESS.contains(&part.strip_suffix(".rs").unwrap_or(part)))
}

#[test]
fn every_file_is_a_noun() {
    let bad: Vec<String> =
        files("").into_iter().map(|(relative, _)| relative).filter(|path| nounless(path)).collect();
    assert!(bad.is_empty(), "no file is called {NOUNLESS:?}: {bad:?}");
    assert!(
        nounless("emitter-core/src/utils.rs") && nounless("a/common/b.rs") && !nounless("a/typesetting.rs")
    );
}

/// The lines that name a place of one machine, which another machine does not have.
fn places(text: &str) -> Vec<usize> {
    // In two parts, for this file is read too.
    let places = [concat!("/wo", "rk/"), concat!("../sha", "red"), concat!("/ro", "ot/")];
    let named = |line: &str| places.iter().any(|place| line.contains(place));
    text.lines().enumerate().filter(|(_, line)| named(line)).map(|(index, _)| index + 1).collect()
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    let mut found = Vec::new();
    for (relative, path) in files("") {
        // What is not text names nothing.
        let Ok(text) = fs::read_to_string(path) else { continue };
        found.extend(places(&text).into_iter().map(|line| format!("{relative}:{line}")));
    }
    assert!(found.is_empty(), "these name a place of one machine:\n{}", found.join("\n"));
    assert_eq!(places(concat!("a\nsee /wo", "rk/main\n")), [2]);
}
