//! What a check of a server finds before anything is asked of it.
//!
//! A finding holds what a person needs to act: what is wrong, what was seen, and what to paste. No
//! text of it holds a secret (I8).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::ServerIdentity;

/// How much a finding matters. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works, but can hurt: locks that are held too long, losses in rare cases, no room.
    Warning,
    /// It cannot work, or an acknowledged transaction can be lost or split: the resource is not
    /// used until this is mended.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: the setting, privilege, version or table by its name on the server, such
    /// as `max_prepared_transactions`. The same for the same finding in every version of ours, so
    /// that programs can tell findings apart.
    pub subject: String,
    /// What was seen, and what it leads to.
    pub evidence: String,
    /// The SQL or setting to paste, or what else to do.
    pub mend: String,
}

impl Finding {
    /// A finding. `evidence` and `mend` hold no secret.
    pub fn new(
        severity: Severity,
        subject: impl Into<String>,
        evidence: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            subject: subject.into(),
            evidence: evidence.into(),
            mend: mend.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.evidence, self.mend)
    }
}

/// A server that has answered all questions of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// Product and version, for people: `PostgreSQL 18.6`.
    pub server: String,
    /// Which server it is. `None` only beside a finding of [`Severity::Error`].
    pub identity: Option<ServerIdentity>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// It takes no writes now, as a standby does while its primary is being replaced: that may pass
    /// by itself, so it counts as a server that is away, not as one that is unfit. One of the
    /// findings, an error, says so.
    pub is_read_only: bool,
}

impl Preflight {
    /// Sorts the findings, the worst first; those of one severity stay in their order.
    pub fn new(
        server: impl Into<String>,
        identity: Option<ServerIdentity>,
        mut findings: Vec<Finding>,
    ) -> Self {
        findings.sort_by_key(|finding| core::cmp::Reverse(finding.severity));
        Self {
            server: server.into(),
            identity,
            findings,
            is_read_only: false,
        }
    }

    /// The same of a server that takes no writes now.
    #[must_use]
    pub const fn read_only(mut self, is_read_only: bool) -> Self {
        self.is_read_only = is_read_only;
        self
    }

    /// May the server be used? Nothing was found that is an error.
    pub fn is_fit(&self) -> bool {
        self.errors().next().is_none()
    }

    /// The findings because of which the server is not used.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn finding(severity: Severity, subject: &str) -> Finding {
        Finding::new(severity, subject, "seen", "do")
    }

    #[test]
    fn the_worst_comes_first_and_errors_make_unfit() {
        let notes = [
            finding(Severity::Note, "a"),
            finding(Severity::Warning, "b"),
        ];
        let preflight = Preflight::new("x", None, notes.to_vec());
        assert_eq!(preflight.findings[0].subject, "b");
        assert!(preflight.is_fit());
        let all = [
            finding(Severity::Warning, "b"),
            finding(Severity::Error, "c"),
        ];
        let preflight = Preflight::new("x", None, all.to_vec());
        assert!(!preflight.is_fit());
        assert_eq!(preflight.findings[0].subject, "c");
    }
    #[test]
    fn a_finding_says_what_was_seen_and_what_to_do() {
        let finding = finding(Severity::Note, "max_prepared_transactions");
        let text = "max_prepared_transactions: seen; do";
        assert_eq!(finding.to_string(), text);
        for (severity, word) in [
            (Severity::Note, "note"),
            (Severity::Warning, "warning"),
            (Severity::Error, "error"),
        ] {
            assert_eq!(severity.to_string(), word);
        }
    }
}
