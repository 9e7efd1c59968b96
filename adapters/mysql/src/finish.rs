//! Recovery by XID: what is prepared, ending it from another connection, and what became of a
//! branch that is no longer listed.
//!
//! * A scan counts only on a server that may be written to: a standby lists nothing of what its
//!   primary holds, or lists what is not its own to end.
//! * *Unknown XID* (1397) proves nothing: both servers answer it for a branch that was never
//!   prepared, is not prepared yet, was ended long ago, and MariaDB for one whose connection is
//!   still open.
//! * *Absent* proves an end only on the same server, after the branch's connection was seen gone,
//!   by a scan made afterwards.

use mysql_async::{Error, Row};
use unanimous_core::ports::{
    Absence, BranchError, BranchErrorKind, BranchRecord, Problem, RecoveryScan, ResourceError,
    ScannedBranch, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Xid;

use crate::codes::{self, During};
use crate::fence::{Fenced, Holder, connections, fence};
use crate::handover::{HandedOver, see_handed_over};
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
    let mut is_handed_over = false;
    let mut may_be_done = false;
    // That the second request did nothing says nothing of the first.
    let told = |may_be_done: bool, error: BranchError| {
        if !may_be_done || matches!(error.kind(), BranchErrorKind::RolledBack(_)) {
            return error;
        }
        let message = format!("cannot tell whether an earlier attempt has done it: {error}");
        failed(BranchErrorKind::Undetermined, message).with_source(error)
    };
    loop {
        let lent = resource.lend_control().await;
        let mut lease = lent.map_err(|error| told(may_be_done, unavailable(error)))?;
        let Some(session) = lease.session() else {
            continue;
        };
        let flavour = session.server().flavour;
        if flavour == Flavour::MariaDb && !is_handed_over {
            lease.give_back();
            let handed_over = await_handover(resource, xid, recorded).await;
            handed_over.map_err(unavailable)?;
            is_handed_over = true;
            continue;
        }
        let Err(error) = session.run(&sql).await else {
            lease.give_back();
            return Ok(());
        };
        if matches!(error, Error::Server(_)) {
            lease.give_back();
        } else if !lease.is_fresh() {
            // Stale. Repeating is harmless: at worst the branch is unknown now, which proves
            // nothing.
            may_be_done = true;
            resource.purge_control();
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
        return Err(told(may_be_done, failed(kind, message).with_source(error)));
    }
}

/// Returns when the branch may be ended from elsewhere: see [`handover`](crate::handover).
async fn await_handover(
    resource: &Mysql,
    xid: &Xid,
    recorded: Option<&BranchRecord>,
) -> Result<(), ResourceError> {
    let unavailable = |message: String| resource.error(Problem::Unavailable, message);
    let mut lease = resource.lend_checked_control().await?;
    let Some(session) = lease.session() else {
        return Err(unavailable("the connection is closed".to_owned()));
    };
    let identity = resource.identity_of(session).await?;
    let listed = resource.listed();
    let seen = see_handed_over((resource.looks(), listed), session, &identity, recorded).await;
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
    let mut lease = resource.lend_checked_control().await?;
    let Some(session) = lease.session() else {
        return Err(resource.error(Problem::Unavailable, "the connection is closed"));
    };
    let identity = resource.identity_of(session).await?;
    let branches = scan(resource, session).await?;
    if session.server().flavour == Flavour::MariaDb && !branches.is_empty() {
        let connections = connections(session).await.map_err(|error| {
            let message = format!("cannot list connections: {error}");
            resource
                .error(Problem::Unavailable, message)
                .with_source(error)
        })?;
        let started = session.server().started;
        resource.listed().see_connections(started, connections);
    }
    lease.give_back();
    resource.listed().see(&branches);
    Ok(RecoveryScan { identity, branches })
}

/// What became of a branch that was prepared, is to be committed, and is not listed.
pub(crate) async fn absent(
    resource: &Mysql,
    xid: &Xid,
    branch: &BranchRecord,
) -> Result<Absence, ResourceError> {
    let mut lease = resource.lend_checked_control().await?;
    let Some(session) = lease.session() else {
        return Err(resource.error(Problem::Unavailable, "the connection is closed"));
    };
    let answer = judge(resource, session, xid, branch).await?;
    lease.give_back();
    Ok(answer)
}

async fn judge(
    resource: &Mysql,
    session: &mut Session,
    xid: &Xid,
    branch: &BranchRecord,
) -> Result<Absence, ResourceError> {
    let identity = resource.identity_of(session).await?;
    if identity != branch.identity {
        return Ok(Absence::Hazard(format!(
            "{xid} was prepared on {}, and the address of {} leads to {identity} now: look for it \
             there, or compare the data",
            branch.identity, branch.resource
        )));
    }
    let Some(holder) = Holder::from_evidence(&branch.evidence) else {
        return Ok(Absence::Hazard(format!(
            "the connection that prepared {xid} is not known: the record's evidence cannot be read"
        )));
    };
    let fenced = fence(session, &holder).await.map_err(|error| {
        let message = format!("cannot see the connection of {xid} gone: {error}");
        resource
            .error(Problem::Unavailable, message)
            .with_source(error)
    })?;
    if let Fenced::NotSeen(reason) = fenced {
        return Ok(Absence::InDoubt(reason.to_string()));
    }
    let listed = scan(resource, session).await?;
    let ours = XidOwner::Unanimous(xid.clone());
    if listed.iter().any(|branch| branch.owner == ours) {
        return Ok(Absence::InDoubt(format!("{xid} is listed again")));
    }
    Ok(Absence::Presumed)
}

/// Lists what is prepared, and whether the server may be written to, in one round trip.
pub(crate) async fn scan(
    resource: &Mysql,
    session: &mut Session,
) -> Result<Vec<ScannedBranch>, ResourceError> {
    let flavour = session.server().flavour;
    let (writable, recover) = match flavour {
        Flavour::MySql => (
            "SELECT @@GLOBAL.read_only OR @@GLOBAL.super_read_only",
            "XA RECOVER CONVERT XID",
        ),
        Flavour::MariaDb => ("SELECT @@GLOBAL.read_only", "XA RECOVER"),
    };
    let (writable, listed) = match session.rows_of_two(writable, recover).await {
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
    let read_only = writable.first().and_then(|row| text(row, 0));
    if !matches!(read_only.as_deref(), Some("0" | "OFF")) {
        return Err(resource.error(Problem::Unavailable, settings::READ_ONLY));
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
