//! Can this server do what will be asked of it? Every objection comes with its mend.
//!
//! All of it is asked in one go, on connections of its own, so that a login that would fail now is
//! found now: version, settings, the privilege to list branches, the identity row of MariaDB, which
//! is made if it is missing, the set-up of a branch's session, and (where recovery has an account
//! of its own) that both accounts reach the same server and that recovery's may see and end the
//! application's connections. The last is not asked but done: a connection is made with the
//! application's account, and ended.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Row};
use unanimous_core::ports::{Finding, Preflight, ResourceError, Severity};

use crate::fence::{self, Fenced, Holder};
use crate::identity::{self, Facts};
use crate::session::{Flavour, Session};
use crate::settings::{self, Sessions, Variables};
use crate::table::rights;
use crate::{Mysql, codes};

/// See [`ResourceManager::preflight`](unanimous_core::ports::ResourceManager::preflight).
pub(crate) async fn check(resource: &Mysql) -> Result<Preflight, ResourceError> {
    let config = resource.config();
    let all = config.sessions();
    let of_account = if config.has_recovery {
        config.pool_size
    } else {
        all
    };
    let sessions = Sessions { of_account, all };
    let (mut conn, facts) = Session::inspect(config, &config.control).await?;
    let product = facts.product();
    let mut findings = facts.findings(conn.id());
    let rows = read(resource, &mut conn, settings::GLOBAL).await?;
    let settings = variables(&facts, &rows);
    let is_read_only = settings.read_only().is_some();
    findings.extend(settings.of_server(sessions));
    let Some(mut control) = session(conn, facts) else {
        return Ok(Preflight::new(product, None, findings).read_only(is_read_only));
    };
    findings.extend(of_recovery(resource, &mut control).await?);
    make_identity(&mut control).await;
    findings.extend(of_branches(resource, &mut control, sessions).await?);
    let identity = learn_identity(resource, &mut control).await?;
    // Nobody can make it on a server that takes no writes; it is looked for again when it does.
    if identity.is_none() && !is_read_only {
        findings.push(no_identity(&control));
    }
    control.close();
    let preflight = Preflight::new(product, identity, once_each(findings));
    Ok(preflight.read_only(is_read_only))
}

/// A session of a server that is known well enough to be asked for more. Behind a proxy that
/// numbers connections itself, the wrong connection would be ended.
fn session(conn: Conn, facts: Facts) -> Option<Session> {
    facts.check_connection(conn.id()).ok()?;
    let server = facts.into_server().ok()?;
    Some(Session::new(conn, server))
}

/// Both accounts see the same server, and say the same of it.
fn once_each(findings: Vec<Finding>) -> Vec<Finding> {
    let mut told: Vec<Finding> = Vec::new();
    for finding in findings {
        if !told.contains(&finding) {
            told.push(finding);
        }
    }
    told
}

fn variables(facts: &Facts, rows: &[Row]) -> Variables {
    Variables::new(facts.flavour(), rows)
}

async fn read(resource: &Mysql, conn: &mut Conn, sql: &str) -> Result<Vec<Row>, ResourceError> {
    conn.query(sql)
        .await
        .map_err(|error| unreadable(resource, "the server's variables", error))
}

fn unreadable(resource: &Mysql, what: &str, error: Error) -> ResourceError {
    let message = format!("cannot read {what}: {error}");
    resource
        .error(codes::connect(&error), message)
        .with_source(error)
}

/// Whether recovery's account may list branches, and see its own kind of connections.
async fn of_recovery(
    resource: &Mysql,
    control: &mut Session,
) -> Result<Vec<Finding>, ResourceError> {
    let mut findings = Vec::new();
    match control.rows("XA RECOVER").await {
        Ok(_) => {}
        Err(error) if codes::is_recover_refused(&error) => {
            findings.push(no_recover_privilege(control));
        }
        Err(error) => return Err(unreadable(resource, "what is prepared", error)),
    }
    let blind = fence::blindness(control)
        .await
        .map_err(|error| unreadable(resource, "the list of connections", error))?;
    findings.extend(blind);
    let short_sight = fence::short_sight(control)
        .await
        .map_err(|error| unreadable(resource, "InnoDB's transactions", error))?;
    findings.extend(short_sight);
    Ok(findings)
}

/// A session as branches have it, with the application's set-up and account.
async fn of_branches(
    resource: &Mysql,
    control: &mut Session,
    sessions: Sessions,
) -> Result<Vec<Finding>, ResourceError> {
    let config = resource.config();
    let (mut conn, facts) = Session::inspect(config, &config.branches).await?;
    let mut findings = facts.findings(conn.id());
    let rows = read(resource, &mut conn, settings::SESSION).await?;
    findings.extend(variables(&facts, &rows).of_session(sessions));
    let Some(mut app) = session(conn, facts) else {
        return Ok(findings);
    };
    if config.has_recovery {
        findings.extend(of_both_accounts(resource, control, &mut app).await?);
    }
    app.close();
    Ok(findings)
}

