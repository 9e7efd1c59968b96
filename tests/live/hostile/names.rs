//! What others prepare: the names that transaction managers in the field give, names that are ours
//! but for one detail, and names that would break whoever pastes them into SQL.
//!
//! Each pattern takes a number, so that there are as many names of it as are wanted.

/// Whose a name is, by the rules of [`unanimous::ports::XidOwner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// Nobody's of ours.
    Foreign,
    /// Another log's.
    OtherManager,
    /// Of our manager, and of an opening that its log does not list.
    Unlisted,
}

/// What the others come close to: a branch of ours that is in doubt, and ids of ours that name no
/// transaction which is or was.
#[derive(Debug, Clone)]
pub(super) struct Near {
    in_doubt: String,
    manager: String,
    epoch: String,
    nonce: String,
}

impl Near {
    pub(super) fn to(gtrid: unanimous::Gtrid) -> Self {
        let text = gtrid.to_string();
        let parts: Vec<&str> = text.split('-').collect();
        let [manager, epoch, nonce, _] = parts[..] else {
            panic!("a gtrid has four parts: {text}")
        };
        let [manager, epoch, nonce] = [manager, epoch, nonce].map(str::to_owned);
        Self {
            in_doubt: text.clone(),
            manager,
            epoch,
            nonce,
        }
    }

    fn gtrid(&self, number: usize) -> String {
        let Self {
            manager,
            epoch,
            nonce,
            ..
        } = self;
        format!("{manager}-{epoch}-{nonce}-{}", 1_000_000 + number)
    }

    /// Parses as one of ours, and is another log's or of an opening that ours does not list.
    fn of_others(&self, number: usize) -> [(Whose, String); 3] {
        let Self {
            manager,
            epoch,
            nonce,
            ..
        } = self;
        let turned: String = manager.chars().rev().collect();
        let other = if turned == *manager {
            "0123456789abcdef".to_owned()
        } else {
            turned
        };
        let nonce_of_another = if nonce.starts_with('0') {
            nonce.replacen('0', "1", 1)
        } else {
            format!("0{}", &nonce[1..])
        };
        [
            (
                Whose::OtherManager,
                format!("{other}-{epoch}-{nonce}-{number}"),
            ),
            (
                Whose::Unlisted,
                format!("{manager}-{epoch}-{nonce_of_another}-{number}"),
            ),
            (
                Whose::Unlisted,
                format!("{manager}-4294967295-{nonce}-{number}"),
            ),
        ]
    }

    /// Ours but for one detail.
    fn all_but(&self, number: usize) -> Vec<String> {
        let Self {
            manager,
            epoch,
            nonce,
            ..
        } = self;
        let last = 1_000_000 + number;
        let gtrid = self.gtrid(number);
        let arabic = gtrid.replace('1', "\u{661}");
        vec![
            manager.clone() + &format!("-{last}"),
            format!("{}-{epoch}-{nonce}-{last}", manager.to_uppercase()),
            format!("{manager}-{epoch}-{}-{last}", nonce.to_uppercase()),
            format!("{manager}-0{epoch}-{nonce}-{last}"),
            format!("{manager}-x{epoch}-{nonce}-{last}"),
            format!("{manager}--{epoch}-{nonce}-{last}"),
            format!("{manager}-4294967296-{nonce}-{last}"),
            format!("{manager}-{epoch}-{}-{last}", &nonce[1..]),
            format!("{manager}-{epoch}-0{nonce}-{last}"),
            format!("{manager}-{epoch}-z{}-{last}", &nonce[1..]),
            format!("{manager}-{epoch}-{nonce}-0{last}"),
            format!("{manager}-{epoch}-{nonce}-+{last}"),
            format!("{manager}-{epoch}-{nonce}-{last}-1"),
            format!("{manager}_{epoch}_{nonce}_{last}"),
            format!("{manager}-{epoch}-{nonce}-99999999999999999999{number}"),
            format!(" {gtrid}"),
            format!("{gtrid} "),
            format!("{gtrid}\n"),
            format!("{gtrid}'"),
            arabic,
        ]
    }
}

