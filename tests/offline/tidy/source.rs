//! The files of the repository: all but what `.gitignore` names.

use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Source {
    /// From the root of the repository, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    /// Every line with its number, from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The lines before the test module at the file's end.
    pub(super) fn lines_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<_> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        });
        let count = if self.is_test() {
            0
        } else {
            tests.unwrap_or(lines.len())
        };
        (1..).zip(lines).take(count)
    }

    /// The file holds nothing but tests.
    pub(super) fn is_test(&self) -> bool {
        let folders = self.path.split('/');
        self.path.ends_with("_test.rs") || folders.into_iter().any(|name| name == "tests")
    }

    pub(super) fn finding(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file whose name ends like this.
pub(super) fn repository(end: &str) -> Vec<Source> {
    let mut files = Vec::new();
    collect(root(), &ignored(), end, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The folders at the root that `.gitignore` names, as `/name/` or `/name*/`.
fn ignored() -> Vec<String> {
    let lines = fs::read_to_string(root().join(".gitignore")).expect("there is a .gitignore");
    let folders = lines.lines().filter_map(|line| {
        let name = line.strip_prefix('/')?.strip_suffix('/')?;
        Some(name.to_string())
    });
    folders.collect()
}

fn is_ignored(name: &str, ignored: &[String]) -> bool {
    ignored
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == pattern,
        })
}

fn collect(folder: &Path, ignored: &[String], end: &str, files: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path: PathBuf = entry.expect("a folder can be read").path();
        let below = path.strip_prefix(root()).expect("below the root");
        let below = below.to_string_lossy().replace('\\', "/");
        let name = below.rsplit('/').next().unwrap_or_default();
        if path.is_dir() {
            if name != ".git" && !is_ignored(&below, ignored) {
                collect(&path, ignored, end, files);
            }
        } else if name.ends_with(end) {
            let text = fs::read_to_string(&path).expect("a text file");
            files.push(Source { path: below, text });
        }
    }
}

/// The line without its comment. Knows strings in one line; that is enough for this repository.
pub(super) fn code_of(line: &str) -> &str {
    let bytes = line.as_bytes();
    let mut is_in_string = false;
    for (i, byte) in bytes.iter().enumerate() {
        let is_escaped = i > 0 && bytes[i - 1] == b'\\';
        match byte {
            b'"' if !is_escaped => is_in_string = !is_in_string,
            b'/' if !is_in_string && bytes.get(i + 1) == Some(&b'/') => return &line[..i],
            _ => {}
        }
    }
    line
}
