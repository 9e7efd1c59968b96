//! What people did, as rows: the same in the file log and in a table.
//!
//! What is behind the keys is text, a line each: `act`, `by` (the opening, as the first gtrid of
//! it), `who`, `when` (seconds since 1970), `reason`, and, if they are known, `identity` and
//! `evidence`. Each record has exactly one text.

use unanimous_core::ports::{
    ByHand, Evidence, HandAct, HandRow, HandState, Remark, ServerIdentity, UnixTime,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Gtrid;

pub(super) fn row_of(by_hand: &ByHand) -> HandRow {
    HandRow {
        id: by_hand.id,
        gtrid: by_hand.gtrid,
        resource: by_hand.resource.clone(),
        state: letter(by_hand.state),
        words: words(by_hand),
    }
}

fn words(by_hand: &ByHand) -> String {
    let act = match by_hand.act {
        HandAct::End(Decision::Commit) => "commit",
        HandAct::End(Decision::Rollback) => "rollback",
        HandAct::Forget => "forget",
    };
    let ByHand {
        by,
        who,
        when,
        reason,
        ..
    } = by_hand;
    let (by, when) = (by.gtrid(0), when.0);
    let mut text = format!("act {act}\nby {by}\nwho {who}\nwhen {when}\nreason {reason}\n");
    if let Some((identity, evidence)) = &by_hand.proof {
        let evidence = evidence.as_str();
        text += &format!("identity {identity}\nevidence {evidence}\n");
    }
    text
}

/// `None` if it is not exactly such a row.
pub(crate) fn read(row: &HandRow) -> Option<ByHand> {
    let mut lines = row.words.lines();
    let act = match lines.next()? {
        "act commit" => HandAct::End(Decision::Commit),
        "act rollback" => HandAct::End(Decision::Rollback),
        "act forget" => HandAct::Forget,
        _ => return None,
    };
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let by: Gtrid = field("by")?.parse().ok()?;
    let by_hand = ByHand {
        id: row.id,
        gtrid: row.gtrid,
        resource: row.resource.clone(),
        act,
        by: by.opening,
        who: Remark::new(field("who")?)?,
        when: UnixTime(field("when")?.parse().ok()?),
        reason: Remark::new(field("reason")?)?,
        proof: match (field("identity"), field("evidence")) {
            (Some(identity), Some(evidence)) => {
                Some((ServerIdentity::new(identity)?, Evidence::new(evidence)?))
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return None,
        },
        state: state(row.state)?,
    };
    (words(&by_hand) == row.words).then_some(by_hand)
}

const fn letter(state: HandState) -> char {
    match state {
        HandState::Intended => 'I',
        HandState::Unproven => 'U',
        HandState::Done => 'D',
        HandState::Void => 'V',
    }
}

pub(super) const fn state(letter: char) -> Option<HandState> {
    match letter {
        'I' => Some(HandState::Intended),
        'U' => Some(HandState::Unproven),
        'D' => Some(HandState::Done),
        'V' => Some(HandState::Void),
        _ => None,
    }
}

/// The row takes the new state, if it may still change.
pub(super) fn advance(row: &mut HandRow, new: char) {
    if state(row.state).is_some_and(HandState::is_open) {
        row.state = new;
    }
}

#[cfg(test)]
#[path = "hand_test.rs"]
pub(in crate::log) mod tests;
