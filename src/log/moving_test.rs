//! The file `moved`, and what a folder takes over.

use unanimous_core::ports::{BranchRecord, DecisionLog, DecisionRecord, Evidence, Lookup};
use unanimous_core::protocol::Heuristic;

use super::super::hand::tests::by_hand;
use super::*;

fn mark(is_arriving: bool) -> Mark {
    Mark {
        is_arriving,
        manager: ManagerId::from_bytes([7; 10]),
        place: "MySQL db:3306/shop, \u{e4}".into(),
    }
}

#[test]
fn a_mark_that_was_changed_anywhere_is_not_read() {
    for mark in [mark(true), mark(false)] {
        let text = mark.encode();
        assert_eq!(Mark::parse(text.as_bytes()), Some(mark));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert_eq!(Mark::parse(&changed), None, "byte {at}");
            assert_eq!(Mark::parse(&text.as_bytes()[..at]), None, "cut at {at}");
        }
    }
}

fn branch(resource: &str) -> BranchRecord {
    BranchRecord {
        resource: resource.parse().unwrap(),
        identity: ServerIdentity::new("pg:1").unwrap(),
        evidence: Evidence::new("xid8=1").unwrap(),
    }
}

struct Filled {
    image: LogImage,
    manager: ManagerId,
    gtrids: [Gtrid; 3],
}

/// Decided, completed, and ended against its decision.
async fn filled(log: FileLog) -> Filled {
    let open = log.clone().open().await.unwrap();
    let gtrids = [1, 2, 3].map(|sequence| open.opening().gtrid(sequence));
    for gtrid in gtrids {
        let branches = vec![branch("orders"), branch("ledger")];
        open.decide(&DecisionRecord { gtrid, branches })
            .await
            .unwrap();
    }
    open.complete(gtrids[1]);
    let orders = "orders".parse().unwrap();
    let noted = open.record_heuristic(gtrids[2], &orders, Heuristic::Rollback);
    noted.await.unwrap();
    let by_hand = hand::read(&by_hand(gtrids[0])).unwrap();
    open.record_by_hand(&by_hand).await.unwrap();
    open.shutdown().await.unwrap();
    drop(open);
    let folder = FolderMove::enter(log).unwrap();
    let Standing::Here(manager) = folder.standing().unwrap() else {
        panic!("it is here");
    };
    let image = folder.image(manager).unwrap();
    Filled {
        image,
        manager,
        gtrids,
    }
}

#[tokio::test]
async fn what_a_folder_takes_over_is_what_the_other_has_given() {
    let temp = tempfile::tempdir().unwrap();
    let (old, new) = (temp.path().join("old"), temp.path().join("new"));
    let Filled {
        image,
        manager,
        gtrids: [decided, completed, ended],
    } = filled(FileLog::at(&old)).await;
    let folder = FolderMove::enter(FileLog::at(&new)).unwrap();
    assert_eq!(folder.standing().unwrap(), Standing::Empty);
    assert!(
        folder.arrive(manager, "there", &image).is_err(),
        "nothing arrives yet"
    );
    folder.begin_arrival(manager, "there").unwrap();
    assert!(folder.begin_arrival(manager, "elsewhere").is_err());
    // Killed and begun again, as often as it takes.
    for _ in 0..2 {
        folder.arrive(manager, "there", &image).unwrap();
        folder.begin_arrival(manager, "there").unwrap();
    }
    folder.arrive(manager, "there", &image).unwrap();
    assert_eq!(folder.image(manager).unwrap(), image);
    drop(folder);
    let early = FileLog::at(&new).open().await.unwrap_err().to_string();
    assert!(
        early.contains("a move from there to here has not ended"),
        "{early}"
    );
    let folder = FolderMove::enter(FileLog::at(&new)).unwrap();
    assert!(folder.end_arrival("elsewhere").is_err());
    folder.end_arrival("there").unwrap();
    drop(folder);

    let log = FileLog::at(&new).open().await.unwrap();
    assert_eq!(log.opening().manager, manager);
    assert_eq!(log.opening().epoch.0, decided.opening.epoch.0 + 1);
    assert!(matches!(log.lookup(decided).await, Ok(Lookup::Pending(_))));
    assert!(matches!(log.lookup(completed).await, Ok(Lookup::Completed)));
    assert!(matches!(
        log.lookup(ended).await,
        Ok(Lookup::Heuristic { .. })
    ));
    let never = decided.opening.gtrid(77);
    assert!(matches!(log.lookup(never).await, Ok(Lookup::NoRecord)));
    let pending = log.pending().await.unwrap();
    let names: Vec<_> = pending.iter().map(|decision| decision.gtrid).collect();
    assert_eq!(names, [decided, ended]);
    assert_eq!(pending[0].branches, [branch("orders"), branch("ledger")]);
}

