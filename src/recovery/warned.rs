//! What a person was warned of already: said once, not once a pass; and again when it comes back.

use std::collections::{HashMap, HashSet};

use unanimous_core::xid::ResourceName;

use super::ResourceReport;

#[derive(Default)]
pub(super) struct Warned {
    /// By resource, since its last clean pass.
    by_passes: HashMap<ResourceName, HashSet<String>>,
    others: HashSet<String>,
}

impl Warned {
    /// Then it begins anew: rather say something twice than nothing any more.
    const LEN_MAX: usize = 10_000;

    fn is_news(said: &mut HashSet<String>, text: &str) -> bool {
        if said.len() >= Self::LEN_MAX {
            said.clear();
        }
        said.insert(text.to_owned())
    }

    /// Is it said for the first time?
    pub(super) fn of_anything(&mut self, text: &str) -> bool {
        Self::is_news(&mut self.others, text)
    }

    /// What has to be said after this pass.
    pub(super) fn of_pass(&mut self, report: &ResourceReport) -> Vec<String> {
        let texts = texts(report);
        if texts.is_empty() {
            self.by_passes.remove(&report.resource);
            return texts;
        }
        let said = self.by_passes.entry(report.resource.clone()).or_default();
        let texts = texts.into_iter();
        texts.filter(|text| Self::is_news(said, text)).collect()
    }
}

fn texts(report: &ResourceReport) -> Vec<String> {
    let error = { report.error.iter() }.map(|error| format!("recovery cannot look at {error}"));
    let log =
        { report.log_error.iter() }.map(|error| format!("recovery cannot read the log: {error}"));
    let left = { report.left.iter() }
        .filter(|(_, left)| left.needs_a_person())
        .map(|(xid, left)| format!("branch {xid} is left in doubt: {left}"));
    error.chain(log).chain(left).collect()
}

#[cfg(test)]
mod tests {
    use unanimous_core::ports::{Problem, ResourceError};

    use super::*;

    fn report(is_away: bool) -> ResourceReport {
        let name: ResourceName = "orders".parse().unwrap();
        let mut report = ResourceReport::new(name.clone());
        report.error = is_away.then(|| ResourceError::new(Problem::Unavailable, name, "away"));
        report
    }

    #[test]
    fn an_outage_is_told_once_and_the_next_one_again() {
        let mut warned = Warned::default();
        let told = [true, true, false, false, true, true]
            .map(|is_away| warned.of_pass(&report(is_away)).len());
        assert_eq!(told, [1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn after_many_texts_something_new_is_still_told() {
        let mut warned = Warned::default();
        for number in 0..2 * Warned::LEN_MAX {
            assert!(warned.of_anything(&number.to_string()), "{number}");
        }
    }
}
