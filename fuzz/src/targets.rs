//! The fuzz targets: every reader of bytes that others have written. Each takes any bytes and
//! panics if a promise is broken: whatever is parsed prints back the same, and nothing panics by
//! itself.
//!
//! Used twice: by libFuzzer (`cargo xtask fuzz`), and by `tests/offline/fuzzing.rs`, which replays
//! `fuzz/corpus` and changed copies of it with nothing but a stable compiler.

use std::fmt::Display;
use std::str::FromStr;

use unanimous::fuzzing;
use unanimous_core::ports::XidOwner;
use unanimous_core::xid::{Gtrid, ManagerId, ResourceName, Xid};

use gid::Gid;
use xa_xid::ListedXid;

// They are private to their crates, and use nothing but the core.
#[path = "../../adapters/postgres/src/gid.rs"]
mod gid;
#[path = "../../adapters/mysql/src/xid.rs"]
mod xa_xid;

/// A name, which is that of a folder in `fuzz/corpus`, and what takes the bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them, by their names.
pub(crate) const TARGETS: [Target; 8] = [
    ("config", fuzzing::config),
    ("control", fuzzing::control),
    ("gid", gid_text),
    ("identity", fuzzing::identity),
    ("record", fuzzing::record),
    ("segment", fuzzing::segment),
    ("xa_row", xa_row),
    ("xid", xid_text),
];

/// A GID of PostgreSQL.
fn gid_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(xid) = Gid::parse(text) {
        let gid = Gid::of(&xid).to_string();
        assert_eq!(gid, text);
        assert!(gid.len() < 200);
    }
    // The same text with our prefix: more of it gets as far as the XID.
    let ours = format!("unanimous:{text}");
    if let Some(xid) = Gid::parse(&ours) {
        assert_eq!(Gid::of(&xid).to_string(), ours);
        assert_eq!(text.parse(), Ok(xid));
    }
}

/// The texts of identities.
fn xid_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    prints_back::<Xid>(text);
    prints_back::<Gtrid>(text);
    prints_back::<ManagerId>(text);
    prints_back::<ResourceName>(text);
    if let Ok(xid) = text.parse::<Xid>() {
        assert!(xid.gtrid.to_string().len() <= 64 && xid.bqual.as_str().len() <= 64);
        assert_eq!(format!("{}:{}", xid.gtrid, xid.bqual), text);
    }
}

fn prints_back<T: FromStr + Display>(text: &str) {
    if let Ok(parsed) = text.parse::<T>() {
        assert_eq!(parsed.to_string(), text);
    }
}

/// A row of `XA RECOVER`: format id, two lengths, bytes.
fn xa_row(bytes: &[u8]) {
    converted(bytes);
    let Some((head, data)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    let format_id = i64::from(i32::from_le_bytes([head[0], head[1], head[2], head[3]]));
    let [gtrid_len, bqual_len] = [head[4], head[5]].map(|len| i64::from(len.cast_signed()));
    let is_whole = gtrid_len >= 0 && bqual_len >= 0 && gtrid_len + bqual_len == data.len() as i64;
    let (gtrid, bqual) = data.split_at(if is_whole {
        gtrid_len as usize
    } else {
        data.len()
    });
    let listed = ListedXid {
        format_id,
        gtrid_len,
        bqual_len,
        data: data.to_vec(),
    };
    match xa_xid::owner(&listed) {
        XidOwner::Unanimous(xid) => {
            assert!(is_whole, "I4: lengths that do not fit");
            assert_eq!(xid.gtrid.to_string().as_bytes(), gtrid);
            assert_eq!(xid.bqual.as_str().as_bytes(), bqual);
            let literal = xa_xid::literal(&xid);
            assert_eq!(
                parse_literal(&literal),
                (gtrid.into(), bqual.into(), format_id)
            );
        }
        XidOwner::Foreign(shown) => {
            assert_eq!(
                parse_literal(&shown),
                (gtrid.into(), bqual.into(), format_id)
            );
        }
    }
}

/// What is shown under `CONVERT XID`.
fn converted(bytes: &[u8]) {
    let text: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    let text = format!("0x{text}");
    let decoded = xa_xid::from_converted(text.as_bytes());
    assert_eq!(decoded.as_deref(), Some(bytes));
    if let Some(decoded) = xa_xid::from_converted(bytes) {
        let text: String = decoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("0x{text}").as_bytes(), bytes.to_ascii_lowercase());
    }
}

/// As a server reads `'gtrid','bqual',format` and `X'67',X'62',format`.
fn parse_literal(text: &str) -> (Vec<u8>, Vec<u8>, i64) {
    let (parts, format_id) = text.rsplit_once(',').expect("three parts");
    let parts = parts.strip_suffix('\'').expect("quoted");
    let (hexadecimal, parts) = match parts.strip_prefix("X'") {
        Some(parts) => (true, parts),
        None => (false, parts.strip_prefix('\'').expect("quoted")),
    };
    let between = if hexadecimal { "',X'" } else { "','" };
    let (gtrid, bqual) = parts.split_once(between).expect("two texts");
    let bytes = |text: &str| match hexadecimal {
        true => xa_xid::from_converted(format!("0x{text}").as_bytes()).expect("digits"),
        false => {
            assert!(!text.contains(['\'', '\\']), "it can be pasted");
            text.into()
        }
    };
    (
        bytes(gtrid),
        bytes(bqual),
        format_id.parse().expect("a number"),
    )
}
