//! The cases, in the order of their list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::{join, try_join};

use super::FORBIDDEN;
use super::trial::{Arrivals, Trial, accepted, ensure, filter, message, model, number, text};
use crate::event::Operation;
use crate::properties::Properties;
use crate::topic::ModelTopic;
use crate::transport::{Confirmation, Delivery, Message, PublishError, QoS, Transport, TransportStatus};

type Outcome = Result<(), String>;

pub(super) async fn publish_and_subscribe(trial: &Trial<'_>) -> Outcome {
    let [user, order] = ["user", "order"].map(|name| trial.model(name));
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    for number in 0..10 {
        let message = message(&user, Operation::Create, number);
        let topic = message.topic.to_string();
        let confirmed = trial.confirmed("a message", accepted(sender.publish(message))?).await?;
        ensure(confirmed.had_subscribers, || "nobody is said to have subscribed".to_owned())?;
        let delivery = trial.next(&*receiver).await?;
        let came = (delivery.topic.clone(), text(&delivery));
        ensure(came == (topic, number.to_string()), || format!("instead of {number} came {came:?}"))?;
        delivery.ack.done();
    }

    receiver.unsubscribe(&filter(&user));
    let forgotten = |status: &TransportStatus| status.unsubscribing == 0 && status.subscriptions == 0;
    trial.until(&*receiver, "unsubscribed", forgotten).await?;
    trial.publish(&*sender, message(&user, Operation::Create, "unwanted")).await?;
    trial.subscribe(&*receiver, &[&order]).await?;
    trial.publish(&*sender, message(&order, Operation::Create, "wanted")).await?;
    let delivery = trial.next(&*receiver).await?;
    ensure(text(&delivery) == "wanted", || "a message came after its filter was taken back".to_owned())?;
    delivery.ack.done();
    trial.close(&*sender).await?;
    trial.close(&*receiver).await?;
    ensure(receiver.next().await.is_none(), || "a closed transport delivers".to_owned())
}

pub(super) async fn every_qos(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let message = Message { qos, ..message(&user, Operation::Create, format!("{qos:?}")) };
        trial.publish(&*sender, message).await?;
        let delivery = trial.next(&*receiver).await?;
        let came = text(&delivery);
        ensure(came == format!("{qos:?}"), || format!("instead of {qos:?} came {came}"))?;
        delivery.ack.done();
    }
    Ok(())
}

pub(super) async fn properties(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    let properties = Properties::of_type("application/json").with("name", "one").with("name", "ä\u{1f980}");
    let message = Message { properties: properties.clone(), ..message(&user, Operation::Create, "{}") };
    trial.publish(&*sender, message).await?;
    let delivery = trial.next(&*receiver).await?;
    // A broker may add some of its own, as mqtt5 does.
    let Properties { content_type, mut user } = delivery.properties;
    user.retain(|(name, _)| name == "name");
    let came = Properties { content_type, user };
    ensure(came == properties, || format!("the properties did not arrive, but {came:?}"))?;
    delivery.ack.done();
    Ok(())
}

pub(super) async fn retained(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let retained = |text| Message { retain: true, ..message(&user, Operation::Create, text) };
    trial.publish(&*sender, retained("old")).await?;
    trial.publish(&*sender, retained("new")).await?;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    let came = arrive(trial, &*receiver, &["new"]).await;
    came.map_err(|seen| format!("of what was retained {seen}"))?;
    trial.publish(&*sender, retained("")).await?;

    let late = trial.receiver("late", &[&user]).await?;
    trial.publish(&*sender, message(&user, Operation::Create, "live")).await?;
    arrive(trial, &*late, &["live"]).await
}

pub(super) async fn wildcard(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let neighbours = ["users", "user2", "user-role", "us"].map(|name| trial.model(name));
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    for operation in Operation::ALL {
        for neighbour in &neighbours {
            trial.publish(&*sender, message(neighbour, operation, "a neighbour's")).await?;
        }
        let message = message(&user, operation, operation.as_str());
        let topic = message.topic.to_string();
        trial.publish(&*sender, message).await?;
        let delivery = trial.next(&*receiver).await?;
        ensure(delivery.topic == topic, || format!("instead of {topic} came {}", delivery.topic))?;
        delivery.ack.done();
    }
    Ok(())
}

/// Transports that publish at once, and tasks for each.
const SENDERS: usize = 4;
const TASKS: usize = 4;

