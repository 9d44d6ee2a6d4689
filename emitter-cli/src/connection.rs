//! Where the framework's tables and its broker are.

use std::env::VarError;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use diesel::Connection;
use emitter_diesel::tables::{Dialect, Names, Tables};
use emitter_diesel::topic::Layout;
use emitter_diesel::transport::mqtt::MqttConfig;

use crate::profiles;
use crate::report::Failure;
use crate::secrets::Address;

/// Where the tables and the broker are: as said by an argument, else by the environment, else by a profile.
#[derive(Args)]
#[command(next_help_heading = "Where")]
pub(crate) struct Place {
    /// The database with the tables: postgres://…, mysql://…, or the path of a SQLite file
    #[arg(long, global = true, value_name = "URL", env = "EMITTER_DATABASE", hide_env_values = true)]
    database: Option<Address>,

    /// The broker: mqtt://…, mqtts://…, ws://… or wss://…
    #[arg(long, global = true, value_name = "URL", env = "EMITTER_MQTT_URL", hide_env_values = true)]
    mqtt: Option<Address>,

    /// What topics begin with, as in the program [default: prisma/events]
    #[arg(long, global = true, value_name = "TOPIC")]
    prefix: Option<String>,

    /// What topics of events look like, as in the program [default: {prefix}/{model}/{operation}]
    #[arg(long, global = true)]
    layout: Option<Layout>,

    /// The schema of the tables [default: where the connection looks first]
    #[arg(long, global = true, value_name = "NAME")]
    schema: Option<String>,

    /// What the names of the tables begin with [default: emitter_]
    #[arg(long, global = true, value_name = "NAME")]
    table_prefix: Option<String>,

    /// The profile that says what is not said here [default: `default`, where there is one]
    #[arg(long, global = true, value_name = "NAME", env = "EMITTER_PROFILE", hide_env_values = true)]
    profile: Option<String>,

    /// The file of profiles [default: ~/.config/emitter/profiles.toml]
    #[arg(long, global = true, value_name = "FILE")]
    profiles: Option<PathBuf>,
}

/// What of the broker is not in its address, as an application has it in its environment ([`MqttConfig::from_env`]). But not its
/// client's id: a broker throws one of two clients of a name off.
const SETTINGS: [&str; 5] = ["username", "password", "protocol", "tls_authority", "tls_identity"];

/// That of the environment, where there is one.
fn setting(name: &str) -> Result<Option<String>, Failure> {
    let variable = format!("EMITTER_MQTT_{}", name.to_ascii_uppercase());
    match std::env::var(&variable) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::said(format!("{variable} is not UTF-8"))),
    }
}

impl Place {
    /// Reads the profile.
    pub(crate) fn complete(&mut self) -> Result<(), Failure> {
        let found = profiles::read(self.profiles.as_deref(), self.profile.as_deref())?;
        let profiles::Profile { database, mqtt, prefix, layout, schema, table_prefix } = found;
        self.database = self.database.take().or(database.map(Address::from));
        self.mqtt = self.mqtt.take().or(mqtt.map(Address::from));
        self.prefix = self.prefix.take().or(prefix);
        if self.layout.is_none() {
            let layout = layout.map(|layout| layout.parse()).transpose();
            self.layout =
                layout.map_err(|error| Failure::said(format!("the layout of the profile: {error}")))?;
        }
        self.schema = self.schema.take().or(schema);
        self.table_prefix = self.table_prefix.take().or(table_prefix);
        Ok(())
    }

    /// A text without the secrets of these addresses, nor that of the broker's password.
    pub(crate) fn hide(&self, text: &str) -> String {
        let addresses = [&self.database, &self.mqtt].into_iter().flatten();
        let hidden = addresses.fold(text.to_owned(), |text, address| address.hide(&text));
        match setting("password") {
            Ok(Some(password)) => hidden.replace(&password, "***"),
            _ => hidden,
        }
    }

    /// Whether a database, and whether a broker was said.
    pub(crate) fn said(&self) -> (bool, bool) {
        (self.database.is_some(), self.mqtt.is_some())
    }

