//! What is an event, what is not, and what it tells.

use diesel_async::{AsyncConnection, AsyncPgConnection};
use emitter_diesel::{Bind, Bound, Emit, EmitNone, delete, update};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_writes_is_heard_with_its_rows_before_and_after() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let (other, heard) = ear(&broker, |event: &Event<PersonEvent>| {
        let hashed = |row: &PersonRow| row.email.to_string();
        let (before, after) = match &**event {
            PersonEvent::Created(body) => (None, Some(&body.row)),
            PersonEvent::Updated(body) => (body.before.as_ref(), Some(&body.after)),
            PersonEvent::Deleted(body) => (Some(&body.row), None),
            _ => panic!("nobody wrote such a thing"),
        };
        let short = |row: Option<&PersonRow>| row.map(|row| (row.name.clone(), row.tax, hashed(row)));
        (in_short(event), event.source(), short(before), short(after))
    })
    .await;
    let node = capturing(&server, &broker, "a").await;
    let here = Ear::on(&node, |event: &Event<PersonEvent>| (in_short(event), event.source(), event.time()));
    let mut db = connect(&server);
    let begun = emitter_core::event::Timestamp::now();
    db.batch_execute(&inserted([1])).unwrap();
    db.batch_execute("UPDATE people SET name = 'alice' WHERE id = 1").unwrap();
    // What changes nothing, and what is taken back, is nothing.
    db.batch_execute("UPDATE people SET name = 'alice' WHERE id = 1").unwrap();
    db.batch_execute(&format!("BEGIN; {}; ROLLBACK", inserted([2]))).unwrap();
    db.batch_execute("DELETE FROM people WHERE id = 1").unwrap();
    eventually(|| heard.len() >= 3 && here.len() >= 3).await;
    let key = HashKey::new(b"0123456789abcdef").unwrap();
    let row = |name: &str| Some((name.to_owned(), Redacted, key.hash("someone@example.org").to_string()));
    let expected = [
        ("create 1".to_owned(), Source::Remote, None, row("person-1")),
        ("update 1".to_owned(), Source::Remote, row("person-1"), row("alice")),
        ("delete 1".to_owned(), Source::Remote, row("alice"), None),
    ];
    assert_eq!(heard.heard(), expected);
    let expected = ["create 1", "update 1", "delete 1"].map(|short| (short.to_owned(), Source::Local));
    assert_eq!(
        here.heard().into_iter().map(|(short, source, _)| (short, source)).collect::<Vec<_>>(),
        expected
    );
    assert!(here.heard().iter().all(|(.., time)| *time >= begun));
    ended([node, other]).await;
    assert_eq!(count(&mut db, "emitter_captured"), 0);
    assert_eq!(count(&mut db, "emitter_outbox"), 0);
    assert_eq!(count(&mut db, "emitter_history"), 3);
}

