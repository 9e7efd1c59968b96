//! A resource as a process sees it: a server's rules, behind a network.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use unanimous::ports::{
    Absence, Branch, BranchEnv, BranchError, BranchErrorKind, BranchRecord, Cause, OnePhaseReply,
    Preflight, PrepareReply, Problem, RecoveryScan, Resource, ResourceError, ResourceManager,
    ServerIdentity,
};
use unanimous::{Decision, ResourceName, Xid};
use unanimous_testing::{MemoryBranch, MemoryResource};

use super::journal::Invariant;
use super::life::Life;
use super::network::{Connection, round_trip};
use super::world::World;

/// One server, to one life of one process.
#[derive(Clone)]
pub(super) struct Remote {
    world: Arc<World>,
    member: usize,
    life: Arc<Life>,
    at: usize,
    server: MemoryResource,
    name: ResourceName,
}

impl Remote {
    pub(super) fn new(world: &Arc<World>, member: usize, life: &Arc<Life>, at: usize) -> Self {
        let server = world.servers[at].resource.clone();
        Self {
            world: Arc::clone(world),
            member,
            life: Arc::clone(life),
            at,
            name: server.name().clone(),
            server,
        }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    async fn ask<R: Send + 'static>(
        &self,
        what: String,
        on: Option<Arc<Connection>>,
        arrive: impl Future<Output = R> + Send + 'static,
    ) -> Option<R> {
        let link = &self.world.members[self.member].links[self.at];
        let journal = Arc::clone(&self.world.journal);
        let label = format!("{} {what}", link.name());
        let arrived = async move {
            let reply = arrive.await;
            journal.note(format_args!("{label}"));
            reply
        };
        self.life.hear(round_trip(link, what, on, arrived)).await
    }

    fn silent(&self) -> ResourceError {
        let message = "the connection broke; try again";
        ResourceError::new(Problem::Unavailable, self.name.clone(), message)
    }

    fn broken(&self, kind: BranchErrorKind) -> BranchError {
        BranchError::new(kind, self.name.clone(), "the connection broke")
    }
}

#[async_trait]
impl ResourceManager for Remote {
    fn name(&self) -> &ResourceName {
        &self.name
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        let server = self.server.clone();
        let checked = self.ask(
            "preflight".into(),
            None,
            async move { server.preflight().await },
        );
        checked.await.unwrap_or_else(|| Err(self.silent()))
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        let server = self.server.clone();
        let scanned = self.ask("scan".into(), None, async move { server.recover().await });
        scanned.await.unwrap_or_else(|| Err(self.silent()))
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        self.life.lives().await;
        let account = &self.world.account;
        let shared = self.world.shared.as_ref();
        let is_closed = shared.is_some_and(|shared| shared.is_closed(xid.gtrid));
        account.recovery_ends(&self.world.journal, self.member, xid, decision, is_closed);
        let (server, target) = (self.server.clone(), xid.clone());
        let recorded = recorded.cloned();
        let what = format!("finish {decision:?} {xid}");
        let finish = async move { server.finish(&target, decision, recorded.as_ref()).await };
        let finished = self.ask(what, None, finish);
        let lost = || Err(self.broken(BranchErrorKind::Undetermined));
        finished.await.unwrap_or_else(lost)
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        let (server, target, record) = (self.server.clone(), xid.clone(), branch.clone());
        let what = format!("absent? {xid}");
        let proven = self.ask(
            what,
            None,
            async move { server.absent(&target, &record).await },
        );
        proven.await.unwrap_or_else(|| Err(self.silent()))
    }
}

#[async_trait]
impl Resource for Remote {
    type Branch = RemoteBranch;

    async fn open(&self, env: BranchEnv) -> Result<RemoteBranch, BranchError> {
        let (server, xid) = (self.server.clone(), env.xid.clone());
        let what = format!("open {xid}");
        let life = Arc::clone(&self.life);
        let arrive = async move {
            let branch = server.open(env).await?;
            let identity = branch.identity().clone();
            let connection = Connection::new(branch);
            life.connected(&connection);
            // Closed by the server, if nobody takes it.
            Ok((connection, identity))
        };
        let lost = || Err(self.broken(BranchErrorKind::Unavailable));
        let opened = self.ask(what, None, arrive).await.unwrap_or_else(lost);
        let (connection, identity) = opened?;
        Ok(RemoteBranch {
            remote: self.clone(),
            connection,
            xid,
            identity,
            is_broken: false,
            is_released: false,
        })
    }
}

/// The client's end of a branch.
pub(super) struct RemoteBranch {
    remote: Remote,
    connection: Arc<Connection>,
    xid: Xid,
    identity: ServerIdentity,
    /// The last request was not answered, or its future was dropped.
    is_broken: bool,
    is_released: bool,
}

