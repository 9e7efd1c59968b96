//! Seeing a connection gone: as long as it is there, its server may still carry out a request that
//! was sent to it, or hold a branch for it.
//!
//! A connection's number is unique only as long as its server process lives; the numbers begin
//! again after a restart, and the new bearer is innocent. So a [`Holder`] keeps the second in which
//! the server was started, too. Another start: no connection of that time is left. The same start:
//! it is killed, which a user may always do to his own connections, and awaited.
//!
//! A user without the privilege PROCESS sees its own account's connections only, and under an
//! anonymous account not even those. Of a connection that might be hidden nothing is concluded.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::Error;
use unanimous_core::ports::{Evidence, Finding, Severity};

use crate::session::{Flavour, Server, Session, text};
use crate::{codes, preflight};

/// How often and how long to look until a killed connection is gone. On MariaDB it rolls back
/// first, which takes as long as its changes were many.
const LOOKS_MAX: u32 = 100;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The subjects of what keeps a connection from being seen gone; MariaDB writes the second one with
/// a space.
const PROCESS: &str = "PROCESS";
const CONNECTION_ADMIN: &str = "CONNECTION_ADMIN";

/// The connection that holds, or held, a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    connection: u32,
    started: u64,
    account: Option<Arc<str>>,
}

/// Longer account names are left out; then PROCESS is needed to see the connection.
const ACCOUNT_BYTES_MAX: usize = 80;

impl Holder {
    pub(crate) fn of(session: &Session) -> Self {
        let account = &session.server().account;
        Self {
            connection: session.connection_id(),
            started: session.server().started,
            account: fits(account).then(|| account.clone()),
        }
    }

    /// The text to keep with the decision.
    pub(crate) fn evidence(&self) -> Evidence {
        // 80 bytes of an account and two numbers fit into 128, so the default is never needed; it
        // reads as "cannot be told", which is safe.
        Evidence::new(self.to_string()).unwrap_or_default()
    }

    pub(crate) const fn connection(&self) -> u32 {
        self.connection
    }

    /// The second of its server's start.
    pub(crate) const fn started(&self) -> u64 {
        self.started
    }

    /// No connection of that time is left, and none of its transactions has an owner.
    pub(crate) const fn is_of_another_start(&self, server: &Server) -> bool {
        server.started != self.started
    }

    pub(crate) fn from_evidence(evidence: &Evidence) -> Option<Self> {
        let rest = evidence.as_str().strip_prefix("connection=")?;
        let (connection, rest) = rest.split_once(" started=")?;
        let (started, account) = match rest.split_once(" account=") {
            Some((started, account)) => (started, Some(account.into())),
            None => (rest, None),
        };
        Some(Self {
            connection: connection.parse().ok()?,
            started: started.parse().ok()?,
            account,
        })
    }
}

fn fits(account: &str) -> bool {
    !account.is_empty()
        && account.len() <= ACCOUNT_BYTES_MAX
        && account.bytes().all(|byte| (b' '..0x7f).contains(&byte))
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection={} started={}", self.connection, self.started)?;
        match &self.account {
            Some(account) => write!(f, " account={account}"),
            None => Ok(()),
        }
    }
}

/// Whether a connection is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fenced {
    /// It is, and nothing that was sent to it will be carried out any more. MySQL may still be
    /// rolling back what was not prepared, and hold its locks until then: neither the list of
    /// processes nor `KILL` knows the connection any more, `INNODB_TRX` does (seen with 9.7).
    Gone,
    /// That cannot be seen. Says why, and what to do.
    NotSeen(Finding),
}

