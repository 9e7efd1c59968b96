//! The log on a disk that fails at every single operation, in every way that a disk has.
//!
//! What this proves, for the workload of `crash_test` and every operation that the log asks of its
//! disk (listing, reading, creating, writing, syncing, renaming, removing, syncing the folder; at
//! the first opening, in commits, in the change and removal of segments, and in the recovery from
//! a failure): the operation fails without effect, with the effect that it denies, short of room
//! with a part of its bytes written, or with the loss of what the page cache held; once or for a
//! while; and again while the log recovers from it. Whatever happens, nobody is told two final
//! answers, no acknowledged decision is lost (a sync that failed is never believed afterwards,
//! although the next one answers `Ok`), nothing that was refused appears, and the log works again
//! when the disk does. The steps are counted until there is none left.
//!
//! Failures while another fails are tried for a sample of the steps; `UNANIMOUS_TEST_DISK=full`
//! tries all of them.

use unanimous_core::ports::Lookup;

use super::appender::segment_name;
use super::crash_test::{Account, Answer, Member, workload};
use super::segment::BLOCK;
use super::sim_disk::{Fault, Op, Plan, SimDisk, Survival};
use super::storage::Storage;

const FAULTS: [Fault; 5] = [
    Fault::Nothing,
    Fault::TookEffect,
    Fault::Short(1),
    Fault::Short(9),
    Fault::Dropped,
];

/// An opening that the disk refuses is tried again, as whoever starts the program does.
fn outlive(disk: &SimDisk) -> Account {
    let mut account = Account::default();
    let ended = (0..30).find_map(|_| workload(disk, &mut account).ok());
    assert!(ended.is_some(), "the log works again when the disk does");
    account
}

fn check(disk: &SimDisk, account: &Account, luck: u64) {
    for survival in [
        Survival::Nothing,
        Survival::Everything,
        Survival::Luck(luck),
    ] {
        account.clone().check(&disk.after_crash(survival));
    }
}

/// The workload with this plan for each step, until no such step is left. How many there were.
fn at_every_step(what: &str, plan: impl Fn(u64) -> Plan) -> u64 {
    for at in 0.. {
        println!("{what} from operation {at} on");
        let disk = SimDisk::new();
        disk.set_plan(plan(at));
        let account = outlive(&disk);
        if disk.ops().len() as u64 <= at {
            return at;
        }
        check(&disk, &account, at);
    }
    unreachable!("a workload ends")
}

#[test]
fn i3_a_failure_of_any_operation_loses_nothing_and_final_answers_stay() {
    for fault in FAULTS {
        let count = at_every_step(&format!("{fault:?}"), |at| Plan::fail(at, 1, fault));
        assert!(count > 100, "{count} operations");
    }
}

#[test]
fn i3_a_disk_that_fails_for_a_while_loses_nothing_either() {
    for (count, fault) in [(4, Fault::TookEffect), (25, Fault::Nothing)] {
        let what = format!("{count} times {fault:?}");
        at_every_step(&what, |at| Plan::fail(at, count, fault));
    }
}

#[test]
fn i3_a_failure_while_a_failure_is_recovered_from_loses_nothing_either() {
    let is_full = std::env::var("UNANIMOUS_TEST_DISK").is_ok_and(|asked| asked == "full");
    let (at_step, later_step, faults) = if is_full { (1, 1, 3) } else { (11, 4, 1) };
    for first in &[Fault::Dropped, Fault::Short(1), Fault::TookEffect][..faults] {
        for then in &[Fault::Nothing, Fault::Short(1), Fault::Dropped][..faults] {
            for later in (1..14).step_by(later_step) {
                recover_from_two(*first, *then, later, at_step);
            }
        }
    }
}

fn recover_from_two(first: Fault, then: Fault, later: u64, at_step: usize) {
    for at in (later % at_step as u64..).step_by(at_step) {
        println!("{first:?} of operation {at}, {then:?} {later} later");
        let disk = SimDisk::new();
        disk.set_plan(Plan::fail(at, 1, first).then_fail(at + later, 1, then));
        let account = outlive(&disk);
        if disk.ops().len() as u64 <= at {
            return;
        }
        check(&disk, &account, at);
    }
}

