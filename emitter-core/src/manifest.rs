//! What a program's events look like, as a file that is kept under version control, so that a change
//! which other nodes and stored events cannot bear is found by a test.
//!
//! ```no_run
//! use emitter_core::manifest::Manifest;
//!
//! // In a test; the file lies in the package's folder.
//! Manifest::of_crates(&["shop"]).assert("emitter.json");
//! ```
//!
//! It fails when the file and the program differ. With `EMITTER_MANIFEST=write` in the environment
//! the file is written anew instead, unless the difference is [breaking](Difference::Breaking): then
//! raise the model's `version`, or write with `EMITTER_MANIFEST=force`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use serde::{Deserialize, Serialize};

use crate::emit::Scope;
use crate::event::{Operation, Source};
use crate::listener::Hears;
use crate::registry::{RegisteredModel, Registration};

/// The models and listeners of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Manifest {
    pub(crate) models: BTreeMap<String, ModelShape>,
    listeners: Vec<ListenerShape>,
}

/// A model's events, or an event that is no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModelShape {
    /// Its kind, of an event that is no row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<String>,
    /// The levels of its topics, where they are not its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    /// Its events stay on their node.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) local: bool,
    pub(crate) version: u32,
    /// The earliest version that it reads.
    reads_from: u32,
    key: Vec<String>,
    /// None, of an event that is no row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) emits: Vec<Operation>,
    pub(crate) columns: BTreeMap<String, ColumnShape>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ColumnShape {
    pub(crate) r#type: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) may_be_absent: bool,
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A listener of a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct ListenerShape {
    name: String,
    model: String,
    /// All where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Operation>,
    hears: Hears,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

impl Manifest {
    /// All models and listeners that are linked into this program, tests included. Generic models
    /// are not among them.
    #[must_use]
    pub fn linked() -> Self {
        Self::of(|_| true)
    }

    /// Those that are defined in these crates, by their names in Rust: `my_shop`, not `my-shop`.
    #[must_use]
    pub fn of_crates(crates: &[&str]) -> Self {
        Self::of(|module| module.split("::").next().is_some_and(|name| crates.contains(&name)))
    }

    fn of(wanted: impl Fn(&str) -> bool) -> Self {
        let models = RegisteredModel::all().filter(|model| wanted(model.module));
        let listeners = Registration::all().filter(|listener| wanted(listener.module));
        let mut listeners: Vec<ListenerShape> = listeners.map(ListenerShape::of).collect();
        listeners.sort_unstable();
        Self {
            models: models.map(|model| (model.name.to_owned(), ModelShape::of(model))).collect(),
            listeners,
        }
    }

    /// The listeners that hear this of other nodes.
    pub(crate) fn hearing(&self, model: &str, operation: Operation) -> Vec<&str> {
        let hears = |listener: &&ListenerShape| {
            listener.model == model
                && listener.operation.is_none_or(|wanted| wanted == operation)
                && listener.hears.hears(Source::Remote)
        };
        self.listeners.iter().filter(hears).map(|listener| &*listener.name).collect()
    }

    /// Compares with the file, or writes it if the difference is acceptable.
    ///
    /// # Errors
    /// [`ManifestError`], which says what differs and what to do.
    pub fn check(&self, file: impl AsRef<Path>, accept: Accept) -> Result<(), ManifestError> {
        let file = file.as_ref();
        let recorded = match fs::read_to_string(file) {
            Ok(_) if accept == Accept::Everything => Self::default(),
            Ok(text) => serde_json::from_str(&text).map_err(|error| ManifestError::Unreadable {
                file: file.into(),
                problem: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && accept == Accept::Nothing => {
                return Err(ManifestError::Missing { file: file.into() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(ManifestError::io(file, &error)),
        };
        let differences = self.differences(&recorded);
        let breaking = differences.iter().any(|difference| matches!(difference, Difference::Breaking(_)));
        match accept {
            Accept::Everything => self.write(file),
            Accept::Harmless if !breaking => self.write(file),
            _ if differences.is_empty() => Ok(()),
            Accept::Harmless | Accept::Nothing => {
                Err(ManifestError::Differs { file: file.into(), differences })
            }
        }
    }

    /// The same for a test, which accepts what the environment says.
    ///
    /// # Panics
    /// With the [`ManifestError`].
    #[track_caller]
    pub fn assert(&self, file: impl AsRef<Path>) {
        if let Err(error) = self.check(file, Accept::from_env()) {
            panic!("{error}");
        }
    }

    fn write(&self, file: &Path) -> Result<(), ManifestError> {
        fs::write(file, self.to_string()).map_err(|error| ManifestError::io(file, &error))
    }

    /// What changed since `recorded`.
    #[must_use]
    pub fn differences(&self, recorded: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (name, now) in &self.models {
            match recorded.models.get(name) {
                Some(before) => now.differences(name, before, &mut differences),
                None => {
                    differences.push(Difference::Harmless(format!("{} `{name}` is new", now.noun())));
                }
            }
        }
        let gone = recorded.models.iter().filter(|(name, _)| !self.models.contains_key(*name));
        differences.extend(gone.map(|(name, before)| {
            let noun = before.noun();
            Difference::Harmless(format!("{noun} `{name}` is gone: nobody hears of it any more"))
        }));
        if self.listeners != recorded.listeners {
            let names = |these: &[ListenerShape], those: &[ListenerShape]| {
                let only = these.iter().filter(|listener| !those.contains(listener));
                only.map(|listener| format!("`{}`", listener.name)).collect::<Vec<_>>().join(", ")
            };
            let [new, old] =
                [names(&self.listeners, &recorded.listeners), names(&recorded.listeners, &self.listeners)];
            differences.push(Difference::Harmless(format!("listeners: now [{new}], before [{old}]")));
        }
        differences
    }
}

/// Which differences a manifest is written anew for, instead of being an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// None; the default.
    #[default]
    Nothing,
    /// Those that are not breaking: `EMITTER_MANIFEST=write`.
    Harmless,
    /// All: `EMITTER_MANIFEST=force`.
    Everything,
}

impl Accept {
    /// What the variable `EMITTER_MANIFEST` says.
    ///
    /// # Panics
    /// When it says something else than `write` or `force`.
    #[must_use]
    pub fn from_env() -> Self {
        match env::var("EMITTER_MANIFEST").unwrap_or_default().as_str() {
            "" => Self::Nothing,
            "write" => Self::Harmless,
            "force" => Self::Everything,
            other => panic!("EMITTER_MANIFEST is {other:?}; it may be `write` or `force`"),
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?;
        writeln!(f, "{text}")
    }
}

impl ModelShape {
    fn of(model: &RegisteredModel) -> Self {
        let column = |column: &crate::columns::Column| {
            let shape =
                ColumnShape { r#type: column.type_name.to_owned(), may_be_absent: column.may_be_absent };
            (column.json.to_owned(), shape)
        };
        let emits = if model.event.is_some() { &[] } else { model.operations };
        Self {
            event: model.event.map(str::to_owned),
            topic: (model.topic != model.name).then(|| model.topic.to_owned()),
            local: model.scope == Scope::LOCAL,
            version: model.version,
            reads_from: model.earliest,
            key: model.key_columns.iter().map(|&column| column.to_owned()).collect(),
            emits: emits.to_vec(),
            columns: model.columns.iter().map(column).collect(),
        }
    }

    fn noun(&self) -> &'static str {
        if self.event.is_some() { "event" } else { "model" }
    }

    fn differences(&self, name: &str, before: &Self, differences: &mut Vec<Difference>) {
        if self == before {
            return;
        }
        let (version, noun) = (before.version, self.noun());
        if noun != before.noun() {
            differences.push(Difference::Breaking(format!(
                "{noun} `{name}`: it was recorded as {}, whose topics are others: nodes of before and after do not hear \
                 each other",
                before.noun()
            )));
        }
        if self.topic != before.topic {
            let [now, then] = [self, before].map(|shape| shape.topic.as_deref().unwrap_or(name));
            differences.push(Difference::Breaking(format!(
                "{noun} `{name}`: its topics were below `{then}` and are below `{now}`: nodes of before and after do not hear \
                 each other"
            )));
        }
        match self.version.cmp(&version) {
            std::cmp::Ordering::Less => differences.push(Difference::Breaking(format!(
                "{noun} `{name}`: the version went back from {version} to {}: nodes and records know {version} already",
                self.version
            ))),
            std::cmp::Ordering::Greater if self.reads_from > version => {
                differences.push(Difference::Breaking(format!(
                    "{noun} `{name}`: events of version {version}, which are stored or on their way, cannot be read: keep \
                     the former struct and name it, as in `#[emits(version = {}, earlier({}V{version}))]`",
                    self.version,
                    pascal_case(name)
                )));
            }
            std::cmp::Ordering::Greater => {
                differences.push(Difference::Harmless(format!("{noun} `{name}`: version {}", self.version)));
            }
            std::cmp::Ordering::Equal => self.differences_of_one_version(name, before, differences),
        }
    }

    fn differences_of_one_version(&self, name: &str, before: &Self, differences: &mut Vec<Difference>) {
        let (mut breaking, noun) = (Vec::new(), self.noun());
        for (column, now) in &self.columns {
            match before.columns.get(column) {
                Some(before) if before.r#type != now.r#type => {
                    breaking
                        .push(format!("column `{column}` was `{}` and is `{}`", before.r#type, now.r#type));
                }
                Some(before) if before.may_be_absent && !now.may_be_absent => {
                    breaking.push(format!(
                        "column `{column}` may be absent no more, and events without it cannot be read"
                    ));
                }
                None if !now.may_be_absent => {
                    breaking.push(format!("column `{column}` is new, and events without it cannot be read"));
                }
                Some(_) | None => {}
            }
        }
        let gone = before.columns.iter().filter(|(column, _)| !self.columns.contains_key(*column));
        let needed = gone.filter(|(_, before)| !before.may_be_absent);
        breaking.extend(needed.map(|(column, _)| {
            format!("column `{column}` is gone, and nodes that know it cannot read events without it")
        }));
        if self.key != before.key {
            breaking.push(format!("the key was {:?} and is {:?}", before.key, self.key));
        }
        if self.reads_from > before.reads_from {
            differences.push(Difference::Breaking(format!(
                "{noun} `{name}`: events before version {} cannot be read any more: keep their types in `earlier(…)`",
                self.reads_from
            )));
        }
        if breaking.is_empty() {
            differences.push(Difference::Harmless(format!(
                "{noun} `{name}`: what it emits, its kind, or a column that may be absent"
            )));
        } else {
            let (version, next) = (self.version, self.version + 1);
            let model = pascal_case(name);
            let row = if self.event.is_some() { "" } else { "Row" };
            differences.push(Difference::Breaking(format!(
                "{noun} `{name}`: {}.\n    Keep the struct of version {version} as `{model}V{version}`, with serde's \
                 derives alone, write `#[emits(version = {next}, earlier({model}V{version}))]` on the new one,\n    and \
                 `impl From<{model}V{version}> for {model}{row}`. Deploy nodes that listen before those that write",
                breaking.join(";\n    ")
            )));
        }
    }
}

impl ListenerShape {
    fn of(listener: &Registration) -> Self {
        Self {
            name: listener.name.to_owned(),
            model: listener.wanted.model.to_owned(),
            operation: listener.wanted.operation,
            hears: listener.hears,
            group: listener.group.map(str::to_owned),
        }
    }
}

/// `orderItem` and `order_item` → `OrderItem`: most likely the struct's name.
pub(crate) fn pascal_case(name: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect::<String>()
    };
    name.split('_').map(word).collect()
}

/// Something that a program and its manifest say differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Other nodes, or this one with what is stored or on its way, would not understand each other.
    Breaking(String),
    /// Nobody is hurt; the file is to be written anew.
    Harmless(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Breaking(text) => write!(f, "breaking: {text}"),
            Self::Harmless(text) => f.write_str(text),
        }
    }
}

/// Why a program and its manifest are not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// There is no file yet.
    #[error(
        "there is no manifest at {file:?}: run this test once with `EMITTER_MANIFEST=write`, and check the file in"
    )]
    Missing {
        /// Where it was looked for.
        file: PathBuf,
    },
    /// The file is no manifest.
    #[error(
        "{file:?} is no manifest ({problem}): run this test with `EMITTER_MANIFEST=force`, and read the difference"
    )]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// They differ.
    #[error("{}", differs(file, differences))]
    Differs {
        /// The file.
        file: PathBuf,
        /// In what.
        differences: Vec<Difference>,
    },
    /// The file can be neither read nor written.
    #[error("{file:?}: {problem}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        problem: String,
    },
}

impl ManifestError {
    fn io(file: &Path, error: &io::Error) -> Self {
        Self::Io { file: file.into(), problem: error.to_string() }
    }
}

fn differs(file: &Path, differences: &[Difference]) -> String {
    let list: Vec<String> = differences.iter().map(|difference| format!("  - {difference}")).collect();
    let breaking = differences.iter().any(|difference| matches!(difference, Difference::Breaking(_)));
    let cure = if breaking {
        "Where nothing of the former version is stored or on its way, write the file with `EMITTER_MANIFEST=force`."
    } else {
        "If this is meant, run this test with `EMITTER_MANIFEST=write`, and check the file in."
    };
    format!("the program differs from its manifest {file:?}:\n{}\n{cure}", list.join("\n"))
}
