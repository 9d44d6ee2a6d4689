//! One trace: the write, the outbox, the broker, listeners on two nodes, a redrive, and what a listener writes in turn.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;

use super::collector::{Collector, Span};

const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;
const CLIENT: i32 = 3;

/// A process with a node. Dropping it kills it.
struct Node {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Node {
    fn start(service: &str, broker: &Mosquitto, folder: &Path, collector: &Collector) -> Self {
        let database = folder.join(format!("{service}.db"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_traced"))
            .args([service, &broker.url(), &database.to_string_lossy(), &collector.url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut node = Self { child, orders, answers: BufReader::new(output).lines() };
        assert_eq!(node.answer(), "ready");
        node
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        self.answers.next().expect("it answers").unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one span of a service that has this name and these attributes.
#[track_caller]
fn one<'s>(spans: &'s [Span], service: &str, name: &str, attributes: &[(&str, &str)]) -> &'s Span {
    let has = |span: &&Span| {
        let all = |(key, value): &(&str, &str)| span.attributes.get(*key).is_some_and(|found| found == value);
        span.service == service && span.name == name && attributes.iter().all(all)
    };
    let mut found = spans.iter().filter(has);
    let (first, second) = (found.next(), found.next());
    assert!(first.is_some() && second.is_none(), "{service}: {name} {attributes:?} of {spans:#?}");
    first.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_spans_the_write_the_outbox_the_broker_listeners_on_two_nodes_and_a_redrive() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let broker = Mosquitto::start();
    let start = |service| Node::start(service, &broker, folder.path(), &collector);
    let (mut billing, mut shop) = (start("billing"), start("shop"));
    assert_eq!(shop.order("write"), "done");
    // It waits for the dead letter.
    assert_eq!(billing.order("redrive"), "done");
    let settled = || {
        collector
            .spans()
            .iter()
            .any(|span| span.attributes.get("emitter.listener").is_some_and(|name| name == "settle"))
    };
    eventually(settled).await;
    assert_eq!((billing.order("end"), shop.order("end")), ("ended".to_owned(), "ended".to_owned()));

    let spans = collector.spans();
    let (order, bill) = ("prisma/events/order/create", "prisma/events/bill/create");
    let of_order = |what: &str| format!("{what} {order}");
    let of_bill = |what: &str| format!("{what} {bill}");
    let checkout = one(&spans, "shop", "checkout", &[]);
    assert!(checkout.parent.is_empty());

    let made = one(&spans, "shop", &of_order("create"), &[("messaging.operation.type", "create")]);
    assert_eq!((&made.parent, made.kind), (&checkout.id, PRODUCER));
    let sent = one(&spans, "shop", &of_order("send"), &[("messaging.operation.type", "send")]);
    assert_eq!((&sent.parent, &sent.links, sent.kind), (&made.id, &vec![made.id.clone()], CLIENT));
    assert!(sent.attributes["messaging.message.body.size"].parse::<u64>().unwrap() > 100);
    let reserved = one(&spans, "shop", &of_order("process"), &[("emitter.listener", "reserve")]);
    let source = &reserved.attributes["emitter.source"];
    assert_eq!((&reserved.parent, reserved.kind, &**source), (&made.id, CONSUMER, "local"));

    let charges: Vec<&Span> =
        spans.iter().filter(|span| span.service == "billing" && span.kind == CONSUMER).collect();
    let [refused, charged] = charges[..] else { panic!("{charges:#?}") };
    let (refused, charged) = if refused.failed { (refused, charged) } else { (charged, refused) };
    assert!(refused.failed && !charged.failed);
    assert_eq!(refused.attributes["error.type"], "failed");
    assert_eq!(refused.attributes.get("emitter.again"), None);
    assert_eq!(charged.attributes["emitter.again"], "redriven");
    for charge in [refused, charged] {
        assert_eq!((&charge.parent, &charge.name), (&made.id, &of_order("process")));
    }

    let billed = one(&spans, "billing", &of_bill("create"), &[]);
    assert_eq!((&billed.parent, billed.kind), (&charged.id, PRODUCER));
    let sent_bill = one(&spans, "billing", &of_bill("send"), &[]);
    assert_eq!((&sent_bill.parent, &sent_bill.links), (&billed.id, &vec![billed.id.clone()]));
    let settled = one(&spans, "shop", &of_bill("process"), &[("emitter.listener", "settle")]);
    assert_eq!((&settled.parent, &*settled.attributes["emitter.source"]), (&billed.id, "remote"));

    // All of it, and nothing else.
    assert!(spans.iter().all(|span| span.trace == checkout.trace), "{spans:#?}");
    assert_eq!(spans.len(), 9, "{spans:#?}");
    let messages = spans.iter().filter(|span| span.name != "checkout");
    for span in messages {
        assert_eq!(span.attributes["messaging.system"], "mqtt");
        assert!(span.name.ends_with(&span.attributes["messaging.destination.name"]));
        assert_eq!(span.attributes["messaging.message.id"].len(), 36);
        let trace = span.attributes["emitter.trace_id"].replace('-', "");
        assert_eq!(trace, span.trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    // No row, and no key.
    assert!(!collector.was_told("CANARY"));
}