/// The application's account beside recovery's.
async fn of_both_accounts(
    resource: &Mysql,
    control: &mut Session,
    app: &mut Session,
) -> Result<Vec<Finding>, ResourceError> {
    make_identity(app).await;
    // Its connection is ended below.
    let mut findings: Vec<_> = rights::as_last(app, control).await.into_iter().collect();
    let here = learn_identity(resource, app).await?;
    let there = learn_identity(resource, control).await?;
    match (&here, &there) {
        (Some(here), Some(there)) if here != there => {
            findings.push(Finding::new(
                Severity::Error,
                "recovery_address",
                format!(
                    "recovery_address leads to {there}, and the address of the resource to {here}: \
                     recovery would look for branches where there are none"
                ),
                "write the same host, port and database into both",
            ));
        }
        (Some(_), Some(_)) => {
            // Its connection is one that recovery has to be able to end.
            let fenced = fence::fence(control, &Holder::of(app))
                .await
                .map_err(|error| unreadable(resource, "the list of connections", error))?;
            if let Fenced::NotSeen(finding) = fenced {
                findings.push(finding);
            }
        }
        (None, _) => findings.push(no_identity(app)),
        (Some(_), None) => {}
    }
    Ok(findings)
}

async fn learn_identity(
    resource: &Mysql,
    session: &mut Session,
) -> Result<Option<unanimous_core::ports::ServerIdentity>, ResourceError> {
    session
        .learn_identity()
        .await
        .map_err(|error| unreadable(resource, "the server's identity", error))
}

/// Makes the identity row if it is missing, as far as this account may.
///
/// One that others have made meanwhile is as good, and whether it is there is asked afterwards.
pub(crate) async fn make_identity(session: &mut Session) {
    if session.server().identity.is_some() {
        return;
    }
    for sql in [identity::CREATE, identity::INSERT] {
        if let Err(error) = session.run(sql).await {
            tracing::debug!(%error, "the identity row is not made with this account");
        }
    }
}

/// The identity row is missing, or may not be read: what to run.
pub(crate) fn no_identity(session: &Session) -> Finding {
    let account = &session.server().account;
    Finding::new(
        Severity::Error,
        identity::TABLE,
        format!(
            "there is no identity row yet, which tells this server from its copies, or account \
             {account} may not read it; preflight makes it with an account that may create a \
             table, or an administrator runs this in the resource's database"
        ),
        format!(
            "{}; {}; GRANT SELECT ON {} TO {}",
            identity::CREATE,
            identity::INSERT,
            identity::TABLE,
            quoted(account)
        ),
    )
}

/// 1401 for `XA RECOVER`: what to grant.
pub(crate) fn no_recover_privilege(session: &Session) -> Finding {
    let account = quoted(&session.server().account);
    let (evidence, mend) = match session.server().flavour {
        Flavour::MySql => (
            "the account may not list prepared transactions (XA RECOVER answers 1401)".to_owned(),
            format!("GRANT XA_RECOVER_ADMIN ON *.* TO {account}"),
        ),
        Flavour::MariaDb => (
            format!("the server refuses XA RECOVER to {account} (1401), which needs no privilege"),
            "see the server's error log".to_owned(),
        ),
    };
    Finding::new(Severity::Error, "XA_RECOVER_ADMIN", evidence, mend)
}

/// `app@%` as SQL: `'app'@'%'`. The last `@` separates: a host cannot hold one.
pub(crate) fn quoted(account: &str) -> String {
    let quote = |part: &str| format!("'{}'", part.replace('\'', "''"));
    match account.rsplit_once('@') {
        Some((user, host)) => format!("{}@{}", quote(user), quote(host)),
        None => quote(account),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_accounts_say_is_told_once() {
        let finding = |subject: &str| Finding::new(Severity::Note, subject, "seen", "mend");
        let (a, b) = (finding("a"), finding("b"));
        let told = once_each(vec![a.clone(), b.clone(), a.clone(), b.clone()]);
        assert_eq!(told, [a, b]);
    }

    #[test]
    fn an_account_is_quoted_for_pasting() {
        assert_eq!(quoted("app@%"), "'app'@'%'");
        assert_eq!(quoted("o'b@c@10.0.0.1"), "'o''b@c'@'10.0.0.1'");
    }
}
