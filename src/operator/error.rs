//! What can go wrong for the operator. Messages name the thing and the mend, and no secret (I8).

use unanimous_core::ports::LogError;

/// The config file, or what it names, cannot be used. Holds no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigFileError {
    message: String,
}

impl ConfigFileError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message }
    }
}

/// The operator's request was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The config file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// The decision log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A process holds the log, and offers no control socket.
    #[error(
        "{0}; or, to ask that process itself, build it with the feature `operator` of unanimous: \
         it offers no control socket"
    )]
    NoSocket(LogError),
    /// The application that holds the log did not answer, or refused.
    #[error("control socket {path}: {problem}")]
    Application {
        /// The socket.
        path: String,
        /// What was wrong, and what to do.
        problem: String,
    },
    /// The manager cannot be set up.
    #[error(transparent)]
    Start(#[from] crate::StartError),
}
