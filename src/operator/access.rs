//! How the operator gets at log and databases. A log in a folder: through the application that
//! holds it, or, if there is none, by reading it; to act, by holding it in its place (I5: never
//! beside a living application). A log in a table: beside its members, as one of them if anything
//! is to be ended.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::InspectOptions;

use super::barrier::{Barrier, BarrierOptions, Grip, stand};
use super::client::Client;
use super::error::OperatorError;
use super::file::ConfigFile;
use super::heuristics::{self, Forget, Heuristics};
use super::lost::{GiveUp, GivenUp};
use super::own::{Found, Holder, OwnLog};
use super::place::Place;
use super::report::{Listing, Recovered};
use super::resolved::{Resolve, Resolved};
use super::server;
use super::shared::{SharedLog, failed};
use super::show::{self, TransactionShown};
use super::wire::Verb;
use crate::manager::{Inner, recover_at};

/// A way to the log. End it by [`close`](Self::close).
pub struct Access(Way);

enum Way {
    Application(Client),
    Own(Box<OwnLog>),
    Shared(Box<SharedLog>),
}

/// Who does what is to be done.
enum Actor<'a> {
    Application(&'a Client),
    Alone(&'a Arc<Inner>),
    Shared(&'a SharedLog),
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.0 {
            Way::Application(_) => "Application",
            Way::Own(_) => "Own",
            Way::Shared(_) => "Shared",
        };
        f.debug_tuple("Access").field(&way).finish()
    }
}

impl Access {
    /// Finds the application that holds the log; without one, the log is only looked at, until
    /// something is to be done. Never makes a log. Asks for passwords only if there is no
    /// application.
    ///
    /// # Errors
    /// There is no log, or the process that holds it offers no socket. That the log cannot be read
    /// is told by whatever is asked of it.
    pub async fn open(file: &ConfigFile) -> Result<Self, OperatorError> {
        Ok(Self(match file.log() {
            Place::Folder(log) => match Found::at(file, log).await? {
                Found::Application(client) => Way::Application(client),
                Found::Nobody(own) => Way::Own(own),
            },
            Place::Table(place) => Way::Shared(Box::new(SharedLog::open(file, place).await?)),
        }))
    }

    /// Another process holds the log and answers for it.
    pub const fn is_through_application(&self) -> bool {
        match self.0 {
            Way::Application(_) => true,
            Way::Own(_) | Way::Shared(_) => false,
        }
    }

    /// The log is in a table, which others may use at the same time.
    pub const fn is_shared(&self) -> bool {
        match self.0 {
            Way::Shared(_) => true,
            Way::Application(_) | Way::Own(_) => false,
        }
    }

    /// What looks at log and databases, or who is asked instead.
    fn looker(&self) -> Result<&Arc<Inner>, &Client> {
        match &self.0 {
            Way::Application(client) => Err(client),
            Way::Own(own) => Ok(own.looker()),
            Way::Shared(shared) => Ok(shared.observer()),
        }
    }

    /// Who acts: without an application, this, and from now on it holds the log.
    async fn actor(&self) -> Result<Actor<'_>, OperatorError> {
        Ok(match &self.0 {
            Way::Application(client) => Actor::Application(client),
            Way::Own(own) => match own.holder().await? {
                Holder::Application(client) => Actor::Application(client),
                Holder::Alone(inner) => Actor::Alone(inner),
            },
            Way::Shared(shared) => Actor::Shared(shared),
        })
    }

    /// Whether this holds the log itself from now on, until [`close`](Self::close), so that no
    /// application can start: a log in a folder that nobody else holds. Whatever acts does so first
    /// in any case; this is for whoever wants to say it before.
    ///
    /// # Errors
    /// The log cannot be opened, or the process that holds it offers no socket.
    ///
    /// # Cancellation
    /// The log may be held afterwards, or not.
    pub async fn hold(&self) -> Result<bool, OperatorError> {
        Ok(matches!(self.actor().await?, Actor::Alone(_)))
    }

    /// What is in doubt, and what a recovery pass would do. Ends nothing.
    ///
    /// # Errors
    /// The application did not answer.
    pub async fn list(&self) -> Result<Listing, OperatorError> {
        match &self.0 {
            Way::Application(client) => client.ask(Verb::List).await,
            Way::Own(own) => Ok(server::list(own.looker()).await),
            Way::Shared(shared) => Ok(shared.list().await),
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
            Way::Own(own) => {
                let inner = own.looker();
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
        match self.actor().await? {
            Actor::Shared(shared) => shared.recover(at, close).await,
            Actor::Application(client) => {
                let verb = at.map_or(Verb::Recover, |name| Verb::RecoverAt(name.to_owned()));
                client.ask_within(RECOVER_LIMIT, verb).await
            }
            Actor::Alone(inner) => {
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
        match self.actor().await? {
            Actor::Shared(shared) => shared.barrier(wanted).await,
            Actor::Application(client) => {
                let (lease, stood) = client.hold(wanted).await?;
                Ok(Barrier::new(stood, until, Grip::Application(lease)))
            }
            Actor::Alone(inner) => {
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
            Way::Own(own) => own.ended(),
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
        match self.actor().await? {
            Actor::Application(client) => client.ask(Verb::Resolve(wanted.clone())).await,
            Actor::Alone(inner) => of_resolve(wanted.at(inner, true).await),
            Actor::Shared(shared) => {
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
        match self.looker() {
            Err(client) => client.ask(Verb::PlanForget(wanted.clone())).await,
            Ok(inner) => of_resolve(heuristics::plan_forget(inner, wanted).await),
        }
    }

    /// Notes that the heuristic ends of a transaction were dealt with. They stay on record.
    ///
    /// # Errors
    /// There is none, or it could not be recorded.
    pub async fn forget(&self, wanted: &Forget) -> Result<Heuristics, OperatorError> {
        match self.actor().await? {
            Actor::Application(client) => client.ask(Verb::Forget(wanted.clone())).await,
            Actor::Alone(inner) => of_resolve(heuristics::forget(inner, wanted).await),
            Actor::Shared(shared) => {
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
        match self.actor().await? {
            Actor::Application(client) => client.ask(Verb::PlanGiveUp(wanted.clone())).await,
            Actor::Alone(inner) => of_resolve(wanted.at(inner, false).await),
            Actor::Shared(shared) => of_resolve(wanted.at(shared.observer(), false).await),
        }
    }

    /// Gives it up, if nothing stands against it; who, when and why are recorded before. The
    /// decision waits for it no more, and recovery completes it once the others have ended.
    ///
    /// # Errors
    /// As [`plan_give_up`](Self::plan_give_up), or the log did not take all of it: says how far it
    /// has come. It may be asked for again.
    pub async fn give_up(&self, wanted: &GiveUp) -> Result<GivenUp, OperatorError> {
        match self.actor().await? {
            Actor::Application(client) => client.ask(Verb::GiveUp(wanted.clone())).await,
            Actor::Alone(inner) => of_resolve(wanted.at(inner, true).await),
            Actor::Shared(shared) => {
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
            Way::Own(own) => own.close().await,
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
