//! The figures: printed, kept for a later run to go on with, and written as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::cell::{Cell, FAULTS, catalogue, text_of};
use super::judge::Findings;
use crate::support::env;

/// See the module.
pub(super) struct Report {
    begin: Instant,
    chosen: usize,
    dropped: Vec<(Cell, &'static str)>,
    /// Cells that an earlier run has done well, with what it acknowledged.
    earlier: BTreeMap<String, u64>,
    findings: BTreeMap<String, Findings>,
    faults: BTreeMap<&'static str, u64>,
    slowest: Vec<(Duration, String)>,
    pub(super) files_left: u64,
}

impl Report {
    pub(super) fn new(chosen: usize, dropped: Vec<(Cell, &'static str)>) -> Self {
        let mut earlier = BTreeMap::new();
        if let Some(path) = env("UNANIMOUS_CRASH_RESUME")
            && let Ok(text) = std::fs::read_to_string(path)
        {
            let done = text.lines().filter_map(|line| line.split_once(' '));
            earlier.extend(done.filter_map(|(name, count)| {
                let count = count.strip_prefix("ok ")?.parse().ok()?;
                Some((name.to_owned(), count))
            }));
        }
        Self {
            begin: Instant::now(),
            chosen,
            dropped,
            earlier,
            findings: BTreeMap::new(),
            faults: BTreeMap::new(),
            slowest: Vec::new(),
            files_left: 0,
        }
    }

    pub(super) fn is_done(&self, cell: &Cell) -> bool {
        self.earlier.contains_key(&cell.name())
    }

    pub(super) fn add(&mut self, cell: &Cell, findings: Findings, took: Duration) {
        let name = cell.name();
        if !findings.is_good() {
            println!("FAILED {name}");
            println!("  cargo xtask crash --cell {name}");
            println!("  {}", describe(&findings));
        }
        if !findings.is_unreached {
            *self.faults.entry(text_of(&FAULTS, cell.fault)).or_default() += 1;
        }
        self.keep(&name, &findings);
        self.slowest.push((took, name.clone()));
        self.findings.insert(name, findings);
        let done = self.findings.len();
        if done.is_multiple_of(100) {
            let rate = done as f64 / self.begin.elapsed().as_secs_f64();
            println!("crash: {done} cells, {rate:.1} a second");
        }
    }

    /// One line per cell: a later run leaves out those that went well.
    fn keep(&self, name: &str, findings: &Findings) {
        let Some(path) = env("UNANIMOUS_CRASH_RESUME") else {
            return;
        };
        let line = if findings.is_good() {
            format!("{name} ok {}", findings.acknowledged)
        } else {
            format!("{name} failed {}", describe(findings).replace('\n', " "))
        };
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }

    /// Prints and writes the figures; `true` if nothing was found.
    pub(super) fn finish(&mut self) -> bool {
        let mut rules: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, why) in &self.dropped {
            *rules.entry(why).or_default() += 1;
        }
        println!(
            "{} points; {} cells dropped, because they can mean nothing:",
            catalogue().len(),
            self.dropped.len()
        );
        for (why, count) in rules {
            println!("  {count:5}  {why}");
        }
        self.slowest.sort();
        for (took, name) in self.slowest.iter().rev().take(5) {
            println!("slowest: {took:.1?} {name}");
        }
        let bad = self.findings.values().filter(|f| !f.is_good()).count();
        let ran = self.findings.len();
        let seconds = self.begin.elapsed().as_secs_f64();
        println!("faults: {:?}", self.faults);
        println!(
            "crash: {ran} cells run now, {} before, of {}; {bad} failed; {} files left open; \
             {seconds:.0} s, {:.1} cells a second",
            self.earlier.len(),
            self.chosen,
            self.files_left,
            ran as f64 / seconds
        );
        if let Some(path) = env("UNANIMOUS_CRASH_JSON") {
            std::fs::write(path, self.json()).unwrap();
        }
        bad == 0 && self.files_left == 0
    }

    fn json(&self) -> String {
        let sum = |of: fn(&Findings) -> u64| self.findings.values().map(of).sum::<u64>();
        let earlier_acknowledged: u64 = self.earlier.values().sum();
        let faults = self.faults.values().sum::<u64>() + self.earlier.len() as u64;
        let runs = self.findings.len() + self.earlier.len();
        let violations = sum(|f| f.violations.len() as u64 + u64::from(f.is_unreached));
        let mut text = format!(
            "{{\"points\": {}, \"cells\": {}, \"dropped\": {}, \"runs\": {runs}, \"faults\": \
             {faults}, \"acknowledged\": {}, \"violations\": {violations}, \"left_in_doubt\": {}, \
             \"leaks\": {}, \"seconds\": {:.0},\n \"by_cell\": {{",
            catalogue().len(),
            self.chosen,
            self.dropped.len(),
            sum(|f| f.acknowledged) + earlier_acknowledged,
            sum(|f| f.left_in_doubt),
            sum(|f| f.leaks) + self.files_left,
            self.begin.elapsed().as_secs_f64(),
        );
        let names: BTreeSet<&String> = self.findings.keys().chain(self.earlier.keys()).collect();
        for (index, name) in names.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (acknowledged, violations) = match self.findings.get(name) {
                Some(found) => (found.acknowledged, u64::from(!found.is_good())),
                None => (self.earlier[name], 0),
            };
            let _ = write!(
                text,
                "{comma}\n  \"{name}\": {{\"runs\": 1, \"acknowledged\": {acknowledged}, \
                 \"violations\": {violations}}}"
            );
        }
        text.push_str("\n }\n}\n");
        text
    }
}

fn describe(findings: &Findings) -> String {
    let mut said = findings.violations.clone();
    if findings.is_unreached {
        said.push("the point was not reached".to_owned());
    }
    if findings.left_in_doubt > 0 {
        said.push(format!("I6: {} left in doubt", findings.left_in_doubt));
    }
    if findings.leaks > 0 {
        said.push(format!("I8: {} leaks", findings.leaks));
    }
    said.join("; ")
}
