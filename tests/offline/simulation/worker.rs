//! An application: moves money between servers, and does everything wrong that applications do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use unanimous::{CommitError, Committed, Gtrid, Transaction, TransactionManager};
use unanimous_testing::drop_after;

use super::account::Answer;
use super::journal::Invariant;
use super::life::Life;
use super::luck::Luck;
use super::resource::{Remote, RemoteBranch};
use super::world::{ACCOUNTS, Season, World, account};

const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Worker {
    world: Arc<World>,
    member: usize,
    life: Arc<Life>,
    manager: TransactionManager,
    remotes: Vec<Remote>,
    luck: Luck,
    begun: Vec<Gtrid>,
}

impl Worker {
    pub(super) fn new(
        world: &Arc<World>,
        member: usize,
        life: &Arc<Life>,
        manager: &TransactionManager,
        _number: u64,
    ) -> Self {
        let remotes = (0..world.servers.len()).map(|at| Remote::new(world, member, life, at));
        Self {
            remotes: remotes.collect(),
            world: Arc::clone(world),
            member,
            life: Arc::clone(life),
            manager: manager.clone(),
            luck: world.luck.fork(),
            begun: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        while self.world.season() == Season::Storm {
            self.transfer().await;
            self.life.lives().await;
            if self.luck.chance(200) {
                self.ask_for_an_outcome().await;
            }
            sleep(self.luck.millis(0, 250)).await;
        }
    }

    async fn transfer(&mut self) {
        let mut tx = self.manager.begin();
        let gtrid = tx.gtrid();
        let mark = self
            .world
            .account
            .begin(gtrid, self.member, self.life.number)
            .mark();
        self.begun.push(gtrid);
        if self.luck.chance(30) {
            self.world
                .journal
                .fault("short deadline", format_args!("{mark}"));
            tx.set_deadline(self.luck.millis(0, 60));
        }
        let count = *self.luck.pick(&[1, 2, 2, 2, 3, 4]);
        let at = self.luck.some_of(self.remotes.len(), count);
        self.world.account.note(gtrid, |tx| tx.writers = at.len());
        let is_enlisted = self.enlist(&mut tx, gtrid, &at).await;
        if !is_enlisted {
            // As applications do that wait for a database.
            sleep(self.luck.millis(0, 500)).await;
        }
        let mut worked = match is_enlisted {
            true => self.work(&mut tx, gtrid, &at, &mark).await,
            false => Err("a branch was not enlisted"),
        };
        if worked.is_ok() && self.luck.chance(150) {
            worked = self.look(&mut tx, &at).await;
        }
        self.life.lives().await;
        if let Err(why) = worked {
            self.doom(gtrid, why);
        }
        self.end(tx, gtrid, worked.is_err()).await;
    }

    /// From here on it can only be rolled back.
    fn doom(&self, gtrid: Gtrid, why: &'static str) {
        self.world
            .journal
            .note(format_args!("doomed {}: {why}", gtrid.sequence));
        self.world.account.note(gtrid, |tx| {
            tx.doomed.get_or_insert(why);
        });
    }

    fn let_go(&self, gtrid: Gtrid) {
        self.world.account.note(gtrid, |tx| tx.is_active = false);
    }

    async fn enlist(&self, tx: &mut Transaction, gtrid: Gtrid, at: &[usize]) -> bool {
        let remotes: Vec<&Remote> = at.iter().map(|at| &self.remotes[*at]).collect();
        if self.luck.chance(60) {
            let polls = self.luck.below(6) as usize;
            let kind = "enlist dropped";
            self.world
                .journal
                .fault(kind, format_args!("{} {polls}", gtrid.sequence));
            drop(drop_after(polls, tx.enlist(&remotes[..])).await);
            if self.luck.chance(300) {
                return false;
            }
        }
        tx.enlist(&remotes[..]).await.is_ok()
    }

    /// The first account gives to the others.
    async fn work(
        &self,
        tx: &mut Transaction,
        gtrid: Gtrid,
        at: &[usize],
        mark: &str,
    ) -> Result<(), &'static str> {
        let remotes: Vec<&Remote> = at.iter().map(|at| &self.remotes[*at]).collect();
        let branches = tx
            .enlist(&remotes[..])
            .await
            .map_err(|_| "enlisted once more")?;
        // The last one of many may have nothing to do.
        let idle = usize::from(at.len() > 2 && self.luck.chance(200));
        let others = (at.len() - idle) as i64 - 1;
        for (n, branch) in branches.into_iter().take(at.len() - idle).enumerate() {
            let amount = if n == 0 { -others } else { 1 };
            self.statements(branch, gtrid, amount, mark).await?;
        }
        Ok(())
    }

