//! What this process has seen and done of a table log. Consistent after every statement.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use unanimous_core::ports::{DecisionRecord, Lookup, OpeningRow, OpeningState, ServerIdentity};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Epoch, Gtrid, Opening};

/// How many completed decisions are remembered here, and how many of their rows are kept: a branch
/// whose commit a server has lost in a crash is committed again as long as its row is there.
const REMEMBERED: usize = 10_000;
const ROWS_KEPT: usize = 1_000;

pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

pub(super) struct Known {
    /// Under which new transactions begin.
    own: Opening,
    /// Under which it has worked before.
    left: Vec<Opening>,
    /// The epoch that this process is to leave, if it is still its own.
    leaving: Option<Epoch>,
    /// All that were ever seen. A closed one stays closed, as long as the same server answers.
    openings: BTreeMap<Epoch, OpeningRow>,
    /// All of them were read once.
    has_read: bool,
    /// Who answered last.
    server: ServerIdentity,
    /// Recorded by this process and not complete.
    pending: BTreeMap<Gtrid, DecisionRecord>,
    /// Asked of the table, without a certain answer yet.
    attempted: HashSet<Gtrid>,
    completed: VecDeque<Gtrid>,
    is_completed: HashSet<Gtrid>,
    /// Those of them that this process has not recorded: they were read, if they are there at all.
    only_read: HashSet<Gtrid>,
    /// A branch of theirs ended against the decision, or may have: this is told by the table alone.
    has_heuristic: HashSet<Gtrid>,
    /// To be marked in the table.
    unmarked: Vec<Gtrid>,
    /// Marked by this process, oldest first; the oldest are deleted.
    marked: VecDeque<Gtrid>,
    on_close: Vec<Wake>,
    is_shut_down: bool,
    seq: u64,
}

impl Known {
    pub(super) fn new(own: OpeningRow) -> Self {
        Self {
            own: own.opening,
            left: Vec::new(),
            leaving: None,
            has_read: false,
            server: own.identity.clone(),
            openings: BTreeMap::from([(own.opening.epoch, own)]),
            pending: BTreeMap::new(),
            attempted: HashSet::new(),
            completed: VecDeque::new(),
            is_completed: HashSet::new(),
            only_read: HashSet::new(),
            has_heuristic: HashSet::new(),
            unmarked: Vec::new(),
            marked: VecDeque::new(),
            on_close: Vec::new(),
            is_shut_down: false,
            seq: 0,
        }
    }
}

/// What was known when the table was asked for openings: its answer says nothing of what happened
/// since.
pub(super) struct Question {
    /// From there on, and older ones that are open.
    pub(super) from: Epoch,
    own: Opening,
    /// Closed before it was asked, and older than that.
    older: Vec<OpeningState>,
}

impl Question {
    /// Its answer lists whatever the server lists.
    pub(super) fn is_of_all(&self) -> bool {
        self.from == Epoch(0)
    }
}

/// Openings.
impl Known {
    pub(super) fn own(&self) -> Opening {
        self.own
    }

    /// Nothing is decided under it any more, be it that it is not listed.
    pub(super) fn is_closed(&self, opening: Opening) -> bool {
        self.listed(opening).is_none_or(|row| row.is_closed)
    }

    /// Every one that was this process's own and is not.
    pub(super) fn left(&self) -> &[Opening] {
        &self.left
    }

