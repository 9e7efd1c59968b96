//! What people did with branches, and which branches ended otherwise than was decided: what a log
//! keeps of both.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{Evidence, ServerIdentity};
use crate::protocol::{Decision, Heuristic};
use crate::xid::{Gtrid, Opening, ResourceName};

/// Seconds since 1970, by somebody's clock. For people to read: nothing is ever decided by it (I5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

/// One line of a person's words: at least one character, none of them a control character, at most
/// [`BYTES_MAX`](Self::BYTES_MAX) bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Remark(String);

impl Remark {
    /// The longest text, in bytes.
    pub const BYTES_MAX: usize = 1000;

    /// Takes the text if it is such a line.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fits = !text.trim().is_empty()
            && text.len() <= Self::BYTES_MAX
            && !text.chars().any(char::is_control);
        fits.then_some(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person told the tool to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandAct {
    /// To end the branch.
    End(Decision),
    /// To list its heuristic end no more, because it was dealt with; also of a branch that is lost:
    /// once this is done, its decision waits for it no more.
    Forget,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandState {
    /// Recorded before anything was done. Alone it changes no branch.
    Intended,
    /// Whoever recorded it is gone, and the branch, too: nobody can prove who ended it.
    Unproven,
    /// It was done.
    Done,
    /// It was not: the branch ended in another way.
    Void,
}

impl HandState {
    /// Whether a record in this state may still change.
    pub const fn is_open(self) -> bool {
        match self {
            Self::Intended | Self::Unproven => true,
            Self::Done | Self::Void => false,
        }
    }
}

/// A record of what a person did, or is about to do, with one branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    /// Random: the key. A record that comes again with the same one is the same, in a new state.
    pub id: u64,
    /// The transaction; not necessarily of an opening that the log lists.
    pub gtrid: Gtrid,
    /// The branch.
    pub resource: ResourceName,
    /// What.
    pub act: HandAct,
    /// Under which opening it was recorded. Once that is closed, nobody waits for whoever acted,
    /// who may only be slow: a record that is to be gone against is made void first, and whoever
    /// acts looks, just before, whether the own one still is what it was.
    pub by: Opening,
    /// Who: account and host.
    pub who: Remark,
    /// By the clock of whoever recorded it.
    pub when: UnixTime,
    /// Why.
    pub reason: Remark,
    /// Where the branch was, and by what its end can be proven, as far as that was known.
    pub proof: Option<(ServerIdentity, Evidence)>,
    /// How far it has come.
    pub state: HandState,
}

impl ByHand {
    /// How the branch was to be ended, if it was.
    pub const fn ended(&self) -> Option<Decision> {
        match self.act {
            HandAct::End(decision) => Some(decision),
            HandAct::Forget => None,
        }
    }
}

/// What a log keeps of what people did, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hands {
    /// Oldest first.
    pub legible: Vec<ByHand>,
    /// The branches of records that cannot be read, be they a newer release's or changed by hand.
    pub illegible: Vec<(Gtrid, ResourceName)>,
}

/// A branch that ended otherwise than was decided or, without a decision, is presumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeuristicEnd {
    /// The transaction.
    pub gtrid: Gtrid,
    /// The branch.
    pub resource: ResourceName,
    /// How it ended.
    pub end: Heuristic,
    /// When that was recorded, if it is known.
    pub when: Option<UnixTime>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_persons_remark_is_one_line_that_says_something() {
        let longest = "ä".repeat(Remark::BYTES_MAX / 2);
        for text in ["x", "ticket 4711: the shop is closed; 顧客", &longest] {
            let remark = Remark::new(text);
            assert_eq!(
                remark.map(|remark| remark.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in ["", "  ", "a\nb", "a\tb", "\u{1b}[2J", &(longest + "a")] {
            assert_eq!(Remark::new(text), None, "{text:?}");
        }
    }
}
