//! What recovery passes ask, believe and leave behind.

use std::time::Duration;

use unanimous::log::{FileLog, TableLog};
use unanimous::operator::Resolve;
use unanimous::ports::{LogHome, ResourceManager};
use unanimous::{Decision, Heuristic, LeaveReason, Planned, TransactionManager, Xid};
use unanimous_testing::{
    Event, Fault, Flavour, LogStep, MemoryResource, MemoryServer, MemoryTable, Step, TableStep,
};

use super::fragile::{Call, Fate, Fates, FragileLog, FragileResource};
use super::recovery::die_after_the_decision;
use super::{World, eventually};

fn xid(gtrid: unanimous::Gtrid, resource: &MemoryResource) -> Xid {
    let bqual = resource.name().clone();
    Xid { gtrid, bqual }
}

/// One question is one forced write at the log's database.
#[tokio::test]
async fn i6_a_thousand_orphans_are_looked_up_in_the_table_some_hundred_at_a_time() {
    let world = World::new();
    let table = MemoryTable::with("log", world.journal.clone());
    let start = async || {
        let builder = world.builder().log(TableLog::on(&table));
        let builder = builder.resource(&world.orders).config(|config| {
            config.start_timeout = Duration::from_secs(30);
            config.recovery_timeout = Duration::from_secs(30);
        });
        builder.start().await.unwrap()
    };
    let first: TransactionManager = start().await;
    let gtrids: Vec<_> = (0..1000).map(|_| first.begin().gtrid()).collect();
    first.shutdown().await.unwrap();
    let server = world.orders.server();
    for gtrid in gtrids {
        server.plant(&xid(gtrid, &world.orders), &[]);
    }
    let finds = || {
        let is_find = |event: &Event| *event == Event::Log(LogStep::Table(TableStep::Find));
        world.journal.count(is_find)
    };
    let before = finds();
    let second = start().await;
    assert!(server.prepared().is_empty());
    let asked = finds() - before;
    assert!(asked <= 10, "asked {asked} times");
    second.shutdown().await.unwrap();
}

/// It was rolled back by hand, and the log has dropped the decision since. Now a server has it
/// again.
#[tokio::test]
async fn i3_a_branch_that_came_back_after_a_heuristic_end_is_left_to_a_person() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let (server, branch) = (world.orders.server(), xid(gtrid, &world.orders));
    assert!(server.end_by_hand(&branch, Decision::Rollback));
    let tm = world.start().await;
    eventually("it is complete", || world.log.is_completed(gtrid)).await;
    world.log.forget_completed();
    server.plant(&branch, &[("k", "1")]);
    let report = tm.recover().await;
    assert_eq!(server.prepared(), [branch]);
    assert!(!report.is_clean());
    let text = report.to_string();
    assert!(
        text.contains("is on record to have ended otherwise"),
        "{text}"
    );
    // It is this log, and it is whole; and it knows what was decided.
    let survey = tm.survey().await;
    let branches = survey.resources.iter().flat_map(|at| &at.branches);
    let [listed] = &branches.collect::<Vec<_>>()[..] else {
        panic!("{survey:?}");
    };
    assert_eq!(listed.is_decided, Some(true), "{listed:?}");
    let planned = Planned::Leave(LeaveReason::EndedOtherwise);
    assert_eq!(listed.planned, planned);
    let resolve = Resolve::new(gtrid.to_string(), false, "me@here", "because");
    let planned = resolve.within(&tm, false).await.unwrap();
    assert_eq!(planned.decided, Some(true), "{planned:?}");
    let [refusal] = &planned.refusals[..] else {
        panic!("{planned:?}");
    };
    assert!(refusal.contains("AGAINST THE DECISION"), "{refusal}");
    let resolve = Resolve::new(gtrid.to_string(), true, "me@here", "because");
    let done = resolve.within(&tm, true).await.unwrap();
    assert!(done.is_done(), "{done:?}");
    assert_eq!(server.row("k").as_deref(), Some("1"));
}

/// Only a hazard is on record, and what was decided nobody knows any more.
#[tokio::test]
async fn i3_a_branch_that_came_back_beside_a_hazard_takes_a_word_of_its_own() {
    let world = World::new();
    let tm = world.start().await;
    let gtrid = tm.begin().gtrid();
    drop(tm);
    let log = Box::new(world.log.clone()).open().await.unwrap();
    let recording = log.record_heuristic(gtrid, world.orders.name(), Heuristic::Hazard);
    recording.await.unwrap();
    let (server, branch) = (world.orders.server(), xid(gtrid, &world.orders));
    server.plant(&branch, &[("k", "1")]);
    let tm = world.start().await;
    for wanted in [false, true] {
        let resolve = Resolve::new(gtrid.to_string(), wanted, "me@here", "because");
        let planned = resolve.within(&tm, false).await.unwrap();
        assert_eq!(planned.decided, None, "{planned:?}");
        let [refusal] = &planned.refusals[..] else {
            panic!("{planned:?}");
        };
        assert!(refusal.contains("--against-the-decision"), "{refusal}");
    }
    assert_eq!(server.prepared(), [branch]);
}

/// That the other branch was rolled back against the decision says what was decided.
#[tokio::test]
async fn i1_a_branch_that_came_back_beside_a_heuristic_end_is_committed() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let orders = xid(gtrid, &world.orders);
    assert!(
        world
            .orders
            .server()
            .end_by_hand(&orders, Decision::Rollback)
    );
    let tm = world.start().await;
    eventually("it is complete", || world.log.is_completed(gtrid)).await;
    world.log.forget_completed();
    let (server, branch) = (world.ledger.server(), xid(gtrid, &world.ledger));
    server.plant(&branch, &[("back", "1")]);
    tm.recover().await;
    assert_eq!(server.prepared(), []);
    assert_eq!(server.row("back").as_deref(), Some("1"));
}

