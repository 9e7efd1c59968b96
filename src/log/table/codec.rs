//! The branches of a decision as text: a line each, resource, identity and evidence between tabs.
//! All three are printable ASCII, so neither tab nor line feed is in them.

use unanimous_core::ports::{BranchRecord, Evidence, ServerIdentity};
use unanimous_core::protocol::Heuristic;

pub(crate) fn encode(branches: &[BranchRecord]) -> String {
    let line = |branch: &BranchRecord| {
        let (identity, evidence) = (branch.identity.as_str(), branch.evidence.as_str());
        format!("{}\t{identity}\t{evidence}\n", branch.resource)
    };
    branches.iter().map(line).collect()
}

/// `None` if it is not exactly such a text.
pub(crate) fn decode(text: &str) -> Option<Vec<BranchRecord>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let lines = text.strip_suffix('\n')?.split('\n');
    lines.map(decode_line).collect()
}

fn decode_line(line: &str) -> Option<BranchRecord> {
    let mut fields = line.split('\t');
    let (resource, identity, evidence) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    Some(BranchRecord {
        resource: resource.parse().ok()?,
        identity: ServerIdentity::new(identity)?,
        evidence: Evidence::new(evidence)?,
    })
}

pub(crate) const fn letter_of(heuristic: Heuristic) -> char {
    match heuristic {
        Heuristic::Commit => 'c',
        Heuristic::Rollback => 'r',
        Heuristic::Mixed => 'm',
        Heuristic::Hazard => 'h',
    }
}

pub(crate) const fn end_of(letter: char) -> Option<Heuristic> {
    match letter {
        'c' => Some(Heuristic::Commit),
        'r' => Some(Heuristic::Rollback),
        'm' => Some(Heuristic::Mixed),
        'h' => Some(Heuristic::Hazard),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(resource: &str, identity: &str, evidence: &str) -> BranchRecord {
        BranchRecord {
            resource: resource.parse().unwrap(),
            identity: ServerIdentity::new(identity).unwrap(),
            evidence: Evidence::new(evidence).unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let one = record("orders", "7/1/shop", "xid8=9 pid=4");
        for branches in [
            vec![],
            vec![one.clone()],
            vec![one, record("ledger", "", "'\\ \"")],
        ] {
            assert_eq!(decode(&encode(&branches)), Some(branches));
        }
        let text = encode(&[record("orders", "a", "b"), record("ledger", "c", "")]);
        assert_eq!(text, "orders\ta\tb\nledger\tc\t\n");
    }

    #[test]
    fn what_was_not_written_here_is_not_read() {
        for text in [
            "\n",
            "orders\ta\tb",
            "orders\ta\n",
            "orders\ta\tb\tc\n",
            "\ta\tb\n",
            "orders\ta\tb\n\n",
            "orders\tä\tb\n",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