/// GIDs of PostgreSQL: text of less than 200 bytes.
pub(super) fn gids(near: &Near, count: usize) -> Vec<(Whose, String)> {
    let round = |number: usize| {
        let foreign = |text: String| (Whose::Foreign, text);
        let gtrid = near.gtrid(number);
        let mut names = of_other_managers(number);
        names.extend(that_break_sql(number));
        names.extend(
            near.all_but(number)
                .into_iter()
                .map(|gtrid| format!("unanimous:{gtrid}:orders")),
        );
        names.extend([
            format!("unanimous:{number}"),
            format!("Unanimous:{gtrid}:orders"),
            format!("unanimous {gtrid}:orders"),
            format!("xunanimous:{gtrid}:orders"),
            format!("unanimous:unanimous:{gtrid}:orders"),
            format!("unanimous::{gtrid}:orders"),
            format!("unanimous:{gtrid}"),
            format!("unanimous:{gtrid}:"),
            format!("unanimous:{gtrid}:1orders"),
            format!("unanimous:{gtrid}:orders "),
            format!("unanimous:{gtrid}:orders:"),
            format!("unanimous:{gtrid}:orders:x"),
            format!("unanimous:{gtrid}:or\u{301}ders"),
            format!("unanimous:{gtrid}:{}", "x".repeat(65)),
            format!("unanimous:{gtrid}:orders'; ROLLBACK PREPARED 'x"),
            format!("{gtrid}:orders"),
        ]);
        let ours = near.of_others(number);
        let ours = ours.map(|(whose, gtrid)| (whose, format!("unanimous:{gtrid}:orders")));
        names.into_iter().map(foreign).chain(ours)
    };
    let in_doubt = &near.in_doubt;
    let once = [
        String::new(),
        format!("unanimous:{in_doubt}:orders "),
        format!("UNANIMOUS:{in_doubt}:orders"),
        format!("unanimous:{in_doubt}:orders:"),
        format!("unanimous:{in_doubt}"),
    ];
    let once = once.into_iter().map(|gid| (Whose::Foreign, gid));
    once.chain((1..).flat_map(round)).take(count).collect()
}

fn of_other_managers(number: usize) -> Vec<String> {
    vec![
        // pgjdbc's form, with the format ids of Narayana, Atomikos, Bitronix and Seata.
        format!("131077_AAAAAAAAAAAAAP//fwABAQAA{number:06}AAAABTE=_AAAAAAAAAAAAAP//fwABAQAA"),
        format!("1096044365_MTI3LjAuMS4xLnRtMDAwMDEwMDAwMQ{number:04}==_MTI3LjAuMS4xLnRtMQ=="),
        format!("1114926712_Zm9vAAABX{number:06}AAAB_Zm9vAAABXQAAAA=="),
        format!("9752_MTkyLjE2OC4wLjE6ODA5MToyMDA3{number:06}_LTIwMDcwMDAwMDA="),
        format!("-1_Z3RyaWQ{number:05}_"),
        format!("citus_0_4711_{number}_0"),
        format!("citus_22_{number}_18446744073709551615_4"),
        format!("pg_gid_16400_{number}"),
        format!("backup {number}, by hand"),
        format!("{number}"),
    ]
}

fn that_break_sql(number: usize) -> Vec<String> {
    vec![
        format!("it's {number}"),
        format!("'{number}'"),
        format!("''''''{number}"),
        format!("\"{number}\""),
        format!("back\\slash\\'{number}\\"),
        format!("{number}'; DROP TABLE others; --"),
        format!("{number};DROP TABLE others"),
        format!("$$ {number} $1 %s {{}} ?"),
        format!("{number}\r\n\t\u{1b}[2J\u{7}"),
        format!("{number} /* -- \u{2028}\u{202e}"),
        format!("приказ {number} 注文 🦀 é"),
        format!("{number:0>199}"),
        format!("{}{number}", "ü".repeat(95)),
    ]
}

/// An XID of MySQL and MariaDB.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OtherXid {
    pub(super) format_id: i64,
    pub(super) gtrid: Vec<u8>,
    pub(super) bqual: Vec<u8>,
}

impl OtherXid {
    fn new(format_id: i64, gtrid: impl AsRef<[u8]>, bqual: impl AsRef<[u8]>) -> Self {
        Self {
            format_id,
            gtrid: gtrid.as_ref().to_vec(),
            bqual: bqual.as_ref().to_vec(),
        }
    }

