//! What a program's events look like, in the words of others.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use emitter_diesel::manifest::Manifest;
use emitter_diesel::schema::{self, About, SchemaError};
use emitter_diesel::topic::TopicPrefix;
use serde::Serialize;
use serde_json::Value;

use crate::connection::Place;
use crate::report::{Failure, Out, Verdict};

/// Which document, and of what.
#[derive(Args)]
pub(crate) struct Schema {
    /// The document
    form: Form,

    /// The program's manifest, `-` for what is piped in: the file of `Manifest::assert`, or what `println!("{}", Manifest::linked())` prints
    #[arg(long, value_name = "FILE", default_value = "emitter.json")]
    from: PathBuf,

    /// What the document is called
    #[arg(long, default_value = "Events")]
    title: String,

    /// Its version, such as that of the program
    #[arg(long, value_name = "VERSION", default_value = "1.0.0")]
    of_version: String,
}

/// What is made of the models.
#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// An AsyncAPI 3.0 document: channels, messages, and what is sent and received
    Asyncapi,
    /// A JSON Schema (2020-12) of the events
    Jsonschema,
    /// A module of TypeScript with a type for each event
    Typescript,
}

/// The longest manifest that is read.
const MOST: u64 = 16 * 1024 * 1024;

impl Schema {
    pub(super) fn run(self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let manifest: Manifest = serde_json::from_str(&self.read()?).map_err(|error| {
            format!(
                "{} is no manifest: {error}; write one as `emitter schema --help` says",
                self.from.display()
            )
        })?;
        let prefix = place.prefix().map(TopicPrefix::new).transpose().map_err(|error| error.to_string())?;
        let about = About {
            title: self.title,
            version: self.of_version,
            prefix: prefix.unwrap_or_default(),
            layout: place.layout(),
        };
        let told = |error: SchemaError| Failure::said(error.to_string());
        let document = match self.form {
            Form::Asyncapi => Document::json(schema::asyncapi(&manifest, &about).map_err(told)?),
            Form::Jsonschema => Document::json(schema::json_schema(&manifest, &about).map_err(told)?),
            Form::Typescript => {
                Ok(Document::Module { typescript: schema::typescript(&manifest, &about).map_err(told)? })
            }
        };
        out.print(&document?)?;
        Ok(Verdict::Well)
    }

    fn read(&self) -> Result<String, String> {
        let mut text = String::new();
        let read = if self.from.as_os_str() == "-" {
            std::io::stdin().lock().take(MOST).read_to_string(&mut text)
        } else {
            std::fs::File::open(&self.from).and_then(|file| file.take(MOST).read_to_string(&mut text))
        };
        read.map_err(|error| {
            format!(
                "the manifest {}: {error}; `Manifest::of_crates(&[\"shop\"]).assert(\"emitter.json\")` in a test of the program \
                 writes one, with EMITTER_MANIFEST=write",
                self.from.display()
            )
        })?;
        Ok(text)
    }
}

/// The document: as JSON where it is that, else as a text within it.
#[derive(Serialize)]
#[serde(untagged)]
enum Document {
    Json {
        #[serde(flatten)]
        value: Value,
        #[serde(skip)]
        text: String,
    },
    Module {
        typescript: String,
    },
}

impl Document {
    fn json(text: String) -> Result<Self, Failure> {
        let value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok(Self::Json { value, text })
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json { text, .. } | Self::Module { typescript: text } => f.write_str(text),
        }
    }
}