/// Ends the holder's connection, if it is still there, and waits until it is gone.
///
/// `session` is another connection to the server whose identity the branch has.
pub(crate) async fn fence(session: &mut Session, holder: &Holder) -> Result<Fenced, Error> {
    if holder.is_of_another_start(session.server()) {
        return Ok(Fenced::Gone);
    }
    let connection = holder.connection;
    let seen = Connections::see(session).await?;
    if !seen.shows_its_account(holder) && !has_process(session).await? {
        let account = holder.account.as_deref().unwrap_or("of the branch");
        let own = &session.server().account;
        return Ok(not_seen(
            PROCESS,
            format!("connection {connection} belongs to account {account}, {own} may not see it"),
            grant(session),
        ));
    }
    if !seen.numbers.contains(&connection) {
        return Ok(Fenced::Gone);
    }
    match session.run(&format!("KILL {connection}")).await {
        Ok(()) => {}
        Err(error) if codes::is_no_such_connection(&error) => {}
        Err(error @ Error::Server(_)) => {
            return Ok(not_seen(
                CONNECTION_ADMIN,
                format!("connection {connection} is still there, KILL answered: {error}"),
                grant(session),
            ));
        }
        Err(error) => return Err(error),
    }
    for _ in 0..LOOKS_MAX {
        let seen = Connections::see(session).await?;
        if !seen.numbers.contains(&connection) {
            return Ok(Fenced::Gone);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(not_seen(
        "KILL",
        format!("connection {connection} was killed but is still there"),
        "wait: a long rollback may be going on; SHOW PROCESSLIST shows it".to_owned(),
    ))
}

fn not_seen(subject: &str, evidence: String, mend: String) -> Fenced {
    Fenced::NotSeen(Finding::new(Severity::Error, subject, evidence, mend))
}

/// What an account needs to see and to end another account's connections.
fn grant(session: &Session) -> String {
    let account = preflight::quoted(&session.server().account);
    let admin = match session.server().flavour {
        Flavour::MySql => "CONNECTION_ADMIN",
        Flavour::MariaDb => "CONNECTION ADMIN",
    };
    format!("GRANT PROCESS, {admin} ON *.* TO {account}")
}

/// Whether every connection is listed: InnoDB's list of transactions is open to those who have
/// PROCESS and to nobody else.
///
/// Asked once for each session, because the question makes the next look at that list an old one
/// ([`picture`](crate::picture)). What is granted and revoked counts for later sessions only
/// (manuals of both, "When Privilege Changes Take Effect", `GRANT`).
async fn has_process(session: &mut Session) -> Result<bool, Error> {
    if let Some(known) = session.has_process {
        return Ok(known);
    }
    let asked = session.rows("SELECT 1 FROM information_schema.INNODB_TRX LIMIT 1");
    let has_process = match asked.await {
        Ok(_) => true,
        Err(error) if codes::is_access_denied(&error) => false,
        Err(error) => return Err(error),
    };
    session.has_process = Some(has_process);
    Ok(has_process)
}

/// Why this session could not see even the connections of its own account.
pub(crate) async fn blindness(session: &mut Session) -> Result<Option<Finding>, Error> {
    let seen = Connections::see(session).await?;
    if seen.shows_its_account(&Holder::of(session)) || has_process(session).await? {
        return Ok(None);
    }
    let account = &session.server().account;
    let evidence = format!("account {account} may not see its own connections: it is anonymous");
    let mend = grant(session);
    Ok(Some(Finding::new(Severity::Error, PROCESS, evidence, mend)))
}

/// Before recovery commits a branch whose connection is gone, it has to see what that has left
/// behind: see [`handover`](crate::handover).
pub(crate) async fn short_sight(session: &mut Session) -> Result<Option<Finding>, Error> {
    if session.server().flavour == Flavour::MySql || has_process(session).await? {
        return Ok(None);
    }
    let account = &session.server().account;
    Ok(Some(Finding::new(
        Severity::Warning,
        "INNODB_TRX",
        format!(
            "account {account} may not see InnoDB's transactions: before recovery commits a branch \
             whose connection has closed it can only wait for half a second, and the commit is \
             lost should the server stand still for so long in that very moment"
        ),
        format!("GRANT PROCESS ON *.* TO {}", preflight::quoted(account)),
    )))
}

/// The connections that an account may see.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    numbers: HashSet<u32>,
    /// Whose connections are all there: of this account, or everybody's.
    account: Option<Arc<str>>,
    are_all: bool,
}

impl Connections {
    async fn see(session: &mut Session) -> Result<Self, Error> {
        let rows = session.rows("SHOW PROCESSLIST").await?;
        let number = |row| text(row, 0)?.parse().ok();
        let numbers: HashSet<u32> = rows.iter().filter_map(number).collect();
        // Under an anonymous account not even one's own.
        let sees_itself = numbers.contains(&session.connection_id());
        Ok(Self {
            numbers,
            account: sees_itself.then(|| session.server().account.clone()),
            are_all: false,
        })
    }

    /// And whether they are all that there are.
    pub(crate) async fn see_all(session: &mut Session) -> Result<Self, Error> {
        let mut seen = Self::see(session).await?;
        seen.are_all = has_process(session).await?;
        Ok(seen)
    }

    /// PROCESS is there.
    pub(crate) const fn are_all(&self) -> bool {
        self.are_all
    }

    fn shows_its_account(&self, holder: &Holder) -> bool {
        self.account.is_some() && self.account == holder.account
    }

    /// The holder's connection was not there. `false` if it might have been hidden.
    pub(crate) fn lack(&self, holder: &Holder) -> bool {
        (self.are_all || self.shows_its_account(holder))
            && !self.numbers.contains(&holder.connection)
    }

    #[cfg(test)]
    pub(crate) fn of(numbers: &[u32]) -> Self {
        Self {
            numbers: numbers.iter().copied().collect(),
            account: None,
            are_all: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(account: Option<&str>) -> Holder {
        Holder {
            connection: 12,
            started: 1_700_000_000,
            account: account.map(Into::into),
        }
    }

    #[test]
    fn a_holder_is_read_back_from_its_evidence() {
        for account in [
            None,
            Some("app@%"),
            Some("a b@10.0.0.1"),
            Some(&*"x".repeat(80)),
        ] {
            let holder = holder(account);
            assert_eq!(Holder::from_evidence(&holder.evidence()), Some(holder));
        }
    }

    #[test]
    fn i3_only_a_connection_that_would_have_been_seen_is_missing() {
        let seen = |account: Option<&str>, are_all| Connections {
            numbers: HashSet::from([1]),
            account: account.map(Into::into),
            are_all,
        };
        let of = |account| holder(Some(account));
        assert!(seen(None, true).lack(&of("app@%")));
        assert!(seen(Some("app@%"), false).lack(&of("app@%")));
        assert!(!seen(Some("app@%"), false).lack(&of("other@%")));
        assert!(!seen(None, false).lack(&holder(None)));
        let mut there = seen(None, true);
        there.numbers.insert(12);
        assert!(!there.lack(&of("app@%")));
    }

    #[test]
    fn an_account_is_kept_if_it_fits() {
        let (longest, longer) = ("x".repeat(80), "x".repeat(81));
        for (account, kept) in [
            ("app@%", true),
            (" ~", true),
            (&*longest, true),
            (&*longer, false),
            ("", false),
            ("a\n", false),
            ("a\u{7f}", false),
            ("ä@%", false),
        ] {
            assert_eq!(fits(account), kept, "{account:?}");
        }
    }

    #[test]
    fn what_is_not_a_holder_is_not_read_as_one() {
        for text in [
            "",
            "connection=",
            "connection=1 started=",
            "connection=x started=1",
            "12 13",
        ] {
            let evidence = Evidence::new(text).unwrap();
            assert_eq!(Holder::from_evidence(&evidence), None, "{text}");
        }
    }
}
