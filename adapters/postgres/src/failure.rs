//! One failed request: what the server answered, and how that becomes an error of the ports.
//!
//! Invariants:
//! * I3: only an answer of severity ERROR counts as the server's word on the request. `FATAL`
//!   and `PANIC` arrive as ordinary database errors, too (observed: a terminated session answers
//!   57P01, and the driver's `is_closed` says no), and prove nothing about what was under way.
//! * I8: the text holds the server's own words and SQLSTATE, never an address or a password.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::error::{DbError, Severity};
use unanimous_core::ports::{BranchError, ResourceError, SourceError};
use unanimous_core::xid::ResourceName;

use crate::codes::{self, Answer, Guard, Request};
use crate::sql;

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

    /// The server is a standby: it would list nothing, and prepare nothing.
    pub(crate) fn standby() -> Self {
        Self {
            answer: OwnedAnswer::Refused("25006".to_owned()),
            words: "the server is in recovery".to_owned(),
            source: None,
        }
    }

    /// What came back.
    pub(crate) fn answer(&self) -> Answer<'_> {
        match &self.answer {
            OwnedAnswer::Refused(code) => Answer::Refused(code),
            OwnedAnswer::Guarded(guard) => Answer::Guarded(*guard),
            OwnedAnswer::Ended(code) => Answer::Ended(code),
            OwnedAnswer::Lost => Answer::Lost,
        }
    }

    /// The server refused, and the session lives.
    pub(crate) fn is_refusal(&self) -> bool {
        match self.answer {
            OwnedAnswer::Refused(_) | OwnedAnswer::Guarded(_) => true,
            OwnedAnswer::Ended(_) | OwnedAnswer::Lost => false,
        }
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

    fn text(&self, asked: &str, mend: &str) -> String {
        let separator = if mend.is_empty() { "" } else { "; " };
        format!("{asked}: {}{separator}{mend}", self.words)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl OwnedAnswer {
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
