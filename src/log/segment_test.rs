//! Segments as bytes: what is read back, what is damage, what is a torn tail, what is a stranger's.

use proptest::prelude::*;
use unanimous_core::xid::{Epoch, ManagerId, Opening};
use xxhash_rust::xxh3::xxh3_64;

use super::segment::{BLOCK, Batch, Contents, FORMAT, Fault, Header, read};

const BLOCKS: usize = 12;

fn header(number: u64, nonce: u64) -> Header {
    Header {
        number,
        opening: Opening {
            manager: ManagerId::from_bytes([9; 10]),
            epoch: Epoch(3),
            nonce,
        },
        bytes: (BLOCKS * BLOCK) as u64,
    }
}

/// A segment with these payloads, and where the batches begin.
fn segment(header: Header, payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let (header, mut chain) = header.encode();
    let mut bytes = header.to_vec();
    bytes.resize(BLOCK, 0);
    let mut offsets = Vec::new();
    for payload in payloads {
        let mut batch = Batch::new();
        batch.push(|out| out.extend_from_slice(payload));
        offsets.push(bytes.len());
        bytes.extend_from_slice(&batch.seal(&mut chain));
    }
    assert!(bytes.len() <= BLOCKS * BLOCK);
    bytes.resize(BLOCKS * BLOCK, 0);
    (bytes, offsets)
}

fn payloads(lens: &[usize]) -> Vec<Vec<u8>> {
    let numbered = lens.iter().enumerate();
    numbered.map(|(n, len)| vec![n as u8 + 1; *len]).collect()
}

fn read_payloads<'a>(contents: &Contents<'a>) -> Vec<&'a [u8]> {
    let batches = contents.batches.iter();
    batches.map(|batch| batch.payload).collect()
}

#[test]
fn what_was_written_is_read() {
    let header = header(1, 2);
    let payloads = payloads(&[1, BLOCK - 32, BLOCK - 31, 3 * BLOCK]);
    let (bytes, offsets) = segment(header, &payloads);
    let contents = read(&bytes).unwrap();
    assert_eq!(contents.header, header);
    assert_eq!(read_payloads(&contents), payloads);
    assert_eq!(contents.torn_at, None);
    let at: Vec<_> = contents
        .batches
        .iter()
        .map(|batch| batch.offset as usize)
        .collect();
    assert_eq!(at, offsets);
    assert_eq!(offsets, [BLOCK, 2 * BLOCK, 3 * BLOCK, 5 * BLOCK]);
}

#[test]
fn another_version_is_told_before_anything_else() {
    let (mut bytes, _) = segment(header(1, 2), &payloads(&[1]));
    bytes[8] = FORMAT as u8 + 1;
    assert_eq!(read(&bytes), Err(Fault::Format(FORMAT + 1)));
    bytes[0] = 0;
    assert_eq!(read(&bytes), Err(Fault::NotASegment));
    assert_eq!(read(&[]), Err(Fault::NotASegment));
}

#[test]
fn a_batch_of_another_segment_opening_or_place_is_never_taken() {
    let own = header(5, 77);
    let (bytes, offsets) = segment(own, &payloads(&[10, 10]));
    let end = 3 * BLOCK;
    let same = payloads(&[10, 10, 10]);
    for stranger in [header(4, 77), header(5, 78)] {
        let (stale, stale_offsets) = segment(stranger, &same);
        let mut mixed = bytes.clone();
        let from = stale_offsets[2]..stale_offsets[2] + BLOCK;
        mixed[end..end + BLOCK].copy_from_slice(&stale[from]);
        let contents = read(&mixed).unwrap();
        assert_eq!(contents.batches.len(), 2);
        assert_eq!(contents.torn_at, Some(end as u64));
    }
    // A batch of its own that comes again is genuine and out of place.
    let mut repeated = bytes.clone();
    repeated.copy_within(offsets[1]..offsets[1] + BLOCK, end);
    let damage = Err(Fault::Damage { offset: end as u64 });
    assert_eq!(read(&repeated), damage);
}

#[test]
fn a_header_is_believed_only_as_it_was_written() {
    let (bytes, _) = segment(header(1, 2), &payloads(&[10]));
    for at in 0..64 {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let fault = read(&changed).unwrap_err();
            let is_damage = fault == Fault::Damage { offset: 0 };
            assert_eq!(is_damage, at >= 12, "byte {at}: {fault:?}");
        }
    }
    // What is not used yet is zero, whatever the checksum says.
    for at in 50..56 {
        let mut changed = bytes.clone();
        changed[at] = 1;
        let checksum = xxh3_64(&changed[..56]);
        changed[56..64].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(read(&changed), Err(Fault::Damage { offset: 0 }));
    }
}

/// As a writer would leave it that went on from a batch which was then written over: each batch has
/// its right number and is genuine, and the two are not of one chain.
#[test]
fn a_genuine_batch_with_the_right_number_behind_another_than_its_own_is_damage() {
    let header = header(1, 2);
    let (mut bytes, offsets) = segment(header, &payloads(&[10, 10]));
    let (other, _) = segment(header, &[vec![7; 10], vec![8; 10]]);
    let second = offsets[1]..offsets[1] + BLOCK;
    bytes[second.clone()].copy_from_slice(&other[second.clone()]);
    let offset = second.start as u64;
    assert_eq!(read(&bytes), Err(Fault::Damage { offset }));
}

