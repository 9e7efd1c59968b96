//! The log on a disk that crashes at every single operation; `fault_test` has the disk that fails.
//!
//! One workload (several segments, repeated decisions, completions, heuristic ends, a second
//! opening) keeps an account of what it was answered. After each crash, and after what survives of
//! the unsynced by several kinds of luck, the log has to open and to agree with that account; and
//! what it answered then has to be durable itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use unanimous_core::ports::{
    BranchRecord, DecideError, Evidence, LogError, Lookup, Refusal, ServerIdentity,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Gtrid, ManagerId, Opening};

use super::engine::Engine;
use super::home::{Home, Options};
use super::identity::FolderId;
use super::open::open;
use super::record::{Id, SOME_TIME, encode_decision};
use super::request::Request;
use super::segment::BLOCK;
use super::shared::Shared;
use super::sim_disk::{Fault, Luck, Op, Plan, SimDisk, Survival};

const FOLDER: FolderId = FolderId {
    device: 1,
    inode: 2,
};

const SURVIVALS: [Survival; 8] = [
    Survival::Nothing,
    Survival::Everything,
    Survival::Front(1),
    Survival::Back(1),
    Survival::Back(8),
    Survival::Luck(1),
    Survival::Luck(2),
    Survival::Luck(3),
];

fn home(disk: &SimDisk) -> Home {
    Home {
        storage: Arc::new(disk.clone()),
        folder: PathBuf::from("sim"),
        options: Options {
            // Header, state and six batches.
            segment_bytes_max: 8 * BLOCK as u64,
            retain_completed: 4,
            lazy_pause: Duration::from_secs(3600),
            retry_pause: Duration::ZERO,
            prepare_ahead: false,
            watch: None,
        },
    }
}

/// What the log has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Recorded(LogSeq),
    Refused,
    Uncertain,
}

/// What a caller knows of a log, and must find again.
#[derive(Debug, Default, Clone)]
pub(super) struct Account {
    manager: Option<ManagerId>,
    answers: BTreeMap<Gtrid, Answer>,
    completed: Vec<Gtrid>,
    heuristic: Vec<Gtrid>,
    openings: Vec<Opening>,
}

pub(super) struct Member {
    engine: Engine,
    pub(super) shared: Arc<Shared>,
    sequence: u64,
}

fn bytes_of(gtrid: Gtrid) -> Box<[u8]> {
    // Long enough for a batch of three to take two blocks.
    let branch = |resource: &str| BranchRecord {
        resource: resource.parse().unwrap(),
        identity: ServerIdentity::new("i".repeat(ServerIdentity::BYTES_MAX)).unwrap(),
        evidence: Evidence::new("e".repeat(Evidence::BYTES_MAX)).unwrap(),
    };
    let branches: Vec<_> = (0..6).map(|n| branch(&format!("resource-{n}"))).collect();
    encode_decision(Id::of(gtrid), SOME_TIME, &branches).unwrap()
}

impl Member {
    pub(super) fn open(disk: &SimDisk, account: &mut Account) -> Result<Self, LogError> {
        let home = home(disk);
        let opened = open(&home, FOLDER)?;
        let (engine, shared) = Engine::new(home, opened);
        let opening = shared.opening();
        assert_eq!(
            *account.manager.get_or_insert(opening.manager),
            opening.manager
        );
        assert!(
            account
                .openings
                .iter()
                .all(|o| o.epoch < opening.epoch && o.nonce != opening.nonce),
            "every opening is a new one"
        );
        account.openings.push(opening);
        Ok(Self {
            engine,
            shared,
            sequence: 0,
        })
    }

    pub(super) fn next_gtrid(&mut self) -> Gtrid {
        self.sequence += 1;
        self.shared.opening().gtrid(self.sequence)
    }

