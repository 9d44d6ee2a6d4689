//! The databases of the suite, each with an outbox and tables of its own.

use std::path::PathBuf;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_tests::servers::{MariaDb, Postgres};
use tempfile::TempDir;

use super::TABLES;

/// A database that connections can be made to.
pub(crate) trait Database: Sized {
    type Conn: emitter_diesel::tables::Database + Connection + SimpleConnection + 'static;

    fn start() -> Self;

    /// What makes a connection.
    fn connector(&self) -> impl Fn() -> ConnectionResult<Self::Conn> + Send + Sync + 'static;

    /// One with the tables of the models.
    fn with_tables() -> Self {
        let server = Self::start();
        let mut conn = server.connect();
        TABLES.iter().for_each(|table| conn.batch_execute(table).unwrap());
        server
    }

    fn connect(&self) -> Self::Conn {
        self.connector()().unwrap()
    }

    /// The framework's, which are made where they are not there.
    fn tables(&self) -> Tables {
        Tables::new(self.connector()).migrate()
    }

    fn outbox(&self) -> Outbox {
        Outbox::new(self.tables())
    }
}

pub(crate) struct Sqlite {
    folder: TempDir,
}

impl Sqlite {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("test.db")
    }

    #[allow(dead_code, reason = "not every test that has these databases moves it")]
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl Database for Sqlite {
    type Conn = SqliteConnection;

    fn start() -> Self {
        let server = Self { folder: tempfile::tempdir().unwrap() };
        server.connect().batch_execute("PRAGMA journal_mode = WAL").unwrap();
        server
    }

    fn connector(&self) -> impl Fn() -> ConnectionResult<SqliteConnection> + Send + Sync + 'static {
        let path = self.path();
        move || {
            let mut conn = SqliteConnection::establish(path.to_str().unwrap_or_default())?;
            conn.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA synchronous = NORMAL")
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        }
    }
}

impl Database for Postgres {
    type Conn = PgConnection;

    fn start() -> Self {
        Self::start()
    }

    fn connector(&self) -> impl Fn() -> ConnectionResult<PgConnection> + Send + Sync + 'static {
        let url = self.url();
        move || PgConnection::establish(&url)
    }
}

impl Database for MariaDb {
    type Conn = MysqlConnection;

    fn start() -> Self {
        Self::start()
    }

    fn connector(&self) -> impl Fn() -> ConnectionResult<MysqlConnection> + Send + Sync + 'static {
        let url = self.url();
        move || MysqlConnection::establish(&url)
    }
}
