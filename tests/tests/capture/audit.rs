//! The log of who changed what.

use diesel::sql_types::{BigInt, Nullable, Text};
use emitter_diesel::{Bind, Emit, update};

use super::*;

#[derive(Debug, PartialEq, QueryableByName)]
struct Logged {
    #[diesel(sql_type = Text)]
    action: String,
    #[diesel(sql_type = Nullable<Text>)]
    record_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    before: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    after: Option<String>,
    #[diesel(sql_type = Text)]
    by: String,
    #[diesel(sql_type = BigInt)]
    transaction: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_logged_whoever_made_it_and_without_a_node() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let node = builder(&broker, "a").with(Outbox::new(tables(&server))).start().await.unwrap();
    let mut db = connect(&server);
    Capture::of::<Person>().unwrap().only_audit().apply(&mut db, &tables(&server)).unwrap();
    db.batch_execute("SET application_name = 'import'").unwrap();
    db.batch_execute(&format!(
        "BEGIN; {}; UPDATE people SET name = 'al' WHERE id = 2; COMMIT",
        inserted(1..=2)
    ))
    .unwrap();
    db.batch_execute("SET application_name = 'shop'").unwrap();
    {
        let conn = &mut node.bind(&mut db).unwrap();
        let rename = update(people::table.find(1_i64)).set(people::name.eq("bo"));
        rename.emit::<Person>().durable().get_result::<Person, _>(conn).unwrap();
    }
    db.batch_execute("UPDATE people SET name = 'bo' WHERE id = 1; DELETE FROM people WHERE id = 1; TRUNCATE people CASCADE").unwrap();
    db.batch_execute(&format!("BEGIN; {}; ROLLBACK", inserted([9]))).unwrap();
    let logged: Vec<Logged> = diesel::sql_query(
        "SELECT action, record_id, old_values->>'name' AS before, new_values->>'name' AS after, \
         table_name || ' ' || application_name || ' ' || db_user AS by, \
         dense_rank() OVER (ORDER BY transaction_id) AS transaction FROM emitter_audit_log \
         WHERE changed_at > now() - interval '1 minute' ORDER BY id",
    )
    .load(&mut db)
    .unwrap();
    let row =
        |action: &str, id: Option<&str>, before: Option<&str>, after: Option<&str>, by: &str, transaction| {
            Logged {
                action: action.to_owned(),
                record_id: id.map(str::to_owned),
                before: before.map(str::to_owned),
                after: after.map(str::to_owned),
                by: format!("\"people\" {by} test"),
                transaction,
            }
        };
    let expected = [
        row("INSERT", Some("1"), None, Some("person-1"), "import", 1),
        row("INSERT", Some("2"), None, Some("person-2"), "import", 1),
        row("UPDATE", Some("2"), Some("person-2"), Some("al"), "import", 1),
        row("UPDATE", Some("1"), Some("person-1"), Some("bo"), "shop", 2),
        row("DELETE", Some("1"), Some("bo"), None, "shop", 3),
        row("TRUNCATE", None, None, None, "shop", 3),
    ];
    assert_eq!(logged, expected);
    assert_eq!(count(&mut db, "emitter_captured"), 0);
    ended([node]).await;
}
