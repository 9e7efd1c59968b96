//! The application's end of the control socket.
//!
//! Nothing here can hurt a transaction: it works in tasks of its own, on a bounded number of
//! connections, and asks the runtime only for what a manager offers anyway. Errors are logged.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};
use unanimous_core::ports::InspectOptions;
use unanimous_core::xid::ResourceName;

use super::barrier::serve_barrier;
use super::heuristics::{self, Heuristics};
use super::lost::{GiveUp, GivenUp};
use super::report::{Listing, Recovered};
use super::resolved::{Resolve, Resolved};
use super::show;
use super::socket::{NAME, SocketFile, listen};
use super::wire::{
    ANSWER_BYTES_MAX, Answer, Body, NOT_UNDERSTOOD, REQUEST_BYTES_MAX, Request, Verb, from_line,
    read_line, to_line,
};
use crate::manager::{Inner, recover_at};

/// How many are answered at the same time; more wait.
const CONNECTIONS_MAX: usize = 4;

/// How long a client may take to ask, and to take its answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait after a connection could not be accepted (no file descriptor is free).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long the last answers may take, once what they tell is done.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Offers the socket until closed, or dropped.
pub(crate) struct Control {
    task: JoinHandle<()>,
    closing: watch::Sender<bool>,
    socket: Option<SocketFile>,
}

