//! Captured rows: how they are asked for, and what becomes of them.

use std::collections::HashMap;

use diesel::prelude::QueryableByName;
use diesel::query_dsl::methods::LoadQuery;
use diesel::result::{Error, QueryResult};
use diesel::sql_types::{BigInt, Text};
use diesel::{Expression, PgConnection, RunQueryDsl};
use emitter_core::columns::Columns;
use emitter_core::event::Timestamp;
use emitter_core::model::{
    Body, Created, CreatedMany, Deleted, DeletedMany, Model, ModelEvent, RowChange, Updated, UpdatedMany,
    Upserted,
};
use emitter_core::{Emission, EmitOptions, Emitter, Operation, Persistence};

use super::Images;
use super::trigger::{Column, Seen, Traced, fingerprint, quoted};
use crate::tables::{Dialect, Names, list};

/// The operations that an `INSERT` may be told by, best first.
pub(super) const INSERTS: [Operation; 3] = [Operation::Create, Operation::CreateMany, Operation::Upsert];
/// The same of an `UPDATE`.
pub(super) const UPDATES: [Operation; 3] = [Operation::Update, Operation::UpdateMany, Operation::Upsert];
/// The same of a `DELETE`.
pub(super) const DELETES: [Operation; 2] = [Operation::Delete, Operation::DeleteMany];

/// A captured row, without its images.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub(super) struct Captured {
    #[diesel(sql_type = BigInt)]
    pub(super) id: i64,
    #[diesel(sql_type = Text)]
    pub(super) action: String,
    /// In milliseconds since 1970.
    #[diesel(sql_type = BigInt)]
    pub(super) at: i64,
    /// How large its images are.
    #[diesel(sql_type = BigInt)]
    pub(super) bytes: i64,
}

/// How the statements about a capture's rows are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'c> {
    pub(super) traced: &'c Traced,
    pub(super) names: &'c Names,
}

const DIALECT: Dialect = Dialect::Postgres;

impl Rows<'_> {
    fn table(self) -> String {
        self.names.table("captured").to_string()
    }

    /// Whether there are any.
    pub(super) fn any(self) -> String {
        format!(
            "SELECT 'any' AS text, 1::bigint AS number WHERE EXISTS (SELECT FROM {} WHERE model = {} AND status = 'CAPTURED')",
            self.table(),
            DIALECT.quoted(self.traced.model)
        )
    }

    /// Whether this transaction is the one to turn them: 1 where it is.
    pub(super) fn lock(self) -> String {
        let of = fingerprint(&format!("{}\0{}", self.table(), self.traced.model));
        format!(
            "SELECT 'mine' AS text, CASE WHEN pg_try_advisory_xact_lock(('x' || '{of}')::bit(64)::bigint) \
             THEN 1::bigint ELSE 0 END AS number"
        )
    }

    /// The next ones.
    pub(super) fn next(self, most: usize) -> String {
        let bytes = |column| format!("COALESCE(octet_length({column}::text), 0)");
        format!(
            "SELECT id, action, (extract(epoch FROM captured_at) * 1000)::bigint AS at, ({} + {})::bigint AS bytes \
             FROM {} WHERE model = {} AND status = 'CAPTURED' ORDER BY id LIMIT {most}",
            bytes("before"),
            bytes("after"),
            self.table(),
            DIALECT.quoted(self.traced.model)
        )
    }

    /// The columns that are not read as they are, by their numbers in the order of `table!`, each with an expression
    /// in its place: those that are not captured, so that the model can be loaded; and JSON, of whose `null` nothing
    /// is left where a row is made JSON.
    pub(super) fn stand_ins(self) -> String {
        let columns = self.traced.columns.iter().enumerate().map(|(place, Column { name, seen, .. })| {
            format!("({place}, {}, {})", DIALECT.quoted(name), *seen == Seen::Never)
        });
        let columns: Vec<String> = columns.collect();
        format!(
            "SELECT format(CASE WHEN NOT c.hidden THEN 'COALESCE(r.%2$I, ''null''::%1$s)' \
             WHEN NOT a.attnotnull THEN 'NULL::%1$s' \
             WHEN t.typtype = 'e' THEN 'enum_first(NULL::%1$s)' \
             WHEN t.typname = 'uuid' THEN '''00000000-0000-0000-0000-000000000000''::%1$s' \
             WHEN t.typname IN ('json', 'jsonb') THEN '''null''::%1$s' \
             WHEN t.typname IN ('time', 'timetz') THEN '''00:00''::%1$s' \
             WHEN t.typcategory = 'D' THEN '''epoch''::%1$s' \
             WHEN t.typcategory IN ('N', 'T') THEN '''0''::%1$s' \
             WHEN t.typcategory = 'B' THEN '''false''::%1$s' \
             WHEN t.typcategory = 'A' THEN '''{{}}''::%1$s' \
             WHEN t.typcategory = 'I' THEN '''0.0.0.0''::%1$s' \
             ELSE '''''::%1$s' END, format_type(a.atttypid, NULL), a.attname) AS text, c.place::bigint AS number \
             FROM (VALUES {}) AS c (place, name, hidden) \
             JOIN pg_attribute a ON a.attname = c.name AND a.attrelid = {}::regclass AND NOT a.attisdropped \
             JOIN pg_type t ON t.oid = a.atttypid \
             WHERE c.hidden OR (a.attnotnull AND t.typname IN ('json', 'jsonb'))",
            columns.join(", "),
            DIALECT.quoted(&self.traced.table)
        )
    }

    /// Those rows before and after, as the table's columns have them.
    pub(super) fn images(self, ids: &[i64], stand_ins: &HashMap<usize, String>) -> [String; 2] {
        let Traced { table, columns, .. } = self.traced;
        let columns: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(place, column)| match stand_ins.get(&place) {
                Some(stand_in) => stand_in.clone(),
                None => format!("r.{}", quoted(&column.name)),
            })
            .collect();
        ["before", "after"].map(|image| {
            format!(
                "SELECT c.id, {} FROM {} AS c, LATERAL json_populate_record(NULL::{table}, c.{image}) AS r \
                 WHERE c.id IN ({}) AND c.{image} IS NOT NULL",
                columns.join(", "),
                self.table(),
                list(ids.iter().copied())
            )
        })
    }

    /// They are turned.
    pub(super) fn done(self, ids: &[i64]) -> String {
        format!("DELETE FROM {} WHERE id IN ({})", self.table(), list(ids.iter().copied()))
    }

    /// One cannot be turned.
    pub(super) fn unreadable(self, id: i64, error: &str) -> String {
        const MOST: usize = 2_000;
        let error: String = error.chars().take(MOST).collect();
        format!(
            "UPDATE {} SET status = 'UNREADABLE', last_error = {} WHERE id = {id}",
            self.table(),
            DIALECT.quoted(&error)
        )
    }

    /// They are turned by somebody, for so many milliseconds from now.
    pub(super) fn beat(self, lease: i64) -> String {
        format!(
            "INSERT INTO {} AS c (model, until) VALUES ({}, {} + {lease}) \
             ON CONFLICT (model) DO UPDATE SET until = greatest(c.until, excluded.until)",
            self.names.table("capturing"),
            DIALECT.quoted(self.traced.model),
            DIALECT.now()
        )
    }
}