    /// Its line, if it is listed. Its epoch may be another opening's by now.
    pub(super) fn listed(&self, opening: Opening) -> Option<&OpeningRow> {
        let row = self.openings.get(&opening.epoch)?;
        (row.opening == opening).then_some(row)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &OpeningRow> {
        self.openings.values()
    }

    pub(super) fn leave(&mut self, epoch: Epoch) {
        if epoch == self.own.epoch {
            self.leaving = Some(epoch);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving == Some(self.own.epoch)
    }

    /// Of this manager's, made by this process.
    pub(super) fn join(&mut self, own: OpeningRow) {
        self.left
            .push(std::mem::replace(&mut self.own, own.opening));
        // After a fail-over its number may be that of the one before.
        self.leaving = None;
        self.openings.insert(own.opening.epoch, own);
    }

    /// Is it another server than the one whose openings were read the time before?
    pub(super) fn is_new(&self, server: &ServerIdentity) -> bool {
        self.server != *server
    }

    /// To be asked now.
    pub(super) fn question(&self) -> Question {
        let from = self.first_open();
        Question {
            from,
            own: self.own,
            older: self
                .openings
                .range(..from)
                .map(|(_, row)| state(row))
                .collect(),
        }
    }

    /// For all of them: another server has answered.
    pub(super) fn question_of_all(&self) -> Question {
        Question {
            from: Epoch(0),
            own: self.own,
            older: Vec::new(),
        }
    }

    /// Takes in the answer, and says what there was when it was given, no matter what is known by
    /// now: of what is closed there, every decision was there, too.
    pub(super) fn see(
        &mut self,
        question: Question,
        server: &ServerIdentity,
        answer: Vec<OpeningRow>,
    ) -> Vec<OpeningState> {
        let mut there = question.older;
        there.extend(answer.iter().map(state));
        there.sort_unstable_by_key(|listed| listed.opening.epoch);
        there.dedup_by_key(|listed| listed.opening.epoch);
        // It has joined since.
        let kept = (question.own != self.own).then(|| self.openings.get(&self.own.epoch).cloned());
        if self.is_new(server) {
            // What it does not list it has lost.
            self.openings.clear();
        }
        for mut row in answer {
            if let Some(known) = self.listed(row.opening) {
                row.is_closed |= known.is_closed;
                row.is_released |= known.is_released;
            }
            self.openings.insert(row.opening.epoch, row);
        }
        if let Some(own) = kept.flatten() {
            self.openings.insert(own.opening.epoch, own);
        }
        self.has_read = true;
        self.server = server.clone();
        there
    }

    /// Is it news?
    pub(super) fn see_closed(&mut self, epoch: Epoch) -> bool {
        let row = self.openings.get_mut(&epoch);
        row.is_some_and(|row| !std::mem::replace(&mut row.is_closed, true))
    }

    /// Every older one is closed, and needs not be read again.
    fn first_open(&self) -> Epoch {
        if !self.has_read {
            return Epoch(0);
        }
        let mut open = self.openings.values().filter(|row| !row.is_closed);
        let newest = self.openings.keys().next_back().copied();
        let first = open.next().map(|row| row.opening.epoch);
        first.or(newest).unwrap_or(Epoch(0))
    }

    pub(super) fn add_wake(&mut self, wake: Wake) {
        self.on_close.push(wake);
    }

    pub(super) fn wakes(&self) -> Vec<Wake> {
        self.on_close.clone()
    }
}

fn state(row: &OpeningRow) -> OpeningState {
    OpeningState {
        opening: row.opening,
        closed: row.is_closed,
    }
}

/// Decisions.
impl Known {
    /// Recorded by this process, as far as it remembers.
    pub(super) fn recorded(&self, gtrid: Gtrid) -> Option<LogSeq> {
        let is_done = self.is_completed(gtrid) && !self.only_read.contains(&gtrid);
        let is_recorded = self.pending.contains_key(&gtrid) || is_done;
        is_recorded.then_some(LogSeq(self.seq))
    }

    pub(super) fn record(&mut self, decision: DecisionRecord) -> LogSeq {
        self.attempted.remove(&decision.gtrid);
        self.seq += 1;
        if self.only_read.remove(&decision.gtrid) {
            // It may have been completed before it was there: it is looked at once more.
            self.is_completed.remove(&decision.gtrid);
            self.completed.retain(|gtrid| *gtrid != decision.gtrid);
            self.unmarked.retain(|gtrid| *gtrid != decision.gtrid);
        }
        if !self.is_completed.contains(&decision.gtrid) {
            self.pending.insert(decision.gtrid, decision);
        }
        LogSeq(self.seq)
    }

    /// Is it the first attempt?
    pub(super) fn attempt(&mut self, gtrid: Gtrid) -> bool {
        self.attempted.insert(gtrid)
    }

    pub(super) fn is_attempted(&self, gtrid: Gtrid) -> bool {
        self.attempted.contains(&gtrid)
    }

    /// Answered for certain.
    pub(super) fn settle(&mut self, gtrid: Gtrid) {
        self.attempted.remove(&gtrid);
    }

    /// By this process, be it lazily.
    pub(super) fn is_completed(&self, gtrid: Gtrid) -> bool {
        self.is_completed.contains(&gtrid)
    }

    pub(super) fn complete(&mut self, gtrid: Gtrid) {
        let was_recorded = self.pending.remove(&gtrid).is_some();
        if self.is_completed.insert(gtrid) {
            if !was_recorded {
                self.only_read.insert(gtrid);
            }
            self.completed.push_back(gtrid);
            self.unmarked.push(gtrid);
        }
        if self.completed.len() > REMEMBERED
            && let Some(oldest) = self.completed.pop_front()
        {
            self.is_completed.remove(&oldest);
            self.only_read.remove(&oldest);
            self.has_heuristic.remove(&oldest);
        }
    }

    /// Complete, with a heuristic end that was recorded before.
    pub(super) fn ended_by_hand(&self, gtrid: Gtrid) -> bool {
        self.is_completed.contains(&gtrid) && self.has_heuristic.contains(&gtrid)
    }

    /// Before it is asked for: whatever the table answers, it may be there.
    pub(super) fn note_heuristic(&mut self, gtrid: Gtrid) {
        self.has_heuristic.insert(gtrid);
    }

    /// `None`: only the table knows.
    pub(super) fn lookup(&self, gtrid: Gtrid) -> Option<Lookup> {
        if let Some(decision) = self.pending.get(&gtrid) {
            return Some(Lookup::Pending(decision.clone()));
        }
        let is_recorded = self.recorded(gtrid).is_some();
        let is_whole = is_recorded && !self.has_heuristic.contains(&gtrid);
        is_whole.then_some(Lookup::Completed)
    }

    /// What the table lists, without what was completed here, and with what was recorded here. A
    /// mark that a crash of the table's server has lost is written again.
    pub(super) fn pending(&mut self, listed: Vec<DecisionRecord>) -> Vec<DecisionRecord> {
        let mut all = self.pending.clone();
        let waiting: HashSet<Gtrid> = self.unmarked.iter().copied().collect();
        for decision in listed {
            let gtrid = decision.gtrid;
            if !self.is_completed.contains(&gtrid) {
                all.entry(gtrid).or_insert(decision);
            } else if !waiting.contains(&gtrid) {
                self.unmarked.push(gtrid);
            }
        }
        all.into_values().collect()
    }
}

/// What is lazy.
impl Known {
    pub(super) fn unmarked_count(&self) -> usize {
        self.unmarked.len()
    }

    /// The oldest ones.
    pub(super) fn take_unmarked(&mut self, len_max: usize) -> Vec<Gtrid> {
        let len = self.unmarked.len().min(len_max);
        let mut some: Vec<_> = self.unmarked.drain(..len).collect();
        some.sort_unstable();
        some
    }

    pub(super) fn put_back_unmarked(&mut self, mut some: Vec<Gtrid>) {
        some.append(&mut self.unmarked);
        self.unmarked = some;
    }

    /// Rows of other epochs stay until those are released: their owner may ask for them.
    pub(super) fn note_marked(&mut self, some: &[Gtrid]) {
        let own = self.own;
        let openings = &self.openings;
        let may_go = |gtrid: &&Gtrid| {
            let opening = gtrid.opening;
            let row = openings.get(&opening.epoch);
            opening == own || row.is_some_and(|row| row.is_released)
        };
        self.marked.extend(some.iter().filter(may_go));
    }

    /// The oldest rows that need not be kept.
    pub(super) fn take_to_forget(&mut self, len_max: usize) -> Vec<Gtrid> {
        let len = self.marked.len().saturating_sub(ROWS_KEPT).min(len_max);
        let mut some: Vec<_> = self.marked.drain(..len).collect();
        some.sort_unstable();
        some
    }

    pub(super) fn put_back_to_forget(&mut self, some: Vec<Gtrid>) {
        for gtrid in some.into_iter().rev() {
            self.marked.push_front(gtrid);
        }
    }
}

/// The end.
impl Known {
    pub(super) fn shut_down(&mut self) {
        self.is_shut_down = true;
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::xid::ManagerId;

    use super::*;

    fn row(nonce: u64, identity: &str) -> OpeningRow {
        OpeningRow {
            opening: Opening {
                manager: ManagerId::from_bytes([1; 10]),
                epoch: Epoch(5),
                nonce,
            },
            identity: ServerIdentity::new(identity).unwrap(),
            label: String::new(),
            is_closed: false,
            is_released: false,
        }
    }

    fn of_epoch(epoch: u32, is_closed: bool) -> OpeningRow {
        let mut row = row(u64::from(epoch), "a");
        row.opening.epoch = Epoch(epoch);
        OpeningRow { is_closed, ..row }
    }

    fn listed(there: &[OpeningState]) -> Vec<(u32, bool)> {
        let listed = there.iter();
        listed
            .map(|listed| (listed.opening.epoch.0, listed.closed))
            .collect()
    }

    fn answer(known: &mut Known, question: Question, rows: &[OpeningRow]) -> Vec<(u32, bool)> {
        let server = ServerIdentity::new("a").unwrap();
        listed(&known.see(question, &server, rows.to_vec()))
    }

    #[test]
    fn i5_an_answer_that_is_older_does_not_open_what_was_closed_since() {
        let mut known = Known::new(of_epoch(5, false));
        let before = [of_epoch(5, false), of_epoch(7, false)];
        let (first, late) = (known.question(), known.question());
        answer(&mut known, first, &before);
        assert!(known.see_closed(Epoch(7)));
        let there = answer(&mut known, late, &before);
        assert_eq!(there, [(5, false), (7, false)], "as it was answered");
        assert!(known.is_closed(before[1].opening));
    }

    /// Of an epoch that was closed after the answer was given, the answer may lack decisions.
    #[test]
    fn i1_an_answer_lists_nothing_as_closed_that_was_closed_after_it() {
        let mut known = Known::new(of_epoch(5, false));
        let question = known.question();
        let before = [of_epoch(4, true), of_epoch(5, false)];
        answer(&mut known, question, &before);
        let late = known.question();
        let question = known.question();
        let after = [of_epoch(5, false), of_epoch(6, true)];
        let there = answer(&mut known, question, &after);
        assert_eq!(there, [(4, true), (5, false), (6, true)]);
        let there = answer(&mut known, late, &before[1..]);
        assert_eq!(there, [(4, true), (5, false)]);
        assert!(known.is_closed(after[1].opening), "it is remembered");
    }

    /// The answer was on its way while this member has joined anew under its number.
    #[test]
    fn i6_an_answer_from_before_this_member_has_joined_does_not_undo_that() {
        let (lost, now) = (row(1, "a"), row(2, "b"));
        let mut known = Known::new(lost.clone());
        let late = known.question();
        known.join(now.clone());
        answer(&mut known, late, std::slice::from_ref(&lost));
        assert_eq!(known.listed(now.opening), Some(&now));
    }

    /// A fail-over has lost its opening, and the new one got the number.
    #[test]
    fn i3_an_opening_is_not_taken_for_a_later_one_of_its_number() {
        let (lost, now) = (row(1, "a"), row(2, "b"));
        let mut known = Known::new(lost.clone());
        assert_eq!(known.listed(lost.opening), Some(&lost));
        known.leave(lost.opening.epoch);
        assert!(known.is_leaving());
        known.join(now.clone());
        assert!(!known.is_leaving(), "it has left");
        assert_eq!(known.listed(now.opening), Some(&now));
        assert_eq!(known.listed(lost.opening), None);
        assert_eq!(known.left(), [lost.opening]);
    }
}
