//! XIDs as the servers write and read them.
//!
//! * [`literal`] is what goes into a statement: hexadecimal, so that nothing can be injected and no
//!   character set, SQL mode or quoting rule matters.
//! * [`owner`] reads what `XA RECOVER` lists. It is exact and total: a row is ours only if format
//!   id, lengths and both texts are those that we would have written (I4); everything else is
//!   foreign and is shown as the literal that a person can paste into a client.

use std::fmt::Write as _;

use unanimous_core::ports::XidOwner;
use unanimous_core::xid::{FORMAT_ID, ResourceName, Xid};

/// The XID as `XA START`, `XA COMMIT` and so on take it on both servers.
pub(crate) fn literal(xid: &Xid) -> String {
    let gtrid = xid.gtrid.to_string();
    hexadecimal(
        gtrid.as_bytes(),
        xid.bqual.as_str().as_bytes(),
        i64::from(FORMAT_ID),
    )
}

/// One row of `XA RECOVER`: `data` is the gtrid directly followed by the bqual, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedXid {
    pub(crate) format_id: i64,
    pub(crate) gtrid_len: i64,
    pub(crate) bqual_len: i64,
    pub(crate) data: Vec<u8>,
}

/// Whose the listed XID is.
pub(crate) fn owner(listed: &ListedXid) -> XidOwner {
    match split(listed) {
        Some((gtrid, bqual)) => match ours(listed.format_id, gtrid, bqual) {
            Some(xid) => XidOwner::Unanimous(xid),
            None => XidOwner::Foreign(foreign(gtrid, bqual, listed.format_id)),
        },
        // No server lists lengths that do not fit its bytes; if one does, nothing is ours.
        None => XidOwner::Foreign(foreign(&listed.data, b"", listed.format_id)),
    }
}

/// Decodes what MySQL prints under `XA RECOVER CONVERT XID`: `0x` and two digits for each byte.
pub(crate) fn from_converted(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(b"0x")?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| Some(nibble(pair[0])? * 16 + nibble(pair[1])?))
        .collect()
}

fn nibble(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

fn split(listed: &ListedXid) -> Option<(&[u8], &[u8])> {
    let gtrid_len = usize::try_from(listed.gtrid_len).ok()?;
    let bqual_len = usize::try_from(listed.bqual_len).ok()?;
    let fits = gtrid_len.checked_add(bqual_len)? == listed.data.len();
    fits.then(|| listed.data.split_at(gtrid_len))
}

fn ours(format_id: i64, gtrid: &[u8], bqual: &[u8]) -> Option<Xid> {
    if format_id != i64::from(FORMAT_ID) {
        return None;
    }
    let gtrid = std::str::from_utf8(gtrid).ok()?.parse().ok()?;
    let bqual = std::str::from_utf8(bqual)
        .ok()?
        .parse::<ResourceName>()
        .ok()?;
    Some(Xid { gtrid, bqual })
}

/// Quoted text where that is exact on both servers under every SQL mode, hexadecimal else.
fn foreign(gtrid: &[u8], bqual: &[u8], format_id: i64) -> String {
    let is_plain = |part: &[u8]| {
        part.iter()
            .all(|byte| (b' '..0x7f).contains(byte) && !matches!(byte, b'\'' | b'\\'))
    };
    match (std::str::from_utf8(gtrid), std::str::from_utf8(bqual)) {
        (Ok(gtrid), Ok(bqual)) if is_plain(gtrid.as_bytes()) && is_plain(bqual.as_bytes()) => {
            format!("'{gtrid}','{bqual}',{format_id}")
        }
        _ => hexadecimal(gtrid, bqual, format_id),
    }
}

fn hexadecimal(gtrid: &[u8], bqual: &[u8], format_id: i64) -> String {
    let mut text = String::with_capacity(2 * (gtrid.len() + bqual.len()) + 24);
    text.push_str("X'");
    push_hex(&mut text, gtrid);
    text.push_str("',X'");
    push_hex(&mut text, bqual);
    // Writing to a string cannot fail.
    let _ = write!(text, "',{format_id}");
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GTRID: &str = "0000000000000001-7-000000000000z-42";

    fn xid() -> Xid {
        Xid {
            gtrid: GTRID.parse().unwrap(),
            bqual: "ledger".parse().unwrap(),
        }
    }

    fn listed(format_id: i64, gtrid: &[u8], bqual: &[u8]) -> ListedXid {
        ListedXid {
            format_id,
            gtrid_len: gtrid.len() as i64,
            bqual_len: bqual.len() as i64,
            data: [gtrid, bqual].concat(),
        }
    }

    #[test]
    fn an_xid_is_written_in_hexadecimal_with_our_format_id() {
        let gtrid = "303030303030303030303030303030312d372d3030303030303030303030307a2d3432";
        assert_eq!(
            literal(&xid()),
            format!("X'{gtrid}',X'6c6564676572',1431191886")
        );
    }

    #[test]
    fn what_is_listed_for_an_xid_of_ours_is_parsed_back() {
        let row = listed(i64::from(FORMAT_ID), GTRID.as_bytes(), b"ledger");
        assert_eq!(owner(&row), XidOwner::Unanimous(xid()));
    }

    #[test]
    fn i4_whatever_differs_in_one_detail_is_foreign() {
        let ours = i64::from(FORMAT_ID);
        let wrapped = ours + (1 << 32);
        for row in [
            listed(1, GTRID.as_bytes(), b"ledger"),
            listed(wrapped, GTRID.as_bytes(), b"ledger"),
            listed(ours, GTRID.as_bytes(), b""),
            listed(ours, GTRID.as_bytes(), b"led ger"),
            listed(ours, format!("{GTRID}-").as_bytes(), b"ledger"),
            listed(ours, &GTRID.as_bytes()[1..], b"ledger"),
            listed(ours, GTRID.to_uppercase().as_bytes(), b"ledger"),
            ListedXid {
                gtrid_len: 34,
                ..listed(ours, GTRID.as_bytes(), b"ledger")
            },
            ListedXid {
                gtrid_len: -1,
                ..listed(ours, GTRID.as_bytes(), b"ledger")
            },
            ListedXid {
                bqual_len: 7,
                ..listed(ours, GTRID.as_bytes(), b"ledger")
            },
        ] {
            assert!(matches!(owner(&row), XidOwner::Foreign(_)), "{row:?}");
        }
    }

    #[test]
    fn a_foreign_xid_is_shown_as_a_literal_that_can_be_pasted() {
        let shown = |gtrid: &[u8], bqual: &[u8]| owner(&listed(7, gtrid, bqual));
        let foreign = |text: &str| XidOwner::Foreign(text.to_owned());
        assert_eq!(shown(b"order 1", b"a"), foreign("'order 1','a',7"));
        assert_eq!(shown(b"\x00\xff", b""), foreign("X'00ff',X'',7"));
        assert_eq!(shown(b"it's", b"b"), foreign("X'69742773',X'62',7"));
        assert_eq!(
            shown(b"back\\slash", b""),
            foreign("X'6261636b5c736c617368',X'',7")
        );
    }

    #[test]
    fn mysqls_converted_xids_are_decoded_and_nothing_else_is() {
        assert_eq!(from_converted(b"0x00fF1a"), Some(vec![0x00, 0xff, 0x1a]));
        assert_eq!(from_converted(b"0x"), Some(Vec::new()));
        for other in [&b"00ff"[..], b"0x0", b"0x0g", b"", b"0x+1"] {
            assert_eq!(from_converted(other), None);
        }
    }
}