/// Loads the images of captured rows, and makes events of them.
pub(super) fn events<M, E>(
    conn: &mut PgConnection,
    emitter: &Emitter,
    rows: &[Captured],
    images: [String; 2],
) -> QueryResult<Vec<(i64, Option<Emission>)>>
where
    M: Model,
    E: Expression,
    Images<E>: for<'q> LoadQuery<'q, PgConnection, (i64, M)>,
{
    let mut loaded = Vec::with_capacity(2);
    for sql in images {
        let models: Vec<(i64, M)> = Images::<E>::of(sql).load(conn)?;
        loaded.push(models.into_iter().collect::<HashMap<i64, M>>());
    }
    let now = Timestamp::now();
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let mut take = |image: usize| loaded.get_mut(image).and_then(|models| models.remove(&row.id));
        let (before, after) = (take(0), take(1));
        let operation = operation::<M>(&row.action).ok_or_else(|| unreadable(NOT_CAPTURED))?;
        let Some(route) = emitter.route::<M>(operation, EmitOptions::default()) else {
            events.push((row.id, None));
            continue;
        };
        let hash_key = route.hash_key();
        let listened = |model: Option<M>| model.map(|model| model.into_row(hash_key.as_ref()));
        let body = body::<M>(operation, &row.action, listened(before), listened(after));
        let event = body.and_then(M::Event::from_body).ok_or_else(|| unreadable(NOT_CAPTURED))?;
        // A clock that is ahead of this one's: the future is nobody's business.
        let time = Timestamp::from_millis(row.at).min(now);
        events.push((row.id, Some(route.persistence(Persistence::Durable).event_at(time, event))));
    }
    Ok(events)
}

const NOT_CAPTURED: &str = "it is not as a trigger writes it";

pub(super) fn unreadable(problem: &str) -> Error {
    Error::DeserializationError(problem.into())
}

/// How the model tells of such an action.
fn operation<M: Model>(action: &str) -> Option<Operation> {
    let operations: &[Operation] = match action {
        "INSERT" => &INSERTS,
        "UPDATE" => &UPDATES,
        "DELETE" => &DELETES,
        _ => return None,
    };
    operations.iter().copied().find(|operation| M::OPERATIONS.contains(operation))
}

fn body<M: Model>(
    operation: Operation,
    action: &str,
    before: Option<M::Row>,
    after: Option<M::Row>,
) -> Option<Body<M>> {
    let inserted = action == "INSERT";
    let set = || Some(M::differing(before.as_ref()?, after.as_ref()?));
    Some(match operation {
        Operation::Create => Body::Create(Created::new(after?)),
        Operation::CreateMany => Body::CreateMany(CreatedMany::new(1, Some(vec![after?]))),
        Operation::Upsert => Body::Upsert(Upserted::new(after?, Some(Columns::ALL), Some(inserted))),
        Operation::Update => {
            let set = set();
            Body::Update(Updated::new(Some(before?), after?, set))
        }
        Operation::UpdateMany => {
            let set = set();
            let change = RowChange::new(Some(before?), after?);
            Body::UpdateMany(UpdatedMany::new(1, Some(vec![change]), set))
        }
        Operation::Delete => Body::Delete(Deleted::new(before?)),
        Operation::DeleteMany => Body::DeleteMany(DeletedMany::new(1, Some(vec![before?]))),
    })
}
