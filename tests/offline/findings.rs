//! docs/findings.md lists every subject of a finding that the code has, and no other, each with a
//! severity, a mend and a test.
//!
//! The subjects are read out of the sources: the second argument of `Finding::new`, the first of
//! the helpers that call it, and what is named `subject`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/findings.md";

/// Where findings are made.
const FOLDERS: [&str; 3] = [
    "adapters/postgres/src",
    "adapters/mysql/src",
    "src/operator",
];

/// What makes a finding, in which files, and which of its arguments is the subject.
const MAKERS: [(&str, &str, usize); 11] = [
    ("Finding::new(", "", 1),
    (".error(", "check_log", 0),
    (".warn(", "check_log", 0),
    (".note(", "check_log", 0),
    (".error(", "check_table", 0),
    (".warn(", "check_table", 0),
    (".note(", "check_table", 0),
    ("alone(", "check", 1),
    (" error(", "identity", 0),
    ("(error(", "identity", 0),
    ("not_seen(", "fence", 0),
];

/// A subject that is computed is taken from where it is named, in these files.
const NAMED: [&str; 2] = ["subject: \"", "let subject = \""];
const NAMING: [&str; 2] = ["bugs", "findings"];

#[test]
fn every_subject_of_a_finding_is_in_the_table_and_the_other_way_round() {
    let (subjects, unknown) = subjects_of_the_code();
    assert!(subjects.len() > 80, "{} subjects", subjects.len());
    assert!(unknown.is_empty(), "cannot be read: {unknown:?}");
    let table: BTreeSet<_> = rows().into_iter().flat_map(|row| row.subjects).collect();
    let missing: Vec<_> = subjects.difference(&table).collect();
    assert!(missing.is_empty(), "not in {PAGE}: {missing:?}");
    let gone: Vec<_> = table.difference(&subjects).collect();
    assert!(gone.is_empty(), "only in {PAGE}: {gone:?}");
}

#[test]
fn every_finding_has_a_severity_a_mend_and_a_test_or_was_never_run() {
    for row in rows() {
        let [severity, meaning, mend, test] = &row.cells;
        let is_known = ["error", "warning", "note"]
            .iter()
            .any(|known| severity.contains(known));
        assert!(is_known, "{row:?}");
        assert!(!meaning.is_empty() && !mend.is_empty(), "{row:?}");
        assert!(test.contains('`') || test.contains("never run"), "{row:?}");
    }
}

/// The check of a log's server picks some of that server's findings out by their names.
#[test]
fn what_is_picked_out_for_a_logs_server_exists() {
    let (subjects, _) = subjects_of_the_code();
    for (source, list) in [
        ("src/operator/check_table.rs", "ASYNCHRONOUS: ["),
        ("src/log/table/server.rs", "OF_A_LOGS_SERVER: ["),
    ] {
        let text = fs::read_to_string(root().join(source)).expect("the source is there");
        let (_, rest) = text.split_once(list).expect("the list is there");
        let (names, _) = rest.split_once("];").expect("its end");
        let names: Vec<_> = names.split('"').skip(1).step_by(2).collect();
        assert!(names.len() > 2, "{names:?}");
        for name in names {
            assert!(subjects.contains(name), "no finding is called {name}");
        }
    }
}

#[derive(Debug)]
struct Row {
    subjects: Vec<String>,
    cells: [String; 4],
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join(PAGE)).expect("the page is there");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let subjects = cells.next().expect("a subject");
        let subjects = subjects.split('`').skip(1).step_by(2).map(str::to_owned);
        let subjects = subjects.collect();
        let cells: Vec<_> = cells.map(str::to_owned).collect();
        let cells = cells
            .try_into()
            .unwrap_or_else(|cells| panic!("five columns: {cells:?}"));
        Row { subjects, cells }
    })
    .collect()
}

/// The subjects, and arguments that are none.
fn subjects_of_the_code() -> (BTreeSet<String>, Vec<String>) {
    let sources: BTreeMap<_, _> = FOLDERS.iter().flat_map(|folder| sources(folder)).collect();
    let constants: BTreeMap<_, _> = sources.values().flat_map(|text| constants(text)).collect();
    let (mut subjects, mut unknown) = (BTreeSet::new(), Vec::new());
    for (path, text) in &sources {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        for (maker, file, position) in MAKERS {
            if !name.starts_with(file) {
                continue;
            }
            for (at, _) in text.match_indices(maker) {
                // The helper itself.
                if text[..at].ends_with("fn") || text[..at].ends_with("fn ") {
                    continue;
                }
                let argument = argument(&text[at + maker.len()..], position);
                let last = argument.rsplit("::").next().unwrap_or(argument);
                if let Some(literal) = argument.strip_prefix('"') {
                    subjects.insert(literal.trim_end_matches('"').to_owned());
                } else if let Some(value) = constants.get(last) {
                    subjects.insert(value.clone());
                } else if !argument.ends_with("subject") {
                    unknown.push(format!("{}: {argument}", path.display()));
                }
            }
        }
        let names_some = NAMING.contains(&&*name);
        for named in NAMED.iter().filter(|_| names_some) {
            let found = text.split(*named).skip(1);
            subjects.extend(found.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    (subjects, unknown)
}

/// The source files of a folder without their tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".rs") && !name.ends_with("_test.rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(&text);
            let code = code.split("\n#[cfg(test)]\n#[path").next().unwrap_or(code);
            found.push((path.clone(), code.to_owned()));
        }
    }
    found
}

/// `const NAME: &str = "value"`.
fn constants(text: &str) -> Vec<(String, String)> {
    let found = text.split("const ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(": &str =")?;
        let value = rest.trim_start().strip_prefix('"')?;
        Some((name.to_owned(), value.split_once('"')?.0.to_owned()))
    });
    found.collect()
}

/// One of the arguments that follow.
fn argument(text: &str, position: usize) -> &str {
    let (mut depth, mut index, mut start) = (0_usize, 0, 0);
    let (mut in_text, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ',' | ')' if depth == 0 => {
                if index == position {
                    return text[start..at].trim();
                }
                (index, start) = (index + 1, at + 1);
            }
            _ => {}
        }
    }
    ""
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
