//! What must be true whenever nothing is struck and nobody works: read from the databases by
//! clients of the oracle's own, and compared with what the applications were told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::application::PATIENCE;
use super::history::{Claim, Told, Transactions};
use super::report::Report;
use super::transfer::digest;
use super::{ACCOUNTS, ACCOUNTS_TABLE, BALANCE, LISTS_TABLE, lists_of};
use crate::databases::{Judges, Place};

/// How long nothing has to be prepared before that is believed.
const QUIET: Duration = Duration::from_secs(1);

/// The entries of each list of one server.
type Lists = BTreeMap<u32, Vec<u64>>;

/// See the module.
pub(super) struct Oracle {
    judges: Judges,
    places: Vec<Place>,
    /// By server: what the lists of earlier rounds held, for good.
    kept: Vec<Lists>,
}

impl Oracle {
    /// Makes the tables.
    pub(super) async fn new(places: Vec<Place>) -> Self {
        let mut judges = Judges::default();
        for place in &places {
            let (text, engine) = if place.is_postgres {
                ("TEXT", "")
            } else {
                ("MEDIUMTEXT", " ENGINE=InnoDB")
            };
            let accounts: Vec<_> = (0..ACCOUNTS)
                .map(|id| format!("({id}, {BALANCE})"))
                .collect();
            for sql in [
                format!(
                    "CREATE TABLE {ACCOUNTS_TABLE} (id INT PRIMARY KEY, balance BIGINT){engine}"
                ),
                format!("CREATE TABLE {LISTS_TABLE} (id INT PRIMARY KEY, entries {text}){engine}"),
                format!("INSERT INTO {ACCOUNTS_TABLE} VALUES {}", accounts.join(",")),
            ] {
                judges.ask(place, &sql).await.unwrap();
            }
        }
        let kept = vec![Lists::new(); places.len()];
        Self {
            judges,
            places,
            kept,
        }
    }

    /// Empty lists for a round.
    pub(super) async fn make_lists(&mut self, round: u32) {
        let rows: Vec<_> = lists_of(round).map(|id| format!("({id}, '')")).collect();
        let sql = format!("INSERT INTO {LISTS_TABLE} VALUES {}", rows.join(","));
        for place in &self.places {
            self.judges.ask(place, &sql).await.unwrap();
        }
    }

