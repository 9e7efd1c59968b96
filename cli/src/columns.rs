//! Columns for people, and what is coloured in them. Colours are words for the eye alone: the text
//! is the same without them, and they are taken off where nobody sees them.

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const GREEN: Style = AnsiColor::Green.on_default();
const DIM: Style = Style::new().dimmed();
const HEAD: Style = Style::new().bold();

/// Between two columns.
const GAP: usize = 2;

/// The rows below their head, each cell at the width of its column; a cell may have several lines.
pub(crate) fn lay_out(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|name| name.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            let longest = cell.lines().map(UnicodeWidthStr::width).max();
            *width = (*width).max(longest.unwrap_or(0));
        }
    }
    let names: Vec<_> = head.iter().map(|name| Cell(name, HEAD)).collect();
    let mut lines = vec![line(&names, &widths)];
    for row in rows {
        let height = row.iter().map(|cell| cell.lines().count()).max();
        for at in 0..height.unwrap_or(0).max(1) {
            let cells = head.iter().zip(row).map(|(name, cell)| {
                let text = cell.lines().nth(at).unwrap_or("");
                Cell(text, style_of(name, text))
            });
            lines.push(line(&cells.collect::<Vec<_>>(), &widths));
        }
    }
    lines.join("\n")
}

struct Cell<'a>(&'a str, Style);

/// Nothing follows the last cell that has a text.
fn line(cells: &[Cell<'_>], widths: &[usize]) -> String {
    let last = cells.iter().rposition(|cell| !cell.0.trim_end().is_empty());
    let mut line = String::new();
    for (at, Cell(text, style)) in cells.iter().enumerate().take(last.map_or(0, |at| at + 1)) {
        let text = if Some(at) == last {
            text.trim_end()
        } else {
            text
        };
        line.push_str(&painted(text, *style));
        if Some(at) < last {
            let width = widths.get(at).copied().unwrap_or(0);
            let rest = width.saturating_sub(text.width()) + GAP;
            line.push_str(&" ".repeat(rest));
        }
    }
    line
}

fn painted(text: &str, style: Style) -> String {
    if style == Style::new() || text.is_empty() {
        text.to_owned()
    } else {
        format!("{style}{text}{style:#}")
    }
}

/// How a word is coloured, by the name of its column.
fn style_of(column: &str, word: &str) -> Style {
    match (column, word) {
        ("SEVERITY", "error") => RED,
        ("SEVERITY", "warning") => YELLOW,
        ("SEVERITY" | "STATE", "ok" | "alive") => GREEN,
        ("SEVERITY" | "STATE", "note" | "-" | "closed" | "ended" | "foreign") => DIM,
        ("STATE", "decided" | "orphaned" | "unlisted" | "came back" | "unknown") => YELLOW,
        ("STATE", word) if word.starts_with("silent") => YELLOW,
        ("HEURISTIC" | "HEURISTICS", word) if word != "-" && word != "0" => RED,
        _ => Style::new(),
    }
}

/// What a line that is told begins with says how it is meant.
pub(crate) fn painted_talk(line: &str) -> String {
    let styles = [
        ("error:", RED),
        ("not sound:", RED),
        ("not fit:", RED),
        ("in doubt:", YELLOW),
        ("left:", YELLOW),
        ("warning:", YELLOW),
        ("sound:", GREEN),
        ("fit:", GREEN),
    ];
    for (word, style) in styles {
        if let Some(rest) = line.strip_prefix(word) {
            return format!("{}{rest}", painted(word, style));
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let rows = [
            ["log", "warning", "one\ntwo"],
            ["wäre", "-", ""],
            ["x", "error", "数 end  "],
        ];
        rows.map(|row| row.map(str::to_owned).to_vec()).to_vec()
    }

    #[test]
    fn columns_stand_below_their_heads_and_nothing_is_behind_the_last_text() {
        let text = lay_out(&["WHAT", "SEVERITY", "EVIDENCE"], &rows());
        let plain = anstream::adapter::strip_str(&text).to_string();
        let expected = "WHAT  SEVERITY  EVIDENCE\n\
                        log   warning   one\n                two\n\
                        wäre  -\n\
                        x     error     数 end";
        assert_eq!(plain, expected);
        assert_eq!(lay_out(&["A"], &[]), painted("A", HEAD));
    }

    #[test]
    fn the_word_is_coloured_and_not_its_padding() {
        let text = lay_out(&["WHAT", "SEVERITY", "EVIDENCE"], &rows());
        assert!(
            text.contains(&format!("{YELLOW}warning{YELLOW:#}   one")),
            "{text:?}"
        );
        assert!(
            text.contains(&format!("{RED}error{RED:#}     数")),
            "{text:?}"
        );
        assert_eq!(painted_talk("error: no"), format!("{RED}error:{RED:#} no"));
        assert_eq!(painted_talk("an error: no"), "an error: no");
    }
}
