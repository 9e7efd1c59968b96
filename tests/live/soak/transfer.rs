//! One transaction of the soak: money moves, and its number is appended to a list in each database
//! that it writes to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, CommitError, Transaction, TransactionManager};

use super::history::{Claim, Writer};
use super::{ACCOUNTS, ACCOUNTS_TABLE, LISTS_TABLE, SERVERS, lists_of};
use crate::support::Bank as _;

/// A resource of either kind.
pub(super) enum Bank {
    Postgres(Postgres),
    Mysql(Mysql),
}

/// How a transaction is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    /// The future of the commit is dropped after so long, if it is still there.
    DroppedCommit(Duration),
    Rollback,
    /// A statement fails, and the transaction is rolled back.
    FailedStatement,
    /// The transaction is dropped.
    Dropped,
}

/// What a transaction does.
pub(super) struct Transfer {
    id: u64,
    list: u32,
    /// Where it writes, in the order in which it does, and the amounts, whose sum is nothing.
    writes: Vec<(usize, i64)>,
    /// Where it only reads.
    reads: Option<usize>,
    end: End,
}

impl Transfer {
    /// Any of them.
    pub(super) fn random(id: u64, round: u32) -> Self {
        let mut servers: Vec<usize> = (0..SERVERS.len()).collect();
        fastrand::shuffle(&mut servers);
        let amount = fastrand::i64(1..100);
        let (amounts, has_reader) = match fastrand::u32(0..100) {
            0..60 => (vec![amount, -amount], false),
            60..75 => (vec![amount, amount, -2 * amount], false),
            75..85 => (vec![0], false),
            85..95 => (vec![amount, -amount], true),
            _ => (vec![0], true),
        };
        let reads = has_reader.then(|| servers[amounts.len()]);
        let end = match fastrand::u32(0..100) {
            0..88 => End::Commit,
            88..93 => End::DroppedCommit(Duration::from_millis(fastrand::u64(0..60))),
            93..96 => End::Rollback,
            96..98 => End::FailedStatement,
            _ => End::Dropped,
        };
        Self {
            id,
            list: fastrand::u32(lists_of(round)),
            writes: servers.into_iter().zip(amounts).collect(),
            reads,
            end,
        }
    }

    /// Runs it, and writes down what was said of it.
    pub(super) async fn run(
        &self,
        tm: &TransactionManager,
        banks: &[Bank],
        history: &Writer,
    ) -> (unanimous::Gtrid, Claim) {
        let mut tx = tm.begin();
        let gtrid = tx.gtrid();
        let servers: Vec<usize> = self.writes.iter().map(|(server, _)| *server).collect();
        history.begun(self.id, gtrid, self.list, &servers);
        let claim = match self.work(&mut tx, banks, history).await {
            Ok(()) => self.finish(tx).await,
            Err(_) => {
                tx.rollback().await;
                Claim::RolledBack
            }
        };
        history.ended(self.id, claim);
        (gtrid, claim)
    }

    async fn work(
        &self,
        tx: &mut Transaction,
        banks: &[Bank],
        history: &Writer,
    ) -> Result<(), BoxError> {
        for (server, amount) in &self.writes {
            let entries = banks[*server].write(tx, self, *amount).await?;
            if let Some(entries) = entries {
                let own = format!("{},", self.id);
                let before = entries
                    .strip_suffix(&own)
                    .ok_or("its own entry is missing")?;
                history.seen(self.id, *server, before.len(), digest(before));
            }
        }
        if let Some(server) = self.reads {
            banks[server].read(tx).await?;
        }
        if self.end == End::FailedStatement {
            let (server, _) = self.writes[0];
            banks[server].fail(tx).await?;
        }
        Ok(())
    }

    async fn finish(&self, tx: Transaction) -> Claim {
        match self.end {
            End::Commit | End::FailedStatement => claim(tx.commit().await.map(drop)),
            End::DroppedCommit(after) => {
                let answered = tokio::time::timeout(after, tx.commit()).await;
                answered.map_or(Claim::Unknown, |answer| claim(answer.map(drop)))
            }
            End::Rollback => {
                tx.rollback().await;
                Claim::RolledBack
            }
            End::Dropped => {
                drop(tx);
                Claim::RolledBack
            }
        }
    }
}

fn claim(answer: Result<(), CommitError>) -> Claim {
    match answer {
        Ok(()) => Claim::Committed,
        Err(CommitError::RolledBack { .. }) => Claim::RolledBack,
        Err(CommitError::Undetermined { .. }) => Claim::Unknown,
        Err(error) => {
            println!("soak:heuristic {error}");
            Claim::Heuristic
        }
    }
}

/// The same in every process of one build.
pub(super) fn digest(entries: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    entries.hash(&mut hasher);
    hasher.finish()
}

impl Bank {
    /// Changes an account (or two, if the amount is nothing) and appends to the list. Now and then
    /// answers with the list.
    async fn write(
        &self,
        tx: &mut Transaction,
        transfer: &Transfer,
        amount: i64,
    ) -> Result<Option<String>, BoxError> {
        let (id, list) = (transfer.id, transfer.list);
        let mut statements = vec![format!(
            "UPDATE {LISTS_TABLE} SET entries = CONCAT(entries, '{id},') WHERE id = {list}"
        )];
        if amount == 0 {
            statements.extend([update(17), update(-17)]);
        } else {
            statements.push(update(amount));
        }
        fastrand::shuffle(&mut statements);
        let select = format!("SELECT entries FROM {LISTS_TABLE} WHERE id = {list}");
        let looks = fastrand::u32(0..4) == 0;
        match self {
            Self::Postgres(bank) => {
                let branch = tx.enlist(bank).await?;
                for statement in &statements {
                    Postgres::run(branch, statement).await?;
                }
                if looks {
                    return Ok(Some(branch.query_one(&select, &[]).await?.get(0)));
                }
            }
            Self::Mysql(bank) => {
                let branch = tx.enlist(bank).await?;
                for statement in &statements {
                    Mysql::run(branch, statement).await?;
                }
                if looks {
                    return Ok(branch.query_first(&select).await?);
                }
            }
        }
        Ok(None)
    }

    async fn read(&self, tx: &mut Transaction) -> Result<(), BoxError> {
        let select = format!("SELECT SUM(balance) FROM {ACCOUNTS_TABLE}");
        match self {
            Self::Postgres(bank) => Postgres::run(tx.enlist_read_only(bank).await?, &select).await,
            Self::Mysql(bank) => Mysql::run(tx.enlist_read_only(bank).await?, &select).await,
        }
    }

    async fn fail(&self, tx: &mut Transaction) -> Result<(), BoxError> {
        let wrong = "UPDATE soak_no_such_table SET a = 1";
        match self {
            Self::Postgres(bank) => Postgres::run(tx.enlist(bank).await?, wrong).await,
            Self::Mysql(bank) => Mysql::run(tx.enlist(bank).await?, wrong).await,
        }
    }
}

fn update(amount: i64) -> String {
    let account = fastrand::u32(0..ACCOUNTS);
    format!("UPDATE {ACCOUNTS_TABLE} SET balance = balance + {amount} WHERE id = {account}")
}
