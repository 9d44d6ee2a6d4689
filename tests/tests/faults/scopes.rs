//! Where an event goes: the application, the model and the call narrow it.

use emitter_core::emit::EmitConfig;
use emitter_core::model::{Created, Deleted};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{EmitOptions, Emits, Emitter, Event, Operation, Receipt, Scope, Source};
use emitter_tests::eventually::eventually;

use crate::nodes::{Ear, SECOND, User, UserCreated, UserEvent, builder, create_within, node, subscribed};

/// A writer with this configuration, and a listener on each side.
async fn pair(config: EmitConfig) -> (MemoryBroker, Emitter, Ear, Emitter, Ear) {
    let broker = MemoryBroker::new();
    let a = builder("a").transport(broker.connect("a")).emit(config).start().await.unwrap();
    let b = node(&broker, "b").await;
    let (here, there) = (Ear::default(), Ear::default());
    let _ = here.listen(&a);
    let _ = there.listen(&b);
    subscribed(&a, 1).await;
    subscribed(&b, 1).await;
    (broker, a, here, b, there)
}

/// Emits one create with each scope, numbered; what each side heard.
async fn heard(config: EmitConfig) -> (Vec<i64>, Vec<i64>) {
    let (_broker, a, here, b, there) = pair(config).await;
    for (n, scope) in (1..).zip([Scope::BOTH, Scope::LOCAL, Scope::REMOTE, Scope::NONE]) {
        create_within(&a, User::new(1, n), scope);
    }
    assert!(a.shutdown(10 * SECOND).await.is_clean());
    let published = a.stats().published;
    eventually(|| b.stats().received == published).await;
    assert!(b.shutdown(10 * SECOND).await.is_clean());
    let numbers = |ear: &Ear| ear.all().iter().map(|heard| heard.n).collect();
    assert!(here.all().iter().all(|heard| heard.source == Source::Local));
    assert!(there.all().iter().all(|heard| heard.source == Source::Remote));
    (numbers(&here), numbers(&there))
}

#[tokio::test]
async fn the_call_narrows() {
    assert_eq!(heard(EmitConfig::all()).await, (vec![1, 2], vec![1, 3]));
}

#[tokio::test]
async fn the_application_narrows() {
    assert_eq!(heard(EmitConfig::none()).await, (vec![], vec![]));
    assert_eq!(heard(EmitConfig::all().with(Operation::Create, Scope::LOCAL)).await, (vec![1, 2], vec![]));
    assert_eq!(heard(EmitConfig::all().with(Operation::Create, Scope::REMOTE)).await, (vec![], vec![1, 3]));
    assert_eq!(heard(EmitConfig::all().with(Operation::Delete, false)).await, (vec![1, 2], vec![1, 3]));
}

#[tokio::test]
async fn no_event_is_made_that_would_go_nowhere() {
    let (_broker, a, ..) = pair(EmitConfig::all().with(Operation::Delete, false)).await;
    let created = || UserEvent::Created(Created::new(User::new(1, 1)));
    assert!(a.event::<User>(created(), Scope::NONE).is_none());
    assert!(a.event::<User>(UserEvent::Deleted(Deleted::new(User::new(1, 1))), Scope::BOTH).is_none());
    assert!(a.event::<User>(created(), Scope::BOTH).is_some());
    let alone = builder("alone").start().await.unwrap();
    assert!(alone.event::<User>(created(), Scope::BOTH).is_none());
}

/// An event that is no row.
#[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
#[emits(event)]
struct Heartbeat {
    n: i64,
}