    /// One batch. Checks that nobody is told two different final answers.
    pub(super) fn decide(&mut self, gtrids: &[Gtrid], account: &mut Account) {
        self.engine.do_what_is_due();
        let mut replies = Vec::new();
        let requests = gtrids.iter().map(|gtrid| {
            let (reply, answer) = oneshot::channel();
            replies.push((*gtrid, answer));
            Request::Decide {
                gtrid: *gtrid,
                bytes: bytes_of(*gtrid),
                reply,
            }
        });
        let requests: Vec<_> = requests.collect();
        assert!(self.engine.commit(requests).is_none());
        for (gtrid, mut answer) in replies {
            let answer = match answer.try_recv() {
                Ok(Ok(at)) => Answer::Recorded(at),
                Ok(Err(DecideError::Refused(_))) => Answer::Refused,
                Ok(Err(DecideError::Uncertain(_) | DecideError::MayBeLost(_))) => Answer::Uncertain,
                Err(TryRecvError::Empty | TryRecvError::Closed) => panic!("nobody answered"),
            };
            account.note(gtrid, answer);
        }
    }

    pub(super) fn force(&mut self) -> Result<(), LogError> {
        let (reply, mut answer) = oneshot::channel();
        assert!(self.engine.commit([Request::Force(reply)]).is_none());
        answer.try_recv().unwrap()
    }

    pub(super) fn complete(&mut self, gtrid: Gtrid, account: &mut Account) {
        self.shared.complete(gtrid);
        account.completed.push(gtrid);
    }

    fn heuristic(&mut self, gtrid: Gtrid, account: &mut Account) {
        let (reply, mut answer) = oneshot::channel();
        let request = Request::Heuristic {
            gtrid,
            resource: "orders".parse().unwrap(),
            heuristic: Heuristic::Hazard,
            when: SOME_TIME,
            reply,
        };
        assert!(self.engine.commit([request]).is_none());
        if answer.try_recv().unwrap().is_ok() {
            account.heuristic.push(gtrid);
        }
    }

    /// Repeats what is uncertain, as a caller has to, until the disk works again.
    pub(super) fn resolve(&mut self, account: &mut Account) {
        let uncertain = account.with(Answer::Uncertain);
        self.decide(&uncertain, account);
    }
}

impl Account {
    fn note(&mut self, gtrid: Gtrid, answer: Answer) {
        let earlier = self.answers.insert(gtrid, answer);
        match (earlier, answer) {
            (None | Some(Answer::Uncertain), _) => {}
            (Some(Answer::Recorded(_)), Answer::Recorded(_)) => {}
            (Some(Answer::Refused), Answer::Refused) => {}
            (Some(Answer::Recorded(_) | Answer::Refused), _) => {
                panic!("{gtrid} was {earlier:?} and is {answer:?}")
            }
        }
    }

    pub(super) fn with(&self, wanted: Answer) -> Vec<Gtrid> {
        let found = self.answers.iter().filter(|(_, answer)| **answer == wanted);
        found.map(|(gtrid, _)| *gtrid).collect()
    }

