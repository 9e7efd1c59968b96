//! The evidence that is stored with a decision: by what a branch can be recognised once it is no
//! longer listed.
//!
//! ```text
//! xid8=<transaction> pid=<backend> since=<its start> server=<the server's start>
//! ```
//! Times are microseconds since 1970. Parsed exactly as it was written, at most 109 bytes.

use unanimous_core::ports::Evidence;

use crate::session::{Backend, Facts};

/// What an [`Evidence`] of this adapter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The number of the transaction: 64 bits, never used again in the life of a database cluster.
    pub(crate) xid8: u64,
    /// The process that prepared it.
    pub(crate) backend: Backend,
}

/// Writes the evidence of a prepared branch.
pub(crate) fn evidence(xid8: u64, facts: &Facts) -> Option<Evidence> {
    let Backend { pid, start } = facts.backend;
    let server = facts.server_start;
    Evidence::new(format!(
        "xid8={xid8} pid={pid} since={start} server={server}"
    ))
}

impl Trace {
    /// Reads what [`evidence`] wrote.
    pub(crate) fn read(evidence: &Evidence) -> Option<Self> {
        let mut fields = evidence.as_str().split(' ');
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let trace = Self {
            xid8: field("xid8")?.parse().ok()?,
            backend: Backend {
                pid: field("pid")?.parse().ok()?,
                start: field("since")?.parse().ok()?,
            },
        };
        // When the server was started: for people.
        let _: i64 = field("server")?.parse().ok()?;
        fields.next().is_none().then_some(trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::ports::ServerIdentity;

    #[test]
    fn the_longest_evidence_is_read_back() {
        let facts = Facts {
            identity: ServerIdentity::new("pg:1:00000001:5").unwrap(),
            server_start: i64::MIN,
            backend: Backend {
                pid: i32::MIN,
                start: i64::MIN,
            },
        };
        let evidence = evidence(u64::MAX, &facts).unwrap();
        let trace = Trace::read(&evidence).unwrap();
        assert_eq!((trace.xid8, trace.backend), (u64::MAX, facts.backend));
    }

    #[test]
    fn anything_else_is_no_evidence() {
        for text in [
            "",
            "xid8=1",
            "xid8=1 pid=2 since=3 server=4 more=5",
            "pid=2 xid8=1 since=3 server=4",
            "xid8=x pid=2 since=3 server=4",
        ] {
            assert_eq!(Trace::read(&Evidence::new(text).unwrap()), None, "{text}");
        }
    }
}