    pub(super) fn literal(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let (gtrid, bqual) = (hex(&self.gtrid), hex(&self.bqual));
        format!("X'{gtrid}',X'{bqual}',{}", self.format_id)
    }
}

/// Our format id.
const OURS: i64 = 0x554E_414E;

/// XIDs of MySQL and MariaDB: any 64 and 64 bytes, and a format id.
pub(super) fn xids(near: &Near, count: usize) -> Vec<(Whose, OtherXid)> {
    let round = |number: usize| {
        let tail = u32::try_from(number).unwrap().to_be_bytes();
        let (gtrid, text) = (near.gtrid(number), number.to_string());
        let binary: Vec<u8> = (0..60_u8).map(|i| i.wrapping_mul(37)).chain(tail).collect();
        let filled = |byte: u8| [vec![byte; 60], tail.to_vec()].concat();
        let mut names = vec![
            OtherXid::new(
                131_077,
                [&[0, 0, 0xff, 0xff, 127, 0, 1][..], &tail].concat(),
                &binary,
            ),
            OtherXid::new(
                1_096_044_365,
                format!("127.0.0.1.tm{number}"),
                "127.0.0.1.tm1",
            ),
            OtherXid::new(1_114_926_712, [b"btx", &tail[..]].concat(), filled(1)),
            OtherXid::new(9752, format!("192.168.0.1:8091:{number}"), "-2007"),
            OtherXid::new(0, &binary, filled(0)),
            OtherXid::new(1, &binary, filled(0xff)),
            OtherXid::new(1, filled(0), ""),
            OtherXid::new(1, filled(0xff), ""),
            OtherXid::new(i64::from(i32::MAX), &text, ""),
            OtherXid::new(1, format!("it's {number}"), "'; DROP TABLE others; --"),
            OtherXid::new(1, format!("back\\{number}\\'\""), "\\"),
            OtherXid::new(1, format!("{number}\r\n\u{1b}[2J"), "注文 🦀"),
            // Ours, under another format id or with another cut between the parts.
            OtherXid::new(OURS - 1, &gtrid, "orders"),
            OtherXid::new(1, near.gtrid(number + 500_000), "orders"),
            OtherXid::new(OURS, format!("{gtrid}o"), "rders"),
            OtherXid::new(OURS, &gtrid[..gtrid.len() - 1], format!("{number}orders")),
            OtherXid::new(OURS, format!("{gtrid}orders"), ""),
            OtherXid::new(OURS, format!("{gtrid}:orders"), ""),
            OtherXid::new(OURS, format!("unanimous:{gtrid}"), "o"),
            OtherXid::new(OURS, near.gtrid(number + 600_000), ""),
            OtherXid::new(OURS, near.gtrid(number + 700_000), "1orders"),
            OtherXid::new(OURS, near.gtrid(number + 800_000), "orders\0"),
            OtherXid::new(OURS, near.gtrid(number + 900_000), b"orders\xff"),
            OtherXid::new(OURS, filled(0xff), "orders"),
            OtherXid::new(OURS, &text, "orders"),
        ];
        let all_but = near.all_but(number + 2_000_000);
        let fits = all_but.into_iter().filter(|gtrid| gtrid.len() <= 64);
        names.extend(fits.map(|gtrid| OtherXid::new(OURS, gtrid, "orders")));
        let ours = near.of_others(number);
        let ours = ours.map(|(whose, gtrid)| (whose, OtherXid::new(OURS, gtrid, "orders")));
        names
            .into_iter()
            .map(|xid| (Whose::Foreign, xid))
            .chain(ours)
    };
    // The very bytes of a branch of ours, cut elsewhere.
    let in_doubt = &near.in_doubt;
    let cut = in_doubt.len() - 1;
    let once = [
        OtherXid::new(OURS, format!("{in_doubt}o"), "rders"),
        OtherXid::new(
            OURS,
            &in_doubt[..cut],
            format!("{}orders", &in_doubt[cut..]),
        ),
        OtherXid::new(OURS, format!("{in_doubt}orders"), ""),
    ];
    let once = once.into_iter().map(|xid| (Whose::Foreign, xid));
    once.chain((1..).flat_map(round)).take(count).collect()
}
