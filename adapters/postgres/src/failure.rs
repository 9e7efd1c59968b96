//! One failed request: what the server answered, and how that becomes an error of the ports.
//!
//! Invariants:
//! * I3: only an answer of severity ERROR counts as the server's word on the request. `FATAL`
//!   and `PANIC` arrive as ordinary database errors, too (observed: a terminated session answers
//!   57P01, and the driver's `is_closed` says no), and prove nothing about what was under way.
//! * I8: the text holds the server's own words and SQLSTATE, never an address or a password.

use std::fmt;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};
use tokio_postgres::error::{DbError, Severity};
use unanimous_core::ports::{
    BranchError, Cause, ResourceError, SourceError, TableError, TableErrorKind,
};
use unanimous_core::xid::ResourceName;

use crate::codes::{self, Answer, Guard, Request};
use crate::sql;

const TURN_TLS_ON: &str =
    "turn TLS on at the server (ssl = on), or use sslmode=prefer over a network you trust";

/// Why a request got no positive answer.
#[derive(Debug)]
pub(crate) struct Failure {
    answer: OwnedAnswer,
    words: String,
    source: Option<SourceError>,
}

#[derive(Debug)]
enum OwnedAnswer {
    Refused(String),
    Guarded(Guard),
    Ended(String),
    Unsuited(&'static str),
    Lost,
}

impl Failure {
    /// Reads a driver's error. `ending` is what the connection itself ended with, if it did: the
    /// driver tells the request only that the connection is closed.
    pub(crate) fn read(
        error: tokio_postgres::Error,
        ending: Option<Arc<tokio_postgres::Error>>,
    ) -> Self {
        if let Some(db) = error.as_db_error() {
            let (answer, words) = (OwnedAnswer::of(db), words_of(db));
            return Self {
                answer,
                words,
                source: Some(error.into()),
            };
        }
        match ending {
            Some(ending) => Self::ended(ending),
            None => Self::lost(chain(&error), Some(error.into())),
        }
    }

    /// Reads a driver's error of connecting, where nothing but the log-in was sent.
    pub(crate) fn connecting(error: tokio_postgres::Error) -> Self {
        match mend_of(&error) {
            Some(mend) if error.as_db_error().is_none() => Self {
                answer: OwnedAnswer::Unsuited(mend),
                words: chain(&error),
                source: Some(error.into()),
            },
            Some(_) | None => Self::read(error, None),
        }
    }

    /// Nothing was sent: what is needed to connect is wrong.
    pub(crate) fn unsuited(words: impl Into<String>, mend: &'static str) -> Self {
        Self {
            answer: OwnedAnswer::Unsuited(mend),
            words: words.into(),
            source: None,
        }
    }

    /// The same without a word of the server's, which may quote a piece of what it was sent.
    pub(crate) fn without_words(self, what: &str) -> Self {
        let words = match &self.answer {
            OwnedAnswer::Refused(code) | OwnedAnswer::Ended(code) => {
                format!("{what} failed with SQLSTATE {code}")
            }
            OwnedAnswer::Guarded(_) | OwnedAnswer::Unsuited(_) | OwnedAnswer::Lost => {
                format!("the connection was lost during {what}")
            }
        };
        Self {
            answer: self.answer,
            words,
            source: None,
        }
    }

    /// The connection is closed, with this.
    pub(crate) fn ended(ending: Arc<tokio_postgres::Error>) -> Self {
        match ending.as_db_error() {
            Some(db) => Self {
                answer: OwnedAnswer::Ended(db.code().code().to_owned()),
                words: words_of(db),
                source: Some(ending.into()),
            },
            None => Self::lost(chain(&ending), Some(ending.into())),
        }
    }

    /// No answer, or one that cannot be understood.
    pub(crate) fn lost(words: impl Into<String>, source: Option<SourceError>) -> Self {
        Self {
            answer: OwnedAnswer::Lost,
            words: words.into(),
            source,
        }
    }

    /// The server answered success, and warned: done there, but a synchronous standby may lack it.
    /// It would be gone after a fail-over to that standby, so it is as good as no answer.
    pub(crate) fn unreplicated() -> Self {
        let words = "the server answered success and warned: done there, but perhaps not \
            replicated to a synchronous standby";
        Self::lost(words, None)
    }

    /// Another process answered than the one that was asked.
    pub(crate) fn other_session(asked: i32, answered: i32) -> Self {
        Self {
            answer: OwnedAnswer::Guarded(Guard::OtherSession),
            words: format!("process {asked} was asked, and {answered} has answered"),
            source: None,
        }
    }

    /// The server is a standby: it would list nothing, and prepare nothing.
    pub(crate) fn standby() -> Self {
        Self {
            answer: OwnedAnswer::Refused(codes::READ_ONLY_SERVER.to_owned()),
            words: "the server is in recovery".to_owned(),
            source: None,
        }
    }

    /// See [`standby`](Self::standby).
    pub(crate) fn is_standby(&self) -> bool {
        matches!(self.answer(), Answer::Refused(codes::READ_ONLY_SERVER))
    }

    /// What came back.
    pub(crate) fn answer(&self) -> Answer<'_> {
        self.answer.as_answer()
    }

