//! A wrong clock: one place reads the time of day, to write it beside decisions and what people
//! did, for people. So a clock that jumps by years changes nothing but what they read.
//!
//! What is measured is measured by the monotonic clock, which nobody sets, and decides about speed
//! alone. Ages are reckoned by the server, from its own clock, for people to read.

use std::fs;
use std::path::Path;

/// Every way to the time of day, in the standard library and in the crates at hand.
const TIME_OF_DAY: &[&str] = &[
    "SystemTime",
    "UNIX_EPOCH",
    "chrono::",
    "time::OffsetDateTime",
    "jiff::",
    "clock_gettime",
    "CLOCK_REALTIME",
    "elapsed_since_epoch",
];

/// Where the monotonic clock is read, each with what it decides.
const MONOTONIC: &[(&str, &str)] = &[
    (
        "adapters/postgres/src/awaited.rs",
        "for how long nobody waits again for standbys that were waited for in vain",
    ),
    (
        "adapters/postgres/src/session.rs",
        "how long connecting may take",
    ),
    (
        "adapters/mysql/src/route.rs",
        "how long connecting may take",
    ),
    (
        "src/driver/calls.rs",
        "how long a call took, told in debug events",
    ),
    (
        "adapters/mysql/src/handover.rs",
        "how long a branch of MariaDB's is left alone before it is ended from elsewhere",
    ),
    (
        "src/driver/mod.rs",
        "the deadline: too late costs a rollback",
    ),
    (
        "src/recovery/gone.rs",
        "how long others get to say how a branch ended, before it is called a hazard",
    ),
    (
        "src/log/engine.rs",
        "when lazy records are written, when a failed log is reopened",
    ),
    (
        "src/log/next_segment.rs",
        "when a segment that could not be made is tried again",
    ),
    (
        "src/log/table/desk.rs",
        "how long joining and leaving wait for a barrier's locks",
    ),
    ("src/manager.rs", "how long the start waits"),
    (
        "src/opening.rs",
        "how long opening branches may take: too late costs a rollback",
    ),
    (
        "src/operator/barrier.rs",
        "how long a barrier stands, and how long it took, which a person reads",
    ),
    (
        "src/operator/barrier_shared.rs",
        "how long a barrier waits for what was decided before",
    ),
    (
        "src/operator/shared.rs",
        "how long a look waits for signs of life, which a person reads",
    ),
    (
        "src/operator/secret.rs",
        "how long a command may take that gives a password",
    ),
    (
        "src/places.rs",
        "how long a place in a pool is waited for: too late costs a rollback",
    ),
    (
        "src/recovery/late.rs",
        "how long the check of a server that was away may take",
    ),
    (
        "src/recovery/mod.rs",
        "when the next pass comes, which a person reads",
    ),
    ("src/transaction.rs", "the deadline"),
];

/// Where the time of day is read, and who asks for it, to write it down.
const FOR_PEOPLE: &str = "src/log/wall_clock.rs";
const WRITERS: &[&str] = &["src/log/file.rs", "src/operator/person.rs"];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in [
        "core/src",
        "src",
        "adapters/postgres/src",
        "adapters/mysql/src",
    ] {
        collect(root, &root.join(folder), &mut found);
    }
    assert!(found.len() > 50, "the sources are there");
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            // What a file says before its tests.
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            if !name.ends_with("_test.rs") {
                found.push((name.to_owned(), code.to_owned()));
            }
        }
    }
}

#[test]
fn i5_the_time_of_day_is_only_written_down() {
    for (name, code) in sources() {
        for way in TIME_OF_DAY {
            let is_meant = name == FOR_PEOPLE;
            assert!(
                is_meant || !code.contains(way),
                "{name} asks for the time: {way}"
            );
        }
        let asks = code.contains("wall_clock::now()");
        assert!(
            !asks || WRITERS.contains(&&*name),
            "{name} asks for the time: what for?"
        );
    }
}

#[test]
fn the_monotonic_clock_is_read_only_where_it_decides_about_speed() {
    for (name, code) in sources() {
        let is_listed = MONOTONIC.iter().any(|(listed, _)| *listed == name);
        let is_read = code.contains("Instant::now()");
        assert!(is_listed || !is_read, "{name} reads a clock: list for what");
    }
}
