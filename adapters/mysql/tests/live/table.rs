//! The decision table and the last resource on real servers: the suite, and what is special about
//! MySQL and MariaDB. Each test has a database of its own, because the tables' names are fixed.

mod epochs;
mod failing;
mod forced;
mod here;
mod last;
mod made;
mod suite;
mod support;
