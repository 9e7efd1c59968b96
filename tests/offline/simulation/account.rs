//! What applications were told, kept outside of every process: what the invariants are held
//! against.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use unanimous::{Decision, Gtrid, ManagerId, Opening, TransactionOutcome, Xid};

use super::journal::{Invariant, Journal, lock};
use super::world::World;

/// What `commit` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Committed,
    RolledBack,
    Undetermined,
    Heuristic,
}

/// One transaction.
#[derive(Debug, Clone)]
pub(super) struct Tx {
    pub(super) number: u64,
    pub(super) member: usize,
    pub(super) life: u32,
    /// The servers at which its work was done; its mark is written at each, or at none.
    pub(super) at: BTreeSet<usize>,
    /// How many branches may write.
    pub(super) writers: usize,
    pub(super) answer: Option<Answer>,
    /// It can only be rolled back: the application said so, dropped it, or let a statement fail.
    pub(super) doomed: Option<&'static str>,
    /// The application holds it, or waits for its commit: it is in A.
    pub(super) is_active: bool,
    pub(super) is_decided: bool,
    pub(super) is_refused: bool,
    pub(super) outcomes: Vec<TransactionOutcome>,
    /// Where a person has rolled back its prepared branch.
    pub(super) by_hand: BTreeSet<usize>,
}

impl Tx {
    pub(super) fn mark(&self) -> String {
        format!("t{}", self.number)
    }

    /// Where it has to end as the others do.
    pub(super) fn untouched(&self) -> impl Iterator<Item = &usize> + '_ {
        self.at.iter().filter(|at| !self.by_hand.contains(*at))
    }

    /// With one branch that may write there is no decision in the log.
    pub(super) fn is_one_phase(&self) -> bool {
        self.writers == 1
    }
}

#[derive(Debug, Default)]
struct Book {
    txs: BTreeMap<Gtrid, Tx>,
    next_number: u64,
    openings: BTreeMap<usize, Vec<Opening>>,
    /// Branches that nobody of this world may touch.
    foreign: BTreeSet<(usize, Xid)>,
}

#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Book>);

impl Account {
    fn lock(&self) -> MutexGuard<'_, Book> {
        lock(&self.0)
    }

    pub(super) fn begin(&self, gtrid: Gtrid, member: usize, life: u32) -> Tx {
        let mut book = self.lock();
        book.next_number += 1;
        let tx = Tx {
            number: book.next_number,
            member,
            life,
            at: BTreeSet::new(),
            writers: 0,
            answer: None,
            doomed: None,
            is_active: true,
            is_decided: false,
            is_refused: false,
            outcomes: Vec::new(),
            by_hand: BTreeSet::new(),
        };
        book.txs.insert(gtrid, tx.clone());
        tx
    }

    /// Changes what is known of a transaction.
    pub(super) fn note(&self, gtrid: Gtrid, change: impl FnOnce(&mut Tx)) {
        if let Some(tx) = self.lock().txs.get_mut(&gtrid) {
            change(tx);
        }
    }

    pub(super) fn get(&self, gtrid: Gtrid) -> Option<Tx> {
        self.lock().txs.get(&gtrid).cloned()
    }

    pub(super) fn all(&self) -> BTreeMap<Gtrid, Tx> {
        self.lock().txs.clone()
    }

    pub(super) fn foreign(&self) -> BTreeSet<(usize, Xid)> {
        self.lock().foreign.clone()
    }

    pub(super) fn plant_foreign(&self, at: usize, xid: Xid) {
        self.lock().foreign.insert((at, xid));
    }

    pub(super) fn manager_of(&self, member: usize) -> Option<Opening> {
        self.lock().openings.get(&member)?.last().copied()
    }
}

/// What is watched as it happens.
impl Account {
    /// A log was opened. It is the same one for ever, and each opening is a new one.
    pub(super) fn opened(&self, journal: &Journal, member: usize, opening: Opening) {
        journal.note(format_args!("p{member} opened its log: {opening:?}"));
        let mut book = self.lock();
        let openings = book.openings.entry(member).or_default();
        // An opening that nobody was told of may be lost with the disk's unsynced bytes.
        if let Some(earlier) = openings.last()
            && (earlier.manager != opening.manager || earlier.epoch >= opening.epoch)
        {
            let text = format!("p{member}: {opening:?} after {earlier:?}");
            journal.violated(Invariant::I2Durability, text);
        }
        openings.push(opening);
    }

