//! The tool's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::barrier::{BarrierEnded, BarrierOptions, Stood};
use super::error::OperatorError;
use super::socket::{NAME, connect};
use super::wire::{
    ANSWER_BYTES_MAX, Answer, Body, NOT_UNDERSTOOD, OTHER_RELEASE, Request, Verb, from_line,
    read_line, to_line,
};

/// How long the application may take: it looks at every database, each with a limit of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// An application that holds the log and listens.
#[derive(Debug)]
pub(super) struct Client {
    folder: PathBuf,
}

impl Client {
    /// `None` if nobody listens in this folder.
    pub(super) async fn find(folder: &Path) -> Result<Option<Self>, OperatorError> {
        let client = Self {
            folder: folder.to_owned(),
        };
        match connect(folder).await {
            Ok(_stream) => Ok(Some(client)),
            Err(error) if is_nobody(error.kind()) => Ok(None),
            Err(error) => Err(client.failed(format!(
                "cannot be reached: {error}; run this as the user that the application runs as"
            ))),
        }
    }

    /// What the application answers. The verb says which type that is.
    pub(super) async fn ask<T: DeserializeOwned>(&self, verb: Verb) -> Result<T, OperatorError> {
        self.ask_within(ANSWER_LIMIT, verb).await
    }

    /// The same with another limit.
    pub(super) async fn ask_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        verb: Verb,
    ) -> Result<T, OperatorError> {
        let asking = timeout(limit, self.ask_unbounded(verb));
        let late = |_| {
            Err(format!(
                "no answer within {limit:?}: the application is stopped or overloaded; it may \
                 still do what it was asked"
            ))
        };
        match asking.await.unwrap_or_else(late) {
            Ok(Body::Error(problem)) | Err(problem) => Err(self.failed(problem)),
            Ok(Body::Done(answer)) => Ok(answer),
        }
    }

    async fn ask_unbounded<T: DeserializeOwned>(&self, verb: Verb) -> Result<Body<T>, String> {
        let mut stream = self.send(verb).await?;
        let answer = read_line(&mut stream, ANSWER_BYTES_MAX).await;
        let answer = answer.and_then(|line| from_line::<Answer<T>>(&line));
        let answer =
            answer.map_err(|problem| format!("the application's answer: {problem}; {RAN_AWAY}"))?;
        Ok(answer.answer)
    }

    /// The application does nothing before it has the end of the line, and the end is sent last: of
    /// what could not be sent it does nothing.
    async fn send(&self, verb: Verb) -> Result<UnixStream, String> {
        let unreached = |error: io::Error| {
            format!(
                "cannot be reached: {error}; nothing was done: if the application has just ended, \
                 run this again"
            )
        };
        let request = to_line(&Request::new(verb))?;
        let mut stream = connect(&self.folder).await.map_err(unreached)?;
        stream.write_all(&request).await.map_err(unreached)?;
        Ok(stream)
    }

    /// Lets the application hold its decisions, as long as the lease is kept.
    pub(super) async fn hold(
        &self,
        wanted: &BarrierOptions,
    ) -> Result<(Lease, Stood), OperatorError> {
        let sent = self.send(Verb::Barrier(wanted.clone())).await;
        let stream = sent.map_err(|problem| self.failed(problem))?;
        let folder = self.folder.clone();
        let client = Self { folder };
        let mut lease = Lease { client, stream };
        match timeout(wanted.within + BARRIER_GRACE, lease.heard()).await {
            Ok(stood) => Ok((lease, stood?)),
            Err(_) => Err(self.failed("no answer: the application is stopped or overloaded")),
        }
    }

    pub(super) fn failed(&self, problem: impl Into<String>) -> OperatorError {
        let mut problem = problem.into();
        // What this tool has asked is right; an application of another release may not know it.
        if problem.starts_with(NOT_UNDERSTOOD) && !problem.contains(OTHER_RELEASE) {
            problem = format!("{problem}: {OTHER_RELEASE}");
        }
        OperatorError::Application {
            path: self.folder.join(NAME).display().to_string(),
            problem,
        }
    }
}

const RAN_AWAY: &str = "if the application has just ended, it may have done what it was asked: \
    look, and run this again";

/// How much longer than the barrier may take the application may: recovery is asked, too.
const BARRIER_GRACE: Duration = Duration::from_secs(60);

/// A connection that keeps a barrier standing.
#[derive(Debug)]
pub(super) struct Lease {
    client: Client,
    stream: UnixStream,
}

impl Lease {
    async fn heard<T: DeserializeOwned>(&mut self) -> Result<T, OperatorError> {
        let line = read_line(&mut self.stream, ANSWER_BYTES_MAX).await;
        match line.and_then(|line| from_line::<Answer<T>>(&line)) {
            Ok(answer) => match answer.answer {
                Body::Done(answer) => Ok(answer),
                Body::Error(problem) => Err(self.client.failed(problem)),
            },
            Err(problem) => Err(self.client.failed(format!(
                "the application's answer: {problem}; if it has ended, so has the barrier"
            ))),
        }
    }

    /// Nothing is said before the barrier is asked to end, unless it has ended.
    pub(super) async fn fallen(&mut self) -> OperatorError {
        match self.heard::<BarrierEnded>().await {
            Ok(_) => self.client.failed("the barrier has ended"),
            Err(error) => error,
        }
    }

    pub(super) async fn end(mut self) -> Result<BarrierEnded, OperatorError> {
        // An application that is gone is seen when its answer is read.
        drop(self.stream.write_all(b"end\n").await);
        match timeout(BARRIER_GRACE, self.heard()).await {
            Ok(ended) => ended,
            Err(_) => Err(self
                .client
                .failed("no answer: the application is stopped or overloaded")),
        }
    }
}

/// There is no socket, or a dead owner's.
fn is_nobody(kind: io::ErrorKind) -> bool {
    kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused
}
