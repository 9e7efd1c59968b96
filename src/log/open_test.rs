//! Opening and looking at a log, where the disk answers oddly at the wrong moment.

use std::io;
use std::sync::Mutex;

use super::appender::segment_name;
use super::home::Home;
use super::identity::{FolderId, IDENTITY};
#[cfg(feature = "operator")]
use super::open::check_place;
use super::open::{Opened, inspect, open, remove_older, segment_bytes_min};
use super::recover::segment_numbers;
use super::recover_test::home;
use super::segment::BLOCK;
use super::sim_disk::{Fault, Plan, SimDisk, Survival};
use super::storage::{Storage, StoredFile};

const FOLDER: FolderId = FolderId {
    device: 1,
    inode: 2,
};

/// Something that happens to the disk once, when a file is read.
type Happening = Box<dyn FnOnce(&SimDisk) + Send>;

/// A disk on which others are at work, or that answers a read by an error.
struct Busy {
    disk: SimDisk,
    after_read: Mutex<Option<Happening>>,
    unreadable: Option<&'static str>,
}

impl Busy {
    fn after_read(disk: &SimDisk, happening: impl FnOnce(&SimDisk) + Send + 'static) -> Home {
        home(Self {
            disk: disk.clone(),
            after_read: Mutex::new(Some(Box::new(happening))),
            unreadable: None,
        })
    }
}

