//! What lies between a process and a server: delays, requests and replies that get lost, silence.
//!
//! A request that is on its way arrives whether or not its sender still waits for it: that is what
//! makes a late prepare. What follows on the same connection, its end included, comes behind it,
//! except when the connection is reset.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, oneshot};
use tokio::time::sleep;
use unanimous_testing::MemoryBranch;

use super::journal::Journal;
use super::luck::Luck;
use super::signal::Signal;

/// What becomes of everything that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// Nothing passes, and nobody is told; it may pass when this is over.
    Silent,
    /// Every connection is reset at its next use.
    Cut,
}

/// How something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its sender is told at once that the connection is broken.
    Told,
    /// Its sender waits for ever.
    Silent,
}

#[derive(Debug, Clone, Copy)]
struct State {
    way: Way,
    /// The longest extra delay of one message.
    slow_millis: u64,
}

/// The way between one process and one server.
pub(super) struct Link {
    state: Signal<State>,
    lose_permille: u64,
    luck: Luck,
    journal: Arc<Journal>,
    name: String,
}

impl Link {
    pub(super) fn new(
        lose_permille: u64,
        luck: Luck,
        journal: Arc<Journal>,
        name: String,
    ) -> Arc<Self> {
        let state = State {
            way: Way::Open,
            slow_millis: 0,
        };
        Arc::new(Self {
            state: Signal::new(state),
            lose_permille,
            luck,
            journal,
            name,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_way(&self, way: Way) {
        self.state.change(|state| state.way = way);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state.get().way == Way::Cut
    }

    pub(super) fn set_slow(&self, slow_millis: u64) {
        self.state.change(|state| state.slow_millis = slow_millis);
    }

    /// One message in one direction.
    async fn pass(&self, lost: &'static str, what: &str, loses: bool) -> Result<(), Loss> {
        let slow = self.state.get().slow_millis;
        let extra = if slow > 0 { self.luck.below(slow) } else { 0 };
        sleep(Duration::from_millis(extra + self.luck.below(3))).await;
        if loses && self.luck.chance(self.lose_permille) {
            self.journal
                .fault(lost, format_args!("{} {what}", self.name));
            return Err(self.loss());
        }
        if self.state.get().way == Way::Silent && self.luck.chance(400) {
            return Err(Loss::Silent);
        }
        match self
            .state
            .wait_for(|state| state.way != Way::Silent)
            .await
            .way
        {
            Way::Open | Way::Silent => Ok(()),
            Way::Cut => Err(Loss::Told),
        }
    }

    fn loss(&self) -> Loss {
        if self.luck.chance(600) {
            Loss::Told
        } else {
            Loss::Silent
        }
    }

    /// Whether anything that is lost from now on is lost in the middle of it.
    const fn loses(&self) -> bool {
        self.lose_permille > 0
    }
}

/// One request and its reply, over a connection or without one of its own. `None`: no answer, and
/// nobody will give one. Silence never resolves.
///
/// `arrive` is run when the request arrives, and `lost` if its reply gets lost.
pub(super) async fn round_trip<R: Send + 'static>(
    link: &Arc<Link>,
    what: String,
    on: Option<Arc<Connection>>,
    arrive: impl Future<Output = R> + Send + 'static,
) -> Option<R> {
    let (reply, answer) = oneshot::channel();
    let link = Arc::clone(link);
    tokio::spawn(async move {
        let wire = match &on {
            Some(connection) => Some(connection.wire.lock().await),
            None => None,
        };
        let loses = link.loses();
        let passed = link.pass("request lost", &what, loses).await;
        let replied = match passed {
            Ok(()) => {
                let answered = arrive.await;
                drop(wire);
                let passed = link.pass("reply lost", &what, loses).await;
                passed.map(|()| answered)
            }
            Err(loss) => {
                drop(wire);
                Err(loss)
            }
        };
        match replied {
            // Whoever asked may have given up; what arrived stays.
            Ok(answered) => drop(reply.send(answered)),
            Err(loss) => {
                if let Some(connection) = &on {
                    connection.break_up(link.luck.millis(0, 3000));
                }
                drop(on);
                if loss == Loss::Silent {
                    let _never = reply;
                    std::future::pending::<()>().await;
                }
            }
        }
    });
    answer.await.ok()
}

/// The server's end of a connection.
pub(super) struct Connection {
    /// `None` when it is closed.
    branch: Mutex<Option<MemoryBranch>>,
    /// Held by what is on its way to the server, so that nothing overtakes it.
    wire: Mutex<()>,
}

impl Connection {
    pub(super) fn new(branch: MemoryBranch) -> Arc<Self> {
        Arc::new(Self {
            branch: Mutex::new(Some(branch)),
            wire: Mutex::new(()),
        })
    }

    /// What the server does with a request that has arrived here. `None`: it is closed.
    pub(super) async fn arrived<R>(
        &self,
        run: impl for<'b> FnOnce(&'b mut MemoryBranch) -> BoxFuture<'b, R>,
    ) -> Option<R> {
        match self.branch.lock().await.as_mut() {
            Some(branch) => Some(run(branch).await),
            None => None,
        }
    }

    pub(super) async fn take(&self) -> Option<MemoryBranch> {
        self.branch.lock().await.take()
    }

    /// The client's end is closed; the server sees it after a while, behind what was sent.
    pub(super) fn close(self: &Arc<Self>, after: Duration) {
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let behind = connection.wire.lock().await;
            sleep(after).await;
            drop(behind);
            drop(connection.take().await);
        });
    }

    /// It is reset: what is on its way over it is lost, too, unless it arrives before.
    pub(super) fn break_up(self: &Arc<Self>, after: Duration) {
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            sleep(after).await;
            drop(connection.take().await);
        });
    }
}