#[tokio::test]
async fn a_sealed_folder_is_not_opened_and_says_where_its_log_went() {
    let temp = tempfile::tempdir().unwrap();
    let place = temp.path().join("log");
    let Filled { manager, .. } = filled(FileLog::at(&place)).await;
    let folder = FolderMove::enter(FileLog::at(&place)).unwrap();
    folder.seal(manager, "PostgreSQL db:5432/shop").unwrap();
    drop(folder);
    let refused = FileLog::at(&place).open().await.unwrap_err().to_string();
    let said = "was moved to PostgreSQL db:5432/shop: name that as the log's home";
    assert!(refused.contains(said), "{refused}");
    let path = place.join(MOVED);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("5432", "5433")).unwrap();
    let refused = FileLog::at(&place).open().await.unwrap_err().to_string();
    assert!(refused.contains("its file `moved` is damaged"), "{refused}");
}

/// An opening that is doubtful stays so wherever its log goes, and however often it is opened.
#[tokio::test]
async fn i3_doubt_goes_along_with_a_log() {
    let folders = tempfile::tempdir().unwrap();
    let place = |name: &str| FileLog::at(folders.path().join(name));
    let Filled {
        mut image,
        manager,
        gtrids,
    } = filled(place("old")).await;
    let missing = gtrids[0].opening.gtrid(99);
    for row in &mut image.openings {
        row.identity = ServerIdentity::new(DOUBTFUL).unwrap();
    }
    for name in ["one", "two"] {
        let folder = FolderMove::enter(place(name)).unwrap();
        folder.begin_arrival(manager, "an export").unwrap();
        folder.arrive(manager, "an export", &image).unwrap();
        folder.end_arrival("an export").unwrap();
        drop(folder);
        for _ in 0..2 {
            let open = place(name).open().await.unwrap();
            assert_eq!(open.lookup(missing).await.unwrap(), Lookup::MayBeLost);
            let there = open.lookup(gtrids[0]).await.unwrap();
            assert!(matches!(there, Lookup::Pending(_)), "{there:?}");
            let own = open.opening().gtrid(99);
            assert_eq!(open.lookup(own).await.unwrap(), Lookup::Open);
            open.shutdown().await.unwrap();
        }
        let folder = FolderMove::enter(place(name)).unwrap();
        image = folder.image(manager).unwrap();
        let doubtful = image.openings.iter().filter(|row| row.is_doubtful());
        assert_eq!(doubtful.count(), 1, "{image:?}");
    }
}

/// All that is left of the segment is its header: nothing that is saved of it may say that a
/// transaction was not decided.
#[tokio::test]
async fn i1_of_a_segment_that_is_zeros_behind_its_header_no_export_is_complete() {
    let temp = tempfile::tempdir().unwrap();
    let Filled { gtrids, .. } = filled(FileLog::at(temp.path())).await;
    let folder = FolderMove::enter(FileLog::at(temp.path())).unwrap();
    let number = segment_numbers(&folder.home).unwrap().pop().unwrap();
    let path = temp.path().join(segment_name(number));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[super::super::segment::BLOCK..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let (_, image, losses) = folder.salvage().unwrap();
    assert_eq!(losses.len(), 1, "{losses:?}");
    let [row] = &image.openings[..] else {
        panic!("its own opening is known by the header: {image:?}");
    };
    assert_eq!(row.opening, gtrids[0].opening);
    assert!(row.is_closed && row.is_doubtful(), "{row:?}");
}

/// A link to nowhere has a segment's name, and is never read.
#[test]
fn a_segment_that_cannot_be_found_ends_a_verification_with_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let name = segment_name(1);
    std::os::unix::fs::symlink(temp.path().join("nowhere"), temp.path().join(&name)).unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    let log = FileLog::at(temp.path());
    std::thread::spawn(move || told.send(super::super::verify::verify_folder(log).map(drop)));
    let verified = hears.recv_timeout(std::time::Duration::from_secs(60));
    let error = verified.expect("it ends").unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
}
