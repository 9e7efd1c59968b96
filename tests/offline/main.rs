//! Tests that need no server: the protocol explored exhaustively, and the runtime against parts in
//! memory.
#![allow(missing_docs, reason = "a test is its own documentation")]

mod model;
mod runtime;
