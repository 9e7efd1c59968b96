//! Recovery by XID: what is prepared, ending it from another connection, and what became of a
//! branch that is no longer listed.
//!
//! * A scan counts only on a server that may be written to: a standby lists nothing of what its
//!   primary holds, or lists what is not its own to end, and one that was started to save what is
//!   left may list nothing at all (`settings::writable`).
//! * *Unknown XID* (1397) proves nothing: both servers answer it for a branch that was never
//!   prepared, is not prepared yet, was ended long ago, and MariaDB for one whose connection is
//!   still open.
//! * *Absent* proves an end only on the same server, of a branch whose prepare was answered, by a
//!   scan that began afterwards: see [`Absent`].

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use mysql_async::{Error, Row};
use tokio::sync::Mutex;
use unanimous_core::ports::{
    Absence, BranchError, BranchErrorKind, BranchRecord, Problem, RecoveryScan, ResourceError,
    ScannedBranch, ServerIdentity, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Xid;

use crate::codes::{self, During};
use crate::failed::FailedCommits;
use crate::fence::{Connections, Holder};
use crate::handover::{HandedOver, has_to_be_fenced, is_handed_over, see_handed_over};
use crate::session::{Flavour, Session, bytes, text};
use crate::xid::ListedXid;
use crate::{Mysql, preflight, settings, xid};

/// Ends a prepared branch from a connection that did not prepare it.
pub(crate) async fn finish(
    resource: &Mysql,
    xid: &Xid,
    decision: Decision,
    recorded: Option<&BranchRecord>,
) -> Result<(), BranchError> {
    let mut may_be_done = false;
    let ended = end(resource, xid, decision, recorded, &mut may_be_done).await;
    ended.map_err(|error| {
        // The server's word that it has rolled the branch back is the end of it.
        if !may_be_done || matches!(error.kind(), BranchErrorKind::RolledBack(_)) {
            return error;
        }
        let name = resource.config().name.clone();
        let message = format!("cannot tell whether an earlier attempt has done it: {error}");
        BranchError::new(BranchErrorKind::Undetermined, name, message).with_source(error)
    })
}

/// As [`finish`], but its error tells of the last attempt only; `may_be_done` if one before it may
/// have ended the branch, whatever that says.
async fn end(
    resource: &Mysql,
    xid: &Xid,
    decision: Decision,
    recorded: Option<&BranchRecord>,
    may_be_done: &mut bool,
) -> Result<(), BranchError> {
    let (verb, during) = match decision {
        Decision::Commit => ("COMMIT", During::CommitElsewhere),
        Decision::Rollback => ("ROLLBACK", During::Rollback),
    };
    let sql = format!("XA {verb} {}", xid::literal(xid));
    let failed =
        |kind, message: String| BranchError::new(kind, resource.config().name.clone(), message);
    let unavailable = |error: ResourceError| {
        let message = format!("cannot {verb} {xid}: {error}");
        failed(BranchErrorKind::Unavailable, message).with_source(error)
    };
    let mut was_awaited = false;
    loop {
        let mut lease = resource.inner.control.lend().await.map_err(unavailable)?;
        let Some(session) = lease.session() else {
            continue;
        };
        // Without it the connection that a record names is nobody's, and so is a failed commit.
        let known = resource.identity_of(session).await;
        let identity = known.map_err(unavailable)?;
        let (flavour, started) = (session.server().flavour, session.server().started);
        if flavour == Flavour::MariaDb && !was_awaited {
            let seen = (&resource.inner.looks, &resource.inner.listed);
            let is_free = is_handed_over(seen, session.server(), xid, recorded);
            if !is_free {
                lease.give_back();
                let handed_over = await_handover(resource, xid, recorded).await;
                handed_over.map_err(unavailable)?;
                was_awaited = true;
                continue;
            }
        }
        let failed_commits = &resource.inner.failed_commits;
        let Err(error) = session.run(&sql).await else {
            lease.give_back();
            failed_commits.forget(xid, &identity);
            return Ok(());
        };
        failed_commits.hear(xid, (&identity, started), &error, during);
        if matches!(error, Error::Server(_)) {
            lease.give_back();
        } else if !lease.is_fresh() {
            // Stale. Repeating is harmless: at worst the branch is unknown now, which proves
            // nothing.
            *may_be_done = true;
            was_awaited = false;
            resource.inner.control.purge();
            continue;
        }
        let is_done = match decision {
            Decision::Commit => codes::had_nothing_to_commit(&error, flavour),
            Decision::Rollback => codes::is_rolled_back(&error),
        };
        if is_done {
            return Ok(());
        }
        let kind = codes::meaning(&error, during);
        let message = format!("cannot {verb} {xid}: {error}");
        return Err(failed(kind, message).with_source(error));
    }
}

/// Returns when the branch may be ended from elsewhere: see [`handover`](crate::handover).
async fn await_handover(
    resource: &Mysql,
    xid: &Xid,
    recorded: Option<&BranchRecord>,
) -> Result<(), ResourceError> {
    let unavailable = |message: String| resource.error(Problem::Unavailable, message);
    let mut lease = resource.inner.control.lend_checked().await?;
    let Some(session) = lease.session() else {
        return Err(unavailable("the connection is closed".to_owned()));
    };
    // The server's identity is known from here on.
    resource.identity_of(session).await?;
    let listed = &resource.inner.listed;
    // As long as the branch is listed its connection can do nothing but end it. Afterwards it may
    // serve another transaction of a member that lives.
    if has_to_be_fenced(listed, session.server(), xid, recorded) {
        let ours = XidOwner::Unanimous(xid.clone());
        let now = scan(resource, session).await?;
        if !now.iter().any(|branch| branch.owner == ours) {
            lease.give_back();
            return Ok(());
        }
    }
    let seen = see_handed_over((&resource.inner.looks, listed), session, xid, recorded).await;
    let seen = seen.map_err(|error| {
        let message = format!("cannot see the connection that prepared it gone: {error}");
        unavailable(message).with_source(error)
    })?;
    lease.give_back();
    match seen {
        HandedOver::Yes => Ok(()),
        HandedOver::Unseen(gone_since) => {
            listed.settled(xid, gone_since).await;
            Ok(())
        }
        HandedOver::NotYet(why) => Err(unavailable(why)),
    }
}

/// All that the server holds prepared.
pub(crate) async fn recover(resource: &Mysql) -> Result<RecoveryScan, ResourceError> {
    let mut lease = resource.inner.control.lend_checked().await?;
    let Some(session) = lease.session() else {
        return Err(resource.error(Problem::Unavailable, "the connection is closed"));
    };
    let identity = resource.identity_of(session).await?;
    let failed_commits = &resource.inner.failed_commits;
    let asked = failed_commits.moment();
    let mut branches = scan(resource, session).await?;
    failed_commits.disprove(&identity, &branches, asked);
    branches.sort_by(|a, b| newest_first(&a.owner, &b.owner));
    if session.server().flavour == Flavour::MariaDb {
        see_connections(resource, session, &branches).await?;
    }
    lease.give_back();
    Ok(RecoveryScan { identity, branches })
}

/// Which connections there are, for all branches that were listed before: see
/// [`handover`](crate::handover).
async fn see_connections(
    resource: &Mysql,
    session: &mut Session,
    branches: &[ScannedBranch],
) -> Result<(), ResourceError> {
    let mut seen = None;
    if !branches.is_empty() {
        let there = Connections::see_all(session).await.map_err(|error| {
            let message = format!("cannot list connections: {error}");
            resource
                .error(Problem::Unavailable, message)
                .with_source(error)
        })?;
        let then = resource.inner.looks.gone_now(there.are_all());
        seen = Some((there, then));
    }
    let started = session.server().started;
    resource.inner.listed.see(branches, started, seen);
    Ok(())
}

/// A list of what is prepared, shared by all who ask for a proof that one branch is absent.
///
/// That a branch is not listed proves that it has ended: its prepare was answered, or there would
/// be no record of it, and from then on both servers list it until it has ended, whoever holds it.
/// A connection that is still there proves nothing more, and may serve another transaction now, so
/// it is left alone (tests: `absent`).
/// * MySQL parts a branch from its connection before it answers `XA PREPARE`, if
///   `xa_detach_on_prepare` is ON, as it has to be (`Sql_cmd_xa_prepare::trans_xa_prepare`,
///   sql/xa/sql_xa_prepare.cc), and deletes the XID after the engine has committed
///   (`Sql_cmd_xa_commit`, sql/xa/sql_xa_commit.cc).
/// * MariaDB lists a branch that a connection holds like any other; it sets the mark *recovered*
///   before it takes away *acquired* and lists either, and deletes the XID after the commit
///   (`XID_cache_element`, `trans_xa_detach`, `trans_xa_commit`, sql/xa.cc of 10.5 and later).
///
/// All that holds for a commit that succeeds. Both may delete the XID after one that fails: see
/// [`failed`](crate::failed).
#[derive(Debug, Default)]
pub(crate) struct Absent {
    last: Mutex<Option<Proof>>,
    moments: AtomicU64,
}

#[derive(Debug)]
struct Proof {
    /// Asked after this moment.
    asked: u64,
    identity: ServerIdentity,
    /// The server that was started then.
    started: u64,
    listed: HashSet<Xid>,
}

/// InnoDB looks for each from the newest of its transactions on, so that to end the oldest first
/// would pass all others every time.
fn newest_first(a: &XidOwner, b: &XidOwner) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    match (a, b) {
        (XidOwner::Unanimous(a), XidOwner::Unanimous(b)) => b.cmp(a),
        (XidOwner::Unanimous(_), XidOwner::Foreign(_)) => Ordering::Less,
        (XidOwner::Foreign(_), XidOwner::Unanimous(_)) => Ordering::Greater,
        (XidOwner::Foreign(a), XidOwner::Foreign(b)) => a.cmp(b),
    }
}