pub(super) async fn concurrency(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let each = trial.events.div_ceil(SENDERS * TASKS);
    let receivers =
        [trial.receiver("receiver-1", &[&user]).await?, trial.receiver("receiver-2", &[&user]).await?];
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let transport = trial.connect(&format!("sender-{sender}")).await;
        for task in 0..TASKS {
            let (transport, user) = (Arc::clone(&transport), user.clone());
            let name = sender * TASKS + task;
            senders.spawn(async move {
                let mut confirmations = Vec::new();
                for number in 0..each {
                    let message = message(&user, Operation::Create, format!("{name} {number}"));
                    confirmations.push(accepted(transport.publish(message))?);
                    // The others' turn.
                    tokio::task::yield_now().await;
                }
                for confirmation in confirmations {
                    confirmation.await.map_err(|error| format!("a message was not confirmed: {error}"))?;
                }
                Outcome::Ok(())
            });
        }
    }
    let sending = async {
        while let Some(sent) = senders.join_next().await {
            sent.map_err(|error| error.to_string())??;
        }
        Ok(())
    };
    let receiving = |receiver: usize| receive_of_all(trial, &*receivers[receiver], each);
    try_join!(sending, receiving(0), receiving(1)).map(drop)
}

/// Receives from each task so many numbers, each task's in order.
async fn receive_of_all(trial: &Trial<'_>, receiver: &dyn Transport, each: usize) -> Outcome {
    let mut arrivals = BTreeMap::<String, Arrivals>::new();
    let mut left = SENDERS * TASKS * each;
    while left > 0 {
        let delivery = trial.next(receiver).await.map_err(|seen| format!("{left} were lost: {seen}"))?;
        let text = text(&delivery);
        let (task, number) = text.split_once(' ').ok_or_else(|| format!("{text:?} came"))?;
        let of_task = arrivals.entry(task.to_owned()).or_default();
        let before = of_task.count();
        of_task.note(number.parse().map_err(|_| format!("{text:?} came"))?);
        left -= of_task.count() - before;
        delivery.ack.done();
    }
    arrivals.values().try_for_each(Arrivals::in_order)
}

pub(super) async fn order(trial: &Trial<'_>) -> Outcome {
    keys_in_order(trial, &|_| None).await
}

pub(super) async fn order_after_a_cut(trial: &Trial<'_>) -> Outcome {
    // What is on its way when the connection breaks must not be overtaken by what is published while the broker
    // sends it again.
    let kept = trial.bounds().deliveries;
    let user = trial.model("late");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("late", &[&user]).await?;
    trial.stream(&*sender, &user, 0..kept, |_| {}).await?;
    let mut arrivals = Arrivals::default();
    // So that it is known to be on its way; it is not done, and comes again.
    arrivals.note(number(&trial.next(&*receiver).await?)?);
    let connections = receiver.status().subscriber.connections;
    trial.cut("late").await?;
    let is_back = |status: &TransportStatus| status.subscriber.connections > connections;
    trial.until(&*receiver, "connected again", is_back).await?;
    let sending = trial.stream(&*sender, &user, kept..10 * kept, |_| {});
    try_join!(sending, trial.receive_more(&*receiver, &mut arrivals, 10 * kept))?;
    arrivals.in_order()?;

    let (third, two_thirds) = (trial.events / 3, trial.events * 2 / 3);
    let cut = |arrived| match arrived {
        arrived if arrived == third => Some("sender"),
        arrived if arrived == two_thirds => Some("receiver"),
        _ => None,
    };
    keys_in_order(trial, &cut).await
}

