//! Reading a log's folder: from its newest segment to the state that it says.
//!
//! Only the newest segment counts: it begins with the whole state, and older ones are removed only
//! once it is durable. It is read as a whole, and what was read may not be durable yet (its writer
//! may have died, or failed, between write and sync): nobody may act upon it before the opening
//! has written it to a segment of its own and synced that.

use unanimous_core::ports::LogError;
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Epoch, ManagerId};

use super::appender::{position, segment_name, segment_number};
use super::errors;
use super::home::{Home, TornTail};
use super::record::{Id, Record, decode};
use super::segment::{self, Contents, Fault, ReadBatch};
use super::state::{Change, State};

/// What the newest segment says.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) state: State,
    /// The segment's number.
    pub(super) number: u64,
    pub(super) torn_tail: Option<TornTail>,
}

/// The numbers of the segments in the folder, rising.
pub(super) fn segment_numbers(home: &Home) -> Result<Vec<u64>, LogError> {
    let names = home.storage.list();
    let names = names.map_err(|error| home.failed("list the folder", error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whose segment it is. For a folder whose identity is gone.
pub(super) fn manager_of(home: &Home, number: u64) -> Result<ManagerId, LogError> {
    let name = segment_name(number);
    let bytes = read_file(home, &name)?;
    let contents =
        segment::read(&bytes).map_err(|fault| errors::segment(&home.folder, &name, fault))?;
    Ok(contents.header.opening.manager)
}

/// Reads segment `number`, the newest, of `manager`'s log.
pub(super) fn recover(home: &Home, manager: ManagerId, number: u64) -> Result<Recovered, LogError> {
    let name = segment_name(number);
    let bytes = read_file(home, &name)?;
    let faulty = |fault| errors::segment(&home.folder, &name, fault);
    let contents = segment::read(&bytes).map_err(faulty)?;
    let found = contents.header;
    if found.opening.manager != manager || found.number != number {
        return Err(LogError::new(format!(
            "log segment {} is segment {} of manager {}, in the log of manager {manager}: it was \
             copied here; put the log's own segment back",
            home.folder.join(&name).display(),
            found.number,
            found.opening.manager,
        )));
    }
    let torn_tail = contents.torn_at.map(|offset| TornTail {
        segment: home.folder.join(&name),
        offset,
    });
    let retain = home.options.retain_completed;
    let state = replay(manager, &contents, retain).map_err(faulty)?;
    Ok(Recovered {
        state,
        number,
        torn_tail,
    })
}

pub(super) fn read_file(home: &Home, name: &str) -> Result<Vec<u8>, LogError> {
    let bytes = home.storage.read(name);
    bytes.map_err(|error| home.failed(&format!("read {name}"), error))
}

/// The state that these batches make, keeping that many completed decisions.
pub(super) fn replay(
    manager: ManagerId,
    contents: &Contents<'_>,
    retain: usize,
) -> Result<State, Fault> {
    let mut state = State::new(manager, retain);
    let mut at = position(contents.header.number, 0);
    for batch in &contents.batches {
        replay_batch(&mut state, &mut at, batch).ok_or(Fault::Damage {
            offset: batch.offset,
        })?;
    }
    let current = contents.header.opening;
    let lists_its_opening = state.is_listed(current);
    lists_its_opening
        .then_some(state)
        .ok_or(Fault::Damage { offset: 0 })
}

/// `None` if a record is none, or names an epoch that is not listed: then the batch, although its
/// checksum is right, was not written by this program.
pub(super) fn replay_batch(
    state: &mut State,
    at: &mut LogSeq,
    batch: &ReadBatch<'_>,
) -> Option<()> {
    let mut rest = batch.payload;
    for _ in 0..batch.records {
        let before = rest;
        let record = decode(&mut rest)?;
        let bytes = &before[..before.len() - rest.len()];
        let known = |epoch: Epoch| state.is_closed(epoch).map(|_| ());
        let known_id = |id: Id| known(id.epoch);
        let change = match record {
            Record::Opened { epoch, nonce } => Change::Opened { epoch, nonce },
            Record::Closed { epoch } => {
                known(epoch)?;
                Change::Closed { epoch }
            }
            Record::Decided { id, .. } => {
                known_id(id)?;
                let bytes = bytes.into();
                Change::Decided { id, bytes }
            }
            Record::Completed { id } => {
                known_id(id)?;
                Change::Completed { id }
            }
            Record::Doubtful { epoch } => {
                known(epoch)?;
                Change::Doubtful { epoch }
            }
            Record::Heuristic {
                id,
                resource,
                heuristic,
                when,
            } => {
                known_id(id)?;
                let resource = resource.parse().ok()?;
                Change::Heuristic {
                    id,
                    resource,
                    heuristic,
                    when,
                }
            }
            // Of whatever opening: its own log may be lost.
            Record::ByHand(row) => Change::ByHand(row),
        };
        state.apply(change, *at);
        at.0 += 1;
    }
    rest.is_empty().then_some(())
}
