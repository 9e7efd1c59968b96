//! Which branches `list` shows, and in which order. It never changes the exit code: what is hidden
//! is in doubt all the same.

use std::cmp::Reverse;

use clap::{Args, ValueEnum};
use unanimous::operator::{ListedBranch, Listing, State};

use crate::list::seconds_of;
use crate::output::state;

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only transactions whose gtrid (or foreign name, as it is printed or as the table shows it)
    /// begins with this.
    #[arg(value_name = "GTRID")]
    pub(crate) prefix: Option<String>,
    /// Only this resource. May be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: Vec<String>,
    /// Only branches in this state, as the table calls it (- for a space). May be given more than
    /// once.
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    pub(crate) state: Vec<State>,
    /// Only branches that are older than this, such as 90s, 5m, 2h or 1d, and those of which no
    /// age is known.
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) older_than: Option<u64>,
    /// Only branches of this member of a shared log, by its label.
    #[arg(long, value_name = "LABEL")]
    pub(crate) member: Option<String>,
    /// Only branches that were begun in this epoch.
    #[arg(long, value_name = "EPOCH")]
    pub(crate) epoch: Option<u32>,
    /// Only branches for which sessions wait, and those of which that cannot be seen.
    #[arg(long)]
    pub(crate) blocking: bool,
    /// Only branches that are in doubt.
    #[arg(long)]
    pub(crate) in_doubt: bool,
    /// Which of those that are somebody else's.
    #[arg(long, value_enum, default_value_t = Foreign::Show)]
    pub(crate) foreign: Foreign,
    /// In which order, the largest first; by resource otherwise.
    #[arg(long, value_enum, value_name = "BY")]
    pub(crate) sort: Option<Sort>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Foreign {
    /// Show them with the others.
    #[default]
    Show,
    /// Hide them.
    Hide,
    /// Show nothing else.
    Only,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// The oldest first.
    Age,
    /// By the name of the resource, then the XID.
    Resource,
    /// By state.
    State,
    /// Those that block most first.
    Blocked,
}

/// All states, for their names.
const STATES: [State; 11] = [
    State::Active,
    State::Decided,
    State::Orphaned,
    State::OtherMember,
    State::SilentMember,
    State::Unlisted,
    State::CameBack,
    State::OtherManager,
    State::Foreign,
    State::Ended,
    State::Unknown,
];

fn parse_state(text: &str) -> Result<State, String> {
    let asked = text.replace(['-', '_'], " ").to_lowercase();
    let same = |known: &&State| {
        let known = state(**known);
        known == asked || known.trim_end_matches("'s") == asked
    };
    STATES.iter().find(same).copied().ok_or_else(|| {
        let names = STATES.map(|known| state(known).trim_end_matches("'s").replace(' ', "-"));
        format!("there is no such state; there are {}", names.join(", "))
    })
}

/// Seconds from a number with its unit.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write a number and a unit, such as 90s, 5m, 2h or 1d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).ok_or_else(wrong)
}

/// A row to be: the resource, and the branch there.
pub(crate) type Row<'l> = (&'l str, &'l ListedBranch);

