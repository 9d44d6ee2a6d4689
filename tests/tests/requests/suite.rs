//! The suite, as a macro: of a database's type.

macro_rules! suite {
    ($name:ident: $server:ty) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use emitter_diesel::dead_letters::{self, DeadLetterBook, DeadLetters};
            use emitter_diesel::mirror::{self, Listeners, ReplayOptions};
            use emitter_diesel::requests::{
                Attendant, MOST_CLAIMS, Progress, Request, RequestError, Requests, Status, Work,
            };
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            struct Stage {
                server: $server,
                shop: Arc<Shop>,
                emitter: Emitter,
                requests: Requests,
            }

            impl Stage {
                async fn set(attendant: bool) -> Self {
                    let server = tokio::task::block_in_place(<$server>::with_tables);
                    let shop = Arc::new(Shop::default());
                    let builder = builder("a", &shop).with(DeadLetters::new(server.tables()));
                    let builder = if attendant { builder.with(Attendant::new(server.tables())) } else { builder };
                    let emitter = builder.start().await.unwrap();
                    let requests = Requests::open(&server.tables()).unwrap();
                    Self { server, shop, emitter, requests }
                }

                fn book(&self) -> DeadLetterBook {
                    DeadLetterBook::open(&self.server.tables()).unwrap()
                }

                fn run(&self, sql: &str) {
                    self.server.connect().batch_execute(sql).unwrap();
                }

                /// Letters of both listeners.
                async fn letters(&self, ids: std::ops::Range<i64>) {
                    let (book, all) = (self.book(), dead_letters::Selection::default());
                    let before = book.count(&all).unwrap();
                    self.shop.refuse(ids.clone());
                    let letters = ids.clone().count() as u64 * 2;
                    for id in ids {
                        self.emitter.publish(OrderCreated::new(Order { id, step: 0 }));
                    }
                    eventually(|| book.count(&all).unwrap() == before + letters).await;
                    self.shop.refuse([]);
                }

                fn ask(&self, work: &Work) -> i64 {
                    self.requests.ask("shop", work, Some("alice")).unwrap()
                }

                async fn over(&self, id: i64) -> Request {
                    eventually(|| self.requests.state(id).unwrap().status.is_over()).await;
                    self.requests.state(id).unwrap()
                }

                async fn end(self) {
                    assert!(self.emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            fn redrive(listener: Option<&str>, per_second: u32) -> Work {
                let listener = listener.map(ToOwned::to_owned);
                Work::Redrive { letters: dead_letters::Selection { listener, ..Default::default() }, per_second }
            }

            fn replay(listeners: Listeners) -> Work {
                Work::Replay { events: mirror::Selection::default(), options: ReplayOptions { listeners, per_second: None } }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn letters_are_redriven_by_the_node_that_has_the_listener() {
                let stage = Stage::set(true).await;
                stage.letters(0..20).await;
                stage.shop.refuse([3]);
                let id = stage.ask(&redrive(Some("notify"), 0));
                let request = stage.over(id).await;
                assert_eq!((request.status, request.node.as_deref()), (Status::Done, Some("shop/a")), "{request:?}");
                assert_eq!((request.asked_by.as_deref(), &request.service[..]), (Some("alice"), "shop"));
                let progress = Progress { total: Some(20), handled: 19, failed: 1, ..Progress::default() };
                assert_eq!(request.progress, progress);
                assert!(request.finished_at >= Some(request.created_at) && !request.is_attended, "{request:?}");
                let rest: Vec<i64> = (0..20).filter(|id| *id != 3).collect();
                assert_eq!((stage.shop.seen("notify"), stage.shop.seen("count")), (rest, vec![]));
                // Others' letters are not this service's, whatever is asked.
                stage.run("UPDATE emitter_dlq_events SET service = 'billing' WHERE listener = 'count'");
                let all = stage.over(stage.ask(&redrive(None, 0))).await;
                assert_eq!((all.status, all.progress.total, all.progress.failed), (Status::Done, Some(1), 1));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_redrive_goes_at_its_rate_and_is_seen_and_taken_back() {
                let stage = Stage::set(true).await;
                stage.letters(0..50).await;
                let id = stage.ask(&redrive(None, 10));
                let state = || stage.requests.state(id).unwrap();
                eventually(|| (5..60).contains(&state().progress.handled)).await;
                let under_way = state();
                assert_eq!((under_way.status, under_way.progress.total), (Status::UnderWay, Some(100)));
                assert!(under_way.is_attended);
                assert!(stage.requests.cancel(id).unwrap());
                assert!(!stage.requests.cancel(id).unwrap());
                assert_eq!(state().status, Status::Cancelled);
                // The next one is begun when that has ended, and has all that is left.
                let next = stage.over(stage.ask(&redrive(None, 0))).await;
                assert_eq!((next.status, state().status), (Status::Done, Status::Cancelled));
                let first = stage.shop.seen("notify").len() + stage.shop.seen("count").len() - 100;
                assert_eq!(first, 0);
                assert!(next.progress.handled < 100 && next.progress.handled >= 40, "{next:?}");
                assert_eq!(stage.book().count(&dead_letters::Selection::default()).unwrap(), 0);
                assert!(matches!(stage.requests.cancel(4711), Err(RequestError::NoSuchRequest(4711))));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn events_are_replayed_to_named_listeners_and_unknown_ones_are_told() {
                let stage = Stage::set(true).await;
                stage.run(&mirrored(0..300));
                stage.run("INSERT INTO emitter_events_mirror (topic, payload, model) VALUES ('prisma/events/order/create', '{\"a\":1}', 'order')");
                let named = |name: &str| Listeners::Named(vec![name.to_owned()]);
                let request = stage.over(stage.ask(&replay(named("count")))).await;
                assert_eq!(request.status, Status::Done, "{request:?}");
                let progress = Progress { total: Some(301), handled: 300, failed: 1, ..Progress::default() };
                assert_eq!(request.progress, progress);
                assert!(request.problem.as_deref().is_some_and(|problem| problem.contains("in row 301")), "{request:?}");
                assert_eq!((stage.shop.seen("count"), stage.shop.seen("notify")), ((0..300).collect(), vec![]));
                // Where it ended, nothing is left.
                let events = mirror::Selection { after: request.cursor, ..mirror::Selection::default() };
                let none = stage.over(stage.ask(&Work::Replay { events, options: ReplayOptions::default() })).await;
                assert_eq!((none.status, none.progress.total, none.progress.done()), (Status::Done, Some(0), 0));
                let unknown = stage.over(stage.ask(&replay(named("nobody")))).await;
                let problem = unknown.problem.unwrap();
                assert_eq!(unknown.status, Status::Failed);
                assert!(problem.contains("shop/a") && problem.contains("`nobody`"), "{problem}");
                let key = mirror::Selection { key: Some("7".to_owned()), ..mirror::Selection::default() };
                let one = stage.over(stage.ask(&Work::Replay { events: key, options: ReplayOptions::default() })).await;
                assert_eq!((one.progress.total, stage.shop.seen("notify")), (Some(1), vec![7]));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_many_nodes_one_does_it_and_none_of_another_service() {
                let stage = Stage::set(false).await;
                stage.letters(0..100).await;
                stage.run(&mirrored(1_000..1_200));
                let other = builder("a", &stage.shop).service("billing").with(Attendant::new(stage.server.tables()));
                let other = other.start().await.unwrap();
                let ids = [stage.ask(&redrive(None, 0)), stage.ask(&replay(Listeners::All))];
                tokio::time::sleep(3 * SECOND).await;
                for id in ids {
                    assert_eq!(stage.requests.state(id).unwrap().status, Status::Asked);
                }
                let mut nodes = Vec::new();
                for name in ["b", "c", "d"] {
                    let node = builder(name, &stage.shop).with(Attendant::new(stage.server.tables()));
                    nodes.push(node.start().await.unwrap());
                }
                for id in ids {
                    assert_eq!(stage.over(id).await.status, Status::Done);
                }
                let all: Vec<i64> = (0..100).chain(1_000..1_200).collect();
                assert_eq!((stage.shop.seen("notify"), stage.shop.seen("count")), (all.clone(), all));
                let list: Vec<i64> = stage.requests.list(10).unwrap().iter().map(|request| request.id).collect();
                assert_eq!(list, [ids[1], ids[0]]);
                for node in nodes.into_iter().chain([other]) {
                    assert!(node.shutdown(10 * SECOND).await.is_clean());
                }
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_node_that_ends_gives_its_request_back_and_another_one_goes_on() {
                let stage = Stage::set(true).await;
                stage.run(&mirrored(0..200));
                let slow = ReplayOptions { per_second: Some(40), ..ReplayOptions::default() };
                let id = stage.ask(&Work::Replay { events: mirror::Selection::default(), options: slow });
                let state = || stage.requests.state(id).unwrap();
                eventually(|| state().progress.handled >= 40).await;
                let Stage { server, shop, emitter, requests } = stage;
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                let given_back = requests.state(id).unwrap();
                assert_eq!(given_back.status, Status::Asked, "{given_back:?}");
                assert!(given_back.progress.handled < 200 && given_back.cursor.is_some());
                // What is written down later was not meant.
                server.connect().batch_execute(&mirrored(500..600)).unwrap();
                let next = builder("b", &shop).with(Attendant::new(server.tables())).start().await.unwrap();
                eventually(|| requests.state(id).unwrap().status.is_over()).await;
                let over = requests.state(id).unwrap();
                assert_eq!((over.status, over.node.as_deref()), (Status::Done, Some("shop/b")));
                assert_eq!(over.progress, Progress { total: Some(200), handled: 200, ..Progress::default() });
                let seen = shop.seen("count");
                let missed: Vec<i64> = (0..200).filter(|id| !seen.contains(id)).collect();
                assert!(missed.is_empty() && seen.last() == Some(&199), "{missed:?}");
                assert!(next.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_another_node_took_over_is_left_to_it() {
                let stage = Stage::set(true).await;
                stage.run(&mirrored(0..400));
                let slow = ReplayOptions { per_second: Some(40), ..ReplayOptions::default() };
                let id = stage.ask(&Work::Replay { events: mirror::Selection::default(), options: slow });
                eventually(|| stage.requests.state(id).unwrap().progress.handled > 0).await;
                // As another one leaves it that found the lease over.
                stage.run("UPDATE emitter_requests SET owner = 'another', node = 'shop/b', until = until + 3600000, \
                           handled = 7, place = NULL");
                // The next one is begun when the node has let go of that.
                let key = mirror::Selection { key: Some("399".to_owned()), ..mirror::Selection::default() };
                let next = stage.over(stage.ask(&Work::Replay { events: key, options: ReplayOptions::default() })).await;
                assert_eq!((next.status, next.progress.handled), (Status::Done, 1));
                let left = stage.requests.state(id).unwrap();
                assert_eq!((left.status, left.node.as_deref()), (Status::UnderWay, Some("shop/b")), "{left:?}");
                assert!(left.progress.handled == 7 && left.cursor.is_none() && left.is_attended, "{left:?}");
                let seen = stage.shop.seen("count").len();
                assert!(seen < 400, "{seen}");
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_hindered_for_a_moment_is_done_after_a_rest() {
                let stage = Stage::set(true).await;
                stage.letters(0..3).await;
                stage.run("ALTER TABLE emitter_dlq_events RENAME TO away");
                let id = stage.ask(&redrive(None, 0));
                let state = || stage.requests.state(id).unwrap();
                eventually(|| state().problem.is_some()).await;
                // Long enough for more than it may be taken up.
                tokio::time::sleep(SECOND).await;
                let resting = state();
                assert!(resting.status == Status::UnderWay && resting.is_attended, "{resting:?}");
                stage.run("ALTER TABLE away RENAME TO emitter_dlq_events");
                let over = stage.over(id).await;
                assert_eq!((over.status, over.progress.handled), (Status::Done, 6), "{over:?}");
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn it_is_told_which_request_comes_first() {
                let stage = Stage::set(true).await;
                stage.run(&mirrored(0..1_000));
                let slow = ReplayOptions { per_second: Some(1), ..ReplayOptions::default() };
                let first = stage.ask(&Work::Replay { events: mirror::Selection::default(), options: slow });
                let ahead = |id| stage.requests.ahead(id).unwrap().map(|request| request.id);
                let next = stage.ask(&redrive(None, 0));
                let other = stage.requests.ask("billing", &redrive(None, 0), None).unwrap();
                eventually(|| ahead(next) == Some(first)).await;
                assert_eq!((ahead(first), ahead(other)), (None, None));
                assert!(stage.requests.cancel(first).unwrap());
                assert_eq!(ahead(next), None);
                assert_eq!(stage.over(next).await.status, Status::Done);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_cannot_be_done_is_failed_and_said() {
                let stage = Stage::set(true).await;
                stage.run("INSERT INTO emitter_requests (ticket, service, action, work, created_at) \
                           VALUES ('1', 'shop', 'redrive', '{\"colour\":\"red\"}', CURRENT_TIMESTAMP)");
                let request = stage.over(1).await;
                assert_eq!(request.status, Status::Failed);
                assert!(request.problem.is_some_and(|problem| problem.contains("colour")));
                assert!(request.work.is_err());
                // As nodes leave it that died of it.
                stage.run(&format!(
                    "INSERT INTO emitter_requests (ticket, service, action, work, created_at, status, owner, claims) \
                     VALUES ('2', 'shop', 'redrive', '{{}}', CURRENT_TIMESTAMP, 'UNDER_WAY', 'dead', {MOST_CLAIMS})"
                ));
                let request = stage.over(2).await;
                assert_eq!(request.status, Status::Failed);
                assert!(request.problem.is_some_and(|problem| problem.contains("5 times")));
                let letters = dead_letters::Selection { ids: Some((0..100_000).collect()), ..Default::default() };
                let large = stage.requests.ask("shop", &Work::Redrive { letters, per_second: 0 }, None);
                assert!(matches!(large, Err(RequestError::Unwritable(_))), "{large:?}");
                assert!(matches!(stage.requests.ask("", &redrive(None, 0), None), Err(RequestError::Unwritable(_))));
                assert!(matches!(stage.requests.state(3), Err(RequestError::NoSuchRequest(3))));
                // Old ones are cleared away when a node begins.
                stage.run("UPDATE emitter_requests SET finished_at = '2020-01-01 00:00:00' WHERE id = 1");
                let next = builder("b", &stage.shop).with(Attendant::new(stage.server.tables()));
                let next = next.start().await.unwrap();
                eventually(|| stage.requests.list(10).unwrap().len() == 1).await;
                assert!(next.shutdown(10 * SECOND).await.is_clean());
                stage.end().await;
            }
        }
    };
}
