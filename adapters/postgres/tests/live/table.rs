//! The decision table: its special cases on real servers. Each test has a database of its own,
//! because the schema's name is fixed.

mod epochs;
mod failing;
mod last;
mod made;
mod suite;
mod support;
