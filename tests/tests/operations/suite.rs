//! The suite, as a macro: of a database's type, where plain queries get their methods from, what an
//! upsert conflicts with, what it becomes, and `await` for an asynchronous connection.

/// Inserts a list by one statement, or one after the other where the connection knows no lists.
macro_rules! insert {
    (many $table:expr, $list:expr, $emit:ident $(::<$model:ty>)? () $(.$option:ident($argument:expr))?, $conn:expr $(, $wait:tt)?) => {
        diesel::insert_into($table).values($list).$emit$(::<$model>)?()$(.$option($argument))?.execute($conn)$(.$wait)?.unwrap()
    };
    (singly $table:expr, $list:expr, $emit:ident $(::<$model:ty>)? () $(.$option:ident($argument:expr))?, $conn:expr $(, $wait:tt)?) => {
        for row in $list {
            let row = diesel::insert_into($table).values(row).$emit$(::<$model>)?()$(.$option($argument))?;
            row.execute($conn)$(.$wait)?.unwrap();
        }
    };
}

/// What is heard of that.
macro_rules! inserted {
    (many $first:literal $(, $row:literal)*; $between:literal) => {
        vec![concat!("createMany ", $first $(, $between, $row)*)]
    };
    (singly $($row:literal),*; $between:literal) => {
        vec![$(concat!("create ", $row)),*]
    };
}

/// Whether the connection panics or fails at this statement.
macro_rules! denied {
    ($statement:expr, $conn:expr) => {
        !matches!(catch_unwind(AssertUnwindSafe(|| $statement.execute($conn))), Ok(Ok(_)))
    };
    ($statement:expr, $conn:expr, await) => {
        !matches!(
            FutureExt::catch_unwind(AssertUnwindSafe(async { $statement.execute($conn).await })).await,
            Ok(Ok(_))
        )
    };
}

