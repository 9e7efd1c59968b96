//! What the log says of one transaction, asked once, for `show` and its advice.

use unanimous_core::ports::{ByHand, LogError, Lookup};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName};

use super::lines::end_word;
use super::show::DecisionShown;
use crate::manager::Inner;
use crate::recovery::{ask, decided_by, hands_of, is_dealt_with};

/// See the module.
pub(super) struct InLog {
    pub(super) decision: DecisionShown,
    /// The same in words.
    pub(super) words: String,
    /// It does not list the opening.
    pub(super) is_unlisted: bool,
    /// In seconds since 1970.
    pub(super) decided_at: Option<u64>,
    /// Resources at which the branches of a pending decision are known to have ended.
    pub(super) ended: Vec<ResourceName>,
    /// The others of them.
    pub(super) unproven: Vec<ResourceName>,
    /// Branches that ended otherwise, or may have, and whether a person has dealt with that.
    pub(super) ends: Vec<(ResourceName, Heuristic, bool)>,
    /// What people did.
    pub(super) hands: Vec<ByHand>,
}

impl InLog {
    fn unknown(why: &str) -> Self {
        Self {
            decision: DecisionShown::Unknown,
            words: format!("this log cannot tell: {why}"),
            is_unlisted: false,
            decided_at: None,
            ended: Vec::new(),
            unproven: Vec::new(),
            ends: Vec::new(),
            hands: Vec::new(),
        }
    }

    /// `None` is somebody else's transaction.
    pub(super) async fn read(inner: &Inner, gtrid: Option<Gtrid>, is_ours: bool) -> Self {
        let Some(gtrid) = gtrid else {
            return Self::unknown("its own manager knows");
        };
        let asking = async {
            let hands = hands_of(inner, gtrid).await?;
            if !is_ours {
                return Ok::<_, LogError>((hands, None));
            }
            let found = inner.log.lookup(gtrid).await?;
            let times = inner.log.decided_at(&[gtrid]).await?;
            let when = times.first().map(|(_, when)| when.0);
            Ok((hands, Some((found, when))))
        };
        match ask(inner, asking).await {
            Err(error) => Self::unknown(&format!("it cannot be read: {error}")),
            Ok((hands, None)) => Self {
                hands,
                ..Self::unknown("its own manager's log knows")
            },
            Ok((hands, Some((found, decided_at)))) => {
                let told = Self::of(inner, gtrid, found, &hands);
                Self {
                    decided_at,
                    hands,
                    ..told
                }
            }
        }
    }

    fn of(inner: &Inner, gtrid: Gtrid, found: Lookup, hands: &[ByHand]) -> Self {
        let (ends, beside) = found.apart();
        let (decision, words) = told(&beside, &ends);
        let is_unlisted = beside == Lookup::UnknownOpening;
        let names = if let Lookup::Pending(record) = beside {
            record.branches
        } else {
            Vec::new()
        };
        let names = names.into_iter().map(|branch| branch.resource);
        let (ended, unproven) = names.partition(|name| inner.recovery.is_resolved(gtrid, name));
        let dealt = |name: &ResourceName| is_dealt_with(hands, gtrid, name);
        let ends = ends.into_iter();
        let ends = ends.map(|(name, end)| (dealt(&name), name, end));
        let ends = ends.map(|(is_dealt_with, name, end)| (name, end, is_dealt_with));
        Self {
            decision,
            words,
            is_unlisted,
            ended,
            unproven,
            ends: ends.collect(),
            ..Self::unknown("")
        }
    }
}

fn told(beside: &Lookup, ends: &[(ResourceName, Heuristic)]) -> (DecisionShown, String) {
    let (decision, words) = match beside {
        Lookup::Pending(_) => (
            DecisionShown::Commit,
            "commit; not every branch is known to be committed",
        ),
        Lookup::Completed => (
            DecisionShown::Completed,
            "commit, and every branch is committed",
        ),
        Lookup::NoRecord => (
            DecisionShown::None,
            "no record, and none can be made any more: rolled back, or committed so long ago that \
             its record has been dropped",
        ),
        Lookup::Open => (DecisionShown::Open, "none yet: its owner may still decide"),
        Lookup::UnknownOpening => (
            DecisionShown::Unknown,
            "this log cannot tell: it does not list the opening",
        ),
        Lookup::MayBeLost => (
            DecisionShown::Unknown,
            "this log cannot tell: one may have been lost, when its database failed over, or with \
             a part of an earlier home of the log",
        ),
        Lookup::Heuristic { .. } | _ => (
            DecisionShown::Unknown,
            "this log cannot tell: it answers what this release does not know",
        ),
    };
    if ends.is_empty() {
        return (decision, words.to_owned());
    }
    let decided = match decided_by(ends) {
        _ if beside.is_decided() => "commit",
        Some(true) => "commit, long ago: its record has been dropped",
        Some(false) => "none",
        None => "no record of one: it has been dropped, or there was none",
    };
    let ends = ends
        .iter()
        .map(|(name, end)| format!("{name}: {}", end_word(*end)));
    let ends = ends.collect::<Vec<_>>().join(", ");
    let words = format!("{decided}; ended otherwise, or may have: {ends}");
    (DecisionShown::Heuristic, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_record_is_not_told_as_rolled_back() {
        let (decision, words) = told(&Lookup::NoRecord, &[]);
        assert_eq!(decision, DecisionShown::None);
        assert!(words.contains("or committed so long ago"), "{words}");
        let ends = [("orders".parse().unwrap(), Heuristic::Rollback)];
        let (_, words) = told(&Lookup::NoRecord, &ends);
        assert!(words.starts_with("commit, long ago"), "{words}");
    }
}
