//! Where the runtime waits, there is a point before and after it, where the matrix can strike.
//!
//! An await is covered if, in the text of its function, the awaits before and after it are points.
//! Every other one is in the table below, with the reason why a point of its own would be the same
//! as one that is there. The table counts them, function by function: one more, or one less, is
//! seen. `src/operator`, where a person waits for the answer of a local socket, is left out.

use std::collections::BTreeMap;

use super::source::{Source, code_of, repository};

/// File, function and how many.
type Place = (&'static str, &'static str, usize);

const REASONS: &[(&str, &[Place])] = &[
    (
        "it only calls functions whose own awaits are looked at",
        &[
            ("src/driver/mod.rs", "commit", 2),
            ("src/driver/mod.rs", "rollback", 2),
            ("src/driver/mod.rs", "execute", 2),
            ("src/driver/mod.rs", "handle", 1),
            ("src/driver/replies.rs", "record_heuristic", 1),
            ("src/enlist.rs", "enlist", 4),
            ("src/log/file.rs", "record_by_hand", 1),
            ("src/log/file.rs", "record_heuristic", 1),
            ("src/log/file.rs", "close", 1),
            ("src/manager.rs", "recover", 1),
            ("src/manager.rs", "survey", 1),
            ("src/recovery/mod.rs", "run_passes", 2),
            ("src/recovery/pass.rs", "end_claimed", 1),
            ("src/recovery/pass.rs", "end_present", 2),
            ("src/recovery/pass.rs", "prove_absent", 3),
            ("src/recovery/pass.rs", "heuristic", 1),
            ("src/transaction.rs", "enlist", 1),
            ("src/transaction.rs", "enlist_read_only", 1),
        ],
    ),
    (
        "it waits for calls, passes or tasks of this crate that have points of their own",
        &[
            ("src/driver/mod.rs", "run", 5),
            ("src/driver/mod.rs", "next_event", 1),
            ("src/driver/mod.rs", "conclude", 1),
            ("src/manager.rs", "recover_all", 1),
            ("src/manager.rs", "recover_at", 1),
            ("src/manager.rs", "recover_some", 4),
            ("src/manager.rs", "within", 2),
            ("src/manager.rs", "shutdown", 3),
            ("src/shutdown.rs", "end", 1),
            ("src/recovery/mod.rs", "after", 2),
            ("src/recovery/mod.rs", "pass", 3),
            ("src/recovery/mod.rs", "settle", 2),
            ("src/recovery/unrecorded.rs", "record_left", 2),
            ("src/recovery/pass.rs", "note_hands", 1),
            ("src/recovery/pass.rs", "run", 6),
            ("src/transaction.rs", "commit", 1),
            ("src/transaction.rs", "rollback", 1),
            ("src/opening.rs", "open_missing", 3),
            ("src/recovery/late.rs", "check_fit", 1),
            ("src/shutdown.rs", "drop", 1),
        ],
    ),
    (
        "its callers have a point before and after it",
        &[
            ("src/active.rs", "drained", 1),
            ("src/active.rs", "wait_until", 1),
            ("src/bounded.rs", "bounded", 1),
            ("src/bounded.rs", "bounded_on", 1),
            ("src/driver/calls.rs", "timed", 1),
            ("src/gate.rs", "pass_until", 1),
            ("src/gate.rs", "shut", 1),
            ("src/log/file.rs", "open", 2),
            ("src/log/file.rs", "ask", 1),
            ("src/log/file.rs", "force", 1),
            ("src/log/file.rs", "decide", 1),
            ("src/log/file.rs", "shutdown", 1),
            ("src/preflight.rs", "check_all", 2),
            ("src/recovery/pass.rs", "observe", 3),
            ("src/recovery/lost.rs", "note_given_up", 1),
            ("src/recovery/pass.rs", "ask_of", 3),
            ("src/recovery/recorded.rs", "left_behind", 1),
            ("src/recovery/recorded.rs", "named", 2),
            ("src/recovery/recorded.rs", "unproven", 1),
            ("src/recovery/pass.rs", "scan", 1),
            ("src/recovery/recorded.rs", "ask_log", 1),
            ("src/recovery/recorded.rs", "ask", 1),
            ("src/recovery/acts.rs", "end", 1),
            ("src/recovery/mod.rs", "hands_off", 1),
            ("src/shutdown.rs", "hands_off", 2),
            ("src/shutdown.rs", "close_log", 2),
            ("src/opening.rs", "take_places", 1),
            ("src/places.rs", "take", 1),
            ("src/recovery/late.rs", "check", 1),
        ],
    ),
    (
        "it is the last of what is asked before, or the first after, a point of the caller",
        &[("src/manager.rs", "open", 2)],
    ),
    (
        "nothing is done between two readings of the log",
        &[
            ("src/recovery/lost.rs", "unknown_resources", 3),
            ("src/recovery/recorded.rs", "read", 2),
        ],
    ),
    (
        "it only looks: whoever is killed there has changed nothing",
        &[
            ("src/manager.rs", "survey_all", 3),
            ("src/recovery/survey.rs", "survey", 1),
            ("src/recovery/survey.rs", "look", 2),
            ("src/recovery/survey.rs", "plan_all", 5),
            ("src/log/observed.rs", "apart", 1),
            ("src/log/observed.rs", "by_hand", 1),
            ("src/log/observed.rs", "decided_at", 1),
            ("src/log/observed.rs", "heuristics", 1),
            ("src/log/observed.rs", "look", 1),
            ("src/log/observed.rs", "lookup", 1),
            ("src/log/observed.rs", "open", 1),
            ("src/log/observed.rs", "openings", 1),
            ("src/log/observed.rs", "pending", 1),
            ("src/log/observed.rs", "seen", 1),
            ("src/log/observed.rs", "snapshot", 1),
        ],
    ),
    (
        "it waits between two rounds: the point that ends one and that which begins the next",
        &[
            ("src/active.rs", "ended", 1),
            ("src/manager.rs", "ended", 1),
            ("src/outcome.rs", "completed", 1),
            ("src/recovery/mod.rs", "stopped", 1),
            ("src/recovery/mod.rs", "woken", 2),
            ("src/recovery/mod.rs", "turn", 1),
            ("src/retry.rs", "retry", 4),
        ],
    ),
    (
        "it asks the table, or waits for what does: the matrix strikes there through a log with \
         faults of its own, and the simulation loses, delays and refuses each request",
        &[
            ("src/log/table/batches.rs", "is_final", 1),
            ("src/log/table/batches.rs", "run_first", 2),
            ("src/log/table/batches.rs", "run_repeated", 3),
            ("src/log/table/batches.rs", "write", 2),
            ("src/log/table/ends.rs", "note_by_hand", 1),
            ("src/log/table/ends.rs", "noted_by_hand", 1),
            ("src/log/table/ends.rs", "noted_ends", 1),
            ("src/log/table/ends.rs", "times_of", 1),
            ("src/log/table/server.rs", "judge", 1),
            ("src/log/table/shared.rs", "turn", 1),
            ("src/log/table/desk.rs", "ask", 1),
            ("src/log/table/desk.rs", "ask_within", 1),
            ("src/log/table/desk.rs", "ask_until_free", 2),
            ("src/log/table/lazy.rs", "run", 2),
            ("src/log/table/lazy.rs", "write_all", 1),
            ("src/log/table/lazy.rs", "write_some", 3),
            ("src/log/table/lazy.rs", "force", 3),
            ("src/log/table/members.rs", "close", 1),
            ("src/log/table/members.rs", "close_all", 1),
            ("src/log/table/members.rs", "join_anew", 2),
            ("src/log/table/members.rs", "release_left", 2),
            ("src/log/table/members.rs", "release_old", 3),
            ("src/log/table/members.rs", "round", 2),
            ("src/log/table/members.rs", "run", 3),
            ("src/log/table/members.rs", "try_join_anew", 4),
            ("src/log/table/mod.rs", "checked", 3),
            ("src/log/table/mod.rs", "open", 3),
            ("src/log/table/open.rs", "believe_rollback", 2),
            ("src/log/table/open.rs", "by_hand", 1),
            ("src/log/table/open.rs", "close", 1),
            ("src/log/table/open.rs", "decide", 2),
            ("src/log/table/open.rs", "decided_at", 1),
            ("src/log/table/open.rs", "force", 2),
            ("src/log/table/open.rs", "heuristics", 1),
            ("src/log/table/open.rs", "record_by_hand", 1),
            ("src/log/table/open.rs", "join", 1),
            ("src/log/table/open.rs", "hands", 1),
            ("src/log/table/open.rs", "lookup", 1),
            ("src/log/table/open.rs", "lookup_all", 1),
            ("src/log/table/ends.rs", "find", 1),
            ("src/log/table/ends.rs", "noted_hands", 1),
            ("src/log/table/ends.rs", "look_up_some", 2),
            ("src/log/table/open.rs", "members", 1),
            ("src/log/table/open.rs", "openings", 1),
            ("src/log/table/open.rs", "pending", 1),
            ("src/log/table/open.rs", "read", 1),
            ("src/log/table/open.rs", "record_heuristic", 1),
            ("src/log/table/open.rs", "refuse_stranger", 1),
            ("src/log/table/open.rs", "settle_last", 3),
            ("src/log/table/open.rs", "shutdown", 5),
            ("src/log/table/open.rs", "snapshot", 1),
        ],
    ),
    (
        "it records what a person does, or what is left of it: `tests/offline/runtime/by_hand.rs` \
         ends whoever does it at every step",
        &[
            ("src/recovery/by_hand.rs", "close_records", 1),
            ("src/recovery/end_by_hand.rs", "complete_pending", 1),
            ("src/recovery/end_by_hand.rs", "end_by_hand", 7),
            ("src/recovery/end_by_hand.rs", "end_one", 6),
            ("src/recovery/end_by_hand.rs", "gives_way", 4),
            ("src/recovery/by_hand.rs", "hands_of", 1),
            ("src/recovery/by_hand.rs", "hazard", 1),
            ("src/recovery/end_by_hand.rs", "is_listed", 1),
            ("src/recovery/look_for_hand.rs", "look_for_hand", 5),
            ("src/recovery/by_hand.rs", "mark", 1),
            ("src/recovery/end_by_hand.rs", "note_end", 3),
            ("src/recovery/by_hand.rs", "settle", 2),
            ("src/recovery/by_hand.rs", "how_it_ended", 3),
            ("src/recovery/by_hand.rs", "settle_one", 5),
            ("src/recovery/pass.rs", "ended_by_whom", 6),
            ("src/recovery/end_by_hand.rs", "still_holds", 2),
            ("src/recovery/end_by_hand.rs", "still_prepared", 2),
            ("src/recovery/end_by_hand.rs", "take_back", 3),
            ("src/recovery/end_by_hand.rs", "void", 1),
        ],
    ),
    (
        "it gives a lost branch up: `tests/offline/runtime/lost_branch.rs` lets whoever does it \
         die at every step",
        &[
            ("src/recovery/give_up.rs", "give_up", 7),
            ("src/recovery/give_up.rs", "hands", 1),
            ("src/recovery/give_up.rs", "look_for_lost", 6),
            ("src/recovery/give_up.rs", "still_unproven", 2),
            ("src/recovery/give_up.rs", "unproven", 2),
            ("src/recovery/give_up.rs", "unregistered", 1),
        ],
    ),
    (
        "it is the point",
        &[
            ("src/driver/calls.rs", "reached", 1),
            ("src/observe.rs", "reached", 1),
            ("src/observe.rs", "at", 1),
        ],
    ),
];

