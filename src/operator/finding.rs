//! What a check found, as it is told: the port's finding in a form that programs can read.

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{Finding, Severity};

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckedFinding {
    /// `note`, `warning` or `error`.
    #[serde(with = "severity")]
    pub severity: Severity,
    /// What it is about, such as the name of a setting. The same in every release.
    pub subject: String,
    /// What was seen, and what it leads to.
    pub evidence: String,
    /// The SQL or setting to paste, or what else to do. May have several lines.
    pub mend: String,
}

/// A severity as its word.
mod severity {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use unanimous_core::ports::Severity;

    const ALL: [Severity; 3] = [Severity::Note, Severity::Warning, Severity::Error];

    pub(super) fn serialize<S: Serializer>(severity: &Severity, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(severity.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Severity, D::Error> {
        let word = String::deserialize(from)?;
        let known = ALL.into_iter().find(|severity| severity.as_str() == word);
        known.ok_or_else(|| de::Error::unknown_variant(&word, &["note", "warning", "error"]))
    }
}

impl From<Finding> for CheckedFinding {
    fn from(finding: Finding) -> Self {
        Self {
            severity: finding.severity,
            subject: finding.subject,
            evidence: finding.evidence,
            mend: finding.mend,
        }
    }
}