/// Four keys on three topics of two models. `cut` says whose connection breaks after so many arrivals.
async fn keys_in_order(trial: &Trial<'_>, cut: &(dyn Fn(usize) -> Option<&'static str> + Sync)) -> Outcome {
    const KEYS: usize = 4;
    const RUN: usize = 3;
    let [user, order] = ["user", "order"].map(|name| trial.model(name));
    let topics = [(&user, Operation::Create), (&order, Operation::Create), (&order, Operation::Update)];
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user, &order]).await?;
    let each = trial.events.div_ceil(KEYS * topics.len());

    let sending = async {
        let mut sending = trial.sending(&*sender);
        // Each key's in runs, for a neighbour of another key may well come first.
        for begin in (0..each).step_by(RUN) {
            for (model, operation) in topics {
                for key in 0..KEYS {
                    for number in begin..each.min(begin + RUN) {
                        sending.send(message(model, operation, format!("{key} {number}"))).await?;
                    }
                }
            }
        }
        sending.confirmed().await
    };
    let receiving = async {
        let mut arrivals = BTreeMap::<(String, String), Arrivals>::new();
        let mut count = 0;
        while count < each * topics.len() * KEYS {
            let delivery = trial.next(&*receiver).await.map_err(|seen| format!("after {count}: {seen}"))?;
            let text = text(&delivery);
            let (key, number) = text.split_once(' ').ok_or_else(|| format!("{text:?} came"))?;
            let of_key = arrivals.entry((delivery.topic.clone(), key.to_owned())).or_default();
            let before = of_key.count();
            of_key.note(number.parse().map_err(|_| format!("{text:?} came"))?);
            let is_new = of_key.count() > before;
            count += usize::from(is_new);
            delivery.ack.done();
            if let Some(client) = cut(count).filter(|_| is_new) {
                trial.cut(client).await?;
            }
        }
        arrivals.values().try_for_each(Arrivals::in_order)
    };
    try_join!(sending, receiving).map(drop)
}

pub(super) async fn no_ack_before_done(trial: &Trial<'_>) -> Outcome {
    let window = trial.bounds().deliveries;
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    trial.stream(&*sender, &user, 0..3 * window, |_| {}).await?;
    let mut held = hold(trial, &*receiver).await?;
    // As soon as one is done there is room for one.
    held.remove(0).ack.done();
    held.push(trial.next(&*receiver).await?);
    held.into_iter().for_each(|delivery| delivery.ack.done());
    trial.receive(&*receiver, 2 * window - 1).await.map(drop)
}

pub(super) async fn window_of_the_next_life(trial: &Trial<'_>) -> Outcome {
    let window = trial.bounds().deliveries;
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    trial.stream(&*sender, &user, 0..3 * window, |_| {}).await?;
    let mut held = hold(trial, &*receiver).await?;
    // One of them is done, and has made room for another.
    held.remove(0).ack.done();
    held.push(trial.next(&*receiver).await?);
    trial.close(&*receiver).await?;

    let receiver = trial.resumed("receiver", &[&user]).await;
    let mut arrivals = Arrivals::default();
    arrivals.note(0);
    for delivery in hold(trial, &*receiver).await.map_err(|seen| format!("in the next life {seen}"))? {
        arrivals.note(number(&delivery)?);
        delivery.ack.done();
    }
    trial.receive_more(&*receiver, &mut arrivals, 3 * window).await
}

/// What a window has room for.
async fn hold(trial: &Trial<'_>, receiver: &dyn Transport) -> Result<Vec<Delivery>, String> {
    let window = trial.bounds().deliveries;
    let held = trial.hold(receiver, 3 * window).await?;
    ensure(held.len() <= window, || {
        format!("{} deliveries came although none was done, and the window is {window}", held.len())
    })?;
    Ok(held)
}

pub(super) async fn resend(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    trial.stream(&*sender, &user, 0..10, |_| {}).await?;
    let mut held = take(trial, &*receiver, 0..10).await?;
    // 0 to 3 are done, in any order; 4 is not, and 5 has to wait for it.
    for place in [5, 3, 0, 0, 0] {
        held.remove(place).ack.done();
    }
    trial.close(&*receiver).await?;

    let receiver = trial.resumed("receiver", &[&user]).await;
    let again = take(trial, &*receiver, 4..10).await.map_err(|seen| format!("in the next life: {seen}"))?;
    trial.cut("receiver").await?;
    let at_last = take(trial, &*receiver, 4..10).await.map_err(|seen| format!("after the cut: {seen}"))?;
    // Of connections that are gone: they acknowledge nothing, and above all nothing else.
    held.into_iter().chain(again).for_each(|delivery| delivery.ack.done());
    at_last.into_iter().for_each(|delivery| delivery.ack.done());
    trial.close(&*receiver).await?;

    let receiver = trial.resumed("receiver", &[&user]).await;
    trial.publish(&*sender, message(&user, Operation::Create, "new")).await?;
    let delivery = trial.next(&*receiver).await?;
    ensure(text(&delivery) == "new", || format!("{} came again, although it was done", text(&delivery)))
}

