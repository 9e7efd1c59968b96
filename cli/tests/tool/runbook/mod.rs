//! What `docs/operations.md` tells somebody to do at three in the morning, done: each symptom is
//! made on real servers, the commands of its section are read from the page and run one after the
//! other, each has to say what the page shows, and at the end plain clients look into both
//! databases.

mod failover;
mod full_disk;
mod gone;
mod locked_table;
mod log_elsewhere;
mod log_lost;
mod member_dead;
mod page;
mod restored;
mod screens;
mod shop;
mod slots;
