//! Identities: who made a transaction, and which branch of it this is.
//!
//! Everything here is printable ASCII, so that a person can read it in `pg_prepared_xacts` or
//! `XA RECOVER` and paste it into a client, and everything has exactly one text: parsing accepts
//! what [`Display`](fmt::Display) writes and nothing else (invariant I4).
//!
//! ```text
//! gtrid   <manager>-<epoch>-<nonce>-<sequence>      at most 62 bytes
//!         16 base32 decimal 13 base32 decimal
//! bqual   the resource's name                       at most 64 bytes
//! ```
//! Base32 is Crockford's alphabet in lower case; decimals have no leading zero.

use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;

/// The X/Open format id of every XID of ours: the ASCII bytes `UNAN`.
///
/// It fits MariaDB's limit of 2,147,483,647 (above it, MariaDB 10.11 and 11.8 answer error 1064).
pub const FORMAT_ID: u32 = 0x554E_414E;

/// The longest gtrid and the longest bqual that X/Open allows, in bytes.
pub const XID_PART_BYTES_MAX: usize = 64;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const MANAGER_CHARS: usize = 16;
const NONCE_CHARS: usize = 13;

/// The text is not one of ours. Holds no part of the text: it may be somebody else's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError(&'static str);

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a valid {}", self.0)
    }
}

impl core::error::Error for ParseIdError {}

/// Who made a transaction: 80 random bits, born with a decision log and stored in it.
///
/// Never taken from configuration: an old id with an empty log would roll back committed work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManagerId([u8; 10]);

impl ManagerId {
    /// Wraps 80 random bits.
    pub const fn from_bytes(bytes: [u8; 10]) -> Self {
        Self(bytes)
    }

    /// The bytes that [`from_bytes`](Self::from_bytes) took.
    pub const fn to_bytes(self) -> [u8; 10] {
        self.0
    }

    fn value(self) -> u128 {
        let mut bytes = [0; 16];
        bytes[6..].copy_from_slice(&self.0);
        u128::from_be_bytes(bytes)
    }
}

impl fmt::Display for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32(f, self.value(), MANAGER_CHARS)
    }
}

impl fmt::Debug for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManagerId({self})")
    }
}

impl FromStr for ManagerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let value = parse_base32(text, MANAGER_CHARS).ok_or(ParseIdError("manager id"))?;
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&value.to_be_bytes()[6..]);
        Ok(Self(bytes))
    }
}

/// Counts the openings of a log; rises with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One member's use of a log from its opening until its epoch is closed.
///
/// The random `nonce` tells apart two openings with the same epoch, which exist when a log was
/// restored from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opening {
    /// Whose log was opened.
    pub manager: ManagerId,
    /// The how-manieth opening it is.
    pub epoch: Epoch,
    /// 64 random bits.
    pub nonce: u64,
}

impl Opening {
    /// The id of the `sequence`-th transaction begun under this opening.
    pub const fn gtrid(self, sequence: u64) -> Gtrid {
        Gtrid {
            opening: self,
            sequence,
        }
    }
}

/// The global part of an XID: names one transaction, for ever and everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gtrid {
    /// The opening under which it was begun.
    pub opening: Opening,
    /// The how-manieth transaction of that opening it is.
    pub sequence: u64,
}

impl fmt::Display for Gtrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-", self.opening.manager, self.opening.epoch)?;
        write_base32(f, u128::from(self.opening.nonce), NONCE_CHARS)?;
        write!(f, "-{}", self.sequence)
    }
}

impl fmt::Debug for Gtrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gtrid({self})")
    }
}

impl FromStr for Gtrid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_gtrid(text).ok_or(ParseIdError("gtrid"))
    }
}

fn parse_gtrid(text: &str) -> Option<Gtrid> {
    let mut parts = text.split('-');
    let manager = parts.next()?.parse().ok()?;
    let epoch = Epoch(u32::try_from(parse_decimal(parts.next()?)?).ok()?);
    let nonce = u64::try_from(parse_base32(parts.next()?, NONCE_CHARS)?).ok()?;
    let sequence = parse_decimal(parts.next()?)?;
    match parts.next() {
        None => Some(
            Opening {
                manager,
                epoch,
                nonce,
            }
            .gtrid(sequence),
        ),
        Some(_) => None,
    }
}

/// The name by which an application knows one of its databases, and the bqual of its branches.
///
/// 1 to 64 of `A–Z a–z 0–9 _ -`, beginning with a letter. It is stored in the decision log: a
/// resource that is renamed while decisions are pending is one that the log does not know. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName(Arc<str>);

impl ResourceName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceName({})", self.0)
    }
}

impl FromStr for ResourceName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let valid = (1..=XID_PART_BYTES_MAX).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(ParseIdError(RESOURCE_NAME_RULE))
        }
    }
}

const RESOURCE_NAME_RULE: &str =
    "resource name: use 1 to 64 of A-Z a-z 0-9 _ -, beginning with a letter";

/// The names of one branch: the transaction it belongs to, and the resource it was begun at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xid {
    /// The global transaction.
    pub gtrid: Gtrid,
    /// The branch qualifier: the name of the resource at which the branch was begun.
    pub bqual: ResourceName,
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.gtrid, self.bqual)
    }
}

impl FromStr for Xid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (gtrid, bqual) = text.split_once(':').ok_or(ParseIdError("XID"))?;
        Ok(Self {
            gtrid: gtrid.parse()?,
            bqual: bqual.parse()?,
        })
    }
}