    /// Reads at a server where nothing is written.
    async fn look(&self, tx: &mut Transaction, at: &[usize]) -> Result<(), &'static str> {
        let others: Vec<&Remote> = self
            .remotes
            .iter()
            .filter(|r| !at.contains(&r.at()))
            .collect();
        let Some(remote) = others.first() else {
            return Ok(());
        };
        let Ok(reader) = tx.enlist_read_only(*remote).await else {
            return Err("a reader was not enlisted");
        };
        let number = account(self.luck.below(ACCOUNTS));
        match timeout(STATEMENT_TIMEOUT, reader.read(number)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("a read failed"),
        }
    }

    async fn statements(
        &self,
        branch: &mut RemoteBranch,
        gtrid: Gtrid,
        amount: i64,
        mark: &str,
    ) -> Result<(), &'static str> {
        let at = branch.at();
        let number = account(self.luck.below(ACCOUNTS));
        if self.luck.chance(100) {
            let read = timeout(STATEMENT_TIMEOUT, branch.read(number.clone())).await;
            if !matches!(read, Ok(Ok(_))) {
                return Err("a read failed");
            }
        }
        if self.luck.chance(20) {
            self.world
                .journal
                .fault("statement fails", format_args!("{mark}"));
            drop(timeout(STATEMENT_TIMEOUT, branch.fail()).await);
            return Err("a statement failed");
        }
        let booking = branch.book(number, amount, mark.to_owned());
        if self.luck.chance(20) {
            let polls = self.luck.below(3) as usize;
            self.world
                .journal
                .fault("statement dropped", format_args!("{mark} {polls}"));
            drop(timeout(STATEMENT_TIMEOUT, drop_after(polls, booking)).await);
            // Even if it was never polled, its work is missing.
            return Err("a statement was dropped");
        }
        match timeout(STATEMENT_TIMEOUT, booking).await {
            Ok(Ok(())) => {
                self.life.lives().await;
                self.world.account.note(gtrid, |tx| {
                    tx.at.insert(at);
                });
                Ok(())
            }
            Ok(Err(_)) => Err("a statement failed"),
            Err(_) => Err("a statement was not answered"),
        }
    }

    async fn end(&self, mut tx: Transaction, gtrid: Gtrid, is_doomed: bool) {
        let way = self.luck.below(100);
        // What is doomed is committed all the same by one application in four; not if it is merely
        // unfinished, because then nobody but the application knows.
        let is_unfinished = self.world.account.get(gtrid).is_some_and(|tx| {
            matches!(
                tx.doomed,
                Some("a statement was dropped" | "a branch was not enlisted")
            )
        });
        if is_unfinished {
            tx.mark_rollback_only();
        }
        let (commits, drops_commit) = if is_doomed { (25, 35) } else { (80, 90) };
        if way < commits {
            let answer = tx.commit().await;
            self.life.lives().await;
            self.answered(gtrid, answer).await;
        } else if way < drops_commit {
            let polls = self.luck.below(8) as usize;
            if polls == 0 {
                self.doom(gtrid, "its commit was never polled");
            }
            self.world
                .journal
                .fault("commit dropped", format_args!("{} {polls}", gtrid.sequence));
            let answer = drop_after(polls, tx.commit()).await;
            self.life.lives().await;
            self.let_go(gtrid);
            if let Some(answer) = answer {
                self.answered(gtrid, answer).await;
            }
        } else if way < 96 {
            self.doom(gtrid, "it was rolled back");
            self.world
                .journal
                .fault("rollback", format_args!("{}", gtrid.sequence));
            tx.rollback().await;
            self.life.lives().await;
            self.let_go(gtrid);
        } else {
            self.doom(gtrid, "it was dropped");
            self.world
                .journal
                .fault("transaction dropped", format_args!("{}", gtrid.sequence));
            self.let_go(gtrid);
            drop(tx);
        }
    }

    async fn answered(&self, gtrid: Gtrid, answer: Result<Committed, CommitError>) {
        let (journal, world) = (&self.world.journal, &self.world);
        let (kind, unfinished) = match &answer {
            Ok(committed) => {
                let names = committed.unfinished().iter();
                let of = |name: &unanimous::ResourceName| {
                    name.as_str()
                        .strip_prefix('s')
                        .and_then(|number| number.parse().ok())
                };
                (Answer::Committed, names.filter_map(of).collect())
            }
            Err(CommitError::RolledBack { .. }) => (Answer::RolledBack, Vec::new()),
            Err(CommitError::Undetermined { .. }) => (Answer::Undetermined, Vec::new()),
            Err(CommitError::Heuristic { .. }) | Err(_) => (Answer::Heuristic, Vec::new()),
        };
        world
            .account
            .answered(journal, world, gtrid, kind, &unfinished);
        let Ok(committed) = answer else {
            return;
        };
        let is_waited_for = &world.members[self.member].is_waited_for;
        if unfinished.is_empty() || is_waited_for.swap(true, Ordering::Relaxed) {
            return;
        }
        let completed = timeout(Duration::from_secs(3), committed.completed()).await;
        is_waited_for.store(false, Ordering::Relaxed);
        self.life.lives().await;
        if let Ok(Ok(())) = completed
            && let Some(tx) = world.account.get(gtrid)
            && !tx.untouched().all(|at| world.servers[*at].has(&tx.mark()))
        {
            let text = format!("{} is said to be completed, and is not", tx.mark());
            journal.violated(Invariant::I3NeverGuess, text);
        }
    }

    async fn ask_for_an_outcome(&self) {
        let gtrid = *self.luck.pick(&self.begun);
        let outcome = self.manager.outcome(gtrid).await;
        self.life.lives().await;
        if let Ok(outcome) = outcome {
            self.world
                .account
                .outcome(&self.world.journal, gtrid, outcome);
        }
    }
}
