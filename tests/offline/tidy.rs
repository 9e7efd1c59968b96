//! The rules of the house that no compiler and no lint checks. Each is one test; its failure says
//! file, line and the mend.
//!
//! A rule is a plain function from a file's text to what is wrong with it. That the rules see
//! anything is tested with texts that break them (`every_rule_sees_what_breaks_it`).

mod futures;
mod links;
mod manifest;
mod points;
mod rules;
mod source;

use futures::{public_futures, untested_futures};
use links::broken_links;
use manifest::{forbidden_dependencies, missing_lints};
use rules::{
    banned_words, forbidden_arrows, ignored_tests, long_file, long_lines, machine_paths,
    named_databases, no_header,
};
use source::{Source, repository};

/// One place where a rule is broken: file, line, and what is there.
type Finding = String;

fn assert_tidy(files: &[Source], mend: &str, rule: impl Fn(&Source) -> Vec<Finding>) {
    assert!(!files.is_empty(), "the rule has something to look at");
    let findings: Vec<_> = files.iter().flat_map(rule).collect();
    let list = findings.join("\n  ");
    assert!(findings.is_empty(), "\n  {list}\n{mend}\n");
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let mend = "cli -> root -> adapters, core; adapters -> core; core -> nothing of ours; \
                xtask -> nothing of ours. Move the code, or depend on it for tests only";
    assert_tidy(&repository("Cargo.toml"), mend, forbidden_dependencies);
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let mend = "write [lints] and workspace = true into the manifest";
    assert_tidy(&repository("Cargo.toml"), mend, missing_lints);
}

#[test]
fn folders_depend_along_the_arrows_only() {
    let mend = "xid knows nothing of the crate, protocol only xid, a log only the core crate";
    assert_tidy(&repository(".rs"), mend, forbidden_arrows);
}

#[test]
fn neither_the_core_nor_the_runtime_names_a_database() {
    let mend = "put it behind a port, into an adapter; only comments, tests, feature gates, the \
                re-exports of src/lib.rs and what reads the config file may name one";
    assert_tidy(&repository(".rs"), mend, named_databases);
}

#[test]
fn a_file_has_at_most_500_lines_without_its_tests() {
    let mend = "split it by concern; a long test module moves to a *_test.rs of its own";
    assert_tidy(&repository(".rs"), mend, long_file);
}

#[test]
fn a_line_has_at_most_100_columns() {
    let mend = "break the line; rustfmt does not break strings and comments";
    assert_tidy(&repository(".rs"), mend, long_lines);
}

#[test]
fn a_source_file_opens_with_its_contract() {
    let mend = "begin it with //! what it owns, what it promises, what it does not do";
    assert_tidy(&repository(".rs"), mend, no_header);
}

#[test]
fn one_word_has_one_meaning() {
    let mend = "use the word of docs/glossary.md; finish what is unfinished instead of marking it";
    for kind in [".rs", ".md", ".toml"] {
        assert_tidy(&repository(kind), mend, banned_words);
    }
}

#[test]
fn i7_every_public_future_is_dropped_after_every_poll_by_a_test() {
    let findings = untested_futures();
    let list = findings.join("\n  ");
    let mend = "write the test and name it in tests/offline/tidy/futures.rs";
    assert!(findings.is_empty(), "\n  {list}\n{mend}\n");
}