fn write_base32(f: &mut fmt::Formatter<'_>, value: u128, chars: usize) -> fmt::Result {
    for position in (0..chars).rev() {
        let digit = (value >> (5 * position)) & 31;
        fmt::Write::write_char(f, char::from(ALPHABET[digit as usize]))?;
    }
    Ok(())
}

fn parse_base32(text: &str, chars: usize) -> Option<u128> {
    if text.len() != chars {
        return None;
    }
    text.bytes().try_fold(0, |value: u128, byte| {
        let digit = ALPHABET.iter().position(|symbol| *symbol == byte)?;
        Some(value * 32 + digit as u128)
    })
}

/// Accepts only the text that `Display` would write: no sign, no leading zero.
fn parse_decimal(text: &str) -> Option<u64> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn gtrid(manager: [u8; 10], epoch: u32, nonce: u64, sequence: u64) -> Gtrid {
        let manager = ManagerId::from_bytes(manager);
        Opening {
            manager,
            epoch: Epoch(epoch),
            nonce,
        }
        .gtrid(sequence)
    }

    #[test]
    fn the_longest_gtrid_fits_an_xid() {
        let longest = gtrid([255; 10], u32::MAX, u64::MAX, u64::MAX).to_string();
        assert_eq!(
            longest,
            "zzzzzzzzzzzzzzzz-4294967295-fzzzzzzzzzzzz-18446744073709551615"
        );
        assert!(longest.len() <= XID_PART_BYTES_MAX);
    }

    #[test]
    fn only_the_canonical_text_is_parsed() {
        let canonical = "0000000000000001-7-000000000000z-42";
        assert_eq!(canonical.parse::<Gtrid>().unwrap().to_string(), canonical);
        for other in [
            "",
            "0000000000000001-7-000000000000z",
            "0000000000000001-7-000000000000z-42-",
            "0000000000000001-07-000000000000z-42",
            "0000000000000001-7-000000000000Z-42",
            "0000000000000001-7-000000000000z-+42",
            "0000000000000001-7-g000000000000-42",
            "0000000000000001-4294967296-000000000000z-42",
            "0000000000000001-7-000000000000z-18446744073709551616",
            " 0000000000000001-7-000000000000z-42",
        ] {
            assert!(other.parse::<Gtrid>().is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_resource_name_that_does_not_fit_an_xid_is_refused() {
        for name in ["", "1a", "a b", "a:b", "ä", &"a".repeat(65)] {
            assert!(name.parse::<ResourceName>().is_err(), "{name:?}");
        }
        for name in ["a", "Orders_2-eu", &"a".repeat(64)] {
            assert!(name.parse::<ResourceName>().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_manager_id_is_its_bytes_as_a_number_in_base_32() {
        let bytes = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34];
        let manager = ManagerId::from_bytes(bytes);
        assert_eq!(manager.to_bytes(), bytes);
        assert_eq!(manager.to_string(), "28t5cy4tqkff04hm");
        assert_eq!("28t5cy4tqkff04hm".parse(), Ok(manager));
    }

    #[test]
    fn an_xid_is_gtrid_and_name_with_a_colon_between() {
        let xid = Xid {
            gtrid: gtrid([0; 10], 7, 31, 42),
            bqual: "Orders_2-eu".parse().unwrap(),
        };
        let text = "0000000000000000-7-000000000000z-42:Orders_2-eu";
        assert_eq!(xid.to_string(), text);
        assert_eq!(text.parse(), Ok(xid));
        for other in [
            "0000000000000000-7-000000000000z-42",
            "0000000000000000-7-000000000000z-42:",
            "0000000000000000-7-000000000000z-42:Orders:eu",
            ":Orders_2-eu",
        ] {
            assert!(other.parse::<Xid>().is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_person_reads_the_same_text_in_debug_output() {
        let gtrid = gtrid([0; 10], 7, 31, 42);
        let text = "0000000000000000-7-000000000000z-42";
        assert_eq!(format!("{gtrid:?}"), format!("Gtrid({text})"));
        let manager = gtrid.opening.manager;
        assert_eq!(format!("{manager:?}"), "ManagerId(0000000000000000)");
        let name: ResourceName = "orders".parse().unwrap();
        assert_eq!(format!("{name:?} {name}"), "ResourceName(orders) orders");
        assert_eq!(name.as_str(), "orders");
    }

    #[test]
    fn what_is_no_id_is_told_by_kind_and_not_repeated() {
        let told = |error: ParseIdError| error.to_string();
        let secret = "hunter2-1";
        let gtrid = secret.parse::<Gtrid>().map_err(told);
        assert_eq!(gtrid, Err("not a valid gtrid".into()));
        let manager = secret.parse::<ManagerId>().map_err(told);
        assert_eq!(manager, Err("not a valid manager id".into()));
        let xid = secret.parse::<Xid>().map_err(told);
        assert_eq!(xid, Err("not a valid XID".into()));
        let name = "2 names".parse::<ResourceName>().unwrap_err().to_string();
        assert!(
            name.contains("1 to 64") && !name.contains("2 names"),
            "{name}"
        );
    }

    proptest! {
        #[test]
        fn every_gtrid_is_parsed_back(m: [u8; 10], epoch: u32, nonce: u64, sequence: u64) {
            let id = gtrid(m, epoch, nonce, sequence);
            prop_assert_eq!(id.to_string().parse::<Gtrid>(), Ok(id));
        }

        #[test]
        fn whatever_is_parsed_has_one_text(text in "[0-9a-hA-H-]{30,64}") {
            if let Ok(id) = text.parse::<Gtrid>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
