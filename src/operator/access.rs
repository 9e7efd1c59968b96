//! How the operator gets at log and databases. A log in a folder: through the application that
//! holds it, or, if there is none, by holding the log in its place (I5: never beside a living
//! application), also to look only: that decides and ends nothing, but it begins an opening of the
//! log, needs room for its segment, and is in the way of an application that starts just then. A
//! log in a table: beside its members, as one of them if anything is to be ended.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{InspectOptions, LogError};

use super::barrier::{Barrier, BarrierOptions, Grip, stand};
use super::client::Client;
use super::error::OperatorError;
use super::file::{ConfigFile, Parts};
use super::heuristics::{self, Forget, Heuristics};
use super::lost::{GiveUp, GivenUp};
use super::place::Place;
use super::report::{Listing, Recovered};
use super::resolved::{Resolve, Resolved};
use super::server;
use super::shared::{SharedLog, failed};
use super::show::{self, TransactionShown};
use super::wire::Verb;
use crate::StartError;
use crate::bounded::bounded;
use crate::log::FileLog;
use crate::manager::{Inner, recover_at};

/// A way to the log. End it by [`close`](Self::close).
pub struct Access(Way);

enum Way {
    Application(Client),
    Alone(Arc<Inner>),
    Shared(Box<SharedLog>),
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.0 {
            Way::Application(_) => "Application",
            Way::Alone(_) => "Alone",
            Way::Shared(_) => "Shared",
        };
        f.debug_tuple("Access").field(&way).finish()
    }
}

impl Access {
    /// How often to look for a socket while the log is held: an application that starts opens its
    /// log a moment before it listens.
    const ATTEMPTS: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(200);

    /// Finds the application that holds the log; without one, opens the log. A log in a table is
    /// only looked at. Never makes a log. Asks for passwords only if there is no application.
    ///
    /// # Errors
    /// There is no log, it cannot be opened, or the process that holds it offers no socket.
    pub async fn open(file: &ConfigFile) -> Result<Self, OperatorError> {
        match file.log() {
            Place::Folder(log) => Self::open_folder(file, log).await,
            Place::Table(place) => Ok(Self(Way::Shared(Box::new(
                SharedLog::open(file, place).await?,
            )))),
        }
    }

    async fn open_folder(file: &ConfigFile, log: &FileLog) -> Result<Self, OperatorError> {
        let folder = log.folder();
        if let Some(client) = Client::find(folder).await? {
            return Ok(Self(Way::Application(client)));
        }
        if !folder.exists() {
            return Err(failed(&format!(
                "log {}: there is no such folder: check the path in the config file; an \
                 application makes its log at its first start",
                folder.display()
            )));
        }
        let read = log.clone();
        let reading = tokio::task::spawn_blocking(move || read.inspect());
        match bounded(LOG_LIMIT, reading).await {
            Ok(Ok(read)) => drop(read?),
            Ok(Err(_)) => return Err(stuck(folder, "reading it panicked, which is a bug")),
            Err(silence) => return Err(stuck(folder, &silence.to_string())),
        }
        refuse_other_user(folder)?;
        let parts = file.parts()?;
        let mut attempt = 1;
        loop {
            let error = match open_alone(&parts, folder).await {
                Ok(inner) => return Ok(Self(Way::Alone(inner))),
                Err(error) => error,
            };
            if let Some(client) = Client::find(folder).await? {
                return Ok(Self(Way::Application(client)));
            }
            if attempt == Self::ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(Self::PAUSE).await;
        }
    }

    /// Another process holds the log and answers for it.
    pub const fn is_through_application(&self) -> bool {
        match self.0 {
            Way::Application(_) => true,
            Way::Alone(_) | Way::Shared(_) => false,
        }
    }

    /// The log is in a table, which others may use at the same time.
    pub const fn is_shared(&self) -> bool {
        match self.0 {
            Way::Shared(_) => true,
            Way::Application(_) | Way::Alone(_) => false,
        }
    }