    fn address(&self) -> Result<&Address, Failure> {
        let address = self.database.as_ref();
        address.ok_or_else(|| {
            Failure::said("which database? Give `--database URL`, EMITTER_DATABASE or a profile")
        })
    }

    /// The database's SQL.
    pub(crate) fn dialect(&self) -> Result<Dialect, Failure> {
        let address = self.address()?;
        if !address.is_plain() {
            return Err(Failure::said(
                "the database's URL can be read in two ways: in a user name, password or option '@' is written %40, \
                 '/' %2F, '?' %3F and '#' %23, and a port is a number",
            ));
        }
        match address.scheme() {
            Some("postgres" | "postgresql") => Ok(Dialect::Postgres),
            Some("mysql") => Ok(Dialect::MySql),
            Some("sqlite" | "file") | None => Ok(Dialect::Sqlite),
            Some(_) => Err(Failure::said(
                "the database's URL begins with postgres://, mysql:// or sqlite://, or it is the path of a SQLite file",
            )),
        }
    }

    /// The broker, for a client that neither says that it is there nor tries whether its messages arrive, and is forgotten
    /// with its connection.
    pub(crate) fn mqtt(&self) -> Result<MqttConfig, Failure> {
        let address = self.mqtt.as_ref();
        let address = address
            .ok_or_else(|| Failure::said("which broker? Give `--mqtt URL`, EMITTER_MQTT_URL or a profile"))?;
        let mut table = serde_json::Map::new();
        table.insert("url".to_owned(), address.as_str().into());
        for name in SETTINGS {
            if let Some(value) = setting(name)? {
                table.insert(name.to_owned(), value.into());
            }
        }
        let config: MqttConfig =
            serde_json::from_value(table.into()).map_err(|error| Failure::said(error.to_string()))?;
        config
            .announce(false)
            .canary(None)
            .and_then(|config| config.session_expiry(Duration::from_secs(1)))
            .map_err(|error| Failure::said(error.to_string()))
    }

    /// What topics begin with, where it is said.
    pub(crate) fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// What topics of events look like.
    pub(crate) fn layout(&self) -> Layout {
        self.layout.clone().unwrap_or_default()
    }

    /// The framework's tables.
    pub(crate) fn tables(&self) -> Result<Tables, Failure> {
        let (dialect, address) = (self.dialect()?, self.address()?.as_str().to_owned());
        let mut names = Names::default();
        let bad = |problem: emitter_diesel::tables::BadName| Failure::said(problem.to_string());
        if let Some(prefix) = &self.table_prefix {
            names = Names::with_prefix(prefix).map_err(bad)?;
        }
        if let Some(schema) = &self.schema {
            names = names.in_schema(schema).map_err(bad)?;
        }
        Ok(match dialect {
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                let address = patient(address);
                Tables::new(move || diesel::PgConnection::establish(&address))
            }
            #[cfg(feature = "mysql")]
            Dialect::MySql => Tables::new(move || diesel::MysqlConnection::establish(&address)),
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => Tables::new(move || sqlite(&address)),
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            _ => return Err(Failure::said("this build knows no such database: see its cargo features")),
        }
        .names(names))
    }
}

/// An address by which a server that does not answer is waited for 10 s, where nothing else is said.
#[cfg(feature = "postgres")]
fn patient(address: String) -> String {
    if address.contains("connect_timeout=") {
        return address;
    }
    let and = if address.contains('?') { '&' } else { '?' };
    format!("{address}{and}connect_timeout=10")
}

/// A file that is there: SQLite would make an empty one where the path is misspelt.
#[cfg(feature = "sqlite")]
fn sqlite(address: &str) -> diesel::ConnectionResult<diesel::SqliteConnection> {
    use diesel::ConnectionError::BadConnection;

    let path = address.strip_prefix("sqlite://").or(address.strip_prefix("file://")).unwrap_or(address);
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => diesel::SqliteConnection::establish(path),
        Ok(_) => Err(BadConnection(format!("{path} is no file"))),
        Err(error) => Err(BadConnection(format!("{path}: {error}"))),
    }
}
