//! Tests that need no server: the protocol explored exhaustively, the runtime against parts in
//! memory, what the documents say, and the rules of the house.
#![allow(missing_docs, reason = "a test is its own documentation")]
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, as it should"
)]

mod clocks;
mod compose;
mod findings;
mod fuzzing;
mod guarantees;
mod model;
mod names;
mod runtime;
mod simulation;
mod tidy;