/// The other branch keeps the decision pending.
#[tokio::test]
async fn i1_what_is_on_record_to_have_ended_otherwise_is_not_proven_again() {
    for flavour in [Flavour::Mysql, Flavour::Postgres] {
        let mut world = World::new();
        let server = MemoryServer::with("orders", flavour, world.journal.clone());
        world.orders = server.resource("orders");
        die_after_the_decision(&world).await;
        world.ledger.server().set_reachable(false);
        server.fail_next(Step::Finish, Fault::CONFLICT);
        let first = world.start().await;
        eventually("it is rolled back", || server.prepared().is_empty()).await;
        first.shutdown().await.unwrap();
        let is_asked =
            |event: &Event| matches!(event, Event::Asked { step, .. } if *step == Step::Absent);
        let before = world.journal.count(is_asked);
        let second = world.start().await;
        let reports = &second.start_report().resources;
        let orders = reports
            .iter()
            .find(|at| at.resource == *world.orders.name());
        assert_eq!(orders.unwrap().committed, 0, "{flavour:?}");
        assert_eq!(world.journal.count(is_asked), before, "{flavour:?}");
        second.shutdown().await.unwrap();
    }
}

/// It would keep the log from being opened.
#[tokio::test]
async fn i8_no_pass_outlives_the_manager() {
    for shuts_down in [false, true] {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let log = || FileLog::at(folder.path().join("log"));
        let orders = FragileResource::new(&world.orders);
        let start = async || {
            let builder = world.builder().log(log()).config(|config| {
                config.start_timeout = Duration::from_millis(100);
                config.recovery_timeout = Duration::from_secs(600);
            });
            builder.resource(&orders).start().await.unwrap()
        };
        let first: TransactionManager = start().await;
        let orphan = first.begin().gtrid();
        first.shutdown().await.unwrap();
        drop(first);
        let server = world.orders.server();
        server.plant(&xid(orphan, &world.orders), &[]);
        orders.fates.next(Call::Finish, Fate::Hang);
        let second = start().await;
        assert_eq!(second.start_report().unfinished.len(), 1);
        if shuts_down {
            second.shutdown().await.unwrap();
        }
        drop(second);
        opens_again(log).await;
    }
}

/// Nor does a check that somebody had asked for, and given up.
#[tokio::test]
async fn i8_no_late_check_outlives_the_manager() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let log = || FileLog::at(folder.path().join("log"));
    let orders = FragileResource::new(&world.orders);
    // Of the start, of the resource's task, and of whoever enlists it.
    for _ in 0..3 {
        orders.fates.next(Call::Preflight, Fate::Hang);
    }
    let builder = world.builder().log(log()).config(|config| {
        config.start_timeout = Duration::from_millis(100);
        config.recovery_timeout = Duration::from_secs(600);
    });
    let tm = builder.resource(&orders).start().await.unwrap();
    let left = || orders.fates.left(Call::Preflight);
    eventually("the task checks it", || left() == 1).await;
    let mut tx = tm.begin();
    let enlisting = tx.enlist(&orders);
    let given_up = tokio::time::timeout(Duration::from_millis(50), enlisting).await;
    assert!(given_up.is_err());
    drop(tx);
    drop(tm);
    opens_again(log).await;
}

/// Within seconds.
async fn opens_again(log: impl Fn() -> FileLog) {
    let mut opened = Ok(());
    for _ in 0..400 {
        opened = Box::new(log()).open().await.map(drop);
        if opened.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    opened.unwrap();
}

/// Six hundred orphans of an earlier life, and the log on which they are found.
async fn orphans(world: &World, count: usize) -> (Vec<unanimous::Gtrid>, FragileLog) {
    let first = world.start().await;
    let gtrids: Vec<_> = (0..count).map(|_| first.begin().gtrid()).collect();
    first.shutdown().await.unwrap();
    for gtrid in &gtrids {
        world
            .orders
            .server()
            .plant(&xid(*gtrid, &world.orders), &[]);
    }
    let log = FragileLog {
        inner: world.log.clone(),
        fates: Fates::default(),
    };
    (gtrids, log)
}

#[tokio::test]
async fn i6_a_record_that_cannot_be_read_keeps_no_other_orphan() {
    let world = World::new();
    let (gtrids, log) = orphans(&world, 601).await;
    log.fates.make_unreadable(gtrids[7]);
    let builder = world.builder().log(log).resource(&world.orders);
    let tm = builder.start().await.unwrap();
    let server = world.orders.server();
    eventually("the others are ended", || server.prepared().len() < 2).await;
    assert_eq!(server.prepared(), [xid(gtrids[7], &world.orders)]);
    let text = tm.recover().await.to_string();
    assert!(text.contains("the log cannot be read"), "{text}");
}

/// It is asked for fewer at a time.
#[tokio::test(start_paused = true)]
async fn i6_a_log_that_is_slow_to_answer_keeps_no_orphan() {
    let world = World::new();
    let (_, log) = orphans(&world, 600).await;
    world.log.slow_down(Duration::from_millis(1));
    let builder = world.builder().log(log).resource(&world.orders);
    let _tm = builder.start().await.unwrap();
    let server = world.orders.server();
    eventually("they are ended", || server.prepared().is_empty()).await;
}