/// What became of a branch that was prepared, is to be committed, and is not listed.
pub(crate) async fn absent(
    resource: &Mysql,
    xid: &Xid,
    branch: &BranchRecord,
) -> Result<Absence, ResourceError> {
    let proofs = &resource.inner.absent;
    let moment = proofs.moments.fetch_add(1, Ordering::SeqCst);
    let mut last = proofs.last.lock().await;
    if let Some(proof) = last.as_ref().filter(|proof| proof.asked > moment) {
        return Ok(proof.judge(&resource.inner.failed_commits, xid, branch));
    }
    let asked = proofs.moments.fetch_add(1, Ordering::SeqCst);
    let mut lease = resource.inner.control.lend_checked().await?;
    let Some(session) = lease.session() else {
        return Err(resource.error(Problem::Unavailable, "the connection is closed"));
    };
    let identity = resource.identity_of(session).await?;
    let started = session.server().started;
    let failed_commits = &resource.inner.failed_commits;
    let before = failed_commits.moment();
    let listed = scan(resource, session).await?;
    failed_commits.disprove(&identity, &listed, before);
    lease.give_back();
    let listed = listed.into_iter().filter_map(|branch| match branch.owner {
        XidOwner::Unanimous(xid) => Some(xid),
        XidOwner::Foreign(_) => None,
    });
    let proof = last.insert(Proof {
        asked,
        identity,
        started,
        listed: listed.collect(),
    });
    Ok(proof.judge(&resource.inner.failed_commits, xid, branch))
}

