//! Names of resources: whatever an application gives, the builders refuse what does not fit an XID,
//! and name the rule.

use proptest::prelude::*;
use unanimous::mysql::Mysql;
use unanimous::ports::ResourceManager;
use unanimous::postgres::Postgres;
use unanimous::{ResourceName, Xid};

/// The rule, said once more.
fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.all(fits) && text.len() <= 64
}

fn built(name: &str) -> [Result<ResourceName, String>; 2] {
    let postgres = Postgres::builder(name, "postgres://app@127.0.0.1:1/app").build();
    let mysql = Mysql::builder(name, "mysql://app@127.0.0.1:1/app").build();
    let postgres = postgres.map(|resource| resource.name().clone());
    let mysql = mysql.map(|resource| resource.name().clone());
    [
        postgres.map_err(|error| error.to_string()),
        mysql.map_err(|error| error.to_string()),
    ]
}

fn check(name: &str) {
    for built in built(name) {
        match built {
            Ok(kept) => {
                assert!(is_name(name), "{name:?} was taken");
                assert_eq!(kept.as_str(), name);
            }
            Err(text) => {
                assert!(!is_name(name), "{name:?} was refused: {text}");
                // Without the name itself: it may be an address, given in the wrong place.
                let rule = "1 to 64 of A-Z a-z 0-9 _ -";
                assert!(text.contains(rule) && text.contains("letter"), "{text}");
            }
        }
    }
}

#[test]
fn a_name_at_the_edge_of_the_rule_is_taken_or_refused_by_the_rule() {
    let longest = "a".repeat(64);
    let too_long = "a".repeat(65);
    for name in [
        "", "a", "A", "1", "-", "_a", "a-", "a_", "a b", " a", "a\0", "a'", "a\\", "a:b", "ä",
        "a\n", "é", "注文", &longest, &too_long,
    ] {
        check(name);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_name_that_fits_an_xid_or_is_refused_with_the_rule(
        name in prop_oneof![any::<String>(), "[A-Za-z][A-Za-z0-9_-]{0,70}", "[ -~]{0,70}"]
    ) {
        check(&name);
    }

    #[test]
    fn a_name_that_is_taken_is_read_back_from_the_xid(
        name in "[A-Za-z][A-Za-z0-9_-]{0,63}", sequence: u64
    ) {
        let bqual: ResourceName = name.parse().unwrap();
        let gtrid = "0000000000000001-7-000000000000z-42".parse::<unanimous::Gtrid>();
        let mut gtrid = gtrid.unwrap();
        gtrid.sequence = sequence;
        let xid = Xid { gtrid, bqual };
        let text = xid.to_string();
        prop_assert!(text.len() <= 129 && text.is_ascii());
        prop_assert_eq!(text.parse::<Xid>().unwrap(), xid);
    }
}