    /// What looks at log and databases, or who is asked instead.
    const fn looker(&self) -> Result<&Arc<Inner>, &Client> {
        match &self.0 {
            Way::Application(client) => Err(client),
            Way::Alone(inner) => Ok(inner),
            Way::Shared(shared) => Ok(shared.observer()),
        }
    }

    /// What is in doubt, and what a recovery pass would do. Ends nothing.
    ///
    /// # Errors
    /// The application did not answer.
    pub async fn list(&self) -> Result<Listing, OperatorError> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::List).await,
            Way::Alone(inner) => Ok(server::list(inner).await),
            Way::Shared(shared) => shared.list().await,
        }
    }

    /// Everything about one transaction, by its gtrid, by the name of one of its branches as a
    /// server prints it, or by the beginning of one that no other transaction has. Ends nothing.
    ///
    /// # Errors
    /// The application did not answer; or nothing, or more than one transaction, has that name.
    pub async fn show(&self, asked: &str) -> Result<TransactionShown, OperatorError> {
        if asked.len() > NAME_BYTES_MAX {
            return Err(failed(&format!(
                "the name of a transaction has at most {NAME_BYTES_MAX} bytes"
            )));
        }
        match &self.0 {
            Way::Application(client) => client.ask(Verb::Show(asked.to_owned())).await,
            Way::Alone(inner) => {
                let listing = show::picture(inner, InspectOptions::DETAILS).await;
                show::show(inner, listing, asked).await
            }
            Way::Shared(shared) => shared.show(asked).await,
        }
    }

    /// Makes one recovery pass, at one resource or at all. On a shared log the epochs of silent
    /// members are closed before, after the time that members give each other; those in `close` at
    /// once: only for a person who knows that these members are dead, although a mistake costs them
    /// nothing but rollbacks.
    ///
    /// # Errors
    /// The application did not answer; the pass may have been made. An epoch in `close` is not
    /// listed, or the log is none that is shared. There is no resource of that name.
    pub async fn recover(
        &self,
        at: Option<&str>,
        close: &[u32],
    ) -> Result<Recovered, OperatorError> {
        if let (false, [epoch, ..]) = (self.is_shared(), close) {
            return Err(failed(&format!(
                "epoch {epoch} cannot be closed by itself: the log is in a folder, and whoever \
                 opens it closes all earlier epochs"
            )));
        }
        match &self.0 {
            Way::Shared(shared) => shared.recover(at, close).await,
            Way::Application(client) => {
                let verb = at.map_or(Verb::Recover, |name| Verb::RecoverAt(name.to_owned()));
                client.ask_within(RECOVER_LIMIT, verb).await
            }
            Way::Alone(inner) => {
                let only = at.map(|name| server::registered(inner, name)).transpose();
                let only = only.map_err(|problem| failed(&problem))?;
                Ok(Recovered::new(&recover_at(inner, only.as_ref()).await))
            }
        }
    }

    /// Holds new decisions until the barrier is ended or dropped: see [`Barrier`]. It is to be
    /// ended before this is closed.
    ///
    /// # Errors
    /// It does not stand, and nothing is held: what was decided before could not be finished in
    /// time, or the application or the log did not answer.
    pub async fn barrier(&self, wanted: &BarrierOptions) -> Result<Barrier, OperatorError> {
        let until = wanted.until();
        match &self.0 {
            Way::Shared(shared) => shared.barrier(wanted).await,
            Way::Application(client) => {
                let (lease, stood) = client.hold(wanted).await?;
                Ok(Barrier::new(stood, until, Grip::Application(lease)))
            }
            Way::Alone(inner) => {
                let stood = stand(inner, wanted).await;
                let (shut, stood) = stood.map_err(|problem| failed(&problem))?;
                let grip = Grip::Alone { _shut: shut };
                Ok(Barrier::new(stood, until, grip))
            }
        }
    }

    /// How many branches passes have ended: rises while [`recover`](Self::recover) is under way.
    /// `None` if that cannot be told.
    pub async fn ended(&self) -> Option<u64> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::Ended).await.ok(),
            Way::Alone(inner) => Some(inner.recovery.ended()),
            Way::Shared(shared) => shared.ended(),
        }
    }

    /// What it would mean to end the branches of one transaction by hand. Changes nothing.
    ///
    /// # Errors
    /// The request was not understood, or the application did not answer.
    pub async fn plan_resolve(&self, wanted: &Resolve) -> Result<Resolved, OperatorError> {
        match self.looker() {
            Err(client) => client.ask(Verb::PlanResolve(wanted.clone())).await,
            Ok(inner) => of_resolve(wanted.at(inner, false).await),
        }
    }

    /// Ends them, if nothing stands against it; who, when and why are recorded before.
    ///
    /// # Errors
    /// As [`plan_resolve`](Self::plan_resolve). If the application did not answer, it may have been
    /// done: look again.
    pub async fn resolve(&self, wanted: &Resolve) -> Result<Resolved, OperatorError> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::Resolve(wanted.clone())).await,
            Way::Alone(inner) => of_resolve(wanted.at(inner, true).await),
            Way::Shared(shared) => {
                let resolving = async |inner: &Arc<Inner>| wanted.at(inner, true).await;
                of_resolve(shared.as_member("resolve", resolving).await?)
            }
        }
    }

    /// Which branches ended otherwise than was decided, and what people did.
    ///
    /// # Errors
    /// The log could not be read.
    pub async fn heuristics(&self) -> Result<Heuristics, OperatorError> {
        match self.looker() {
            Err(client) => client.ask(Verb::Heuristics).await,
            Ok(inner) => of_resolve(heuristics::list(inner).await),
        }
    }

    /// Which heuristic ends of a transaction nobody has dealt with, and what people did with it.
    /// Changes nothing.
    ///
    /// # Errors
    /// There is none, or the log could not be read.
    pub async fn plan_forget(&self, wanted: &Forget) -> Result<Heuristics, OperatorError> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::PlanForget(wanted.clone())).await,
            Way::Alone(inner) => of_resolve(heuristics::plan_forget(inner, wanted).await),
            Way::Shared(shared) => {
                of_resolve(heuristics::plan_forget(shared.observer(), wanted).await)
            }
        }
    }

    /// Notes that the heuristic ends of a transaction were dealt with. They stay on record.
    ///
    /// # Errors
    /// There is none, or it could not be recorded.
    pub async fn forget(&self, wanted: &Forget) -> Result<Heuristics, OperatorError> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::Forget(wanted.clone())).await,
            Way::Alone(inner) => of_resolve(heuristics::forget(inner, wanted).await),
            Way::Shared(shared) => {
                let noting = async |inner: &Arc<Inner>| heuristics::forget(inner, wanted).await;
                of_resolve(shared.as_member("forget", noting).await?)
            }
        }
    }

    /// What it would mean to give up a branch that is lost. Changes nothing; a database that may be
    /// able to prove how the branch ended is asked, as by a recovery pass.
    ///
    /// # Errors
    /// The request was not understood, or the application did not answer.
    pub async fn plan_give_up(&self, wanted: &GiveUp) -> Result<GivenUp, OperatorError> {
        match self.looker() {
            Err(client) => client.ask(Verb::PlanGiveUp(wanted.clone())).await,
            Ok(inner) => of_resolve(wanted.at(inner, false).await),
        }
    }

    /// Gives it up, if nothing stands against it; who, when and why are recorded before. The
    /// decision waits for it no more, and recovery completes it once the others have ended.
    ///
    /// # Errors
    /// As [`plan_give_up`](Self::plan_give_up), or the log did not take all of it: says how far it
    /// has come. It may be asked for again.
    pub async fn give_up(&self, wanted: &GiveUp) -> Result<GivenUp, OperatorError> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::GiveUp(wanted.clone())).await,
            Way::Alone(inner) => of_resolve(wanted.at(inner, true).await),
            Way::Shared(shared) => {
                let giving = async |inner: &Arc<Inner>| wanted.at(inner, true).await;
                of_resolve(shared.as_member("forget", giving).await?)
            }
        }
    }

    /// Lets go of the log.
    ///
    /// # Errors
    /// It could not be closed properly; nothing is lost.
    pub async fn close(self) -> Result<(), OperatorError> {
        match self.0 {
            Way::Application(_) | Way::Shared(_) => Ok(()),
            Way::Alone(inner) => match bounded(LOG_LIMIT, inner.log.shutdown()).await {
                Ok(closed) => Ok(closed?),
                Err(silence) => Err(failed(&format!(
                    "the log did not close: {silence}; nothing is lost"
                ))),
            },
        }
    }
}

