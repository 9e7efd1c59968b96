//! Names of other managers, as servers print them.

use super::*;

fn said(text: &str) -> Option<String> {
    decode(text).map(|decoded| decoded.describe())
}

fn literal(gtrid: &[u8], bqual: &[u8], format_id: i64) -> String {
    let hex = |bytes| hexadecimal(bytes).split_off(2);
    format!("X'{}',X'{}',{format_id}", hex(gtrid), hex(bqual))
}

#[test]
fn atomikos_is_read_from_both_kinds_of_server() {
    let atomikos = Some("Atomikos: 10.0.0.7.tm0000100012 / orders7".to_owned());
    let gid = "1096044365_MTAuMC4wLjcudG0wMDAwMTAwMDEy_b3JkZXJzNw==";
    assert_eq!(said(gid), atomikos);
    assert_eq!(
        said("'10.0.0.7.tm0000100012','orders7',1096044365"),
        atomikos
    );
    assert_eq!(decode(gid).unwrap().gtrid, "10.0.0.7.tm0000100012");
}

#[test]
fn narayana_is_printed_as_its_own_tools_print_it() {
    let mut gtrid = vec![
        0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 1,
    ];
    gtrid.extend([0, 0, 0x0d, 0x10, 0x5f, 0x3c, 0x8a, 0x01, 0, 0, 0, 0x2a]);
    let mut bqual = gtrid.clone();
    gtrid.extend(b"shop-1");
    bqual.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    let uid = "0:ffffffff7f000001:d10:5f3c8a01:2a";
    let expected = format!("Narayana: {uid} node shop-1 / {uid}");
    assert_eq!(said(&literal(&gtrid, &bqual, 131_077)), Some(expected));
    // Too short to be a Uid: shown as it is.
    let short = said(&literal(b"\x01", b"\x02", 131_077));
    assert_eq!(short.as_deref(), Some("Narayana: 0x01 / 0x02"));
}

#[test]
fn bitronix_and_seata_are_read() {
    let mut gtrid = b"shop".to_vec();
    gtrid.extend(1_700_000_000_123_u64.to_be_bytes());
    gtrid.extend(7_u32.to_be_bytes());
    let read = said(&literal(&gtrid, b"b", 0x4274_6e78));
    let expected = "Bitronix: server shop at 1700000000123 no. 7 / b";
    assert_eq!(read.as_deref(), Some(expected));
    let seata = said("'10.1.2.3:8091:27019012873','-27019012875',9752");
    let expected = "Seata: 10.1.2.3:8091:27019012873 / -27019012875";
    assert_eq!(seata.as_deref(), Some(expected));
}

#[test]
fn an_unknown_manager_is_told_by_its_format_id() {
    assert_eq!(
        said("'order 1','a',7").as_deref(),
        Some("format id 7: order 1 / a")
    );
    let odd = said(&literal(b"\x1b[2J", b"", 7));
    assert_eq!(odd.as_deref(), Some("format id 7: 0x1b5b324a / 0x"));
}

#[test]
fn what_is_no_xid_is_not_decoded() {
    for text in [
        "nightly import 7",
        "pg_gid_16400_740",
        "",
        "_",
        "__",
        "1_Z3RyaWQ_YnF1YWw",
        "1_Z3RyaWQ=",
        "99999999999_Z3RyaWQ=_YnF1YWw=",
        "1_Z3Ry!WQ=_YnF1YWw=",
        "'a','b','c'",
        "X'0',X'',1",
        "X'0g',X'',1",
        "a,b,1",
    ] {
        assert_eq!(said(text), None, "{text:?}");
    }
}