/// The awaits of one function, in the order of the text: which of them are points.
#[derive(Default)]
struct Function {
    name: String,
    awaits: Vec<bool>,
}

impl Function {
    fn uncovered(&self) -> usize {
        let is_point = |index: Option<usize>| {
            index.and_then(|index| self.awaits.get(index)).copied() == Some(true)
        };
        let is_covered = |index: usize| {
            self.awaits[index] || is_point(index.checked_sub(1)) && is_point(Some(index + 1))
        };
        (0..self.awaits.len())
            .filter(|index| !is_covered(*index))
            .count()
    }
}

fn functions(file: &Source) -> Vec<Function> {
    let mut functions = vec![Function::default()];
    for (_, line) in file.lines_without_tests() {
        let code = code_of(line);
        if let Some((_, name)) = code.split_once("fn ")
            && let Some((name, _)) = name.split_once(['(', '<'])
        {
            let (name, awaits) = (name.to_owned(), Vec::new());
            functions.push(Function { name, awaits });
        }
        let is_point = code.contains("Point::");
        let found = code.matches(".await").map(|_| is_point);
        functions
            .last_mut()
            .expect("the first is there")
            .awaits
            .extend(found);
    }
    functions
}

/// By file and function, how many awaits have no point before and after them.
fn uncovered(files: &[Source]) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for file in files {
        for function in functions(file) {
            let count = function.uncovered();
            if count > 0 {
                *found.entry((file.path.clone(), function.name)).or_default() += count;
            }
        }
    }
    found
}