/// What the application does in it.
impl RemoteBranch {
    pub(super) const fn at(&self) -> usize {
        self.remote.at()
    }

    /// Adds to a number, which locks it, and leaves a mark.
    pub(super) async fn book(
        &mut self,
        account: String,
        amount: i64,
        mark: String,
    ) -> Result<(), BranchError> {
        let what = format!("book {account} {amount:+} {mark}");
        let booked = self.call(what, move |branch| {
            Box::pin(async move {
                let before = branch
                    .get(&account)?
                    .and_then(|text| text.parse::<i64>().ok());
                let after = before.unwrap_or(0) + amount;
                branch.put(&account, &after.to_string())?;
                branch.put(&mark, "1")
            })
        });
        booked.await.unwrap_or_else(|| Err(self.lost()))
    }

    /// A statement that fails, as a violated constraint would.
    pub(super) async fn fail(&mut self) -> Result<(), BranchError> {
        let what = "failing statement".to_owned();
        let failed = self.call(what, |branch| {
            Box::pin(async { branch.fail_statement(Cause::Refused) })
        });
        failed.await.unwrap_or_else(|| Err(self.lost()))
    }

    pub(super) async fn read(&mut self, account: String) -> Result<Option<String>, BranchError> {
        let what = format!("read {account}");
        let read = self.call(what, move |branch| {
            Box::pin(async move { branch.get(&account) })
        });
        read.await.unwrap_or_else(|| Err(self.lost()))
    }
}

impl RemoteBranch {
    async fn call<R: Send + 'static>(
        &mut self,
        what: String,
        run: impl for<'b> FnOnce(&'b mut MemoryBranch) -> BoxFuture<'b, R> + Send + 'static,
    ) -> Option<R> {
        self.remote.life.lives().await;
        if self.is_broken {
            return None;
        }
        // Stays so if this future is dropped, or nothing is heard.
        self.is_broken = true;
        let connection = Arc::clone(&self.connection);
        let on = Some(Arc::clone(&connection));
        let arrive = async move { connection.arrived(run).await };
        let what = format!("{what} {}", self.xid.gtrid.sequence);
        let answer = self.remote.ask(what, on, arrive).await.flatten();
        self.is_broken = answer.is_none();
        answer
    }

    fn lost(&self) -> BranchError {
        self.remote.broken(BranchErrorKind::Undetermined)
    }
}

#[async_trait]
impl Branch for RemoteBranch {
    fn xid(&self) -> &Xid {
        &self.xid
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    fn scope(&self) -> &str {
        self.identity.as_str()
    }

    async fn prepare(&mut self) -> PrepareReply {
        let reply = self.call("prepare".into(), |branch| branch.prepare()).await;
        reply.unwrap_or_else(|| PrepareReply::Undetermined(self.lost()))
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        let reply = self.call("commit".into(), |branch| branch.commit()).await;
        reply.unwrap_or_else(|| Err(self.lost()))
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        let reply = self
            .call("rollback".into(), |branch| branch.rollback())
            .await;
        reply.unwrap_or_else(|| Err(self.lost()))
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        let what = "commit one phase".to_owned();
        let reply = self.call(what, |branch| branch.commit_one_phase()).await;
        reply.unwrap_or_else(|| OnePhaseReply::Undetermined(self.lost()))
    }

    async fn commit_last(&mut self, statement: &str) -> OnePhaseReply {
        let statement = statement.to_owned();
        let reply = self.call("commit last".into(), move |branch| {
            Box::pin(async move { branch.commit_last(&statement).await })
        });
        let reply = reply.await;
        reply.unwrap_or_else(|| OnePhaseReply::Undetermined(self.lost()))
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        let what = "end read-only".to_owned();
        let reply = self.call(what, |branch| branch.end_read_only()).await;
        reply.unwrap_or_else(|| Err(self.lost()))
    }

    async fn release(mut self: Box<Self>) {
        self.remote.life.lives().await;
        if self.is_broken {
            let text = format!("{} was released, and its end is not known", self.xid);
            self.remote
                .world
                .journal
                .violated(Invariant::I8NoLeaks, text);
            return;
        }
        let connection = Arc::clone(&self.connection);
        let on = Some(Arc::clone(&connection));
        let wiped = self
            .remote
            .ask(format!("release {}", self.xid), on, async move {
                if let Some(branch) = connection.take().await {
                    Box::new(branch).release().await;
                }
            });
        // If the answer is lost, the connection is closed instead, as it is by dropping this.
        self.is_released = wiped.await.is_some();
    }
}

impl Drop for RemoteBranch {
    fn drop(&mut self) {
        if self.is_released || !self.remote.life.is_alive() {
            return;
        }
        let luck = &self.remote.world.luck;
        let after = luck.millis(0, 5);
        if luck.chance(250) {
            self.connection.break_up(after);
        } else {
            self.connection.close(after);
        }
    }
}