impl Control {
    /// Takes the socket away. Of those who are heard only people who act get their answers yet.
    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.closing.send_replace(true);
    }

    /// Once nobody acts any more: waits, for a short time, until they have their answers.
    pub(crate) async fn answered(mut self) {
        // Whoever does not take theirs finds out what was done by looking.
        let _ = timeout(LAST_ANSWERS, &mut self.task).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Offers the control socket in the folder of the log, which `inner` holds. `None` if that cannot
/// be done; then there is a warning.
pub(crate) fn serve(inner: &Arc<Inner>, folder: &Path) -> Option<Control> {
    match listen(folder) {
        Ok((listener, socket)) => {
            // Weak: a socket alone keeps no manager alive.
            let (closing, is_closing) = watch::channel(false);
            let task = tokio::spawn(serve_on(listener, Arc::downgrade(inner), is_closing));
            Some(Control {
                task,
                closing,
                socket: Some(socket),
            })
        }
        Err(error) => {
            let path = folder.join(NAME);
            warn!(target: "unanimous", path = %path.display(), %error,
                "no control socket: the operator's tool cannot talk to this application; \
                 transactions are not affected");
            None
        }
    }
}

/// Resolves once the socket is closed.
async fn closed(mut is_closing: watch::Receiver<bool>) {
    // Fails only when nobody can close it any more.
    let _ = is_closing.wait_for(|is_closing| *is_closing).await;
}

async fn serve_on(listener: UnixListener, inner: Weak<Inner>, is_closing: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    tokio::select! {
        biased;
        () = closed(is_closing.clone()) => {}
        () = accept(&listener, &mut connections, &inner, &is_closing) => {}
    }
    drop(listener);
    // A connection's panic has been told by the panic hook.
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &UnixListener,
    connections: &mut JoinSet<()>,
    inner: &Weak<Inner>,
    is_closing: &watch::Receiver<bool>,
) {
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            // A connection's panic has been told by the panic hook.
            drop(connections.join_next().await);
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let (inner, is_closing) = (Weak::clone(inner), is_closing.clone());
                connections.spawn(async move {
                    if let Err(problem) = converse(stream, &inner, is_closing).await {
                        debug!(target: "unanimous", problem, "a control connection failed");
                    }
                });
            }
            Err(error) => {
                debug!(target: "unanimous", %error, "a control connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    inner: &Weak<Inner>,
    is_closing: watch::Receiver<bool>,
) -> Result<(), String> {
    let late = |_| format!("the client took longer than {CLIENT_LIMIT:?}");
    let ending = || Err("the application is ending".to_owned());
    let reading = timeout(CLIENT_LIMIT, read_line(&mut stream, REQUEST_BYTES_MAX));
    let asked = tokio::select! {
        biased;
        () = closed(is_closing.clone()) => return ending(),
        asked = reading => asked.map_err(late)?,
    };
    let asked = asked.and_then(|line| from_line::<Request>(&line));
    let is_act = asked.as_ref().is_ok_and(|request| request.verb.is_act());
    let answering = answer(&mut stream, inner, asked);
    if is_act {
        return answering.await;
    }
    tokio::select! {
        biased;
        () = closed(is_closing) => ending(),
        answered = answering => answered,
    }
}

async fn answer(
    stream: &mut UnixStream,
    inner: &Weak<Inner>,
    asked: Result<Request, String>,
) -> Result<(), String> {
    let late = |_| format!("the client took longer than {CLIENT_LIMIT:?}");
    let answered = match (asked.map(|request| request.verb), inner.upgrade()) {
        (Ok(Verb::Barrier(wanted)), Some(inner)) => {
            return serve_barrier(stream, &inner, &wanted).await;
        }
        (Ok(verb), Some(inner)) => carry_out(&inner, verb).await,
        (Ok(_), None) => Err("the application is ending".into()),
        (Err(problem), _) => Err(format!("{NOT_UNDERSTOOD}: {problem}")),
    };
    let line = match answered {
        Ok(line) if line.len() as u64 <= ANSWER_BYTES_MAX => line,
        Ok(_) => refusal(format!(
            "the answer is longer than {ANSWER_BYTES_MAX} bytes"
        ))?,
        Err(problem) => refusal(problem)?,
    };
    let writing = async {
        stream.write_all(&line).await?;
        stream.shutdown().await
    };
    let written = timeout(CLIENT_LIMIT, writing).await.map_err(late)?;
    written.map_err(|error| error.to_string())
}

fn refusal(problem: String) -> Result<Vec<u8>, String> {
    to_line(&Answer::<()>::new(Body::Error(problem)))
}

fn done<T: Serialize>(answer: T) -> Result<Vec<u8>, String> {
    to_line(&Answer::new(Body::Done(answer)))
}

async fn recover(inner: &Arc<Inner>, only: Option<&ResourceName>) -> Result<Vec<u8>, String> {
    let recovered = Recovered::new(&recover_at(inner, only).await);
    done(Recovered {
        application: Some(std::process::id()),
        ..recovered
    })
}

/// What is in doubt, with counts of what it holds.
pub(super) async fn list(inner: &Arc<Inner>) -> Listing {
    show::picture(inner, InspectOptions::COUNTS).await
}

/// The resource of this name.
pub(super) fn registered(inner: &Inner, name: &str) -> Result<ResourceName, String> {
    let mut names = inner.resources.keys();
    let found = names.find(|known| known.as_str() == name).cloned();
    found.ok_or_else(|| {
        let names: Vec<_> = inner.resources.keys().map(ResourceName::as_str).collect();
        format!(
            "no resource is called {name:?}; there are {}",
            names.join(", ")
        )
    })
}

async fn resolve(inner: &Arc<Inner>, wanted: &Resolve, act: bool) -> Result<Vec<u8>, String> {
    let resolved = wanted.at(inner, act).await?;
    done(Resolved {
        application: Some(std::process::id()),
        ..resolved
    })
}

async fn give_up(inner: &Arc<Inner>, wanted: &GiveUp, act: bool) -> Result<Vec<u8>, String> {
    let given_up = wanted.at(inner, act).await?;
    done(GivenUp {
        application: Some(std::process::id()),
        ..given_up
    })
}

/// The line that answers.
async fn carry_out(inner: &Arc<Inner>, verb: Verb) -> Result<Vec<u8>, String> {
    let application = Some(std::process::id());
    match verb {
        Verb::List => {
            let listing = list(inner).await;
            done(Listing {
                application,
                ..listing
            })
        }
        Verb::Show(asked) => {
            let listing = Listing {
                application,
                ..show::picture(inner, InspectOptions::DETAILS).await
            };
            let shown = show::show(inner, listing, &asked).await;
            done(shown.map_err(|error| error.to_string())?)
        }
        Verb::PlanResolve(wanted) => resolve(inner, &wanted, false).await,
        Verb::Resolve(wanted) => resolve(inner, &wanted, true).await,
        Verb::Heuristics => {
            let listed = heuristics::list(inner).await?;
            done(Heuristics {
                application,
                ..listed
            })
        }
        Verb::PlanForget(wanted) => {
            let listed = heuristics::plan_forget(inner, &wanted).await?;
            done(Heuristics {
                application,
                ..listed
            })
        }
        Verb::Forget(wanted) => {
            let listed = heuristics::forget(inner, &wanted).await?;
            done(Heuristics {
                application,
                ..listed
            })
        }
        Verb::PlanGiveUp(wanted) => give_up(inner, &wanted, false).await,
        Verb::GiveUp(wanted) => give_up(inner, &wanted, true).await,
        Verb::Barrier(_) => Err("a barrier has an end of its own".into()),
        Verb::Ended => done(inner.recovery.ended()),
        Verb::Recover => recover(inner, None).await,
        Verb::RecoverAt(name) => recover(inner, Some(&registered(inner, &name)?)).await,
    }
}