#[test]
fn a_disk_that_is_full_at_any_point_refuses_cleanly_and_goes_on_with_room() {
    for half_blocks in 0.. {
        println!("room for {half_blocks} half blocks");
        let disk = SimDisk::new();
        disk.set_bytes_max(half_blocks * BLOCK / 2);
        let mut account = Account::default();
        let ended = workload(&disk, &mut account);
        assert_eq!(account.with(Answer::Uncertain), [], "nothing was attempted");
        let was_full = ended.is_err() || !account.with(Answer::Refused).is_empty();
        if let Err(error) = ended {
            assert!(error.to_string().contains("make room"), "{error}");
        }
        check_with_room(&disk, &mut account);
        if !was_full {
            return;
        }
    }
}

fn check_with_room(disk: &SimDisk, account: &mut Account) {
    for survival in [Survival::Nothing, Survival::Luck(1)] {
        let crashed = disk.after_crash(survival);
        crashed.set_bytes_max(usize::MAX);
        account.clone().check(&crashed);
    }
    disk.set_bytes_max(usize::MAX);
    let ended = workload(disk, account);
    assert!(ended.is_ok(), "{ended:?}");
    check(disk, account, 1);
}

/// On Linux a failed `fsync` is told once; the next answers `Ok`, and the bytes are lost.
#[test]
fn i2_a_sync_that_failed_once_is_not_believed_when_the_next_succeeds() {
    for fault in [Fault::Nothing, Fault::Dropped] {
        let disk = SimDisk::new();
        let mut account = Account::default();
        let mut member = Member::open(&disk, &mut account).unwrap();
        let gtrid = member.next_gtrid();
        disk.set_plan(Plan::fail(1, 1, fault));
        member.decide(&[gtrid], &mut account);
        assert_eq!(disk.ops()[..2], [Op::Write, Op::SyncData]);
        assert_eq!(account.with(Answer::Uncertain), [gtrid]);
        // Nothing more was written to the segment whose sync failed, and nothing synced there.
        let later = disk.ops()[2..].to_vec();
        assert_eq!(later[..3], [Op::List, Op::Read, Op::Create], "{later:?}");
        member.resolve(&mut account);
        let expected = match fault {
            Fault::Dropped => account.with(Answer::Refused),
            Fault::Nothing | Fault::TookEffect | Fault::Short(_) => {
                let view = member.shared.lock();
                view.state.pending().iter().map(|d| d.gtrid).collect()
            }
        };
        assert_eq!(expected, [gtrid]);
        check(&disk, &account, 1);
    }
}

/// An old copy of its segment stands where the log wants to read itself again, an older segment
/// alone, or nothing.
#[test]
fn i2_a_log_that_failed_forgets_nothing_that_its_folder_does_not_say_any_more() {
    for case in ["an old copy", "an older segment", "nothing"] {
        let disk = SimDisk::new();
        let mut account = Account::default();
        let mut member = Member::open(&disk, &mut account).unwrap();
        let first = member.next_gtrid();
        member.decide(&[first], &mut account);
        let older = disk.read(&segment_name(1)).unwrap();
        let mut member = Member::open(&disk, &mut account).unwrap();
        let [second, never] = [(); 2].map(|()| member.next_gtrid());
        let old_copy = disk.read(&segment_name(2)).unwrap();
        member.decide(&[second], &mut account);
        member.complete(first, &mut account);
        // The write, and the first look at the folder after it.
        disk.set_plan(Plan::fail(0, 2, Fault::Nothing));
        member.decide(&[never], &mut account);
        assert_eq!(disk.ops(), [Op::Write, Op::List], "{case}");
        let in_its_place = (case == "an old copy").then_some(old_copy);
        disk.replace(&segment_name(2), in_its_place);
        if case == "an older segment" {
            disk.replace(&segment_name(1), Some(older));
        }
        member.resolve(&mut account);
        assert_eq!(account.with(Answer::Uncertain), [], "{case}");
        let view = member.shared.lock();
        assert_eq!(view.state.lookup(first), Lookup::Completed, "{case}");
        assert!(
            matches!(view.state.lookup(second), Lookup::Pending(_)),
            "{case}"
        );
        assert_eq!(view.state.lookup(never), Lookup::NoRecord, "{case}");
        drop(view);
        check(&disk, &account, 1);
    }
}

/// What is lazy was written, and nobody would find it.
#[test]
fn i2_what_is_forced_is_found_by_the_next_opening() {
    let disk = SimDisk::new();
    let mut account = Account::default();
    let mut member = Member::open(&disk, &mut account).unwrap();
    let gtrid = member.next_gtrid();
    member.decide(&[gtrid], &mut account);
    disk.replace(&segment_name(1), None);
    member.force().unwrap();
    check(&disk, &account, 1);
    let before = disk.ops().len();
    member.force().unwrap();
    assert_eq!(disk.ops().len(), before, "there is nothing to do");
}