/// The next deliveries, which have to be these numbers in this order.
async fn take(
    trial: &Trial<'_>,
    receiver: &dyn Transport,
    numbers: std::ops::Range<usize>,
) -> Result<Vec<Delivery>, String> {
    let mut taken = Vec::new();
    for expected in numbers {
        let delivery =
            trial.next(receiver).await.map_err(|seen| format!("waiting for {expected}: {seen}"))?;
        let number = number(&delivery)?;
        ensure(number == expected, || format!("instead of {expected} came {number}"))?;
        taken.push(delivery);
    }
    Ok(taken)
}

pub(super) async fn duplicate_bound(trial: &Trial<'_>) -> Outcome {
    let bounds = trial.bounds();
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    let half = Notify::new();
    let begins = |number| {
        if number == trial.events / 2 {
            half.notify_one();
        }
    };
    let cutting = async {
        half.notified().await;
        trial.cut("sender").await
    };
    let sending = trial.stream(&*sender, &user, 0..trial.events, begins);
    let ((), (), arrivals) = try_join!(sending, cutting, trial.receive(&*receiver, trial.events))?;
    few_came_again(&arrivals, "sender", bounds.publishes)?;

    // As much as can be is delivered and not done when the other side's connection breaks.
    let user = trial.model("another-user");
    trial.subscribe(&*receiver, &[&user]).await?;
    trial.stream(&*sender, &user, 0..trial.events, |_| {}).await?;
    let held = trial.hold(&*receiver, 2 * bounds.deliveries).await?;
    let mut arrivals = Arrivals::default();
    held.iter().try_for_each(|delivery| number(delivery).map(|number| arrivals.note(number)))?;
    drop(held);
    trial.cut("receiver").await?;
    trial.receive_more(&*receiver, &mut arrivals, trial.events).await?;
    few_came_again(&arrivals, "receiver", bounds.deliveries)
}

fn few_came_again(arrivals: &Arrivals, client: &str, bound: usize) -> Outcome {
    let again = arrivals.again;
    ensure(again <= bound, || format!("when the {client} was cut {again} came twice, not {bound} at most"))
}

pub(super) async fn restart(trial: &Trial<'_>) -> Outcome {
    let (events, third, half) = (trial.events, trial.events / 3, trial.events / 2);
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    let restart_after = |moment: usize| {
        let reached = Arc::new(Notify::new());
        let begins = {
            let reached = Arc::clone(&reached);
            move |number| {
                if number == moment {
                    reached.notify_one();
                }
            }
        };
        let restarting = async move {
            reached.notified().await;
            trial.restart().await
        };
        (begins, restarting)
    };
    // Nobody takes them yet, so the broker has to keep a third over its restart.
    let (begins, restarting) = restart_after(third);
    try_join!(trial.stream(&*sender, &user, 0..half, begins), restarting)?;
    // Here its restart hits what flows.
    let (begins, restarting) = restart_after(half + (events - half) / 10);
    let sending = trial.stream(&*sender, &user, half..events, begins);
    try_join!(sending, restarting, trial.receive(&*receiver, events)).map(drop)
}

pub(super) async fn close_under_load(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (sender, user) = (Arc::clone(&sender), user.clone());
        let numbers = task * trial.events..(task + 1) * trial.events;
        tasks.spawn(async move {
            let mut accepted = Vec::new();
            for number in numbers {
                match sender.publish(message(&user, Operation::Create, number)) {
                    Ok(confirmation) => accepted.push((number, confirmation)),
                    Err(PublishError::Closed) => break,
                    // It is under more load than it takes.
                    Err(PublishError::QueueFull { .. }) => tokio::time::sleep(PAUSE).await,
                    Err(_) => return Err(format!("message {number} was not accepted")),
                }
                tokio::task::yield_now().await;
            }
            Ok(accepted)
        });
    }
    let early = trial.receive(&*receiver, trial.events / 4).await?;
    // The connection breaks and more is accepted than can be on its way, so not all can be confirmed. The
    // receiver goes away, too, in the middle of it.
    trial.cut("sender").await?;
    let numbers = TASKS * trial.events..TASKS * trial.events + 4 * trial.bounds().publishes;
    let publish = |number| sender.publish(message(&user, Operation::Create, number)).ok();
    let mut accepted: Vec<_> = numbers.map_while(|number| Some((number, publish(number)?))).collect();
    let (left, gone) = join!(sender.close(Duration::ZERO), trial.close(&*receiver));
    gone?;
    ensure(left.messages > 0, || "everything is said to be confirmed, so fast".to_owned())?;
    while let Some(of_task) = tasks.join_next().await {
        accepted.extend(of_task.map_err(|error| error.to_string())??);
    }
    let (mut confirmed, mut closed) = (Vec::new(), 0);
    for (number, confirmation) in accepted {
        match trial.settled("a message of a closed transport", confirmation).await? {
            Ok(_) => confirmed.push(number),
            Err(PublishError::Closed) => closed += 1,
            Err(error) => return Err(format!("a message of a closed transport ended as: {error}")),
        }
    }
    ensure(left.messages == closed, || {
        format!("closing counted {} unconfirmed messages, but there were {closed}", left.messages)
    })?;

    let receiver = trial.resumed("receiver", &[&user]).await;
    let mut late = Arrivals::default();
    confirmed.retain(|number| !early.has(*number));
    while let Some(number) = confirmed.last() {
        if late.has(*number) {
            confirmed.pop();
            continue;
        }
        let lost = |seen| format!("{number} was confirmed, and lost: {seen}");
        let delivery = trial.next(&*receiver).await.map_err(lost)?;
        late.note(self::number(&delivery)?);
        delivery.ack.done();
    }
    Ok(())
}

