//! The rules about source text.

use super::Finding;
use super::source::{Source, code_of};

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 500;

pub(super) fn long_lines(file: &Source) -> Vec<Finding> {
    let long = file.lines().filter_map(|(number, line)| {
        let columns = line.chars().count();
        let found = format!("{columns} columns");
        (columns > COLUMNS_MAX).then(|| file.finding(number, &found))
    });
    long.collect()
}

/// Tests may be long: a `*_test.rs`, what is below `tests/`, and the test module at a file's end.
pub(super) fn long_file(file: &Source) -> Vec<Finding> {
    let count = file.lines_without_tests().count();
    let found = format!("{count} lines without tests");
    let too_long = count > LINES_MAX;
    too_long
        .then(|| file.finding(count, &found))
        .into_iter()
        .collect()
}

pub(super) fn no_header(file: &Source) -> Vec<Finding> {
    let has_header = file.text.starts_with("//!");
    let found = (!has_header).then(|| file.finding(1, "no //! at the beginning"));
    found.into_iter().collect()
}

pub(super) fn ignored_tests(file: &Source) -> Vec<Finding> {
    let switched_off = file.lines().filter_map(|(number, line)| {
        let line = code_of(line).trim_start();
        let is_ignored = line.starts_with(concat!("#[ig", "nore"));
        is_ignored.then(|| file.finding(number, line))
    });
    switched_off.collect()
}

/// Words that have a better one, and marks of unfinished work. Split, so that this file passes.
const BANNED: &[&str] = &[
    concat!("zom", "bie"),
    concat!("dang", "ling"),
    concat!("parti", "cipant"),
    concat!("sub-", "transaction"),
    concat!("unit of ", "work"),
    concat!("data ", "source"),
    concat!("ver", "dict"),
    concat!("t", "log"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("sub", "agent"),
    concat!("team", "mate"),
    concat!("xtask ", "session"),
    concat!("TRA", "PS"),
    concat!("DESI", "GN.md"),
    concat!("STY", "LE.md"),
];

/// Where *abort* is right: in the protocol's name, tokio's and the system's calls, and a server's
/// own word in quotes.
const ABORT_IS_RIGHT: &[&str] = &[
    "presumed abort",
    "presumed-abort",
    "presumes abort",
    "abort is presumed",
    ".abort()",
    "aborthandle",
    "abort_handle",
    "process::abort",
    "panic = \"abort\"",
    "\"aborted\"",
    "'aborted'",
    "*aborted*",
    "*abort*",
];

pub(super) fn banned_words(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        for word in BANNED {
            if has_word(line, word) {
                findings.push(file.finding(number, &format!("the word {word:?}")));
            }
        }
        let mut rest = line.to_lowercase();
        for right in ABORT_IS_RIGHT {
            rest = rest.replace(right, "");
        }
        if rest.contains(concat!("ab", "ort")) && !is_list_of_this_rule(file) {
            findings.push(file.finding(number, "say rollback, not abort"));
        }
    }
    findings
}

/// The list above, its tests and the glossary have to write down what they rule.
fn is_list_of_this_rule(file: &Source) -> bool {
    file.path.starts_with("tests/offline/tidy") || file.path == "docs/glossary.md"
}

/// Words in lower case are found in every case; words in upper case only as they are.
fn has_word(line: &str, word: &str) -> bool {
    let is_exact = word.chars().any(char::is_uppercase);
    let line = if is_exact {
        line.to_string()
    } else {
        line.to_lowercase()
    };
    let mut begins = line.match_indices(word).map(|(begin, _)| begin);
    begins.any(|begin| {
        let before = line[..begin].chars().next_back();
        let after = line[begin + word.len()..].chars().next();
        let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        // A plural is the word, too.
        !is_letter(before) && (!is_letter(after) || after == Some('s'))
    })
}

/// Folders of one machine. A made-up home is called `ann`'s.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/ho", "me/"),
    concat!("/tmp/", "una"),
    concat!("/tmp/", "target"),
    concat!("C:", "\\"),
];

pub(super) fn machine_paths(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        let line = line.replace(concat!("/ho", "me/ann"), "");
        for path in MACHINE_PATHS {
            let mut begins = line.match_indices(path).map(|(begin, _)| begin);
            // `a/work/b` is a path from wherever one is.
            let is_absolute = |begin: usize| {
                let before = line[..begin].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-}".contains(c))
            };
            if begins.any(is_absolute) {
                findings.push(file.finding(number, path));
            }
        }
    }
    findings
}

const DATABASES: &[&str] = &["postgres", "mysql", "mariadb", "sqlstate", "sqlx"];

/// Where an address in a config file becomes a resource or a log of its kind.
const BY_SCHEME: &[&str] = &[
    "src/operator/adapters.rs",
    "src/operator/place.rs",
    "src/operator/text.rs",
];

pub(super) fn named_databases(file: &Source) -> Vec<Finding> {
    let rules = ["core/src/", "src/"]
        .iter()
        .any(|folder| file.path.starts_with(folder));
    if !rules || BY_SCHEME.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let is_gate = |line: &str| {
        let line = line.trim_start();
        line.starts_with("#[cfg(feature = ") || line.starts_with("#[cfg(all(feature = ")
    };
    let is_re_export = |line: &str| file.path == "src/lib.rs" && line.starts_with("pub use ");
    let named = file.lines_without_tests().filter_map(|(number, line)| {
        let code = code_of(line);
        if is_gate(code) || is_re_export(code) {
            return None;
        }
        let code = code.to_lowercase();
        let name = DATABASES.iter().find(|name| code.contains(**name))?;
        Some(file.finding(number, name))
    });
    named.collect()
}

/// Folders, and what of their own crate they may know.
const ARROWS: &[(&str, &[&str])] = &[
    ("core/src/xid.rs", &[]),
    ("core/src/protocol/", &["crate::xid", "crate::protocol"]),
    ("src/log/", &["crate::log", "crate::bounded"]),
];

pub(super) fn forbidden_arrows(file: &Source) -> Vec<Finding> {
    let arrows = ARROWS
        .iter()
        .find(|(folder, _)| file.path.starts_with(folder));
    let Some((_, allowed)) = arrows else {
        return Vec::new();
    };
    let forbidden = file.lines_without_tests().filter_map(|(number, line)| {
        let mut code = code_of(line).to_string();
        for path in *allowed {
            code = code.replace(path, "");
        }
        code.contains("crate::")
            .then(|| file.finding(number, line.trim()))
    });
    forbidden.collect()
}
