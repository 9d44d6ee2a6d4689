//! What is deleted is what somebody agreed to, and not what came while they read the question.

use std::io::{Read, Write};

use diesel::connection::SimpleConnection;
use emitter_diesel::dead_letters::{DeadLetterBook, Selection};
use emitter_diesel::outbox::{GivenUp, GivenUpSelection, Outbox};
use emitter_diesel::{Bind, Emit};

use super::command::{Cli, letter};
use super::databases::{Database, Sqlite};
use super::*;

/// Says yes, after something happened while the question was there.
fn agree(cli: &Cli, arguments: &[&str], question: &str, meanwhile: impl FnOnce()) -> String {
    let mut child = cli.command(arguments).spawn().unwrap();
    let (mut said, mut error) = (Vec::new(), child.stderr.take().unwrap());
    while !said.ends_with(b"[y/N] ") {
        let mut byte = [0];
        error.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    assert!(String::from_utf8_lossy(&said).contains(question), "{}", String::from_utf8_lossy(&said));
    meanwhile();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn letters_that_came_after_the_question_stay() {
    let server = Sqlite::start();
    let (cli, book) = (Cli::at(&server), DeadLetterBook::open(&server.tables()).unwrap());
    let keep = |number: usize| {
        (0..number).for_each(|_| server.connect().batch_execute(&letter("{}", "no courier")).unwrap());
    };
    let count = || book.count(&Selection::default()).unwrap();
    // More than a page.
    keep(1_001);
    let said = agree(&cli, &["dlq", "discard", "--all"], "Delete 1001 dead letters", || keep(2));
    assert_eq!((&*said, count()), ("1001 were deleted.\n", 2));
    let nothing = ["dlq", "discard", "--listener", "nobody"];
    assert_eq!((cli.run(&nothing).code, count()), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_given_up_after_the_question_stay() {
    let server = tokio::task::block_in_place(Sqlite::with_tables);
    let cli = Cli::at(&server);
    let writer = Outbox::new(server.tables()).without_relay();
    let emitter = Emitter::builder().service("shop").node("a").with(writer).start().await.unwrap();
    let mut db = server.connect();
    for id in 0..4 {
        let order = Order { id, step: 0 };
        let insert = diesel::insert_into(orders::table).values(&order);
        let _: Order = insert.emit().durable().get_result(&mut emitter.bind(&mut db).unwrap()).unwrap();
    }
    let fail = |keys: &str| {
        let sql = format!("UPDATE emitter_outbox SET status = 'FAILED' WHERE record_id IN ({keys})");
        server.connect().batch_execute(&sql).unwrap();
    };
    fail("'1', '3'");
    // One of these was written before the last of those.
    let discard = ["outbox", "given-up", "discard", "--all"];
    let said = agree(&cli, &discard, "Delete 2 rows", || fail("'0', '2'"));
    let given_up = GivenUp::open(&server.tables(), "shop").unwrap();
    let rows = given_up.list(&GivenUpSelection::default(), None, 10).unwrap();
    let left: Vec<_> = rows.iter().map(|row| row.key.as_deref().unwrap_or_default()).collect();
    assert_eq!((&*said, left), ("2 were deleted.\n", vec!["0", "2"]));
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}