impl Proof {
    fn judge(&self, failed: &FailedCommits, xid: &Xid, branch: &BranchRecord) -> Absence {
        let identity = &self.identity;
        if *identity != branch.identity {
            return Absence::Hazard(format!(
                "{xid} was prepared on {}, and the address of {} leads to {identity} now: look for \
                 it there, or compare the data",
                branch.identity, branch.resource
            ));
        }
        if Holder::from_evidence(&branch.evidence).is_none() {
            return Absence::Hazard(format!(
                "that {xid} was prepared is not known: the record's evidence cannot be read"
            ));
        }
        if self.listed.contains(xid) {
            return Absence::InDoubt(format!("{xid} is listed again"));
        }
        let failed = failed.judge(xid, (identity, self.started));
        failed.unwrap_or(Absence::Presumed)
    }
}

/// Lists what is prepared, and whether the server may be written to, in one round trip.
pub(crate) async fn scan(
    resource: &Mysql,
    session: &mut Session,
) -> Result<Vec<ScannedBranch>, ResourceError> {
    let flavour = session.server().flavour;
    let recover = match flavour {
        Flavour::MySql => "XA RECOVER CONVERT XID",
        Flavour::MariaDb => "XA RECOVER",
    };
    let asked = session.rows_of_two(settings::writable(flavour), recover);
    let (writable, listed) = match asked.await {
        Ok(rows) => rows,
        Err(error) if codes::is_recover_refused(&error) => {
            let finding = preflight::no_recover_privilege(session);
            return Err(resource.unfit(finding.to_string()));
        }
        Err(error) => {
            let message = format!("cannot list what is prepared: {error}");
            return Err(resource
                .error(codes::connect(&error), message)
                .with_source(error));
        }
    };
    if let Some(why) = settings::why_not_writable(&writable) {
        return Err(resource.error(Problem::Unavailable, why));
    }
    listed
        .iter()
        .map(|row| {
            let listed = listed_xid(row, flavour).ok_or_else(|| {
                let message = "a row of XA RECOVER cannot be read: is this version supported?";
                resource.error(Problem::Unfit, message)
            })?;
            // Neither server says since when.
            Ok(ScannedBranch {
                owner: xid::owner(&listed),
                age: None,
            })
        })
        .collect()
}

/// MySQL prints the bytes in hexadecimal, because its plain form is text; MariaDB's plain form is
/// binary.
fn listed_xid(row: &Row, flavour: Flavour) -> Option<ListedXid> {
    let number = |column| text(row, column)?.parse::<i64>().ok();
    let data = match flavour {
        Flavour::MySql => xid::from_converted(bytes(row, 3)?)?,
        Flavour::MariaDb => bytes(row, 3)?.to_vec(),
    };
    Some(ListedXid {
        format_id: number(0)?,
        gtrid_len: number(1)?,
        bqual_len: number(2)?,
        data,
    })
}