#[tokio::test]
async fn of_a_skipped_model_nothing_is_emitted_and_all_is_heard() {
    let broker = MemoryBroker::new();
    let skipping = builder("a").transport(broker.connect("a")).skip_models(["USER", "heartbeat"]);
    let (a, b) = (skipping.start().await.unwrap(), node(&broker, "b").await);
    let (here, there, beats) = (Ear::default(), Ear::default(), Ear::default());
    let (_, _) = (here.listen(&a), there.listen(&b));
    let secrets = Ear::default();
    for node in [&a, &b] {
        let (beats, secrets) = (beats.clone(), secrets.clone());
        let _ = node.on::<Heartbeat>().allow_remote().run(move |event: Event<Heartbeat>| {
            beats.hear(&event, event.n);
            std::future::ready(())
        });
        let _ = node.on::<SecretEvent>().run(move |event: Event<SecretEvent>| {
            let SecretEvent::Created(created) = &*event;
            secrets.hear(&event, created.row.id);
            std::future::ready(())
        });
        node.connected(10 * SECOND).await.unwrap();
    }
    let receipt = Receipt::new();
    let created = || UserEvent::Created(Created::new(User::new(1, 1)));
    assert!(a.route::<User>(Operation::Create, EmitOptions::default().receipt(&receipt)).is_none());
    assert!(a.event::<User>(created(), Scope::BOTH).is_none());
    // They have ids, of which nobody hears.
    assert_ne!(a.publish(UserCreated::new(User::new(1, 1))).id, a.publish(Heartbeat { n: 1 }).id);
    // Other models are none of its business, nor is what others emit.
    a.publish(SecretCreated::new(Secret { id: 7 }));
    b.publish(UserCreated::new(User::new(1, 2)));
    b.publish(Heartbeat { n: 2 });
    eventually(|| here.len() == 1 && there.len() == 1 && beats.len() == 2 && secrets.len() == 1).await;
    let stats = a.stats();
    assert_eq!((stats.published, receipt.fates().len()), (0, 0));
    for node in [a, b] {
        assert!(node.shutdown(SECOND).await.is_clean());
    }
    let numbers = |ear: &Ear| ear.all().iter().map(|heard| heard.n).collect::<Vec<_>>();
    assert_eq!((numbers(&here), numbers(&there)), (vec![2], vec![2]));
    assert_eq!((numbers(&beats), numbers(&secrets)), (vec![2, 2], vec![7]));
    let told: Vec<_> =
        broker.published().into_iter().filter(|message| !message.topic.contains("/_")).collect();
    assert_eq!(told.len(), 2);
}

/// A model that stays at home.
#[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
#[emits(create, local)]
struct Secret {
    id: i64,
}

#[tokio::test]
async fn the_model_narrows() {
    let broker = MemoryBroker::new();
    let a = node(&broker, "a").await;
    let ear = Ear::default();
    let hears = ear.clone();
    let _ = a.on::<SecretEvent>().run(move |event: Event<SecretEvent>| {
        let SecretEvent::Created(created) = &*event;
        hears.hear(&event, created.row.id);
        std::future::ready(())
    });
    a.emit(a.event::<Secret>(SecretEvent::Created(Created::new(Secret { id: 7 })), Scope::BOTH));
    assert!(a.event::<Secret>(SecretEvent::Created(Created::new(Secret { id: 8 })), Scope::REMOTE).is_none());
    assert!(a.shutdown(SECOND).await.is_clean());
    assert_eq!(ear.all().iter().map(|heard| heard.n).collect::<Vec<_>>(), [7]);
    assert_eq!(broker.published(), []);
}

#[tokio::test]
async fn the_listener_chooses_its_side() {
    let (broker, a, ..) = pair(EmitConfig::all()).await;
    let (local, remote, everything) = (Ear::default(), Ear::default(), Ear::default());
    let ears = [&local, &remote, &everything].map(|ear| {
        let ear = ear.clone();
        move |event: Event<UserCreated>| {
            ear.hear(&event, event.row.n);
            std::future::ready(())
        }
    });
    let [hears_local, hears_remote, hears_everything] = ears;
    let _ = a.on::<UserCreated>().run(hears_local);
    // Both is what `remote_only` means.
    let _ = a.on::<UserCreated>().remote_only().allow_remote().run(hears_remote);
    let _ = a.on::<UserCreated>().allow_remote().run(hears_everything);
    create_within(&a, User::new(1, 1), Scope::BOTH);
    eventually(|| a.stats().echoes == 1).await;
    broker.publish("prisma/events/user/create", crate::nodes::creation(&User::new(1, 2)));
    eventually(|| broker.unacknowledged("a") == 0).await;
    assert!(a.shutdown(SECOND).await.is_clean());
    let numbers = |ear: &Ear| ear.all().iter().map(|heard| heard.n).collect::<Vec<_>>();
    assert_eq!((numbers(&local), numbers(&remote), numbers(&everything)), (vec![1], vec![2], vec![1, 2]));
}
