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

use unanimous_core::ports::XidOwner;
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

/// Whose the GID is, of which these are the bytes in hexadecimal. Nothing if they are not.
///
/// A foreign one is shown as it is if it is UTF-8, else as the literal that stands for it in the
/// database where it was prepared.
pub(crate) fn owner(hexadecimal: &str) -> Option<XidOwner> {
    let bytes = from_hex(hexadecimal)?;
    Some(match String::from_utf8(bytes) {
        Ok(text) => match Gid::parse(&text) {
            Some(xid) => XidOwner::Unanimous(xid),
            None => XidOwner::Foreign(text),
        },
        Err(other) => XidOwner::Foreign(literal(other.as_bytes())),
    })
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok())
        .collect()
}

fn literal(bytes: &[u8]) -> String {
    let mut text = "E'".to_owned();
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => text.push_str(&format!("\\x{byte:02x}")),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('\'');
    text
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
    fn the_bytes_of_a_gid_say_whose_it_is() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let foreign = |text: &str| Some(XidOwner::Foreign(text.to_owned()));
        let ours = Gid::of(&longest()).to_string();
        assert_eq!(
            owner(&hex(ours.as_bytes())),
            Some(XidOwner::Unanimous(longest()))
        );
        assert_eq!(owner(""), foreign(""));
        assert_eq!(owner(&hex("it's é".as_bytes())), foreign("it's é"));
        assert_eq!(
            owner(&hex(b"caf\xe9 '\\\n~")),
            foreign(r"E'caf\xe9 \x27\x5c\x0a~'")
        );
        for odd in ["0", "0g", "+1", "é"] {
            assert_eq!(owner(odd), None, "{odd:?}");
        }
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
