//! Segments as files: what is asked of the disk, how full they are, and where each record lies.

use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::appender::{
    Appender, BeginError, SEGMENT_TEMP, begin, position, prepare, segment_name, segment_number,
};
use super::probed::{Probed, Watch};
use super::segment::{BLOCK, Batch};
use super::sim_disk::{Op, SimDisk};
use super::storage::Storage;

const OPENING: Opening = Opening {
    manager: ManagerId::from_bytes([9; 10]),
    epoch: Epoch(3),
    nonce: 4,
};

/// A batch of records of one byte each.
fn batch(records: usize) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..records {
        batch.push(|out| out.push(7));
    }
    batch
}

/// A segment of that many blocks whose state is two records; two blocks are taken.
fn appender(disk: &SimDisk, blocks: usize) -> Appender {
    let prepared = prepare(disk, (blocks * BLOCK) as u64).unwrap();
    begin(disk, prepared, OPENING, 5, batch(2)).unwrap()
}

#[test]
fn a_name_has_one_number_and_a_number_one_name() {
    assert_eq!(segment_name(7), "segment-000000000007");
    for number in [0, 1, 7, 999_999_999_999, 1_000_000_000_000] {
        assert_eq!(segment_number(&segment_name(number)), Some(number));
    }
    for name in [
        "segment-7",
        "segment-0000000000007",
        "segment-",
        "7",
        SEGMENT_TEMP,
    ] {
        assert_eq!(segment_number(name), None, "{name}");
    }
}

#[test]
fn a_segment_is_filled_with_zeros_to_whole_blocks_and_synced_once() {
    for (asked, bytes, writes) in [
        (1, BLOCK, 1),
        (2 * BLOCK, 2 * BLOCK, 1),
        (256 * 1024, 256 * 1024, 1),
        (300 * 1024, 300 * 1024, 2),
    ] {
        let disk = SimDisk::new();
        let prepared = prepare(&disk, asked as u64).unwrap();
        assert_eq!(prepared.bytes(), bytes as u64);
        assert!(disk.read(SEGMENT_TEMP).unwrap() == vec![0; bytes]);
        let mut ops = vec![Op::Create];
        ops.resize(1 + writes, Op::Write);
        ops.extend([Op::Sync, Op::Read]);
        assert_eq!(disk.ops(), ops);
    }
}

#[test]
fn a_segment_takes_what_fits_to_its_last_byte_and_nothing_more() {
    let disk = SimDisk::new();
    let mut segment = appender(&disk, 4);
    assert_eq!((segment.number(), segment.bytes()), (5, 4 * BLOCK as u64));
    let large = batch(BLOCK + 1);
    assert!(segment.fits(&large));
    segment.append(batch(1)).unwrap();
    assert!(!segment.fits(&large));
    assert!(segment.fits(&batch(1)));
    segment.append(batch(1)).unwrap();
    assert!(!segment.fits(&batch(1)));
    assert_eq!(disk.read(&segment_name(5)).unwrap().len(), 4 * BLOCK);
}

#[test]
fn a_segment_is_half_full_when_more_than_half_of_it_is_taken() {
    let disk = SimDisk::new();
    let mut segment = appender(&disk, 7);
    for blocks in 3..=7 {
        segment.append(batch(1)).unwrap();
        assert_eq!(segment.is_half_full(), blocks >= 4, "{blocks} of 7");
    }
    let mut segment = appender(&disk, 6);
    segment.append(batch(1)).unwrap();
    assert!(!segment.is_half_full(), "3 of 6");
    segment.append(batch(1)).unwrap();
    assert!(segment.is_half_full(), "4 of 6");
}

#[test]
fn each_record_has_the_position_behind_the_one_before() {
    assert_eq!(position(5, 2), LogSeq(21_474_836_482));
    let disk = SimDisk::new();
    let mut segment = appender(&disk, 8);
    assert_eq!(segment.append(batch(3)).unwrap(), position(5, 2));
    assert_eq!(segment.append(batch(1)).unwrap(), position(5, 5));
    assert_eq!(segment.append(batch(1)).unwrap(), position(5, 6));
}

#[test]
fn whether_a_segment_still_has_its_name_is_seen() {
    let disk = SimDisk::new();
    let segment = appender(&disk, 4);
    assert!(!segment.is_removed());
    disk.remove(&segment_name(5)).unwrap();
    assert!(segment.is_removed());
}

/// What is acknowledged in a segment is found by its name.
#[test]
fn i2_a_segment_that_has_not_got_its_name_is_not_begun() {
    let disk = SimDisk::new();
    let watch = Watch::new({
        let disk = disk.clone();
        move |step| {
            if step == "log.segment_renamed" {
                disk.replace(&segment_name(5), None);
            }
        }
    });
    let probed = Probed::new(disk, watch);
    let prepared = prepare(&probed, 4 * BLOCK as u64).unwrap();
    let begun = begin(&probed, prepared, OPENING, 5, batch(2));
    assert!(matches!(begun, Err(BeginError::Named(_))));
}
