//! Tests that need no server: the runtime against parts in memory.
#![allow(missing_docs, reason = "a test is its own documentation")]

mod runtime;
