//! The text by which PostgreSQL knows a prepared branch: its GID.
//!
//! ```text
//! unanimous:<gtrid>:<bqual>        at most 137 bytes
//! ```
//! Invariants:
//! * I4: exactly one text per XID, and nothing but that text is parsed; a prefix is not enough.
//! * Less than 200 *bytes* (200 is refused with SQLSTATE 22023) and only `[A-Za-z0-9_:-]`: a
//!   GID cannot be a parameter, and a backslash in a literal means something else when
//!   `standard_conforming_strings` is off.

use std::fmt;

use unanimous_core::xid::Xid;

const PREFIX: &str = "unanimous:";

/// The text of one branch's XID in `PREPARE TRANSACTION`. Safe inside a quoted SQL literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gid(String);

impl Gid {
    /// The GID of a branch.
    pub(crate) fn of(xid: &Xid) -> Self {
        let text = format!("{PREFIX}{xid}");
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"_:-".contains(&b);
        debug_assert!(
            text.len() < 200 && text.bytes().all(harmless),
            "an XID is short and printable"
        );
        Self(text)
    }

    /// The XID, if `text` is exactly what [`of`](Self::of) writes for it.
    pub(crate) fn parse(text: &str) -> Option<Xid> {
        text.strip_prefix(PREFIX)?.parse().ok()
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::xid::{Epoch, ManagerId, Opening};

    fn longest() -> Xid {
        let opening = Opening {
            manager: ManagerId::from_bytes([255; 10]),
            epoch: Epoch(u32::MAX),
            nonce: u64::MAX,
        };
        Xid {
            gtrid: opening.gtrid(u64::MAX),
            bqual: "x".repeat(64).parse().unwrap(),
        }
    }

    #[test]
    fn the_longest_gid_fits_and_is_parsed_back() {
        let text = Gid::of(&longest()).to_string();
        assert_eq!(text.len(), 137);
        assert_eq!(Gid::parse(&text), Some(longest()));
    }

    #[test]
    fn i4_only_the_exact_text_is_ours() {
        let text = Gid::of(&longest()).to_string();
        for other in [
            text.to_uppercase(),
            format!(" {text}"),
            format!("{text} "),
            format!("{text}:"),
            format!("{text}-"),
            text.replace("unanimous:", "unanimous"),
            text.replace("unanimous:", ""),
            text.replace(":x", ":1"),
            "unanimous:".to_owned(),
            "unanimous:orders".to_owned(),
            String::new(),
            "1096044365_Z3RyaWQ=_YnF1YWw=".to_owned(),
            "pg_gid_16400_740".to_owned(),
        ] {
            assert_eq!(Gid::parse(&other), None, "{other:?}");
        }
    }
}