impl Storage for Busy {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        if self.unreadable == Some(name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let bytes = self.disk.read(name);
        if name != IDENTITY
            && let Some(happens) = self.after_read.lock().unwrap().take()
        {
            happens(&self.disk);
        }
        bytes
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        self.disk.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
}

fn opened(disk: &SimDisk) -> Opened {
    open(&home(disk.clone()), FOLDER).unwrap()
}

#[test]
fn a_segment_has_room_for_header_need_and_four_times_the_state() {
    let block = BLOCK as u64;
    assert_eq!(segment_bytes_min(2 * block, 3 * block), 12 * block);
    assert_eq!(segment_bytes_min(block, 0), 5 * block);
}

#[test]
fn an_opening_that_finds_no_room_leaves_nothing_that_takes_some() {
    let disk = SimDisk::new();
    drop(opened(&disk));
    let before = disk.list().unwrap();
    for room in [0, 3 * BLOCK] {
        disk.set_bytes_max(disk.bytes() + room);
        assert!(open(&home(disk.clone()), FOLDER).is_err());
        assert_eq!(disk.list().unwrap(), before, "{room}");
    }
}

#[test]
fn only_older_segments_are_removed() {
    let disk = SimDisk::new();
    for number in 1..=5 {
        drop(disk.create(&segment_name(number)).unwrap());
    }
    let home = home(disk);
    remove_older(&home, 3);
    assert_eq!(segment_numbers(&home).unwrap(), [3, 4, 5]);
}

#[test]
fn each_opening_has_a_segment_an_epoch_and_random_bits_of_its_own() {
    let disk = SimDisk::new();
    let first = opened(&disk);
    assert_eq!((first.opening.epoch.0, first.appender.number()), (1, 1));
    let second = opened(&disk);
    assert_eq!((second.opening.epoch.0, second.appender.number()), (2, 2));
    assert_eq!(second.opening.manager, first.opening.manager);
    assert_ne!(second.opening.nonce, first.opening.nonce);
    assert_eq!(segment_numbers(&home(disk)).unwrap(), [2]);
}

#[test]
fn a_new_log_wants_a_folder_of_its_own_but_for_what_crashes_and_file_systems_leave() {
    for (name, is_harmless) in [
        ("holiday.jpg", false),
        ("segment-000000000001", false),
        ("lock", true),
        ("identity.tmp", true),
        ("segment.tmp", true),
        ("lost+found", true),
        // Of an application that was killed.
        ("control.sock", true),
        (".control", true),
    ] {
        let disk = SimDisk::new();
        drop(disk.create(name).unwrap());
        let opened = open(&home(disk), FOLDER);
        assert_eq!(opened.is_ok(), is_harmless, "{name}");
    }
}

#[test]
fn i3_only_a_log_that_was_never_open_begins_again_without_its_segments() {
    let disk = SimDisk::new();
    let home = home(disk.clone());
    // The identity is there, and then nothing works any more.
    disk.set_plan(Plan::fail(8, 1_000, Fault::Nothing));
    open(&home, FOLDER).err().unwrap();
    let identity = disk.after_crash(Survival::Everything).read(IDENTITY);
    let identity = String::from_utf8(identity.unwrap()).unwrap();
    assert!(identity.contains("birth begun"), "{identity}");
    disk.set_plan(Plan::well());
    let manager = open(&home, FOLDER).unwrap().opening.manager;
    assert!(identity.contains(&manager.to_string()), "{identity}");

    for number in segment_numbers(&home).unwrap() {
        disk.remove(&segment_name(number)).unwrap();
    }
    let text = open(&home, FOLDER).err().unwrap().to_string();
    assert!(text.contains("are gone"), "{text}");
}

#[test]
fn i3_an_identity_that_cannot_be_read_is_not_taken_for_none() {
    let disk = SimDisk::new();
    drop(opened(&disk));
    let busy = Busy {
        disk,
        after_read: Mutex::new(None),
        unreadable: Some(IDENTITY),
    };
    let home = home(busy);
    for error in [open(&home, FOLDER).err(), inspect(&home).err()] {
        let text = error.unwrap().to_string();
        assert!(text.contains("cannot read the file `identity`"), "{text}");
    }
}

/// Before the folder is opened and locked: by its path.
#[cfg(feature = "operator")]
#[test]
fn a_folder_that_is_not_the_logs_own_is_told_by_its_path() {
    use std::os::unix::fs::MetadataExt;

    let temp = tempfile::tempdir().unwrap();
    let metadata = temp.path().metadata().unwrap();
    let (device, inode) = (metadata.dev(), metadata.ino());
    let check = |device, inode| {
        let disk = SimDisk::new();
        let mut home = home(disk);
        check_place(&home).unwrap_err();
        home.folder = temp.path().into();
        check_place(&home).expect("nothing is there yet");
        drop(open(&home, FolderId { device, inode }).unwrap());
        check_place(&home).map_err(|error| error.to_string())
    };
    assert_eq!(check(device, inode), Ok(()));
    for (device, inode) in [(device + 1, inode), (device, inode + 1)] {
        let text = check(device, inode).unwrap_err();
        assert!(text.contains("this folder is a copy"), "{text}");
    }
}

#[test]
fn a_log_whose_segment_is_replaced_while_it_is_looked_at_is_looked_at_again() {
    let disk = SimDisk::new();
    drop(opened(&disk));
    let busy = Busy::after_read(&disk, |disk| drop(opened(disk)));
    let found = inspect(&busy).unwrap();
    assert_eq!(found.number, 2);
    assert_eq!(found.state.openings().len(), 2);
}

#[test]
fn a_log_that_looks_damaged_for_a_moment_is_looked_at_again() {
    let disk = SimDisk::new();
    drop(opened(&disk));
    let name = segment_name(1);
    let bytes = disk.read(&name).unwrap();
    overwrite(&disk, &name, &bytes[..BLOCK]);
    let busy = Busy::after_read(&disk, move |disk| overwrite(disk, &name, &bytes));
    assert_eq!(inspect(&busy).unwrap().number, 1);
}

#[test]
fn a_log_that_stays_damaged_is_looked_at_a_few_times_and_said_to_be() {
    let disk = SimDisk::new();
    drop(opened(&disk));
    let name = segment_name(1);
    let bytes = disk.read(&name).unwrap();
    overwrite(&disk, &name, &bytes[..BLOCK]);
    let text = inspect(&home(disk)).unwrap_err().to_string();
    assert!(text.contains("4096 bytes long instead of"), "{text}");
}

fn overwrite(disk: &SimDisk, name: &str, bytes: &[u8]) {
    disk.create(name).unwrap().write_at(0, bytes).unwrap();
}
