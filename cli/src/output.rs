//! Tables and JSON, on standard output.

use std::io::{self, Write};

use unanimous::operator::State;

use crate::run::Failure;

/// One JSON document.
pub(crate) fn json(value: &serde_json::Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    print(&text)
}

/// Prints the lines, with colours if a person sees them. That nobody reads them any more is no
/// failure, and changes no exit code.
fn print(lines: &str) -> Result<(), Failure> {
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    let printed = writeln!(out, "{lines}").and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The data as JSON. Ours always can be.
pub(crate) fn to_json(value: Result<serde_json::Value, serde_json::Error>) -> Result<(), Failure> {
    json(&value.map_err(|error| Failure::Message(error.to_string()))?)
}

/// An empty line between two tables.
pub(crate) fn blank() -> Result<(), Failure> {
    print("")
}

/// A text as it is.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    print(text)
}

/// Columns without lines, so that other programs can cut them. Nothing is shortened or wrapped.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    print(&crate::columns::lay_out(head, &rows))
}

/// A text of others, without what could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// The same for a text of several lines.
pub(crate) fn lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// `-` for what is not known.
pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// Seconds as a person says them.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

pub(crate) const fn state(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Decided => "decided",
        State::Orphaned => "orphaned",
        State::OtherMember => "other member's",
        State::SilentMember => "silent member's",
        State::Unlisted => "unlisted",
        State::CameBack => "came back",
        State::OtherManager => "other manager's",
        State::Foreign => "foreign",
        State::Ended => "ended",
        // Of a newer library.
        State::Unknown | _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_in_the_two_largest_units() {
        let ages = [0, 59, 61, 3661, 90_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m01s", "1h01m", "1d01h"]);
    }

    #[test]
    fn a_foreign_text_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