    /// Waits until nothing is prepared any more, for more than a moment: a request that was held
    /// back may still arrive. Everything was repaired at `begin`.
    pub(super) async fn wait_for_recovery(&mut self, begin: Instant, report: &mut Report) {
        let called = Instant::now();
        // The last time that something was seen, and how much.
        let mut last = (called, 0);
        while last.0.elapsed() < QUIET {
            let mut left = 0;
            for place in &self.places {
                left += self.judges.prepared(place, "").await as u64;
            }
            if left > 0 {
                last = (Instant::now(), left);
            }
            if called.elapsed() > PATIENCE {
                report.left_in_doubt += last.1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = last.0.saturating_duration_since(begin);
        report.slowest_recovery = report.slowest_recovery.max(took);
    }

    /// Compares a round's lists with its history, and the money with what there was.
    pub(super) async fn check_round(
        &mut self,
        round: u32,
        transactions: &Transactions,
        report: &mut Report,
    ) {
        let mut servers = Vec::new();
        for place in &self.places {
            servers.push(lists(&mut self.judges, place, lists_of(round)).await);
        }
        for (id, told) in transactions {
            count(told, report);
            if let Some(wrong) = wrong_of(*id, told, &servers) {
                report.violation(format!("{wrong}: {id}: {told:?}"));
            }
            for wrong in told.seen.iter().filter(|seen| {
                let list = text_of(&servers[seen.server][&told.list]);
                list.get(..seen.length).map(digest) != Some(seen.digest)
            }) {
                let text = format!("I1: {id} read what was not committed: {wrong:?} {told:?}");
                report.violation(text);
            }
        }
        check_entries(&servers, transactions, report);
        for list in lists_of(round) {
            let orders: Vec<_> = servers.iter().map(|lists| &lists[&list][..]).collect();
            if !is_one_order(&orders) {
                report.violation(format!("the servers disagree on the order in list {list}"));
            }
        }
        self.check_money(report).await;
        self.check_locks(report).await;
        for (kept, lists) in self.kept.iter_mut().zip(servers) {
            kept.extend(lists);
        }
    }

    async fn check_money(&mut self, report: &mut Report) {
        let mut sum = 0;
        for place in &self.places {
            let sql = format!("SELECT SUM(balance) FROM {ACCOUNTS_TABLE}");
            let answer = self.judges.ask(place, &sql).await.unwrap();
            sum += number::<i64>(&answer[0]);
        }
        let expected = i64::from(ACCOUNTS) * BALANCE * self.places.len() as i64;
        if sum != expected {
            report.violation(format!("I1: the bank holds {sum} instead of {expected}"));
        }
    }

    /// Sessions of applications that were killed may end a little later.
    async fn check_locks(&mut self, report: &mut Report) {
        for place in &self.places {
            for table in [ACCOUNTS_TABLE, LISTS_TABLE] {
                let sql = format!("SELECT id FROM {table} FOR UPDATE NOWAIT");
                let begin = Instant::now();
                let mut answer = self.judges.try_ask(place, &sql).await;
                while answer.is_err() && begin.elapsed() < PATIENCE {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    answer = self.judges.try_ask(place, &sql).await;
                }
                if let Err(error) = answer {
                    report.leaks += 1;
                    println!("a lock is left at {}: {error}", place.url);
                }
            }
        }
    }

    /// I2, once more at the end: what earlier rounds have left is still there.
    pub(super) async fn check_kept(&mut self, rounds: u32, report: &mut Report) {
        for (place, kept) in self.places.iter().zip(&self.kept) {
            let now = lists(&mut self.judges, place, 0..lists_of(rounds).start).await;
            if &now != kept {
                report.violation(format!("I2: {} lost what it had committed", place.url));
            }
        }
        self.check_money(report).await;
    }

    /// Connections of applications that are all gone.
    pub(super) async fn check_connections(&mut self, report: &mut Report) {
        for place in &self.places {
            let sql = if place.is_postgres {
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> \
                 pg_backend_pid() AND backend_type = 'client backend'"
            } else {
                "SELECT id FROM information_schema.processlist WHERE user = 'app' AND id <> \
                 connection_id()"
            };
            let begin = Instant::now();
            let mut left = self.judges.ask(place, sql).await.unwrap().len() as u64;
            while left > 0 && begin.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(50)).await;
                left = self.judges.ask(place, sql).await.unwrap().len() as u64;
            }
            if left > 0 {
                println!("{left} connections are left at {}", place.url);
            }
            report.leaks += left;
        }
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> T {
    let text = String::from_utf8_lossy(text);
    text.parse().ok().expect("a number")
}

async fn lists(judges: &mut Judges, place: &Place, ids: std::ops::Range<u32>) -> Lists {
    let sql = format!(
        "SELECT CONCAT(id, ':', entries) FROM {LISTS_TABLE} WHERE id >= {} AND id < {}",
        ids.start, ids.end
    );
    let rows = judges.ask(place, &sql).await.unwrap();
    let list = |row: &Vec<u8>| {
        let row = String::from_utf8_lossy(row);
        let (id, entries) = row.split_once(':').expect("as selected");
        let entries = entries.split_terminator(',');
        let entries = entries.map(|entry| entry.parse().expect("a transaction's number"));
        (id.parse().expect("a list's number"), entries.collect())
    };
    rows.iter().map(list).collect()
}

fn text_of(entries: &[u64]) -> String {
    entries.iter().map(|entry| format!("{entry},")).collect()
}

fn count(told: &Told, report: &mut Report) {
    report.transactions += 1;
    report.reads += told.seen.len() as u64;
    match told.claim {
        Some(Claim::Committed) => report.committed += 1,
        Some(Claim::RolledBack) => report.rolled_back += 1,
        Some(Claim::Unknown | Claim::Heuristic) | None => report.unknown += 1,
    }
}

/// What the lists say against what the application was told.
fn wrong_of(id: u64, told: &Told, servers: &[Lists]) -> Option<&'static str> {
    let is_there = |server: usize| servers[server][&told.list].contains(&id);
    let (all, none) = (told.servers().all(is_there), !told.servers().any(is_there));
    let outcome = told.outcome.as_deref();
    if !all && !none {
        Some("I1: some of it is there, and some is not")
    } else if told.claim == Some(Claim::Heuristic) || outcome == Some("Heuristic") {
        Some("I1: heuristic, and nobody has touched it")
    } else if told.claim == Some(Claim::Committed) && !all {
        Some("I2: it was committed, and is not there")
    } else if told.claim == Some(Claim::RolledBack) && !none {
        Some("I3: it was rolled back, and is there")
    } else if outcome == Some("Committed") && !all || outcome == Some("RolledBack") && !none {
        Some("I3: the outcome is not true")
    } else if outcome == Some("Stuck") {
        Some("I6: the outcome stays unknown")
    } else {
        None
    }
}

/// Every entry is there once, in the list and the database of its transaction.
fn check_entries(servers: &[Lists], transactions: &Transactions, report: &mut Report) {
    for (server, lists) in servers.iter().enumerate() {
        for (list, entries) in lists {
            let distinct: BTreeSet<_> = entries.iter().collect();
            if distinct.len() != entries.len() {
                report.violation(format!("I1: an entry is twice in list {list} of {server}"));
            }
            for entry in distinct {
                let told = transactions.get(entry);
                let is_its =
                    |told: &Told| told.list == *list && told.servers().any(|its| its == server);
                if !told.is_some_and(is_its) {
                    let text = format!("I1: {entry} has no place in list {list} of {server}");
                    report.violation(text);
                }
            }
        }
    }
}

/// Whether there is an order of all entries that agrees with each of these. The locks of a
/// transaction are held on all servers until it is decided, so there must be one.
fn is_one_order(orders: &[&[u64]]) -> bool {
    let mut after: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut earlier: BTreeMap<u64, usize> = BTreeMap::new();
    for order in orders {
        for entry in *order {
            earlier.entry(*entry).or_default();
        }
        for pair in order.windows(2) {
            after.entry(pair[0]).or_default().push(pair[1]);
            *earlier.entry(pair[1]).or_default() += 1;
        }
    }
    let total = earlier.len();
    let is_first = |(_, count): &(&u64, &usize)| **count == 0;
    let mut ready: Vec<u64> = earlier.iter().filter(is_first).map(|(id, _)| *id).collect();
    let mut placed = 0;
    while let Some(entry) = ready.pop() {
        placed += 1;
        for next in after.remove(&entry).unwrap_or_default() {
            let count = earlier.get_mut(&next).expect("counted above");
            *count -= 1;
            if *count == 0 {
                ready.push(next);
            }
        }
    }
    placed == total
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two servers with one list each.
    fn servers(first: &[u64], second: &[u64]) -> Vec<Lists> {
        [first, second]
            .map(|entries| Lists::from([(0, entries.to_vec())]))
            .to_vec()
    }

    fn told(claim: Option<Claim>, outcome: Option<&str>) -> Told {
        Told::of_both(claim, outcome)
    }

    #[test]
    fn a_split_a_loss_and_a_lie_are_found() {
        let committed = told(Some(Claim::Committed), None);
        let rolled_back = told(Some(Claim::RolledBack), None);
        let killed = told(None, None);
        let (both, one, none) = (servers(&[7], &[7]), servers(&[7], &[]), servers(&[], &[]));
        for told in [&committed, &rolled_back, &killed] {
            assert!(wrong_of(7, told, &one).unwrap().starts_with("I1"));
        }
        assert_eq!(wrong_of(7, &committed, &both), None);
        assert!(wrong_of(7, &committed, &none).unwrap().starts_with("I2"));
        assert_eq!(wrong_of(7, &rolled_back, &none), None);
        assert!(wrong_of(7, &rolled_back, &both).unwrap().starts_with("I3"));
        assert_eq!(wrong_of(7, &killed, &both), None);
        assert_eq!(wrong_of(7, &killed, &none), None);
        for (word, truth, lie) in [("Committed", &both, &none), ("RolledBack", &none, &both)] {
            let asked = told(Some(Claim::Unknown), Some(word));
            assert_eq!(wrong_of(7, &asked, truth), None);
            assert!(wrong_of(7, &asked, lie).unwrap().starts_with("I3"));
        }
        let stuck = told(Some(Claim::Unknown), Some("Stuck"));
        assert!(wrong_of(7, &stuck, &none).unwrap().starts_with("I6"));
    }

    #[test]
    fn an_entry_that_is_twice_or_of_nobody_is_found() {
        let transactions = Transactions::from([(7, told(None, None))]);
        for (first, count) in [(&[7][..], 0), (&[7, 7], 1), (&[7, 8], 1)] {
            let mut report = Report::default();
            check_entries(&servers(first, &[7]), &transactions, &mut report);
            assert_eq!(report.violations.len(), count, "{first:?}");
        }
    }

    #[test]
    fn orders_that_contradict_each_other_are_found() {
        assert!(is_one_order(&[&[1, 2, 3], &[1, 3], &[2, 3, 4]]));
        assert!(!is_one_order(&[&[1, 2], &[2, 1]]));
        assert!(!is_one_order(&[&[1, 2], &[2, 3], &[3, 1]]));
    }
}
