//! The rule about links between documents.

use std::fs;

use super::Finding;
use super::source::{Source, root};

/// Every link to a file of the repository: its line, and the path from the root, with its anchor
/// cut off.
pub(super) fn targets(file: &Source) -> impl Iterator<Item = (usize, String)> {
    links(file).map(|(number, link)| {
        let (path, _) = link.split_once('#').unwrap_or((link, ""));
        (number, resolve(&file.path, path))
    })
}

fn links(file: &Source) -> impl Iterator<Item = (usize, &str)> {
    let mut is_in_code = false;
    let prose = file.lines().filter(move |(_, line)| {
        is_in_code ^= line.trim_start().starts_with("```");
        !is_in_code
    });
    let links = prose.flat_map(|(number, line)| {
        let ends = line.split("](").skip(1);
        ends.filter_map(move |rest| Some((number, rest.split(')').next()?)))
    });
    links.filter(|(_, link)| !link.contains("://") && !link.starts_with("mailto:"))
}

/// The path from the root of what `from` calls `path`.
fn resolve(from: &str, path: &str) -> String {
    if path.is_empty() {
        return from.into();
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

pub(super) fn broken_links(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, link) in links(file) {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = root().join(resolve(&file.path, path));
        if !target.exists() {
            findings.push(file.finding(number, &format!("no file {link:?}")));
        } else if !anchor.is_empty() && target.extension().is_some_and(|end| end == "md") {
            let text = fs::read_to_string(&target).expect("a document can be read");
            if !has_heading(&text, anchor) {
                findings.push(file.finding(number, &format!("no heading {link:?}")));
            }
        }
    }
    findings
}

/// Is there a heading that the hosting sites give this anchor?
fn has_heading(text: &str, anchor: &str) -> bool {
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    headings.any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        slug == anchor
    })
}
