//! What the narrator asks the application to do, as arguments of its process; and the names that
//! both of them use.

use std::path::PathBuf;

use crate::Result;

/// The variable with PostgreSQL's address.
pub(crate) const POSTGRES: &str = "UNANIMOUS_PG_URL";
/// The variable with MySQL's or MariaDB's address.
pub(crate) const MYSQL: &str = "UNANIMOUS_MYSQL_URL";

/// The resource in PostgreSQL, and the bqual of its branches.
pub(crate) const CHECKING: &str = "demo-checking";
/// The resource in MySQL, and the bqual of its branches.
pub(crate) const SAVINGS: &str = "demo-savings";

/// Whose money it is.
pub(crate) const OWNER: &str = "ana";

/// The exit code of an application whose transaction was rolled back.
pub(crate) const ROLLED_BACK: u8 = 3;

/// Lines of the application that begin so are also meant for the narrator's ears.
pub(crate) mod tag {
    /// Followed by the gtrid of the transaction.
    pub(crate) const GTRID: &str = "gtrid ";
    /// The application waits, at the place that follows, for a line or for its death.
    pub(crate) const WAITING: &str = "waiting ";
    /// Followed by what the log says of the transaction.
    pub(crate) const OUTCOME: &str = "the log says ";
}

/// One run of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    /// Where its decision log is.
    pub(crate) log: PathBuf,
    pub(crate) work: Work,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Moves money from checking to savings.
    Transfer(Transfer),
    /// Starts, recovers, and says what the log knows of this transaction.
    Recover(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// Names the transfer; PostgreSQL refuses a second one of the same name.
    pub(crate) reference: String,
    /// Negative moves it the other way.
    pub(crate) amount: i64,
    pub(crate) wait: Wait,
}

/// Where the application waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Nowhere,
    /// Both branches are prepared, and the decision is not yet written.
    BeforeDecision,
    /// The decision is durable, and no branch has heard of it.
    AfterDecision,
    /// The savings branch is prepared, and will be rolled back.
    BeforeRollback,
}

impl Wait {
    const ALL: [Self; 4] = [
        Self::Nowhere,
        Self::BeforeDecision,
        Self::AfterDecision,
        Self::BeforeRollback,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nowhere => "nowhere",
            Self::BeforeDecision => "before the decision",
            Self::AfterDecision => "after the decision",
            Self::BeforeRollback => "before the rollback of the savings branch",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wait| wait.name() == name)
    }
}

impl Task {
    pub(crate) fn to_args(&self) -> Vec<String> {
        let log = self.log.display().to_string();
        match &self.work {
            Work::Recover(gtrid) => vec![log, "recover".to_owned(), gtrid.clone()],
            Work::Transfer(transfer) => vec![
                log,
                "transfer".to_owned(),
                transfer.reference.clone(),
                transfer.amount.to_string(),
                transfer.wait.name().to_owned(),
            ],
        }
    }

    pub(crate) fn from_args(args: &[String]) -> Result<Self> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let work = match words[..] {
            [_, "recover", gtrid] => Work::Recover(gtrid.to_owned()),
            [_, "transfer", reference, amount, wait] => Work::Transfer(Transfer {
                reference: reference.to_owned(),
                amount: amount.parse()?,
                wait: Wait::parse(wait).ok_or("there is no such place to wait")?,
            }),
            _ => return Err("run it without arguments: those are for the application".into()),
        };
        let log = PathBuf::from(words[0]);
        Ok(Self { log, work })
    }
}