impl Filter {
    /// What is to be shown, and how many are hidden.
    pub(crate) fn rows<'l>(&self, listing: &'l Listing) -> (Vec<Row<'l>>, usize) {
        let all = listing.resources.iter().flat_map(|at| {
            let name = at.resource.as_str();
            at.branches.iter().map(move |branch| (name, branch))
        });
        let (mut rows, hidden): (Vec<Row<'_>>, Vec<_>) = all.partition(|row| self.shows(*row));
        self.sort(&mut rows);
        (rows, hidden.len())
    }

    /// The listing with only what is to be shown, for JSON; in the order within each resource.
    pub(crate) fn apply(&self, listing: &Listing) -> Listing {
        let mut shown = listing.clone();
        for at in &mut shown.resources {
            let name = at.resource.clone();
            at.branches.retain(|branch| self.shows((&name, branch)));
            let taken = std::mem::take(&mut at.branches);
            let mut rows: Vec<Row<'_>> = taken.iter().map(|branch| (&*name, branch)).collect();
            self.sort(&mut rows);
            at.branches = rows.into_iter().map(|(_, branch)| branch.clone()).collect();
        }
        shown
    }

    fn shows(&self, (resource, branch): Row<'_>) -> bool {
        let older = |seconds| seconds_of(branch).is_none_or(|age| age >= seconds);
        let blocked = branch.held.as_ref().and_then(|held| held.blocked);
        let begins = |prefix: &String| {
            let decoded = branch.decoded.as_deref();
            // As the table shows it, and without the word that says whose it is.
            let name = decoded.and_then(|text| Some(text.split_once(": ")?.1));
            let names = [Some(&*branch.xid), branch.gtrid.as_deref(), decoded, name];
            let mut names = names.into_iter().flatten();
            names.any(|name| name.starts_with(prefix))
        };
        (self.resource.is_empty() || self.resource.iter().any(|name| name == resource))
            && (self.state.is_empty() || self.state.contains(&branch.state))
            && self.older_than.is_none_or(older)
            && self
                .member
                .as_ref()
                .is_none_or(|label| branch.member.as_ref() == Some(label))
            && self.epoch.is_none_or(|epoch| branch.epoch == Some(epoch))
            && (!self.blocking || blocked != Some(0))
            && (!self.in_doubt || branch.in_doubt)
            && self.foreign.shows(branch.state == State::Foreign)
            && self.prefix.as_ref().is_none_or(begins)
    }

    fn sort(&self, rows: &mut [Row<'_>]) {
        let blocked = |branch: &ListedBranch| branch.held.as_ref().and_then(|held| held.blocked);
        match self.sort {
            None => {}
            Some(Sort::Age) => rows.sort_by_key(|(_, branch)| Reverse(seconds_of(branch))),
            Some(Sort::Resource) => {
                rows.sort_by(|a, b| (a.0, &a.1.xid).cmp(&(b.0, &b.1.xid)));
            }
            Some(Sort::State) => rows.sort_by_key(|(_, branch)| state(branch.state)),
            Some(Sort::Blocked) => rows.sort_by_key(|(_, branch)| Reverse(blocked(branch))),
        }
    }
}

impl Foreign {
    const fn shows(self, is_foreign: bool) -> bool {
        match self {
            Self::Show => true,
            Self::Hide => !is_foreign,
            Self::Only => is_foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        let read = ["0s", "90s", "5m", "2h", "1d"].map(parse_seconds);
        assert_eq!(read, [0, 90, 300, 7200, 86400].map(Ok));
        for wrong in [
            "",
            "5",
            "m",
            "-5m",
            "5 m",
            "1w",
            "99999999999999999999d",
            "5é",
        ] {
            assert!(parse_seconds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_state_has_a_name_that_can_be_typed() {
        for known in STATES {
            let typed = state(known).trim_end_matches("'s").replace(' ', "-");
            assert_eq!(parse_state(&typed), Ok(known));
        }
        assert_eq!(parse_state("other_member"), Ok(State::OtherMember));
        assert!(parse_state("lost").unwrap_err().contains("other-manager"));
    }

    fn listing() -> Listing {
        let branch = |xid: &str, state: &str, age: Option<u64>, blocked: Option<u64>| {
            let held = blocked.map(|blocked| {
                serde_json::json!({"locks": 1, "blocked": blocked, "begun_seconds": null,
                    "horizon": null})
            });
            let in_doubt = state == "decided";
            serde_json::json!({
                "xid": xid, "gtrid": null, "state": state, "in_doubt": in_doubt,
                "age_seconds": age, "epoch": 1, "decided": null, "plan": "", "held": held
            })
        };
        let value = serde_json::json!({
            "application": null, "manager": "m", "epoch": 1, "active": 0,
            "unknown_resources": [], "log_error": null,
            "resources": [
                {"resource": "a", "error": null, "branches": [
                    branch("a1", "decided", Some(10), Some(0)),
                    branch("a2", "foreign", Some(100), Some(3)),
                ]},
                {"resource": "b", "error": null, "branches": [
                    branch("b1", "decided", None, None),
                    branch("b2", "active", Some(1), Some(1)),
                ]}
            ]
        });
        serde_json::from_value(value).unwrap()
    }

    #[track_caller]
    fn shows(filter: Filter, expected: &[&str]) {
        let listing = listing();
        let (rows, hidden) = filter.rows(&listing);
        let xids: Vec<_> = rows.iter().map(|(_, branch)| branch.xid.as_str()).collect();
        assert_eq!(xids, expected);
        assert_eq!(hidden, 4 - expected.len());
        let json = filter.apply(&listing);
        let count: usize = json.resources.iter().map(|at| at.branches.len()).sum();
        assert_eq!(count, expected.len());
    }

    /// What is not known may be what is looked for.
    #[test]
    fn filters_hide_what_is_known_not_to_fit() {
        let new = Filter::default;
        shows(new(), &["a1", "a2", "b1", "b2"]);
        shows(
            Filter {
                resource: vec!["b".into()],
                ..new()
            },
            &["b1", "b2"],
        );
        shows(
            Filter {
                state: vec![State::Decided],
                ..new()
            },
            &["a1", "b1"],
        );
        shows(
            Filter {
                older_than: Some(10),
                ..new()
            },
            &["a1", "a2", "b1"],
        );
        shows(
            Filter {
                blocking: true,
                ..new()
            },
            &["a2", "b1", "b2"],
        );
        shows(
            Filter {
                in_doubt: true,
                ..new()
            },
            &["a1", "b1"],
        );
    }

    #[test]
    fn filters_by_name_hide_all_others() {
        let new = Filter::default;
        shows(
            Filter {
                foreign: Foreign::Hide,
                ..new()
            },
            &["a1", "b1", "b2"],
        );
        shows(
            Filter {
                foreign: Foreign::Only,
                ..new()
            },
            &["a2"],
        );
        shows(
            Filter {
                prefix: Some("a".into()),
                ..new()
            },
            &["a1", "a2"],
        );
        shows(
            Filter {
                epoch: Some(2),
                ..new()
            },
            &[],
        );
        shows(
            Filter {
                member: Some("x".into()),
                ..new()
            },
            &[],
        );
    }

    #[test]
    fn a_foreign_name_is_found_as_the_table_shows_it() {
        let mut listing = listing();
        let foreign = &mut listing.resources[0].branches[1];
        foreign.decoded = Some("Atomikos: 10.0.0.7.tm1 / orders8".to_owned());
        for (prefix, expected) in [
            ("Atomikos: 10", 1),
            ("10.0.0.7.tm1", 1),
            ("a2", 1),
            ("Narayana", 0),
        ] {
            let filter = Filter {
                prefix: Some(prefix.to_owned()),
                ..Filter::default()
            };
            assert_eq!(filter.rows(&listing).0.len(), expected, "{prefix}");
        }
    }

    #[test]
    fn the_largest_comes_first() {
        let by = |sort| Filter {
            sort: Some(sort),
            ..Filter::default()
        };
        shows(by(Sort::Age), &["a2", "a1", "b2", "b1"]);
        shows(by(Sort::Blocked), &["a2", "b2", "a1", "b1"]);
        shows(by(Sort::State), &["b2", "a1", "b1", "a2"]);
        shows(by(Sort::Resource), &["a1", "a2", "b1", "b2"]);
    }
}