    pub(super) fn decided(&self, journal: &Journal, gtrid: Gtrid) {
        journal.note(format_args!("decided {}", gtrid.sequence));
        let mut book = self.lock();
        let Some(tx) = book.txs.get_mut(&gtrid) else {
            return;
        };
        tx.is_decided = true;
        if tx.is_refused {
            let text = format!("{} was refused and is decided", tx.mark());
            journal.violated(Invariant::I3NeverGuess, text);
        }
    }

    pub(super) fn refused(&self, journal: &Journal, gtrid: Gtrid) {
        journal.note(format_args!("refused {}", gtrid.sequence));
        let mut book = self.lock();
        let Some(tx) = book.txs.get_mut(&gtrid) else {
            return;
        };
        tx.is_refused = true;
        if tx.is_decided {
            let text = format!("{} was decided and is refused", tx.mark());
            journal.violated(Invariant::I3NeverGuess, text);
        }
    }

    /// A decision is forgotten only when every branch of it is committed.
    pub(super) fn completed(&self, journal: &Journal, world: &World, gtrid: Gtrid) {
        let Some(tx) = self.get(gtrid) else {
            return;
        };
        journal.note(format_args!("completed {}", tx.mark()));
        for at in tx.untouched() {
            if !world.servers[*at].has(&tx.mark()) {
                let text = format!("{} is completed, but not committed at {at}", tx.mark());
                journal.violated(Invariant::I3NeverGuess, text);
            }
        }
    }

    /// Recovery is about to end a branch.
    pub(super) fn recovery_ends(
        &self,
        journal: &Journal,
        member: usize,
        xid: &Xid,
        decision: Decision,
        is_closed: bool,
    ) {
        let book = self.lock();
        let own = book.openings.get(&member);
        let own: Vec<ManagerId> = own.into_iter().flatten().map(|o| o.manager).collect();
        let opening = xid.gtrid.opening;
        let is_planted = book.foreign.iter().any(|(_, planted)| planted == xid);
        if !own.contains(&opening.manager) || is_planted {
            let text = format!("p{member} would {decision:?} {xid}, which is not its own");
            journal.violated(Invariant::I4OnlyOurs, text);
        }
        let Some(tx) = book.txs.get(&xid.gtrid) else {
            return;
        };
        // Another's, once its epoch is closed, can be ended whatever it does.
        if tx.is_active && !(is_closed && tx.member != member) {
            let text = format!(
                "p{member} would {decision:?} {}, which is active",
                tx.mark()
            );
            journal.violated(Invariant::I5NoFratricide, text);
        }
        // What a person has rolled back may come back, after the decision was forgotten.
        let by_hand = |at: &usize| xid.bqual.as_str() == format!("s{at}");
        let is_ours = !tx.by_hand.iter().any(by_hand);
        if tx.is_decided && decision == Decision::Rollback && is_ours {
            let text = format!("p{member} would roll back {}, which is decided", tx.mark());
            journal.violated(Invariant::I1Atomicity, text);
        }
    }

    /// `commit` has answered.
    pub(super) fn answered(
        &self,
        journal: &Journal,
        world: &World,
        gtrid: Gtrid,
        answer: Answer,
        unfinished: &[usize],
    ) {
        let Some(tx) = self.get(gtrid) else {
            return;
        };
        journal.note(format_args!(
            "{} answered {answer:?} {unfinished:?}",
            tx.mark()
        ));
        if answer == Answer::Committed {
            for at in tx.untouched().filter(|at| !unfinished.contains(*at)) {
                if !world.servers[*at].has(&tx.mark()) {
                    let text = format!("{} is answered, and is not at {at}", tx.mark());
                    journal.violated(Invariant::I2Durability, text);
                }
            }
        }
        self.note(gtrid, |tx| {
            tx.answer = Some(answer);
            tx.is_active = false;
        });
    }

    /// `outcome` has answered. It may say less than it said before, never something else.
    pub(super) fn outcome(&self, journal: &Journal, gtrid: Gtrid, outcome: TransactionOutcome) {
        let mut book = self.lock();
        let Some(tx) = book.txs.get_mut(&gtrid) else {
            return;
        };
        journal.note(format_args!("outcome of {} is {outcome:?}", tx.mark()));
        tx.outcomes.push(outcome);
    }

    /// The process is gone: nothing of it is active.
    pub(super) fn died(&self, member: usize, life: u32) {
        let mut book = self.lock();
        let own = |tx: &&mut Tx| tx.member == member && tx.life == life;
        for tx in book.txs.values_mut().filter(own) {
            tx.is_active = false;
        }
    }
}
