//! The pure part of Unanimous: no file, socket, task, clock or randomness can enter, because the
//! crate is `no_std`.
//!
//! * [`xid`]: identities of managers, openings, transactions and branches; parsed exactly.
//! * [`protocol`]: presumed-abort two-phase commit as a state machine, and the recovery plan.
//! * [`ports`]: what a database ([`ports::ResourceManager`], [`ports::Branch`]) and a decision log
//!   ([`ports::DecisionLog`]) must do.
//!
//! Applications depend on the crate `unanimous`; authors of resources and logs depend on this one.

#![no_std]

extern crate alloc;

pub mod ports;
pub mod protocol;
pub mod xid;