#[test]
fn a_lost_first_block_of_the_last_batch_is_a_torn_tail() {
    let (mut bytes, offsets) = segment(header(1, 2), &payloads(&[10, 2 * BLOCK]));
    bytes[offsets[1]..offsets[1] + BLOCK].fill(0);
    let contents = read(&bytes).unwrap();
    assert_eq!(contents.torn_at, Some(offsets[1] as u64));
    assert_eq!(contents.batches.len(), 1);
}

/// What is missing of it then is only said to be.
#[test]
fn a_last_batch_that_was_whole_before_its_length_or_link_was_changed_is_damage() {
    for zeros in [0, 1, 15] {
        let mut payload = vec![9; 600];
        payload.resize(600 + zeros, 0);
        let (bytes, offsets) = segment(header(1, 2), &[vec![1; 10], payload]);
        let last = offsets[1];
        let damage = Err(Fault::Damage {
            offset: last as u64,
        });
        let mut link = bytes.clone();
        link[last + 8] ^= 1;
        assert_eq!(read(&link), damage, "{zeros}");
        for len in [600 + zeros + 2048, 600 - 1] {
            let mut length = bytes.clone();
            length[last + 24..last + 28].copy_from_slice(&(len as u32).to_le_bytes());
            assert_eq!(read(&length), damage, "{zeros}, {len}");
        }
    }
}

#[test]
fn a_lost_batch_before_a_good_one_is_damage() {
    let (mut bytes, offsets) = segment(header(1, 2), &payloads(&[10, 10, 10]));
    bytes[offsets[1]..offsets[1] + BLOCK].fill(0);
    let offset = offsets[1] as u64;
    assert_eq!(read(&bytes), Err(Fault::Damage { offset }));
}

proptest! {
    #[test]
    fn a_changed_byte_never_changes_what_is_read(
        lens in prop::collection::vec(1..6000usize, 1..5),
        at: prop::sample::Index,
        change in 1..=255u8,
    ) {
        let payloads = payloads(&lens);
        let (original, offsets) = segment(header(1, 2), &payloads);
        let mut bytes = original.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let last = offsets.len() - 1;
        let end = (offsets[last] + 32 + lens[last]).next_multiple_of(BLOCK);
        let sealed = |n: &usize| (offsets[*n]..offsets[*n] + 32 + lens[*n]).contains(&at);
        let torn_at = match (0..=last).find(sealed) {
            None if at < 64 => {
                prop_assert!(read(&bytes).is_err());
                return Ok(());
            }
            Some(n) => {
                let offset = offsets[n] as u64;
                prop_assert_eq!(read(&bytes), Err(Fault::Damage { offset }));
                return Ok(());
            }
            None if at >= end => Some(end as u64),
            // Padding, which says nothing.
            None => None,
        };
        let contents = read(&bytes).unwrap();
        prop_assert_eq!(read_payloads(&contents), payloads);
        prop_assert_eq!(contents.torn_at, torn_at);
    }

    #[test]
    fn a_torn_write_of_the_last_batch_is_cut_off(
        lens in prop::collection::vec(1..6000usize, 2..5),
        survives in prop::collection::vec(any::<bool>(), 20),
    ) {
        let payloads = payloads(&lens);
        let (mut bytes, offsets) = segment(header(1, 2), &payloads);
        let last = offsets.len() - 1;
        let len = (32 + lens[last]).next_multiple_of(BLOCK);
        let (from, to) = (offsets[last], offsets[last] + len);
        let mut torn = false;
        for (sector, survives) in bytes[from..to].chunks_mut(512).zip(&survives) {
            torn |= !survives && sector.iter().any(|byte| *byte != 0);
            if !survives {
                sector.fill(0);
            }
        }
        let contents = read(&bytes).unwrap();
        let whole = if torn { last } else { last + 1 };
        prop_assert_eq!(read_payloads(&contents), &payloads[..whole]);
        let is_zero = bytes[from..].iter().all(|byte| *byte == 0);
        prop_assert_eq!(contents.torn_at.is_some(), torn && !is_zero);
    }

    #[test]
    fn a_write_of_the_last_batch_that_was_cut_short_is_cut_off(
        lens in prop::collection::vec(1..6000usize, 2..5),
        cut: prop::sample::Index,
    ) {
        let payloads = payloads(&lens);
        let (mut bytes, offsets) = segment(header(1, 2), &payloads);
        let last = offsets.len() - 1;
        let from = offsets[last];
        let end = from + 32 + lens[last];
        let cut = from + cut.index(end - from);
        bytes[cut..].fill(0);
        // In a sector, its last few bytes cannot be told from zeros that belong there.
        let last_sector = from + (end - from - 1) / 512 * 512;
        let is_whole_sector = cut <= last_sector;
        let offset = from as u64;
        match read(&bytes) {
            Ok(contents) => {
                prop_assert_eq!(read_payloads(&contents), &payloads[..last]);
                prop_assert_eq!(contents.torn_at, (cut > from).then_some(offset));
            }
            Err(fault) => {
                prop_assert!(!is_whole_sector && end - cut < 16, "{} of {}", cut, end);
                prop_assert_eq!(fault, Fault::Damage { offset });
            }
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut whole, _) = segment(header(1, 2), &payloads(&[10]));
        let len = bytes.len();
        whole[BLOCK..BLOCK + len].copy_from_slice(&bytes);
        drop(read(&whole));
        prop_assert!(read(&bytes).is_err());
    }
}