#[test]
fn public_futures_of_every_form_are_seen() {
    let text = "\
impl<T: X> Owner<'_, T> {
    pub async fn one(&self) {}
    async fn private() {}
    pub(crate) async fn inner() {}
}
impl Branch for Mine {
    async fn two() {
    fn no(&self) {}
    fn three<'a>(
        &'a self,
    ) -> BoxFuture<'a, u8>
    where
        T: X,
    {
}
pub async fn four<T>() {}
pub fn five() -> impl Future<Output = ()> {
pub fn no2(ask: Future) -> u8 {
";
    let file = Source {
        path: "src/a.rs".into(),
        text: text.into(),
    };
    let seen = public_futures(&[file]);
    let names: Vec<_> = seen.keys().map(String::as_str).collect();
    let expected = ["Mine::three", "Mine::two", "Owner::one", "five", "four"];
    assert_eq!(names, expected);
}

#[test]
fn no_test_is_switched_off() {
    let mend = "mend the test or take it out";
    assert_tidy(&repository(".rs"), mend, ignored_tests);
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    let mend = "take the path from the environment, or make a temporary one";
    for kind in [".rs", ".md", ".toml"] {
        assert_tidy(&repository(kind), mend, machine_paths);
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mend = "write the file or the heading, or mend the link";
    assert_tidy(&repository(".md"), mend, broken_links);
}

#[test]
fn every_document_is_linked_from_another() {
    let documents = repository(".md");
    let is_linked = |path: &str| {
        let mut others = documents.iter().filter(|other| other.path != path);
        others.any(|other| links::targets(other).any(|(_, target)| target == path))
    };
    let docs = documents
        .iter()
        .filter(|file| file.path.starts_with("docs/"));
    let lost: Vec<_> = docs
        .filter(|file| !is_linked(&file.path))
        .map(|file| &file.path)
        .collect();
    assert!(
        lost.is_empty(),
        "{lost:?}: link it from the README or another document"
    );
}

#[test]
fn the_lock_file_is_kept() {
    let root = source::root();
    assert!(root.join("Cargo.lock").is_file(), "commit Cargo.lock");
    let ignored = std::fs::read_to_string(root.join(".gitignore")).unwrap();
    let is_ignored = ignored.lines().any(|line| line.contains("Cargo.lock"));
    assert!(
        !is_ignored,
        ".gitignore: take Cargo.lock out of it, and commit the file"
    );
}

/// Each rule, a file that breaks it, and one that comes close and does not.
#[test]
fn every_rule_sees_what_breaks_it() {
    type Rule = fn(&Source) -> Vec<Finding>;
    let long = format!("//! x\n{}\n", "x".repeat(101));
    let full = format!("//! x\n{}\n", "x".repeat(100));
    let big = "//! x\n".repeat(501);
    let tested = format!(
        "{}#[cfg(test)]\nmod tests {{\n{big}}}\n",
        "//! x\n".repeat(500)
    );
    let word = concat!("// a zom", "bie\n");
    let path = concat!("let p = \"/ro", "ot/x\";\n");
    let ignored = concat!("#[igno", "re]\nfn f() {}\n");
    let dependency = "[package]\nname = \"unanimous-core\"\n[dependencies]\n";
    let good_dependency = format!("{dependency}async-trait.workspace = true\n");
    let bad_dependency = format!("{dependency}unanimous-mysql = \"1\"\n");
    let lints = "[package]\nname = \"x\"\n[lints]\nworkspace = true\n";
    let cases: [(Rule, &str, &str, &str); 12] = [
        (long_lines, "src/a.rs", &long, &full),
        (long_file, "src/a.rs", &big, &tested),
        (no_header, "src/a.rs", "use x;\n", "//! x\n"),
        (
            banned_words,
            "src/a.rs",
            word,
            "// presumed abort\ntask.abort();\n",
        ),
        (
            banned_words,
            "src/a.rs",
            "// it aborts\n",
            "handle: AbortHandle,\n",
        ),
        (machine_paths, "src/a.rs", path, "let p = \"/etc/x\";\n"),
        (ignored_tests, "src/a.rs", ignored, "let ignored = 1;\n"),
        (
            named_databases,
            "src/a.rs",
            "let s = \"SQLSTATE\";\n",
            "// as MySQL does\n",
        ),
        (
            forbidden_arrows,
            "core/src/xid.rs",
            "use crate::ports::X;\n",
            "use core::fmt;\n",
        ),
        (
            broken_links,
            "README.md",
            "see [x](docs/no.md)\n",
            "[x](https://example.org)\n",
        ),
        (
            forbidden_dependencies,
            "core/Cargo.toml",
            &bad_dependency,
            &good_dependency,
        ),
        (missing_lints, "core/Cargo.toml", dependency, lints),
    ];
    for (rule, path, bad, good) in cases {
        let findings = |text: &str| {
            rule(&Source {
                path: path.into(),
                text: text.into(),
            })
        };
        assert_ne!(findings(bad), Vec::<Finding>::new(), "unseen: {bad}");
        assert_eq!(findings(good), Vec::<Finding>::new(), "seen without cause");
    }
}
