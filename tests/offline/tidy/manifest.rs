//! The rules about manifests. Reads what of TOML the manifests of this repository use.

use super::Finding;
use super::source::Source;

/// Each crate of ours, and which of ours it may depend on outside of tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("unanimous-core", &[]),
    ("unanimous-postgres", &["unanimous-core"]),
    ("unanimous-mysql", &["unanimous-core"]),
    ("unanimous-testing", &["unanimous-core"]),
    (
        "unanimous",
        &["unanimous-core", "unanimous-postgres", "unanimous-mysql"],
    ),
    ("unanimous-cli", &["unanimous", "unanimous-core"]),
    ("xtask", &[]),
];

/// The name of a section, the number of a line and the line.
fn entries(file: &Source) -> Vec<(String, usize, &str)> {
    let mut section = String::new();
    let mut entries = Vec::new();
    for (number, line) in file.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').trim_start_matches('[').into();
        }
        if !line.is_empty() && !line.starts_with('#') {
            entries.push((section.clone(), number, line));
        }
    }
    entries
}

fn package(file: &Source) -> Option<String> {
    let entries = entries(file);
    let mut of_package = entries.iter().filter(|(section, ..)| section == "package");
    let name = of_package.find_map(|(.., line)| line.strip_prefix("name = "))?;
    Some(name.trim_matches('"').into())
}

pub(super) fn forbidden_dependencies(file: &Source) -> Vec<Finding> {
    let Some(package) = package(file) else {
        return Vec::new();
    };
    // Examples and fuzz targets that are packages of their own are users: anything goes.
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package) else {
        return Vec::new();
    };
    let is_real = |section: &str| {
        let section = section.rsplit("'.").next().unwrap_or(section);
        section.starts_with("dependencies") || section.starts_with("build-dependencies")
    };
    let mut findings = Vec::new();
    for (section, number, line) in entries(file) {
        if !is_real(&section) {
            continue;
        }
        let entry = match line.strip_prefix('[') {
            Some(_) => section.split_once('.').map_or("", |(_, name)| name),
            None => line.split(['.', '=', ' ']).next().unwrap_or_default(),
        };
        let is_ours = ARROWS.iter().any(|(name, _)| *name == entry);
        if is_ours && !allowed.contains(&entry) {
            findings.push(file.finding(number, &format!("{package} depends on {entry}")));
        }
    }
    findings
}

pub(super) fn missing_lints(file: &Source) -> Vec<Finding> {
    let is_member = package(file).is_some();
    let has_lints = entries(file)
        .iter()
        .any(|(section, _, line)| section == "lints" && *line == "workspace = true");
    let found = (is_member && !has_lints).then(|| file.finding(1, "no lints"));
    found.into_iter().collect()
}
