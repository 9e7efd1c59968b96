//! What the tool says without any log: help, completions, manual pages, colours, a closed pipe.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> Output {
    let output = tool(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The verbs that a help names.
fn verbs(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = lines.take_while(|line| !line.is_empty());
    let names = verbs.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !name.is_empty() && *name != "help");
    names.map(str::to_owned).collect()
}

#[test]
fn every_verb_teaches_by_examples_and_has_its_page() {
    let folder = tempfile::tempdir().unwrap();
    run(&["man", "--out", folder.path().to_str().unwrap()]);
    let page = text(&run(&["man"]));
    assert!(page.contains(".TH unanimous 1"), "{page}");
    let all = text(&run(&["--help"]));
    let mut names = 0;
    for verb in verbs(&all) {
        let help = text(&run(&[&verb, "--help"]));
        let below = verbs(&help);
        let paths: Vec<_> = match &*below {
            [] => vec![vec![verb]],
            _ => below
                .into_iter()
                .map(|name| vec![verb.clone(), name])
                .collect(),
        };
        for path in paths {
            let mut arguments: Vec<_> = path.iter().map(String::as_str).collect();
            arguments.push("--help");
            let help = text(&run(&arguments));
            assert!(help.contains("Examples:\n  unanimous "), "{path:?}: {help}");
            let page = folder
                .path()
                .join(format!("unanimous-{}.1", path.join("-")));
            let page = std::fs::read_to_string(&page).unwrap();
            assert!(
                page.contains("EXTRA") && page.contains("Examples:"),
                "{path:?}: {page}"
            );
            names += 1;
        }
    }
    assert!(names >= 10, "{all}");
}

#[test]
fn completions_know_every_verb() {
    let all = text(&run(&["--help"]));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&run(&["completions", shell]));
        for verb in verbs(&all) {
            assert!(script.contains(&verb), "{shell}: {verb}");
        }
    }
}

/// It is closed before anything is written.
#[test]
fn a_pipe_that_nobody_reads_is_no_failure() {
    for arguments in [&["completions", "bash"][..], &["man"]] {
        let mut child = tool(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
        assert_eq!(said, "");
    }
}

#[test]
fn colours_are_for_those_who_see_them() {
    let says = |arguments: &[&str], no_color: Option<&str>| {
        let mut command = tool(&["--config", "/nowhere/unanimous.toml"]);
        command.args(arguments).arg("list");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let plain = says(&[], None);
    assert!(plain.starts_with("error: "), "{plain:?}");
    assert_eq!(says(&["--color", "never"], None), plain);
    let painted = says(&["--color", "always"], None);
    assert!(
        painted.contains("\u{1b}[1m\u{1b}[31merror:\u{1b}[0m "),
        "{painted:?}"
    );
    assert_eq!(says(&["--color", "auto"], Some("1")), plain);
}