/// Long enough for others to get on.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) async fn groups(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let [one, two] = [trial.connect("one").await, trial.connect("two").await];
    let whole = trial.receiver("whole", &[&user]).await?;
    let (first, second) = (member(trial, &*one, &user).await?, member(trial, &*two, &user).await?);

    let sending = trial.stream(&*one, &user, 0..trial.events, |_| {});
    let shares = async {
        let (mut first_share, mut second_share) = (Vec::new(), Vec::new());
        while first_share.len() + second_share.len() < trial.events {
            let came = first_share.len() + second_share.len();
            let next = async {
                tokio::select! {
                    delivery = trial.next(&*first) => Ok((delivery?, true)),
                    delivery = trial.next(&*second) => Ok((delivery?, false)),
                }
            };
            let next: Result<_, String> = next.await;
            let (delivery, of_first) =
                next.map_err(|seen| format!("a group was sent {came} of {} messages: {seen}", trial.events))?;
            if of_first { &mut first_share } else { &mut second_share }.push(number(&delivery)?);
            delivery.ack.done();
        }
        Ok((first_share, second_share))
    };
    let ((), (share, rest), all) = try_join!(sending, shares, trial.receive(&*whole, trial.events))?;
    all.in_order()?;
    ensure(!share.is_empty() && !rest.is_empty(), || "one member was sent everything".to_owned())?;
    let mut both = [share, rest].concat();
    both.sort_unstable();
    ensure(both.iter().copied().eq(0..trial.events), || {
        "a message was sent to no member, or to two".to_owned()
    })?;

    // A member dies with deliveries that it has not acknowledged: they are the others', or its next life's.
    let few = 2 * trial.bounds().deliveries.min(10);
    trial.stream(&*two, &user, 0..few, |_| {}).await?;
    let unacknowledged = trial.next(&*first).await?;
    drop(first);
    drop(one);
    drop(unacknowledged);
    let one = trial.connect("one").await;
    let first = member(trial, &*one, &user).await?;
    let mut arrivals = Arrivals::default();
    while arrivals.count() < few {
        let delivery = tokio::select! {
            delivery = trial.next(&*first) => delivery,
            delivery = trial.next(&*second) => delivery,
        };
        let missing = few - arrivals.count();
        let delivery =
            delivery.map_err(|seen| format!("with its member the group lost {missing}: {seen}"))?;
        arrivals.note(number(&delivery)?);
        delivery.ack.done();
    }
    Ok(())
}

/// A member of the group, subscribed.
async fn member(
    trial: &Trial<'_>,
    transport: &dyn Transport,
    model: &ModelTopic,
) -> Result<Arc<dyn Transport>, String> {
    let member = transport.group("shop-billing", "billing").ok_or("the transport knows no groups")?;
    trial.subscribe(&*member, &[model]).await.map_err(|seen| format!("as a group's member: {seen}"))?;
    Ok(member)
}

