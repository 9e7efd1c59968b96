//! Prepared transactions of other managers, decoded for display where their format is known. Only
//! for people: whatever is decoded here stays foreign, and is never touched (I4).
//!
//! Formats, as the sources of those projects write them:
//! * pgjdbc puts an XID into PostgreSQL's GID as `formatId_base64(gtrid)_base64(bqual)`
//!   (`pgjdbc/pgjdbc`, `org/postgresql/xa/RecoveredXid.java`, `xidToString`). MySQL and MariaDB
//!   hold the three parts as they are.
//! * Narayana (JBoss, WildFly, Quarkus): format ids 131072 to 131074, 131077 and 131080; the gtrid
//!   is a `Uid` of 28 bytes (address in two, process, start and count, big endian), followed by
//!   the name of the node; printed in hexadecimal with colons (`jbosstm/narayana`,
//!   `FormatConstants.java`, `XATxConverter.java`, `Uid.java`, `stringForm`).
//! * Atomikos: format id 1096044365 (`ATOM`), both parts are text; the bqual begins with the name
//!   of the resource (`atomikos/transactions-essentials`, `com/atomikos/datasource/xa/XID.java`).
//! * Bitronix (BTM): format id 1114926712 (`Btnx`); each part is the id of the server, then
//!   milliseconds since 1970 in 8 bytes and a sequence number in 4, big endian (`bitronix/btm`,
//!   `BitronixXid.java`, `utils/UidGenerator.java`).
//! * Seata: format id 9752; the gtrid is `address:port:transaction`, the bqual `-branch`
//!   (`apache/incubator-seata`, `io/seata/rm/datasource/xa/XABranchXid.java`).

use std::fmt::Write as _;

/// A foreign XID that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decoded {
    /// The manager that made it, as far as the format id tells.
    manager: Option<&'static str>,
    format_id: i64,
    /// The same for all branches of a transaction.
    pub(super) gtrid: String,
    bqual: String,
}

impl Decoded {
    /// One line for a person.
    pub(super) fn describe(&self) -> String {
        let manager = match self.manager {
            Some(manager) => manager.to_owned(),
            None => format!("format id {}", self.format_id),
        };
        format!("{manager}: {} / {}", self.gtrid, self.bqual)
    }
}

/// Reads a foreign text as the adapters show it. Nothing if it is of no known form.
pub(super) fn decode(text: &str) -> Option<Decoded> {
    let (format_id, gtrid, bqual) = of_pgjdbc(text).or_else(|| of_literal(text))?;
    let (manager, gtrid, bqual) = match format_id {
        131_072..=131_074 | 131_077 | 131_080 => {
            (Some("Narayana"), narayana(&gtrid), narayana(&bqual))
        }
        0x4154_4F4D => (Some("Atomikos"), None, None),
        0x4274_6E78 => (Some("Bitronix"), bitronix(&gtrid), bitronix(&bqual)),
        9752 => (Some("Seata"), None, None),
        _ => (None, None, None),
    }
    .or_plain(&gtrid, &bqual);
    Some(Decoded {
        manager,
        format_id,
        gtrid,
        bqual,
    })
}

type Parts<T> = (Option<&'static str>, T, T);

trait OrPlain {
    fn or_plain(self, gtrid: &[u8], bqual: &[u8]) -> Parts<String>;
}

impl OrPlain for Parts<Option<String>> {
    fn or_plain(self, gtrid: &[u8], bqual: &[u8]) -> Parts<String> {
        let (manager, read_gtrid, read_bqual) = self;
        (
            manager,
            read_gtrid.unwrap_or_else(|| plain(gtrid)),
            read_bqual.unwrap_or_else(|| plain(bqual)),
        )
    }
}

/// Printable text as it is, everything else in hexadecimal.
fn plain(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => hexadecimal(bytes),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = "0x".to_owned();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn of_pgjdbc(text: &str) -> Option<(i64, Vec<u8>, Vec<u8>)> {
    let (format_id, rest) = text.split_once('_')?;
    let (gtrid, bqual) = rest.rsplit_once('_')?;
    let format_id: i32 = format_id.parse().ok()?;
    Some((format_id.into(), base64(gtrid)?, base64(bqual)?))
}

/// `'gtrid','bqual',1` or `X'00',X'01',1`.
fn of_literal(text: &str) -> Option<(i64, Vec<u8>, Vec<u8>)> {
    let (parts, format_id) = text.rsplit_once(',')?;
    let parts = parts.strip_suffix('\'')?;
    let (gtrid, bqual) = match parts.strip_prefix("X'") {
        Some(parts) => {
            let (gtrid, bqual) = parts.split_once("',X'")?;
            (from_hexadecimal(gtrid)?, from_hexadecimal(bqual)?)
        }
        None => {
            let (gtrid, bqual) = parts.strip_prefix('\'')?.split_once("','")?;
            (gtrid.as_bytes().to_vec(), bqual.as_bytes().to_vec())
        }
    };
    Some((format_id.parse().ok()?, gtrid, bqual))
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|digit| digit.to_digit(16));
    let digits: Vec<u32> = digits.collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).ok();
    pairs.map(byte).collect()
}

/// With padding, as pgjdbc writes it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let is_padded = text.len().is_multiple_of(4) && text.len() - digits.len() <= 2;
    if !is_padded {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// `Uid.stringForm`, and what follows it if that can be read.
fn narayana(part: &[u8]) -> Option<String> {
    let (address, rest) = part.split_first_chunk::<8>()?;
    let (host, rest) = rest.split_first_chunk::<8>()?;
    let (process, rest) = rest.split_first_chunk::<4>()?;
    let (start, rest) = rest.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let mut text = format!(
        "{:x}:{:x}:{:x}:{:x}:{:x}",
        u64::from_be_bytes(*address),
        u64::from_be_bytes(*host),
        u32::from_be_bytes(*process),
        u32::from_be_bytes(*start),
        u32::from_be_bytes(*count)
    );
    if let Ok(node) = std::str::from_utf8(rest)
        && !node.is_empty()
        && !node.chars().any(char::is_control)
    {
        let _ = write!(text, " node {node}");
    }
    Some(text)
}

fn bitronix(part: &[u8]) -> Option<String> {
    let (rest, sequence) = part.split_last_chunk::<4>()?;
    let (server, millis) = rest.split_last_chunk::<8>()?;
    let (sequence, millis) = (u32::from_be_bytes(*sequence), u64::from_be_bytes(*millis));
    Some(format!(
        "server {} at {millis} no. {sequence}",
        plain(server)
    ))
}

#[cfg(test)]
#[path = "foreign_test.rs"]
mod foreign_test;