    /// The server refused, and the session lives.
    pub(crate) fn is_refusal(&self) -> bool {
        match self.answer {
            OwnedAnswer::Refused(_) | OwnedAnswer::Guarded(_) => true,
            OwnedAnswer::Ended(_) | OwnedAnswer::Unsuited(_) | OwnedAnswer::Lost => false,
        }
    }

    /// It is an answer of the server's.
    pub(crate) fn is_of_server(&self) -> bool {
        matches!(self.answer(), Answer::Refused(_) | Answer::Ended(_))
    }

    /// TLS was asked for, and the server has none.
    pub(crate) fn is_for_want_of_tls(&self) -> bool {
        matches!(self.answer(), Answer::Unsuited(TURN_TLS_ON))
    }

    /// The error of a branch: what was asked, what came back, what mends it.
    pub(crate) fn into_branch(
        self,
        request: Request,
        resource: &ResourceName,
        asked: &str,
    ) -> BranchError {
        let (kind, mend) = codes::meaning(request, self.answer());
        let text = self.text(asked, mend);
        let error = BranchError::new(kind, resource.clone(), text);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    /// The error of the resource as a whole.
    pub(crate) fn into_resource(self, resource: &ResourceName, asked: &str) -> ResourceError {
        let (problem, mend) = codes::problem(self.answer());
        let text = self.text(asked, mend);
        let error = ResourceError::new(problem, resource.clone(), text);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    /// The error of the decision table.
    pub(crate) fn into_table(self, kind: TableErrorKind, asked: &str, mend: &str) -> TableError {
        let error = TableError::new(kind, self.text(asked, mend));
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    fn text(&self, asked: &str, mend: &str) -> String {
        let separator = if mend.is_empty() { "" } else { "; " };
        format!("{asked}: {}{separator}{mend}", self.words)
    }
}

/// Why a branch will be rolled back in which the application met this; nothing if the server has
/// not spoken and the connection lives (a parameter of the wrong type, a row that is not there).
pub(crate) fn cause_of(error: &tokio_postgres::Error) -> Option<Cause> {
    if let Some(db) = error.as_db_error() {
        let answer = OwnedAnswer::of(db);
        return codes::cause(answer.as_answer());
    }
    let source = std::error::Error::source(error);
    let lost = error.is_closed() || source.is_some_and(|source| source.is::<std::io::Error>());
    if lost {
        codes::cause(Answer::Lost)
    } else {
        None
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl OwnedAnswer {
    fn as_answer(&self) -> Answer<'_> {
        match self {
            Self::Refused(code) => Answer::Refused(code),
            Self::Guarded(guard) => Answer::Guarded(*guard),
            Self::Ended(code) => Answer::Ended(code),
            Self::Unsuited(mend) => Answer::Unsuited(mend),
            Self::Lost => Answer::Lost,
        }
    }

    fn of(db: &DbError) -> Self {
        let code = db.code().code();
        if db.parsed_severity() != Some(Severity::Error) {
            return Self::Ended(code.to_owned());
        }
        match sql::guard_in(code, db.message()) {
            Some(guard) => Self::Guarded(guard),
            None => Self::Refused(code.to_owned()),
        }
    }
}

/// The server's words, without the detail: that may quote a whole row of the application's data.
fn words_of(db: &DbError) -> String {
    format!("{} {}: {}", db.severity(), db.code().code(), db.message())
}

/// What mends an error that comes back at every attempt, if this is one.
fn mend_of(error: &tokio_postgres::Error) -> Option<&'static str> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An I/O error passes over what it holds when it is asked for its source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return mend_of_tls(tls);
        }
        cause = error.source();
    }
    // The driver keeps the kinds of its errors to itself.
    let text = chain(error);
    if text.contains("server does not support TLS") {
        return Some(TURN_TLS_ON);
    }
    ["invalid configuration", "authentication error"]
        .into_iter()
        .any(|kind| text.starts_with(kind))
        .then_some("check the address")
}

fn mend_of_tls(error: &rustls::Error) -> Option<&'static str> {
    const VERSIONS: &str =
        "let the server speak TLS 1.2 or newer; sslnegotiation=direct needs PostgreSQL 17";
    if let rustls::Error::InvalidCertificate(why) = error {
        return Some(mend_of_certificate(why));
    }
    if let rustls::Error::AlertReceived(alert) = error {
        return match alert {
            alert if is_of_our_certificate(*alert) => {
                Some("give a client certificate that the server's ssl_ca_file has signed")
            }
            alert if is_of_versions(*alert) => Some(VERSIONS),
            _ => None,
        };
    }
    // Anything else may be a line that was cut.
    matches!(error, rustls::Error::PeerIncompatible(_)).then_some(VERSIONS)
}

fn mend_of_certificate(why: &CertificateError) -> &'static str {
    if matches!(why, CertificateError::UnknownIssuer) {
        return "sslrootcert has to hold the authority that signed the server's certificate";
    }
    let is_name = matches!(
        why,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    );
    if is_name {
        return "connect by a name that is among the certificate's subject alternative names, or \
                give sslmode=verify-ca, which does not look at the name";
    }
    let is_time = matches!(
        why,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    );
    if is_time {
        return "renew the server's certificate, or compare the clocks";
    }
    "give the server a certificate of its own, signed by an authority and with a subject \
     alternative name (an authority's own certificate, CA:TRUE, is not accepted)"
}

fn is_of_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

fn is_of_versions(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::NoApplicationProtocol
    )
}

fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "failure_test.rs"]
mod failure_test;