pub(super) async fn receiver(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let [one, two] = [trial.connect("one").await, trial.connect("two").await];
    let retained = |text| Message { retain: true, ..message(&user, Operation::Create, text) };
    trial.publish(&*two, retained("old")).await?;
    let reception = |transport: &dyn Transport| {
        transport.receiver("receiver-audit").ok_or("the transport knows no receivers")
    };
    let first = reception(&*one)?;
    trial.subscribe(&*first, &[&user]).await?;
    let few = trial.bounds().deliveries.min(10);
    trial.stream(&*two, &user, 0..few, |_| {}).await?;
    let mut arrivals = trial.receive(&*first, few / 2).await?;
    // What was not acknowledged is the next one's, with what comes while there is none.
    let held = trial.next(&*first).await?;
    trial.close(&*first).await?;
    drop((held, first, one));
    trial.stream(&*two, &user, few..2 * few, |_| {}).await?;
    let second = reception(&*two)?;
    second.subscribe(filter(&user));
    trial.receive_more(&*second, &mut arrivals, 2 * few).await?;
    trial.close(&*second).await?;
    trial.publish(&*two, retained("")).await
}

pub(super) async fn refusal(trial: &Trial<'_>) -> Outcome {
    let (user, forbidden) = (trial.model("user"), model(FORBIDDEN));
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    let publish = |model, text| accepted(sender.publish(message(model, Operation::Create, text)));
    let (before, refused, after) =
        (publish(&user, "before")?, publish(&forbidden, "x")?, publish(&user, "after")?);
    match trial.settled("the forbidden message", refused).await? {
        Err(PublishError::Refused { .. }) => {}
        Err(error) => return Err(format!("the forbidden message ended as: {error}")),
        Ok(_) => return Err("the forbidden message was confirmed".to_owned()),
    }
    pass(trial, &*receiver, [("before", before), ("after", after)]).await?;

    receiver.subscribe(filter(&forbidden));
    let answered = |status: &TransportStatus| status.subscriptions + status.refused_subscriptions.len() >= 2;
    trial.until(&*receiver, "answered", answered).await?;
    let status = receiver.status();
    ensure(!status.refused_subscriptions.is_empty(), || "the forbidden subscription was taken".to_owned())?;
    pass(trial, &*receiver, [("last", publish(&user, "last")?)]).await?;
    ensure([&*sender, &*receiver].iter().all(|transport| hung_on(*transport)), || {
        "a refusal cost a connection".to_owned()
    })
}

/// No connection was lost.
fn hung_on(transport: &dyn Transport) -> bool {
    let TransportStatus { publisher, subscriber, .. } = transport.status();
    publisher.connections <= 1 && subscriber.connections <= 1
}

/// These messages are confirmed, and arrive in this order.
async fn pass<const N: usize>(
    trial: &Trial<'_>,
    receiver: &dyn Transport,
    messages: [(&str, Confirmation); N],
) -> Outcome {
    let mut expected = Vec::new();
    for (text, confirmation) in messages {
        trial.confirmed(&format!("the message {text:?}"), confirmation).await?;
        expected.push(text);
    }
    arrive(trial, receiver, &expected).await
}

/// These are the next deliveries.
async fn arrive(trial: &Trial<'_>, receiver: &dyn Transport, expected: &[&str]) -> Outcome {
    for expected in expected {
        let delivery = trial.next(receiver).await?;
        let came = text(&delivery);
        ensure(came == *expected, || format!("instead of {expected:?} came {came:?}"))?;
        delivery.ack.done();
    }
    Ok(())
}

pub(super) async fn oversize(trial: &Trial<'_>) -> Outcome {
    let user = trial.model("user");
    let sender = trial.connect("sender").await;
    let receiver = trial.receiver("receiver", &[&user]).await?;
    // Connected, it knows what the broker takes.
    trial.until(&*sender, "connected", |status| status.publisher.connected).await?;
    let publish = |text: &str| sender.publish(message(&user, Operation::Create, text));
    let large = "x".repeat(trial.bounds().too_large);
    let [one, two] = [accepted(publish("1"))?, accepted(publish("2"))?];
    let large = publish(&large);
    let [three, four] = [accepted(publish("3"))?, accepted(publish("4"))?];
    let large = match large {
        Ok(confirmation) => trial.settled("the message that is too large", confirmation).await?,
        Err(error) => Err(error),
    };
    match large {
        Err(PublishError::TooLarge { .. }) => {}
        Err(error) => return Err(format!("the message that is too large ended as: {error}")),
        Ok(_) => return Err("the message that is too large was confirmed".to_owned()),
    }
    pass(trial, &*receiver, [("1", one), ("2", two), ("3", three), ("4", four)]).await?;
    ensure(hung_on(&*sender), || "it cost a connection".to_owned())
}