    /// Opens the log on the disk and compares; the answer is what is recorded there.
    pub(super) fn check(&mut self, disk: &SimDisk) -> Vec<(Gtrid, bool)> {
        let member = Member::open(disk, self).expect("a log opens after every crash");
        let view = member.shared.lock();
        let openings = view.state.openings();
        for opening in &self.openings {
            let listed = openings.iter().find(|state| state.opening == *opening);
            let is_own = *opening == member.shared.opening();
            assert_eq!(
                listed.map(|state| state.closed),
                Some(!is_own),
                "{opening:?}"
            );
        }
        for decision in view.state.pending() {
            assert!(self.answers.contains_key(&decision.gtrid), "{decision:?}");
            let id = Id::of(decision.gtrid);
            let bytes = encode_decision(id, SOME_TIME, &decision.branches).unwrap();
            assert_eq!(bytes, bytes_of(decision.gtrid));
        }
        for gtrid in &self.heuristic {
            assert!(matches!(
                view.state.lookup(*gtrid),
                Lookup::Heuristic { .. }
            ));
        }
        let pending: Vec<_> = view.state.pending().iter().map(|d| d.gtrid).collect();
        let mut found = Vec::new();
        for (gtrid, answer) in &self.answers {
            let is_pending = pending.contains(gtrid);
            let was_completed = self.completed.contains(gtrid);
            match answer {
                Answer::Recorded(_) => {
                    assert!(is_pending || was_completed, "I2: {gtrid} is lost");
                }
                Answer::Refused => {
                    let looked_up = view.state.lookup(*gtrid);
                    // A heuristic end can be recorded of what was rolled back, too.
                    let refused = matches!(looked_up, Lookup::NoRecord | Lookup::Heuristic { .. });
                    assert!(
                        refused && !is_pending,
                        "I3: {gtrid} was refused: {looked_up:?}"
                    );
                }
                Answer::Uncertain => {}
            }
            found.push((*gtrid, is_pending));
        }
        found
    }
}

/// Runs until the end, or until the disk gives up.
pub(super) fn workload(disk: &SimDisk, account: &mut Account) -> Result<(), LogError> {
    let mut luck = Luck(7);
    for _ in 0..2 {
        let mut member = Member::open(disk, account)?;
        for _ in 0..11 {
            let count = 1 + luck.below(3);
            let gtrids: Vec<_> = (0..count).map(|_| member.next_gtrid()).collect();
            member.decide(&gtrids, account);
            member.resolve(account);
            let recorded: Vec<_> = account
                .answers
                .iter()
                .filter_map(|(gtrid, answer)| {
                    let open = !account.completed.contains(gtrid);
                    (open && matches!(answer, Answer::Recorded(_))).then_some(*gtrid)
                })
                .collect();
            if let [first, .., last] = recorded.as_slice() {
                // The very first stays pending to the end.
                let (again, done) = (*first, *last);
                member.decide(&[again, again], account);
                member.complete(done, account);
            }
            if luck.below(5) == 0 {
                member.heuristic(gtrids[0], account);
            }
        }
        member.engine.leave();
    }
    Ok(())
}

fn ops_of_workload() -> Vec<Op> {
    let disk = SimDisk::new();
    let mut account = Account::default();
    workload(&disk, &mut account).unwrap();
    let ops = disk.ops();
    assert!(account.with(Answer::Refused).is_empty());
    let renames = ops.iter().filter(|op| **op == Op::Rename).count();
    assert!(
        renames >= 7,
        "several segments and two identities: {renames}"
    );
    ops
}

#[test]
fn i2_a_crash_at_any_operation_loses_no_acknowledged_decision() {
    let count = ops_of_workload().len() as u64;
    for at in 0..=count {
        let disk = SimDisk::new();
        disk.set_plan(Plan::crash(at));
        let mut account = Account::default();
        // It ends early, or its last operations find no disk: the account is what counts.
        drop(workload(&disk, &mut account));
        for survival in SURVIVALS {
            println!("crash at operation {at}, {survival:?}");
            let crashed = disk.after_crash(survival);
            let mut account = account.clone();
            let found = account.check(&crashed);
            // What was answered after the first crash is not taken back by a second one.
            let again = account.check(&crashed.after_crash(Survival::Nothing));
            assert_eq!(found, again);
        }
    }
}

#[test]
fn i2_a_crash_while_a_crash_is_recovered_from_loses_nothing_either() {
    let count = ops_of_workload().len() as u64;
    for at in (0..=count).step_by(4) {
        let disk = SimDisk::new();
        disk.set_plan(Plan::crash(at));
        let mut account = Account::default();
        drop(workload(&disk, &mut account));
        for (first, second) in [(1, 0), (5, 6), (7, 1), (0, 5)] {
            let crashed = disk.after_crash(SURVIVALS[first]);
            for second_at in 0.. {
                println!("crash at {at}, {first}, and again at {second_at}, {second}");
                let crashed = crashed.after_crash(Survival::Everything);
                crashed.set_plan(Plan::crash(second_at));
                let mut account = account.clone();
                let opened = Member::open(&crashed, &mut account);
                let survived = crashed.after_crash(SURVIVALS[second]);
                account.check(&survived);
                if opened.is_ok() {
                    break;
                }
            }
        }
    }
}