macro_rules! suite {
    ($database:ty, $dsl:path, $conflict:expr, $upserted:expr, $list:ident $(, $wait:tt)?) => {
        mod each {
            use diesel::result::Error;
            use diesel::{BoolExpressionMethods, ExpressionMethods, QueryDsl, SelectableHelper};
            use $dsl as _;
            use emitter_diesel::{Bind, Emit, EmitNone, update};

            use super::super::*;

            type Database = $database;

            #[tokio::test]
            async fn operation_has_its_rows() {
                let (emitter, log) = node(true).await;
                let mut db = Database::open()$(.$wait)?;
                let conn = &mut emitter.bind(&mut db.conn).unwrap();

                let alice: User =
                    diesel::insert_into(users::table).values(&user(1, "alice")).emit().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(alice.name, "alice");
                let list = vec![user(2, "bob"), user(3, "carol")];
                insert!($list users::table, &list, emit::<User>(), conn $(, $wait)?);

                let alicia: User = update(&alice).set(users::name.eq("alicia")).emit().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(alicia.name, "alicia");
                let both = (users::status.eq("ACTIVE"), users::logins.eq(users::logins + users::id));
                let many = update(users::table).filter(users::id.gt(1).or(users::id.is_null())).set(both);
                let many = many.filter(users::id.lt(100)).emit();
                let mut many: Vec<User> = many.get_results(conn)$(.$wait)?.unwrap();
                many.sort_by_key(|user| user.id);
                assert_eq!(many.iter().map(|user| user.logins).collect::<Vec<_>>(), [2, 3]);
                let change = UserChange { name: None, status: Some(None) };
                assert_eq!(update(users::table.find(2)).set(change).emit::<User>().execute(conn)$(.$wait)?.unwrap(), 1);

                for user in [user(1, "al"), user(4, "dora")] {
                    let upsert = diesel::insert_into(users::table).values(&user);
                    let upsert = upsert.on_conflict($conflict).do_update().set(users::name.eq(user.name));
                    assert_eq!(upsert.emit::<User>().execute(conn)$(.$wait)?.unwrap(), 1);
                }

                let gone: User = emitter_diesel::delete(users::table.find(1)).emit().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(gone.name, "al");
                let rest = emitter_diesel::delete(users::table.filter(users::id.gt(0))).filter(users::id.lt(9));
                assert_eq!(rest.emit::<User>().execute(conn)$(.$wait)?.unwrap(), 3);
                assert_eq!(users::table.count().get_result::<i64>(conn)$(.$wait)?.unwrap(), 0);

                assert_eq!(
                    heard(&emitter, &log).await,
                    [
                        vec!["create 1 alice NULL 0"],
                        inserted!($list "2 bob NULL 0", "3 carol NULL 0"; "; "),
                        vec![
                            "update 1 alice NULL 0 -> 1 alicia NULL 0 [name]",
                            "updateMany 2 bob NULL 0 -> 2 bob ACTIVE 2 [status logins]; \
                             3 carol NULL 0 -> 3 carol ACTIVE 3 [status logins]",
                            "updateMany 2 bob ACTIVE 2 -> 2 bob NULL 2 [status]",
                            $upserted[0],
                            $upserted[1],
                            "delete 1 al NULL 0",
                            "deleteMany 2 bob NULL 2; 3 carol ACTIVE 3; 4 dora NULL 0",
                        ],
                    ]
                    .concat()
                );
            }

            #[tokio::test]
            async fn statement_that_changed_nothing_is_silent() {
                let (emitter, log) = node(true).await;
                let mut db = Database::open()$(.$wait)?;
                let conn = &mut emitter.bind(&mut db.conn).unwrap();
                let list = vec![user(1, "alice"), user(2, "bob")];
                insert!($list users::table, &list, emit::<User>().emit_if(false), conn $(, $wait)?);

                // Nobody is there.
                let nobody = update(users::table.find(9)).set(users::name.eq("x")).emit();
                assert_eq!(nobody.get_result::<User, _>(conn)$(.$wait)?.unwrap_err(), Error::NotFound);
                assert_eq!(emitter_diesel::delete(users::table.find(9)).emit::<User>().execute(conn)$(.$wait)?.unwrap(), 0);
                // It was so before.
                let same: User = update(users::table.find(1)).set(users::name.eq("alice")).emit().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(same.name, "alice");
                // No column is named.
                let nothing = UserChange { name: None, status: None };
                let error = update(users::table.find(1)).set(nothing).emit::<User>().get_result(conn)$(.$wait)?.unwrap_err();
                assert!(error.to_string().contains("sets no column"), "{error}");
                // It is refused.
                let taken = update(users::table.find(1)).set(users::name.eq("bob")).emit();
                assert!(matches!(taken.get_result::<User, _>(conn)$(.$wait)?.unwrap_err(), Error::DatabaseError(..)));

                // Of several rows, those that changed are told of, and all if that is asked for.
                let some = update(users::table).set(users::name.eq("bob")).emit::<User>();
                drop(some);
                let all = update(users::table).set(users::logins.eq(users::id - 1)).emit::<User>();
                assert_eq!(all.execute(conn)$(.$wait)?.unwrap(), 2);
                let asked = update(users::table.find(1)).set(users::name.eq("alice")).emit::<User>();
                assert_eq!(asked.emit_unchanged().execute(conn)$(.$wait)?.unwrap(), 1);

                assert_eq!(
                    heard(&emitter, &log).await,
                    [
                        "updateMany 2 bob NULL 0 -> 2 bob NULL 1 [logins]",
                        "updateMany 1 alice NULL 0 -> 1 alice NULL 0 []",
                    ]
                );
            }

            #[tokio::test]
            async fn row_before_is_read_only_where_somebody_wants_it() {
                let (emitter, log) = node(false).await;
                let mut db = Database::open()$(.$wait)?;
                let conn = &mut emitter.bind(&mut db.conn).unwrap();
                let alice: User =
                    diesel::insert_into(users::table).values(&user(1, "alice")).emit().get_result(conn)$(.$wait)?.unwrap();
                update(&alice).set(users::name.eq("alicia")).emit::<User>().get_result(conn)$(.$wait)?.unwrap();
                let wants = emitter.on::<UserUpdated>().before().name("wants it").run(|_| std::future::ready(()));
                update(&alice).set(users::name.eq("al")).emit::<User>().get_result(conn)$(.$wait)?.unwrap();
                wants.unsubscribe();
                update(&alice).set(users::name.eq("ali")).emit::<User>().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(
                    heard(&emitter, &log).await,
                    [
                        "create 1 alice NULL 0",
                        "update ? -> 1 alicia NULL 0 [name]",
                        "update 1 alicia NULL 0 -> 1 al NULL 0 [name]",
                        "update ? -> 1 ali NULL 0 [name]",
                    ]
                );
            }

            #[tokio::test]
            async fn row_of_a_join_table_is_known_by_both_columns() {
                let (emitter, log) = node(true).await;
                let mut db = Database::open()$(.$wait)?;
                let conn = &mut emitter.bind(&mut db.conn).unwrap();
                let list = vec![member(1, "admins", "reader"), member(1, "staff", "writer"), member(2, "staff", "reader")];
                insert!($list members::table, &list, emit::<Member>(), conn $(, $wait)?);
                let one: Member = update(&list[1]).set(members::role.eq("owner")).emit().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(one, member(1, "staff", "owner"));
                let of_one = members::table.filter(members::user_id.eq(1));
                assert_eq!(update(of_one).set(members::role.eq("guest")).emit::<Member>().execute(conn)$(.$wait)?.unwrap(), 2);
                emitter_diesel::delete(members::table.find((2, "staff"))).emit::<Member>().get_result(conn)$(.$wait)?.unwrap();
                assert_eq!(
                    heard(&emitter, &log).await,
                    [
                        inserted!($list "1,admins", "1,staff", "2,staff"; " "),
                        vec![
                            "update 1,staff: writer -> owner",
                            "updateMany 1,admins 1,staff: owner reader",
                            "delete 2,staff",
                        ],
                    ]
                    .concat()
                );
            }

            #[tokio::test]
            async fn image_is_loaded_from_what_the_statement_says() {
                let (emitter, log) = node(true).await;
                let mut db = Database::open()$(.$wait)?;
                let conn = &mut emitter.bind(&mut db.conn).unwrap();
                let alice: User =
                    diesel::insert_into(users::table).values(&user(1, "alice")).emit().get_result(conn)$(.$wait)?.unwrap();
                let selected = update(&alice).set(users::logins.eq(7)).returning(User::as_select()).emit();
                assert_eq!(selected.get_result::<User, _>(conn)$(.$wait)?.unwrap().logins, 7);
                assert_eq!(
                    heard(&emitter, &log).await,
                    ["create 1 alice NULL 0", "update 1 alice NULL 0 -> 1 alice NULL 7 [logins]"]
                );
            }

            #[tokio::test]
            async fn write_past_emit_is_denied_unless_it_says_that_it_is_meant() {
                let (emitter, log) = node(true).await;
                let mut db = Database::open()$(.$wait)?;
                let conn = &mut emitter.bind(&mut db.conn).unwrap();
                diesel::insert_into(users::table).values(&user(1, "alice")).emit_none().execute(conn)$(.$wait)?.unwrap();
                update(users::table.find(1)).set(users::logins.eq(1)).emit_none().execute(conn)$(.$wait)?.unwrap();
                diesel::update(users::table).set(users::logins.eq(2)).emit_none().execute(conn)$(.$wait)?.unwrap();
                let names = diesel::sql_query("UPDATE users SET name = 'al'").emit_none();
                assert_eq!(names.execute(conn)$(.$wait)?.unwrap(), 1);

                assert!(denied!(diesel::insert_into(users::table).values(&user(2, "bob")), conn $(, $wait)?));
                assert!(denied!(diesel::update(users::table).set(users::name.eq("x")), conn $(, $wait)?));
                assert!(denied!(diesel::delete(users::table), conn $(, $wait)?));
                assert!(denied!(diesel::sql_query("DELETE FROM users"), conn $(, $wait)?));

                let left: Vec<User> = users::table.load(conn)$(.$wait)?.unwrap();
                assert_eq!(left.iter().map(shown).collect::<Vec<_>>(), ["1 al NULL 2"]);
                // The connection is as good as before.
                update(users::table).set(users::name.eq("ally")).emit::<User>().execute(conn)$(.$wait)?.unwrap();
                assert_eq!(
                    heard(&emitter, &log).await,
                    ["updateMany 1 al NULL 2 -> 1 ally NULL 2 [name]"]
                );
            }
        }
    };
}
