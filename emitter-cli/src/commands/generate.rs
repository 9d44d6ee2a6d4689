//! Models with `Emits` for the tables of a Diesel schema.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::report::{Failure, Out, Plain, Verdict};

mod model;
mod table;

use self::model::Choices;
use self::table::Table;

/// Of which tables, and how.
#[derive(Args)]
pub(crate) struct Generate {
    /// The file with `table!`, as `diesel print-schema` writes it; `-` for what is piped in
    #[arg(value_name = "SCHEMA.RS")]
    file: PathBuf,

    /// Of this table; several times for several [default: of all]
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,

    /// The operations that are events, as in `create,update,delete`
    #[arg(long, value_name = "OPERATIONS", default_value = "all", value_parser = operations)]
    emits: String,

    /// The module of the schema, as the models name it
    #[arg(long, value_name = "PATH", default_value = "crate::schema", value_parser = path)]
    module: String,
}

/// The longest schema that is read.
const MOST: u64 = 16 * 1024 * 1024;

const OPERATIONS: [&str; 8] =
    ["all", "create", "create_many", "update", "update_many", "upsert", "delete", "delete_many"];

fn operations(text: &str) -> Result<String, String> {
    let each: Vec<&str> = text.split(',').map(str::trim).collect();
    match each.iter().find(|operation| !OPERATIONS.contains(operation)) {
        Some(other) => Err(format!("{other:?} is none of {}", OPERATIONS.join(", "))),
        None => Ok(each.join(", ")),
    }
}

fn path(text: &str) -> Result<String, String> {
    let path = syn::parse_str::<syn::Path>(text);
    path.map(|_| text.to_owned()).map_err(|_| format!("{text:?} is no path of Rust, such as crate::schema"))
}

/// What was made.
#[derive(Serialize)]
struct Report {
    rust: String,
    models: Vec<String>,
    findings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rust)
    }
}

/// With its modules, or without.
fn is_called(table: &Table, name: &str) -> bool {
    table.name == name || table.path() == name
}

impl Generate {
    pub(super) fn run(self, out: Out) -> Result<Verdict, Failure> {
        let tables =
            table::read(&self.read()?).map_err(|problem| format!("{}: {problem}", self.file.display()))?;
        if let Some(unknown) =
            self.tables.iter().find(|name| !tables.iter().any(|table| is_called(table, name)))
        {
            let known: Vec<String> = tables.iter().map(Table::path).collect();
            return Err(Failure::said(format!(
                "there is no table {unknown}; there are: {}",
                known.join(", ")
            )));
        }
        let is_meant =
            |table: &&Table| self.tables.is_empty() || self.tables.iter().any(|name| is_called(table, name));
        let choices = Choices { emits: &self.emits, module: &self.module };
        let models = model::of(&tables.iter().filter(is_meant).collect::<Vec<_>>());
        if models.is_empty() {
            return Err(Failure::said(format!("{}: there is no `table!` in it", self.file.display())));
        }
        let report = Report {
            rust: model::file(&models, &choices),
            models: models.iter().map(|model| model.name.clone()).collect(),
            findings: models.iter().flat_map(|model| model.findings.iter().cloned()).collect(),
        };
        out.print(&report)?;
        // They are no part of the code.
        if !out.json {
            report.findings.iter().for_each(|finding| eprintln!("! {}", Plain(finding)));
        }
        Ok(Verdict::of(&report.findings))
    }

    fn read(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = if self.file.as_os_str() == "-" {
            std::io::stdin().lock().take(MOST).read_to_string(&mut text)
        } else {
            std::fs::File::open(&self.file).and_then(|file| file.take(MOST).read_to_string(&mut text))
        };
        read.map_err(|error| Failure::said(format!("{}: {error}", self.file.display())))?;
        Ok(text)
    }
}