#[test]
fn i2_a_crash_soon_after_a_failure_of_any_operation_loses_nothing() {
    let count = ops_of_workload().len() as u64;
    for at in 0..=count {
        for (fault, later) in [
            (Fault::TookEffect, 3),
            (Fault::TookEffect, 14),
            (Fault::Nothing, 5),
            (Fault::Nothing, 22),
        ] {
            println!("{fault:?} at operation {at}; crash {later} later");
            let disk = SimDisk::new();
            disk.set_plan(Plan::fail(at, 1, fault).then_crash(at + later));
            let mut account = Account::default();
            // An opening that fails is tried once more; then the crash is there.
            if workload(&disk, &mut account).is_err() {
                drop(workload(&disk, &mut account));
            }
            for survival in [Survival::Nothing, Survival::Everything, Survival::Luck(at)] {
                let mut account = account.clone();
                account.check(&disk.after_crash(survival));
            }
        }
    }
}

#[test]
fn after_a_failed_sync_the_log_reopens_itself_and_repeating_gives_the_final_answer() {
    for fault in [Fault::Nothing, Fault::TookEffect] {
        let disk = SimDisk::new();
        let mut account = Account::default();
        let mut member = Member::open(&disk, &mut account).unwrap();
        let gtrids = [member.next_gtrid(), member.next_gtrid()];
        disk.set_plan(Plan::fail(1, 1, fault));
        member.decide(&gtrids, &mut account);
        assert_eq!(disk.ops()[..2], [Op::Write, Op::SyncData]);
        assert_eq!(account.with(Answer::Uncertain), gtrids);
        let opening = member.shared.opening();
        assert_eq!(opening.epoch.0, 2);
        // The bytes were in the page cache, so the log has read them and made them durable.
        member.resolve(&mut account);
        assert!(account.with(Answer::Uncertain).is_empty());
        assert!(account.with(Answer::Refused).is_empty());
        // Nothing new is decided under the old opening.
        let late = account.openings[0].gtrid(77);
        member.decide(&[late], &mut account);
        assert_eq!(account.with(Answer::Refused), [late]);
        let next = member.shared.opening().gtrid(1);
        member.decide(&[next], &mut account);
        account.openings.push(opening);
        account.check(&disk.after_crash(Survival::Nothing));
    }
}

#[test]
fn while_the_disk_fails_only_what_was_attempted_is_uncertain() {
    let disk = SimDisk::new();
    let mut account = Account::default();
    let mut member = Member::open(&disk, &mut account).unwrap();
    let recorded = member.next_gtrid();
    member.decide(&[recorded], &mut account);
    let opening = member.shared.opening();
    let attempted = member.next_gtrid();
    disk.set_plan(Plan::fail(0, 1_000_000, Fault::Nothing));
    member.decide(&[attempted], &mut account);
    let never = member.next_gtrid();
    member.decide(&[recorded, attempted, never], &mut account);
    assert_eq!(account.with(Answer::Uncertain), [attempted]);
    assert_eq!(account.with(Answer::Refused), [never]);
    assert_eq!(member.shared.opening(), opening);
    assert_eq!(member.shared.lock().state.lookup(attempted), Lookup::Open);

    disk.set_plan(Plan::well());
    member.resolve(&mut account);
    assert_eq!(account.with(Answer::Uncertain), []);
    assert_eq!(
        account.with(Answer::Refused),
        [attempted, never],
        "nothing had been written"
    );
    assert_eq!(member.shared.opening().epoch.0, 2);
}

