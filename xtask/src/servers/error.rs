//! What can go wrong while a server is found, made or started. Every message names the thing and
//! what mends it.

use std::{error, fmt, io, path::Path};

use super::Kind;

/// Why a server is not there.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No step found a program for this kind of server.
    Unavailable {
        /// The server that is missing.
        kind: Kind,
        /// What each step answered.
        tried: Vec<String>,
    },
    /// A program was not found, ended badly, or could not be had.
    Program {
        /// The program or package.
        name: String,
        /// What it said, or what is the matter with it.
        reason: String,
    },
    /// The server ended or did not answer while it was being started.
    NotReady {
        /// The server that was being started.
        name: String,
        /// What happened.
        reason: String,
        /// The end of the server's own log.
        log: String,
    },
    /// A file or process operation failed.
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A setting of the environment does not fit.
    Environment(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { kind, tried } => {
                write!(f, "{kind} cannot be had:")?;
                for answer in tried {
                    write!(f, "\n  - {answer}")?;
                }
                let variable = kind.variable();
                write!(
                    f,
                    "\nset {variable} to the address of such a server, or mend the above"
                )
            }
            Self::Program { name, reason } => write!(f, "{name}: {reason}"),
            Self::NotReady { name, reason, log } => {
                write!(
                    f,
                    "{name} did not start: {reason}; the end of its log:\n{log}"
                )
            }
            Self::Io { doing, source } => write!(f, "could not {doing}: {source}"),
            Self::Environment(message) => f.write_str(message),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Unavailable { .. }
            | Self::Program { .. }
            | Self::NotReady { .. }
            | Self::Environment(_) => None,
        }
    }
}

impl Error {
    /// A failed operation on a path: `Error::io("write", path)` for `map_err`.
    pub(super) fn io<'a>(verb: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            doing: format!("{verb} {}", path.display()),
            source,
        }
    }

    pub(super) fn program(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Program {
            name: name.into(),
            reason: reason.into(),
        }
    }
}
