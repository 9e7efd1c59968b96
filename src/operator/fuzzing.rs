//! The config file and the control socket for the fuzz targets: whatever is read, they answer.

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{Answer, REQUEST_BYTES_MAX, Request, from_line, read_line, to_line};
use super::{ConfigFile, Listing, Recovered, TransactionShown};

/// Stands for a password in the wrong place.
const SECRET: &str = "hunter2";

/// Any text as a config file: no panic, an error says where, and no secret gets out of it (I8).
pub fn config(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    let shown = match ConfigFile::parse("u.toml".into(), text) {
        Ok(file) => format!("{file:?}"),
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("config file u.toml"), "{said}");
            said
        }
    };
    if !may_be_shown(text) {
        assert!(!has_secret(&shown), "I8: {shown}");
    }
}

/// Keys, and the log's folder and label, are no secrets.
fn may_be_shown(text: &str) -> bool {
    text.parse::<toml::Table>()
        .is_ok_and(|table| has_shown(&table, false))
}

fn has_secret(text: &str) -> bool {
    text.contains(SECRET)
}

fn has_shown(table: &toml::Table, is_log: bool) -> bool {
    table.iter().any(|(key, value)| {
        let is_told = is_log && (key == "folder" || key == "label");
        let is_folder = is_told && value.as_str().is_some_and(has_secret);
        let below = value.as_table();
        has_secret(key) || is_folder || below.is_some_and(|below| has_shown(below, key == "log"))
    })
}

/// Any bytes as what comes over the control socket, at either end of it.
///
/// # Panics
/// When what was read is not said again in the same words.
pub fn control(bytes: &[u8]) {
    let read = read_line(bytes, REQUEST_BYTES_MAX).now_or_never();
    if let Ok(line) = read.expect("bytes are there at once") {
        let is_a_line = line.ends_with(b"\n") && line.len() as u64 <= REQUEST_BYTES_MAX;
        assert!(is_a_line && bytes.starts_with(&line));
    }
    if let Ok(request) = from_line::<Request>(bytes) {
        let said = to_line(&request).expect("a request has a line");
        let again: Request = from_line(&said).expect("what was said is understood");
        assert_eq!(request.verb, again.verb);
    }
    answer::<Listing>(bytes);
    answer::<Recovered>(bytes);
    answer::<TransactionShown>(bytes);
}

fn answer<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(answer) = from_line::<Answer<T>>(bytes) {
        let said = to_line(&answer).expect("an answer has a line");
        let again: Answer<T> = from_line(&said).expect("what was said is understood");
        assert_eq!(said, to_line(&again).expect("an answer has a line"));
    }
}