#[test]
fn one_write_and_one_sync_serve_everybody_who_waits() {
    let disk = SimDisk::new();
    let mut account = Account::default();
    let mut member = Member::open(&disk, &mut account).unwrap();
    let gtrids: Vec<_> = (0..6).map(|_| member.next_gtrid()).collect();
    disk.set_plan(Plan::well());
    member.decide(&gtrids, &mut account);
    assert_eq!(disk.ops(), [Op::Write, Op::SyncData]);
    // What is recorded already, and a completion, need neither.
    member.decide(&gtrids, &mut account);
    member.complete(gtrids[0], &mut account);
    member.engine.do_what_is_due();
    assert_eq!(disk.ops().len(), 2);
    assert_eq!(member.shared.lock().unwritten, [gtrids[0]]);
    let next = member.next_gtrid();
    member.decide(&[next], &mut account);
    assert_eq!(disk.ops().len(), 4, "the completion went along");
    let view = member.shared.lock();
    assert_eq!((view.state.pending().len(), view.unwritten.len()), (6, 0));
}

#[test]
fn a_full_disk_refuses_cleanly_and_goes_on_in_the_same_opening_when_there_is_room() {
    let disk = SimDisk::new();
    let mut account = Account::default();
    let mut member = Member::open(&disk, &mut account).unwrap();
    let opening = member.shared.opening();
    disk.set_bytes_max(disk.bytes() + BLOCK);
    while account.with(Answer::Refused).is_empty() {
        let gtrid = member.next_gtrid();
        member.decide(&[gtrid], &mut account);
        member.complete(gtrid, &mut account);
    }
    let refused = account.with(Answer::Refused);
    assert_eq!(
        account.answers.len(),
        7,
        "six batches fit the first segment"
    );
    let (reply, mut answer) = oneshot::channel();
    let gtrid = member.next_gtrid();
    let bytes = bytes_of(gtrid);
    member.engine.commit([Request::Decide {
        gtrid,
        bytes,
        reply,
    }]);
    match answer.try_recv().unwrap() {
        Err(DecideError::Refused(Refusal::NotAttempted(error))) => {
            let text = error.to_string();
            assert!(
                text.contains("log sim") && text.contains("make room"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    let mut after_crash = account.clone();
    let crashed = disk.after_crash(Survival::Luck(4));
    let error = Member::open(&crashed, &mut Account::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("make room"), "{error}");
    crashed.set_bytes_max(usize::MAX);
    after_crash.check(&crashed);

    disk.set_bytes_max(usize::MAX);
    let next = member.next_gtrid();
    member.decide(&[next], &mut account);
    assert_eq!(account.with(Answer::Refused), refused);
    assert_eq!(member.shared.opening(), opening, "nothing was broken");
    account.check(&disk.after_crash(Survival::Nothing));
}

#[test]
fn a_shutdown_that_cannot_close_the_epoch_says_so_and_nothing_is_lost() {
    let disk = SimDisk::new();
    let mut account = Account::default();
    let mut member = Member::open(&disk, &mut account).unwrap();
    let gtrid = member.next_gtrid();
    member.decide(&[gtrid], &mut account);
    disk.set_plan(Plan::fail(0, 1_000, Fault::Nothing));
    let (reply, _) = oneshot::channel();
    let (_, ended) = member.engine.commit([Request::Shutdown(reply)]).unwrap();
    assert!(
        ended
            .unwrap_err()
            .to_string()
            .contains("simulated disk fails")
    );
    let view = member.shared.lock();
    let answer = |gtrid| view.answer_ended(gtrid, &bytes_of(gtrid));
    assert!(answer(gtrid).is_ok());
    let other = answer(member.shared.opening().gtrid(99));
    drop(view);
    assert!(matches!(
        other,
        Err(DecideError::Refused(Refusal::NotAttempted(_)))
    ));
    account.check(&disk.after_crash(Survival::Nothing));
}
