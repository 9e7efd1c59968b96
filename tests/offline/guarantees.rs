//! Every test that a document names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Documents, and how many names of tests each has at least: so that a name which is no longer
/// found in the text does not make this test pass.
const DOCUMENTS: &[(&str, usize)] = &[
    ("README.md", 6),
    ("docs/guarantees.md", 40),
    ("docs/servers.md", 15),
    ("docs/findings.md", 30),
    ("docs/operations.md", 5),
    ("docs/by-hand.md", 1),
    ("docs/planted-bugs.md", 40),
    ("docs/shared-log.md", 30),
    ("docs/kubernetes.md", 3),
    (BAD_INPUT, 90),
];

/// Every row of its tables names a test.
const BAD_INPUT: &str = "docs/bad-input.md";

#[test]
fn every_test_that_a_document_names_exists() {
    let functions = functions();
    let mut missing = Vec::new();
    for (document, count_min) in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let text = fs::read_to_string(path).expect("the document is there");
        let named = named_tests(&text);
        assert!(
            named.len() >= *count_min,
            "{document} names only {} tests",
            named.len()
        );
        for name in named {
            let is_there = match name.strip_suffix('*') {
                Some(begin) => functions.iter().any(|function| function.starts_with(begin)),
                None => functions.contains(&name),
            };
            if !is_there {
                missing.push(format!("{document}: `{name}`"));
            }
        }
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

#[test]
fn every_row_of_what_goes_wrong_names_a_test_in_its_last_column() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(BAD_INPUT);
    let text = fs::read_to_string(path).expect("the document is there");
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| what went wrong");
    let rows: Vec<_> = text.lines().filter(is_row).collect();
    assert!(rows.len() > 60, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 5, "{row}");
        assert!(!named_tests(cells[4]).is_empty(), "no test: {row}");
    }
}

#[test]
fn what_is_no_name_of_a_test_is_told_apart() {
    let text = "`i1_a_refusal` and `i7_*`, `max_prepared_transactions`, `a_session_is_wiped_well`,
                `SELECT a_b_c_d_e FROM t`";
    let expected = ["i1_a_refusal", "i7_*", "a_session_is_wiped_well"];
    assert_eq!(
        named_tests(text),
        BTreeSet::from(expected.map(String::from))
    );
}

/// What stands between backticks and looks like a sentence: `i1_…`, or at least five words.
fn named_tests(text: &str) -> BTreeSet<String> {
    let code = text.split('`').skip(1).step_by(2);
    let named = code.filter(|code| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*".contains(c);
        let numbered = code.strip_prefix('i').and_then(|rest| rest.split_once('_'));
        let is_numbered = numbered.is_some_and(|(number, _)| number.parse::<u8>().is_ok());
        code.chars().all(is_name) && (is_numbered || is_sentence(code))
    });
    named.map(str::to_owned).collect()
}

/// Settings of servers have up to five words, too; those are listed.
fn is_sentence(code: &str) -> bool {
    const SETTINGS: &[&str] = &[
        "innodb_flush_log_at_trx_commit",
        "idle_in_transaction_session_timeout",
        "rpl_semi_sync_source_timeout",
    ];
    code.split('_').count() >= 5 && !SETTINGS.contains(&code)
}

/// The name of every function in these folders, among other words.
fn functions() -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    for folder in [
        "core", "src", "adapters", "testing", "tests", "xtask", "cli",
    ] {
        collect(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut functions,
        );
    }
    functions
}

fn collect(path: &Path, functions: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder can be read") {
            collect(&entry.expect("a folder can be read").path(), functions);
        }
    } else if path.extension().is_some_and(|end| end == "rs") {
        let text = fs::read_to_string(path).expect("a text file");
        for line in text.lines() {
            // A function, or the first word of a line: macros make tests of lists of names.
            let line = line.trim_start();
            let rest = line.split_once("fn ").map_or(line, |(_, rest)| rest);
            let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            functions.insert(rest.chars().take_while(is_name).collect());
        }
    }
}
