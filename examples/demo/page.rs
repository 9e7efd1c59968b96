//! What the reader sees: chapters, sentences, small tables, and a line for every check.
//!
//! Plain text of less than 100 columns; colours only on a terminal.

use std::fmt::Display;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

const WIDTH: usize = 96;

/// Prints the story and counts the checks.
pub(crate) struct Page {
    is_coloured: bool,
    held: usize,
    failed: usize,
}

impl Page {
    pub(crate) fn new() -> Self {
        Self {
            is_coloured: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            held: 0,
            failed: 0,
        }
    }

    pub(crate) fn title(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
        println!("{}\n", "=".repeat(text.chars().count()));
    }

    pub(crate) fn chapter(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
        println!("{}\n", "-".repeat(text.chars().count()));
    }

    /// A paragraph of the story.
    pub(crate) fn say(&self, text: &str) {
        println!("{}", wrapped(text, "", ""));
    }

    /// What is true now. Checks follow.
    pub(crate) fn claim(&self, text: &str) {
        println!("\n{}", wrapped(text, "", ""));
    }

    /// A line that the application has said.
    pub(crate) fn app(&self, pid: u32, line: &str) {
        let first = format!("    app {pid} | ");
        let next = format!("{:1$}| ", "", first.len() - 2);
        println!("{}", wrapped(line, &first, &next));
    }

    /// A small table; the first row is its head.
    pub(crate) fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        println!();
        for (index, row) in rows.iter().enumerate() {
            let pad = |(cell, width): (&String, &usize)| format!("{cell:<width$}");
            let cells: Vec<String> = row.iter().zip(&widths).map(pad).collect();
            println!("    {}", cells.join("  ").trim_end());
            if index == 0 {
                let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                println!("    {}", lines.join("  "));
            }
        }
    }

    /// An empty line.
    pub(crate) fn gap(&self) {
        println!();
    }

    /// Compares what was answered with what should have been, and says who was asked what.
    pub(crate) fn check(
        &mut self,
        who: &str,
        asked: &str,
        expected: impl Display,
        got: impl Display,
    ) {
        let (expected, got) = (expected.to_string(), got.to_string());
        let is_held = expected == got;
        let (mark, answer) = if is_held {
            self.held += 1;
            (self.paint("32", "✓"), format!("-> {got}"))
        } else {
            self.failed += 1;
            (
                self.paint("31", "✗"),
                format!("-> expected {expected}, got {got}"),
            )
        };
        let text = format!("{who}: {asked}");
        let next = " ".repeat(6);
        if text.chars().count() + answer.chars().count() + 7 <= WIDTH {
            println!("    {mark} {text} {answer}");
        } else {
            let text = wrapped(&text, &next, &next);
            println!("    {mark} {}", text.trim_start());
            println!("{}", wrapped(&answer, &next, &format!("{next}   ")));
        }
    }

    /// The last lines, and what to tell the shell.
    pub(crate) fn end(&self) -> ExitCode {
        let total = self.held + self.failed;
        if self.failed == 0 {
            self.claim(&format!("All {total} checks have held."));
            ExitCode::SUCCESS
        } else {
            let failed = self.failed;
            self.claim(&format!(
                "{failed} of {total} checks have FAILED: look for ✗ above."
            ));
            ExitCode::FAILURE
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.is_coloured {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Breaks text at its spaces; the first line begins with one text, the others with another.
fn wrapped(text: &str, first: &str, next: &str) -> String {
    let mut lines = vec![first.to_owned()];
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let width = lines.last().map_or(0, |line| line.chars().count());
        if !is_empty && width + 1 + word.chars().count() > WIDTH {
            lines.push(next.to_owned());
            is_empty = true;
        }
        if let Some(line) = lines.last_mut() {
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
    }
    lines.join("\n")
}
