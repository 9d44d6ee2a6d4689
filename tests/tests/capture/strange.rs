//! Strange names, keys of several columns, partitions, and rows that cannot be read.

use super::*;

diesel::table! {
    #[sql_name = "Or\"der's $emitter$ %1$s \\ {}; DROP TABLE x; --"]
    odd (region, number) {
        region -> Text,
        #[sql_name = "nu\"mber, $1"]
        number -> Integer,
        #[sql_name = "emitter_row"]
        title -> Text,
        #[sql_name = "it's % secret"]
        hidden -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = odd, primary_key(region, number))]
#[emits(model = "odd", create, update_many, delete_many)]
struct Odd {
    region: String,
    number: i32,
    title: String,
    #[emits(skip)]
    hidden: String,
}

const TABLE: &str = "\"Or\"\"der's $emitter$ %1$s \\ {}; DROP TABLE x; --\"";

#[tokio::test(flavor = "multi_thread")]
async fn strange_names_are_names_in_partitions_too() {
    let (server, broker) = (Postgres::start(), MemoryBroker::new());
    let mut db = connect(&server);
    db.batch_execute(&format!(
        "CREATE SCHEMA \"st'range\"; CREATE SCHEMA frame; \
         ALTER ROLE test SET search_path = \"st'range\", public; SET search_path = \"st'range\", public; \
         CREATE TABLE {TABLE} (region TEXT, \"nu\"\"mber, $1\" INTEGER, emitter_row TEXT NOT NULL, \
         \"it's % secret\" TEXT NOT NULL, PRIMARY KEY (region, \"nu\"\"mber, $1\")) PARTITION BY LIST (region); \
         CREATE TABLE north PARTITION OF {TABLE} FOR VALUES IN ('north'); \
         CREATE TABLE south (\"it's % secret\" TEXT NOT NULL, dropped INTEGER, region TEXT NOT NULL, \
         emitter_row TEXT NOT NULL, \"nu\"\"mber, $1\" INTEGER NOT NULL); ALTER TABLE south DROP COLUMN dropped; \
         ALTER TABLE {TABLE} ATTACH PARTITION south FOR VALUES IN ('south')"
    ))
    .unwrap();
    let (other, heard) = ear(&broker, |event: &Event<OddEvent>| {
        let titles: Vec<String> = match &**event {
            OddEvent::Created(body) => vec![body.row.title.clone()],
            OddEvent::UpdatedMany(body) => body
                .rows
                .iter()
                .flatten()
                .map(|row| {
                    format!("{}>{}", row.before.as_ref().map_or("", |row| &row.title), row.after.title)
                })
                .collect(),
            OddEvent::DeletedMany(body) => body.rows.iter().flatten().map(|row| row.title.clone()).collect(),
        };
        let keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
        format!("{} {} {}", event.operation(), keys.join(" "), titles.join(" "))
    })
    .await;
    for schema in [None, Some("frame")] {
        let mut names = emitter_diesel::tables::Names::with_prefix("Shop_").unwrap();
        if let Some(schema) = schema {
            names = names.in_schema(schema).unwrap();
        }
        let outbox = Outbox::new(tables(&server).names(names.clone()));
        let capture = Capture::of::<Odd>().unwrap().audit();
        let node = builder(&broker, "a").with(outbox.capture(capture.clone())).start().await.unwrap();
        // Another program, that knows nothing of these schemas, and may not write to the framework's tables.
        let mut stranger = connect(&server);
        let role = if schema.is_none() { "CREATE ROLE stranger;" } else { "" };
        stranger
            .batch_execute(&format!(
                "{role} GRANT USAGE ON SCHEMA \"st'range\" TO stranger; GRANT ALL ON \"st'range\".{TABLE} TO stranger; \
                 GRANT ALL ON \"st'range\".south TO stranger; SET ROLE stranger; SET search_path = pg_temp; \
                 CREATE TEMP TABLE shop_captured (id BIGINT)"
            ))
            .unwrap();
        let table = format!("\"st'range\".{TABLE}");
        let already = heard.len();
        for sql in [
            format!("INSERT INTO {table} VALUES ('north', 1, 'one', 'x')"),
            "INSERT INTO \"st'range\".south VALUES ('x', 'south', 'two', 2)".to_owned(),
            format!("UPDATE {table} SET emitter_row = 'too' WHERE region = 'south'"),
            format!("UPDATE {table} SET region = 'south' WHERE region = 'north'"),
            format!("DELETE FROM {table}"),
        ] {
            stranger.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        eventually(|| heard.len() >= already + 7).await;
        let mut said = heard.heard().split_off(already);
        // The last two are of one statement.
        said[5..].sort();
        let expected = [
            "create north,1 one",
            "create south,2 two",
            "updateMany south,2 two>too",
            // It moved.
            "deleteMany north,1 one",
            "create south,1 one",
            "deleteMany south,1 one",
            "deleteMany south,2 too",
        ];
        assert_eq!(said, expected);
        let log = names_of(&names, "audit_log");
        assert_eq!(count(&mut db, &format!("{log} WHERE record_id = 'north,1' AND db_user = 'test'")), 2);
        db.batch_execute(&capture.removal(&tables(&server).names(names))).unwrap();
        ended([node]).await;
    }
    ended([other]).await;
}

fn names_of(names: &emitter_diesel::tables::Names, table: &str) -> String {
    let in_schema = format!("{names:?}").contains("frame");
    format!("{}Shop_{table}", if in_schema { "frame." } else { "" })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_kept_and_holds_up_nobody() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let mut db = connect(&server);
    let (other, heard) = ear(&broker, in_short).await;
    let node = builder(&broker, "maker").with(Outbox::new(tables(&server))).start().await.unwrap();
    Capture::of::<Person>().unwrap().apply(&mut db, &tables(&server)).unwrap();
    db.batch_execute(&inserted(1..=6)).unwrap();
    // Somebody else wrote into the table; and a name that is larger than any event.
    db.batch_execute(
        "UPDATE emitter_captured SET after = '{\"id\": \"x\"}' WHERE after->>'id' = '2'; \
         UPDATE emitter_captured SET after = '[1, 2]' WHERE after->>'id' = '3'; \
         UPDATE emitter_captured SET action = 'EXPLODE' WHERE after->>'id' = '4'; \
         UPDATE emitter_captured SET after = NULL WHERE after->>'id' = '5'; \
         UPDATE people SET name = repeat('x', 300000) WHERE id = 1; \
         UPDATE people SET name = repeat('x', 17000000) WHERE id = 1; \
         DELETE FROM people WHERE id = 6",
    )
    .unwrap();
    let turner = capturing(&server, &broker, "a").await;
    eventually(|| heard.len() >= 3).await;
    until(&mut db, "emitter_captured WHERE status = 'CAPTURED'", 0);
    assert_eq!(heard.heard(), ["create 1", "create 6", "delete 6"]);
    assert_eq!(count(&mut db, "emitter_captured WHERE status = 'UNREADABLE' AND last_error <> ''"), 6);
    // What was mended is tried again.
    db.batch_execute(
        "UPDATE emitter_captured SET action = 'INSERT', status = 'CAPTURED' WHERE action = 'EXPLODE'",
    )
    .unwrap();
    eventually(|| heard.len() >= 4).await;
    assert_eq!(heard.heard()[3], "create 4");
    // Where nothing can be read at all, nothing is to blame: it waits.
    db.batch_execute("ALTER TABLE people RENAME TO persons").unwrap();
    db.batch_execute(&inserted([7]).replace("people", "persons")).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(count(&mut db, "emitter_captured WHERE status = 'CAPTURED'"), 1);
    db.batch_execute("ALTER TABLE persons RENAME TO people").unwrap();
    eventually(|| heard.len() >= 5).await;
    assert_eq!(heard.heard()[4], "create 7");
    ended([node, turner, other]).await;
}
