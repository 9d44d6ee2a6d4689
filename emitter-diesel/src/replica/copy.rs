//! What a replica writes into the table of the copies.

use diesel::associations::HasTable;
use diesel::backend::Backend;
use diesel::connection::Connection;
use diesel::expression::Selectable;
use diesel::query_builder::{
    AstPass, InsertStatement, IntoUpdateTarget, QueryBuilder, QueryFragment, QueryId,
};
use diesel::result::QueryResult;
use diesel::{Insertable, QuerySource, Table};

use super::positions::Statement;
use crate::Bound;
use crate::tables::Dialect;
use crate::written::{listed, sql};

/// A connection on which copies are written: Diesel's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no connection of a replica",
    label = "not a connection of Diesel's",
    note = "it is `PgConnection`, `SqliteConnection` or `MysqlConnection`, with the feature of `emitter-diesel` for it: a \
            replica has connections of its own, also where yours are asynchronous"
)]
pub trait ReplicaConnection:
    Connection<Backend: Backend<QueryBuilder: Default> + Default + 'static> + Send + 'static
{
    /// Its SQL.
    const DIALECT: Dialect;

    #[doc(hidden)]
    fn change(bound: &mut Bound<'_, Self>, statement: &Statement) -> QueryResult<usize>;
}

macro_rules! connections {
    ($($feature:literal $connection:ty: $dialect:ident;)*) => { $(
        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl ReplicaConnection for $connection {
            const DIALECT: Dialect = Dialect::$dialect;

            fn change(bound: &mut Bound<'_, Self>, statement: &Statement) -> QueryResult<usize> {
                bound.run(|conn| conn.execute_returning_count(statement))
            }
        }
    )* };
}

connections! {
    "postgres" diesel::PgConnection: Postgres;
    "sqlite" diesel::SqliteConnection: Sqlite;
    "mysql" diesel::MysqlConnection: MySql;
}

/// What a replica can write into a table: a struct with Diesel's derives `Insertable`, `Identifiable` and `Selectable`.
///
/// The first says what is written, the second which row it is, by the primary key in `table!`, and the third which columns are
/// the copy's: an update sets all of them and no others. (`AsChangeset` cannot say it: by default it passes over a `None`,
/// and the copy would keep a value that the row lost.)
#[diagnostic::on_unimplemented(
    message = "a replica cannot write `{Self}` on `{C}`",
    label = "has to be `Insertable`, `Identifiable` and `Selectable`, in a table of that database",
    note = "write `#[derive(Insertable, Identifiable, Selectable)]` and `#[diesel(table_name = …)]` on the struct",
    note = "a model that hides fields has a generated row, which is not in a table: give the replica a struct of your own, as in \
            `Replica::<User, _, LocalUser>::new(…)`, with `impl From<UserRow> for LocalUser`"
)]
pub trait Copied<C: ReplicaConnection>: HasTable + Send + 'static {
    #[doc(hidden)]
    fn shape() -> Shape;

    /// Runs the `INSERT` of this row, with something before and behind it.
    #[doc(hidden)]
    fn insert(self, conn: &mut C, before: &str, behind: &str) -> QueryResult<usize>;

    /// Runs a statement with the condition of this row's key in it.
    #[doc(hidden)]
    fn at_key(&self, conn: &mut C, before: &str, behind: &str) -> QueryResult<usize>;
}

#[diagnostic::do_not_recommend]
impl<L, C, T> Copied<C> for L
where
    C: ReplicaConnection,
    T: Table<PrimaryKey: QueryFragment<C::Backend>>
        + QuerySource<FromClause: QueryFragment<C::Backend>>
        + 'static,
    L: HasTable<Table = T> + Insertable<T> + Send + 'static,
    L: Selectable<C::Backend, SelectExpression: QueryFragment<C::Backend>>,
    InsertStatement<T, <L as Insertable<T>>::Values>: QueryFragment<C::Backend>,
    for<'a> &'a L: IntoUpdateTarget<Table = T>,
    for<'a> <&'a L as IntoUpdateTarget>::WhereClause: QueryFragment<C::Backend>,
{
    fn shape() -> Shape {
        let names = |list: Option<String>| {
            let listed = listed(&list.unwrap_or_default());
            listed
                .into_iter()
                .filter_map(|column| column.name)
                .map(|name| quoted::<C>(&name))
                .collect::<Vec<_>>()
        };
        let table = L::table();
        let key = names(sql::<C::Backend>(&table.primary_key()));
        let mut others = names(sql::<C::Backend>(&L::construct_selection()));
        others.retain(|column| !key.contains(column));
        let table = sql::<C::Backend>(&table.from_clause()).unwrap_or_default();
        Shape { dialect: C::DIALECT, table, key, others }
    }

    fn insert(self, conn: &mut C, before: &str, behind: &str) -> QueryResult<usize> {
        let insert = diesel::insert_into(L::table()).values(self);
        conn.execute_returning_count(&Whole { before, part: insert, behind })
    }

    fn at_key(&self, conn: &mut C, before: &str, behind: &str) -> QueryResult<usize> {
        let part = self.into_update_target().where_clause;
        conn.execute_returning_count(&Whole { before, part, behind })
    }
}

/// A name as SQL.
pub(super) fn quoted<C: ReplicaConnection>(name: &str) -> String {
    let mut builder = <C::Backend as Backend>::QueryBuilder::default();
    // No back end refuses a name.
    let _ = builder.push_identifier(name);
    builder.finish()
}

/// What of a statement is Diesel's, and what is around it.
struct Whole<'s, P> {
    before: &'s str,
    part: P,
    behind: &'s str,
}

impl<P> QueryId for Whole<'_, P> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<P: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Whole<'_, P> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql(self.before);
        self.part.walk_ast(out.reborrow())?;
        out.push_sql(self.behind);
        Ok(())
    }
}

/// A table and its columns, as SQL.
#[derive(Debug, Clone)]
pub struct Shape {
    dialect: Dialect,
    table: String,
    key: Vec<String>,
    /// The columns of the copy that are not in the key.
    others: Vec<String>,
}

impl Shape {
    /// What makes an `INSERT` an update, where the row is there.
    pub(super) fn or_update(&self) -> String {
        let set = |value: fn(&str) -> String| {
            let set = self.others.iter().map(|column| format!("{column} = {}", value(column)));
            set.collect::<Vec<_>>().join(", ")
        };
        match self.dialect {
            Dialect::MySql if self.others.is_empty() => {
                format!(" ON DUPLICATE KEY UPDATE {}", self.nothing())
            }
            Dialect::MySql => {
                format!(" ON DUPLICATE KEY UPDATE {}", set(|column| format!("VALUES({column})")))
            }
            Dialect::Postgres | Dialect::Sqlite => {
                let key = self.key.join(", ");
                if self.others.is_empty() {
                    return format!(" ON CONFLICT ({key}) DO NOTHING");
                }
                format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set(|column| format!("excluded.{column}")))
            }
        }
    }

    /// Changes nothing, and finds the row and locks it.
    pub(super) fn look(&self) -> String {
        format!("UPDATE {} SET {}", self.table, self.nothing())
    }

    /// The table's name without quotes, with its schema where it has one.
    pub(super) fn name(&self) -> String {
        self.table.replace(['"', '`'], "")
    }

    pub(super) fn delete(&self) -> String {
        format!("DELETE FROM {}", self.table)
    }

    fn nothing(&self) -> String {
        let column = self.key.first().map_or("", String::as_str);
        format!("{column} = {column}")
    }
}