/// More than any server's name for a prepared transaction.
const NAME_BYTES_MAX: usize = 1000;

/// How long a pass may take: there may be very many branches.
const RECOVER_LIMIT: Duration = Duration::from_secs(1800);

fn of_resolve<T>(done: Result<T, String>) -> Result<T, OperatorError> {
    done.map_err(|problem| failed(&problem))
}

/// How long the log may take to be read, opened or closed.
pub(super) const LOG_LIMIT: Duration = Duration::from_secs(60);

fn stuck(folder: &Path, problem: &str) -> OperatorError {
    failed(&format!(
        "log {}: {problem}; see whether its file system hangs: ls -l in it by hand",
        folder.display()
    ))
}

/// Files that another user makes would keep the application out of its own log.
pub(super) fn refuse_other_user(folder: &Path) -> Result<(), OperatorError> {
    let user = rustix::process::geteuid().as_raw();
    match folder.join("identity").metadata() {
        Ok(identity) if identity.uid() != user => {
            Err(OperatorError::Log(other_user(folder, identity.uid(), user)))
        }
        // That there is none is for the opening to say.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A log that is made here by another user than the folder's would keep the application out of it.
/// Of a folder that is missing nobody can tell whose it will be; root is not asked in another
/// user's place.
pub(super) fn refuse_other_owner(folder: &Path) -> Result<(), OperatorError> {
    let user = rustix::process::geteuid().as_raw();
    let (found, is_there) = match folder.metadata() {
        Ok(found) => (found, true),
        Err(_) => {
            let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
            // That there is none is for the making to say.
            match parent.unwrap_or(Path::new(".")).metadata() {
                Ok(found) => (found, false),
                Err(_) => return Ok(()),
            }
        }
    };
    let owner = found.uid();
    let is_anybodys = owner == user || owner == ROOT || (!is_there && user != ROOT);
    if is_anybodys {
        return Ok(());
    }
    Err(OperatorError::Log(other_user(folder, owner, user)))
}

const ROOT: u32 = 0;

fn other_user(folder: &Path, owner: u32, user: u32) -> LogError {
    LogError::new(format!(
        "log {}: it belongs to the user with number {owner}, and this is {user}, whose files would \
         keep the application out: run this as that user, such as by sudo -u '#{owner}'",
        folder.display()
    ))
}

/// Without the checks of a start: a resource that is not fit is told when it is looked at.
async fn open_alone(parts: &Parts, folder: &Path) -> Result<Arc<Inner>, OperatorError> {
    let opening = bounded(LOG_LIMIT, parts.builder().open(None)).await;
    let opened = opening.map_err(|silence| stuck(folder, &silence.to_string()))?;
    match opened {
        Ok(inner) => Ok(inner),
        Err(StartError::Log(error)) if is_held(folder) => Err(OperatorError::NoSocket(error)),
        Err(StartError::Log(error)) => Err(error.into()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a process holds the log now. Only for the choice of an error's words.
fn is_held(folder: &Path) -> bool {
    let lock = File::open(folder.join("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