fn change(conn: &mut Bound<'_, PgConnection>, durable: bool, id: i64) -> QueryResult<()> {
    let create = diesel::insert_into(people::table).values(person(id)).emit();
    let one: Person = if durable { create.durable().get_result(conn)? } else { create.get_result(conn)? };
    update(&one).set(people::name.eq("updated")).emit::<Person>().get_result::<Person, _>(conn)?;
    let upsert = diesel::insert_into(people::table).values(person(id)).on_conflict(people::id).do_update();
    upsert.set(people::name.eq("upserted")).emit::<Person>().execute(conn)?;
    diesel::insert_into(people::table)
        .values(vec![person(id + 1), person(id + 2)])
        .emit::<Person>()
        .execute(conn)?;
    delete(&one).emit::<Person>().get_result::<Person, _>(conn)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_skipped_model_what_is_captured_is_turned_into_nothing() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let (other, heard) = ear(&broker, in_short).await;
    let outbox = Outbox::new(tables(&server)).capture(Capture::of::<Person>().unwrap());
    let node = builder(&broker, "a").skip_models(["person"]).with(outbox).start().await.unwrap();
    let mut db = connect(&server);
    change(&mut node.bind(&mut db).unwrap(), true, 10).unwrap();
    db.batch_execute(&inserted([20])).unwrap();
    until(&mut db, "emitter_captured", 0);
    ended([node, other]).await;
    assert_eq!(["people", "emitter_outbox", "emitter_history"].map(|table| count(&mut db, table)), [3, 0, 0]);
    assert_eq!(heard.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_emitted_is_not_captured_and_what_was_not_is() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let (other, heard) = ear(&broker, in_short).await;
    let node = capturing(&server, &broker, "a").await;
    let mut db = connect(&server);
    {
        let conn = &mut node.bind(&mut db).unwrap();
        // One by one, and in one transaction; buffered and durable.
        change(conn, false, 10).unwrap();
        change(conn, true, 20).unwrap();
        conn.transaction(|conn| change(conn, false, 30)).unwrap();
        conn.transaction(|conn| change(conn, true, 40)).unwrap();
    }
    let mut conn = AsyncPgConnection::establish(&server.url()).await.unwrap();
    {
        let conn = &mut node.bind(&mut conn).unwrap();
        let one: Person =
            diesel::insert_into(people::table).values(person(50)).emit().get_result(conn).await.unwrap();
        update(&one)
            .set(people::name.eq("updated"))
            .emit::<Person>()
            .get_result::<Person, _>(conn)
            .await
            .unwrap();
        delete(&one).emit::<Person>().get_result::<Person, _>(conn).await.unwrap();
    }
    let emitted = |id| {
        [
            format!("create {id}"),
            format!("update {id}"),
            format!("upsert {id}"),
            format!("createMany {} {}", id + 1, id + 2),
            format!("delete {id}"),
        ]
    };
    let mut expected: Vec<String> = [10, 20, 30, 40].into_iter().flat_map(emitted).collect();
    expected.extend(["create 50", "update 50", "delete 50"].map(str::to_owned));
    expected.sort();
    let sorted = || {
        let mut heard = heard.heard();
        heard.sort();
        heard
    };
    eventually(|| heard.len() >= expected.len()).await;
    {
        // On the same handle, in the same transaction: each by itself.
        let conn = &mut node.bind(&mut db).unwrap();
        conn.transaction(|conn| {
            let _: Person = diesel::insert_into(people::table).values(person(60)).emit().get_result(conn)?;
            diesel::insert_into(people::table).values(person(61)).emit_none().execute(conn)?;
            conn.batch_execute("UPDATE people SET boss = 60 WHERE id = 61")?;
            diesel::sql_query("UPDATE people SET name = 'raw' WHERE id = 60").execute(conn)
        })
        .unwrap();
        // The statement tells of one row; of the other the cascade disposes.
        delete(people::table.find(60_i64)).emit::<Person>().get_result::<Person, _>(conn).unwrap();
        // As an import does.
        conn.transaction(|conn| {
            conn.batch_execute("SET LOCAL emitter.capture = 'off'")?;
            conn.batch_execute(&inserted([70]))
        })
        .unwrap();
        conn.batch_execute(&inserted([71])).unwrap();
    }
    let more = ["create 60", "create 61", "update 61", "update 60", "delete 60", "delete 61", "create 71"];
    expected.extend(more.map(str::to_owned));
    expected.sort();
    eventually(|| heard.len() >= expected.len()).await;
    // What comes twice comes soon.
    tokio::time::sleep(SECOND).await;
    assert_eq!(sorted(), expected);
    ended([node, other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listeners_may_not_see_is_not_captured() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let node = builder(&broker, "a").with(Outbox::new(tables(&server))).start().await.unwrap();
    let mut db = connect(&server);
    let capture = Capture::of::<Person>().unwrap().audit();
    let sql = capture.sql(&tables(&server));
    assert!(!sql.contains("pass word") && !sql.contains("pin") && !sql.contains("\"tax\""), "{sql}");
    capture.apply(&mut db, &tables(&server)).unwrap();
    // Nobody turns it.
    db.batch_execute(&inserted([1])).unwrap();
    db.batch_execute("UPDATE people SET \"pass word\" = 'hidden-too', pin = 4712").unwrap();
    db.batch_execute("DELETE FROM people").unwrap();
    assert_eq!(count(&mut db, "emitter_captured"), 3);
    assert_eq!(count(&mut db, "emitter_audit_log"), 3);
    let hidden = "~ 'hidden|tax-number|4711|4712'";
    assert_eq!(count(&mut db, &format!("emitter_captured c WHERE c::text {hidden}")), 0);
    assert_eq!(count(&mut db, "emitter_captured c WHERE c::text ~ 'someone@example.org'"), 3);
    let hidden = "~ 'hidden|tax-number|4711|4712|someone'";
    assert_eq!(count(&mut db, &format!("emitter_audit_log c WHERE c::text {hidden}")), 0);
    // When it is turned, in the outbox and its history neither.
    let turner = capturing(&server, &broker, "b").await;
    let mut other = connect(&server);
    until(&mut other, "emitter_history", 3);
    assert_eq!(count(&mut db, &format!("emitter_history c WHERE c::text {hidden}")), 0);
    ended([node, turner]).await;
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = diesel::sql_types::Text)]
    name: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_are_not_there_refuse_the_start_and_come_and_go() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    ended([builder(&broker, "maker").with(Outbox::new(tables(&server))).start().await.unwrap()]).await;
    let url = server.url();
    let printed = Tables::new(move || PgConnection::establish(&url));
    let start = || {
        let outbox = Outbox::new(printed.clone()).capture(Capture::of::<Person>().unwrap());
        builder(&broker, "a").with(outbox).start()
    };
    let refused = start().await.unwrap_err().to_string();
    assert!(refused.contains("Capture::sql"), "{refused}");
    let mut db = connect(&server);
    let capture = Capture::of::<Person>().unwrap();
    // As a tool of the user's runs it, and again.
    db.batch_execute(&capture.sql(&printed)).unwrap();
    {
        // Where they are there, nobody waits for a lock.
        let mut busy = connect(&server);
        busy.batch_execute(&format!("BEGIN; {}", inserted([1]))).unwrap();
        db.batch_execute(&format!("SET lock_timeout = 100; {}", capture.sql(&printed))).unwrap();
        busy.batch_execute("COMMIT").unwrap();
    }
    ended([start().await.unwrap()]).await;
    // Any of them counts, and one that does not fire is none.
    let trigger =
        "SELECT tgname AS name FROM pg_trigger WHERE tgname LIKE 'emitter_capture%' ORDER BY tgname";
    let triggers: Vec<Name> = diesel::sql_query(trigger).load(&mut db).unwrap();
    assert_eq!(triggers.len(), 2);
    for Name { name } in &triggers {
        for harm in ["ALTER TABLE people DISABLE TRIGGER", "DROP TRIGGER"] {
            let on = if harm.starts_with("DROP") { "ON people" } else { "" };
            db.batch_execute(&format!("{harm} {name} {on}")).unwrap();
            let refused = start().await.map(drop).unwrap_err().to_string();
            assert!(refused.contains("Capture::sql"), "{refused}");
            db.batch_execute(&capture.sql(&printed)).unwrap();
            ended([start().await.unwrap()]).await;
        }
    }
    db.batch_execute("DELETE FROM emitter_captured").unwrap();
    db.batch_execute(&capture.removal(&printed)).unwrap();
    db.batch_execute(&capture.removal(&printed)).unwrap();
    db.batch_execute(&inserted([2])).unwrap();
    assert_eq!(count(&mut db, "emitter_captured"), 0);
    assert_eq!(count(&mut db, "pg_trigger WHERE NOT tgisinternal"), 0);
    assert_eq!(count(&mut db, "pg_proc WHERE proname LIKE 'emitter%'"), 0);
    assert!(start().await.is_err());
}
