//! Commits that a server has answered with an error of which nobody can tell what it has left.
//!
//! A server that fails to commit a prepared branch, because its binary log or its disk is full, or
//! because a plugin says no (3100, 3101 under group replication), may take the XID off its list
//! all the same: MySQL does for any of them (`process_detached_xa_commit`,
//! `process_attached_xa_commit`, sql/xa/sql_xa_commit.cc of 8.0.30 to 9.x), MariaDB for that of
//! the connection that prepared (`trans_xa_commit`, sql/xa.cc). InnoDB may keep the transaction
//! prepared then, locks and all, without an owner, and list it again after a restart; or it has
//! rolled it back, as was seen of MariaDB 10.11.19 when its binary log could take no more (3,
//! `EE_WRITE`, on the connection that prepared, by a limit to the size of its files); or committed
//! it. So that such a branch is not listed proves nothing, as long as the server runs; and if it
//! is not listed afterwards either, only its data tells how it ended.
//!
//! This is kept in the memory of this resource only. Whoever has not heard the error takes a branch
//! that is not listed for committed: see `docs/servers.md`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mysql_async::Error;
use unanimous_core::ports::Absence;
use unanimous_core::xid::Xid;

use crate::codes::{self, During};

/// See the module. Not more than pending decisions and those that were given up.
#[derive(Debug, Default)]
pub(crate) struct FailedCommits(Mutex<HashMap<Xid, Failed>>);

#[derive(Debug)]
struct Failed {
    /// By the server that was started then.
    started: u64,
    why: String,
}

impl FailedCommits {
    /// This error came in answer to `XA COMMIT`, from the server that was started then.
    pub(crate) fn hear(&self, xid: &Xid, started: u64, error: &Error, during: During) {
        if codes::leaves_a_commit_undetermined(error, during) {
            let why = error.to_string();
            self.lock().insert(xid.clone(), Failed { started, why });
        }
    }

    /// The branch has ended after all, by the server's positive word.
    pub(crate) fn forget(&self, xid: &Xid) {
        self.lock().remove(xid);
    }

    /// What became of a branch that the server, started then, does not list, if its commit has
    /// failed.
    pub(crate) fn judge(&self, xid: &Xid, started: u64) -> Option<Absence> {
        let failed = self.lock();
        let Failed { started: then, why } = failed.get(xid)?;
        Some(if *then == started {
            Absence::InDoubt(format!(
                "the server has failed to commit {xid} ({why}), and may hold it without listing \
                 it: see its error log; after a restart it is listed again, or has ended"
            ))
        } else {
            Absence::Hazard(format!(
                "the server has failed to commit {xid} ({why}), and does not list it after its \
                 restart: compare the data"
            ))
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Xid, Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
