//! What a person was warned of already: said once, not once a pass; and again when it comes back.

use std::collections::{HashMap, HashSet};
use std::mem;

use unanimous_core::xid::ResourceName;

use super::ResourceReport;

#[derive(Default)]
pub(super) struct Warned(HashMap<ResourceName, Said>);

/// At one resource.
#[derive(Default)]
struct Said {
    /// Since it could be looked at.
    away: HashSet<String>,
    /// Since the log could be read.
    log: HashSet<String>,
    /// By the last pass that could look.
    left: HashSet<String>,
}

impl Warned {
    /// What has to be said after this pass, which could not `settle` some of what people did.
    pub(super) fn of_pass(
        &mut self,
        report: &ResourceReport,
        unsettled: Vec<String>,
    ) -> Vec<String> {
        let said = self.0.entry(report.resource.clone()).or_default();
        if let Some(error) = &report.error {
            let text = format!("recovery cannot look at {error}");
            return Vec::from_iter(is_news(&mut said.away, &text).then_some(text));
        }
        said.away.clear();
        if let Some(error) = &report.log_error {
            let text = format!("recovery cannot read the log: {error}");
            return Vec::from_iter(is_news(&mut said.log, &text).then_some(text));
        }
        said.log.clear();
        let mut texts = unsettled;
        let left = { report.left.iter() }.filter(|(_, left)| left.needs_a_person());
        texts.extend(left.map(|(xid, left)| format!("branch {xid} is left in doubt: {left}")));
        let before = mem::replace(&mut said.left, texts.iter().cloned().collect());
        texts.retain(|text| !before.contains(text));
        texts
    }
}

/// Is it said for the first time?
fn is_news(said: &mut HashSet<String>, text: &str) -> bool {
    /// Some texts are never the same; then it begins anew.
    const LEN_MAX: usize = 100;
    if said.len() >= LEN_MAX {
        said.clear();
    }
    said.insert(text.to_owned())
}

#[cfg(test)]
mod tests {
    use unanimous_core::ports::{Problem, ResourceError};
    use unanimous_core::xid::{Epoch, ManagerId, Opening};

    use super::super::Left;
    use super::*;

    fn report(is_away: bool, left: u64) -> ResourceReport {
        let name: ResourceName = "orders".parse().unwrap();
        let mut report = ResourceReport::new(name.clone());
        if is_away {
            let text = "away";
            report.error = Some(ResourceError::new(Problem::Unavailable, name, text));
            return report;
        }
        let opening = Opening {
            manager: ManagerId::from_bytes([1; 10]),
            epoch: Epoch(1),
            nonce: 1,
        };
        let xid = |sequence| unanimous_core::xid::Xid {
            gtrid: opening.gtrid(sequence),
            bqual: name.clone(),
        };
        let person = |sequence| (xid(sequence), Left::Person("who knows".to_owned()));
        report.left.extend((0..left).map(person));
        report
    }

    #[test]
    fn each_outage_is_told_once_beside_a_branch_that_is_left_all_the_time() {
        for left in [0, 1] {
            let mut warned = Warned::default();
            let told = [true, true, false, false, true, true, false]
                .map(|is_away| warned.of_pass(&report(is_away, left), Vec::new()).len());
            let left = usize::try_from(left).unwrap();
            assert_eq!(told, [1, 0, left, 0, 1, 0, 0]);
        }
    }

    #[test]
    fn of_very_many_branches_each_is_told_once_and_again_when_it_has_come_back() {
        let mut warned = Warned::default();
        let mut told = |left| warned.of_pass(&report(false, left), Vec::new()).len();
        assert_eq!(
            [20_000, 20_000, 20_001, 1, 2].map(&mut told),
            [20_000, 0, 1, 0, 1]
        );
    }

    #[test]
    fn what_people_did_and_cannot_be_settled_is_told_once() {
        let mut warned = Warned::default();
        let mut told = || warned.of_pass(&report(false, 1), vec!["me@here".to_owned()]);
        assert_eq!([told().len(), told().len()], [2, 0]);
    }

    #[test]
    fn an_error_that_is_never_the_same_takes_no_more_room_in_the_end() {
        let mut said = HashSet::new();
        for number in 0..1000 {
            assert!(is_news(&mut said, &number.to_string()), "{number}");
        }
        assert!(said.len() <= 100);
    }
}