#[test]
fn every_await_has_a_point_before_and_after_it_or_a_reason() {
    let mut files = repository(".rs");
    files.retain(|file| file.path.starts_with("src/") && !file.path.starts_with("src/operator/"));
    let mut reasoned = BTreeMap::new();
    for (why, places) in REASONS {
        assert!(!why.is_empty());
        for (file, function, count) in *places {
            *reasoned
                .entry(((*file).to_owned(), (*function).to_owned()))
                .or_default() += count;
        }
    }
    let found = uncovered(&files);
    let keys = found.keys().chain(reasoned.keys());
    let differs = |key: &&(String, String)| found.get(*key) != reasoned.get(*key);
    let wrong: Vec<String> = keys
        .filter(differs)
        .map(|key| {
            let (file, function) = key;
            let (found, reasoned) = (found.get(key), reasoned.get(key));
            format!(
                "{file}, {function}: {found:?} awaits without points, {reasoned:?} with a reason"
            )
        })
        .collect();
    let list = wrong.join("\n  ");
    assert!(
        wrong.is_empty(),
        "\n  {list}\nput a point of src/observe.rs before and after it, with a story of \
         tests/live/matrix that reaches them, or say why it needs none\n"
    );
}

#[test]
fn an_await_without_points_is_seen() {
    let text = "async fn covered() {\n  reached(Point::A).await;\n  call().await;\n  \
                reached(Point::B).await;\n}\nasync fn not() {\n  reached(Point::A).await;\n  \
                call().await;\n}\n";
    let file = Source {
        path: "src/x.rs".to_owned(),
        text: text.to_owned(),
    };
    let found = uncovered(&[file]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[&("src/x.rs".to_owned(), "not".to_owned())], 1);
}
