//! The contract of `unanimous_core::ports::Resource`, in executable form.
//!
//! The author of a resource implements [`Harness`] over a real server (two columns of text are
//! enough) and runs [`run`] from a test; each property is also a function of its own in
//! [`ending`], [`recovery`] and [`isolation`], for whoever wants one test for each.
//!
//! The suite makes a manager id of its own for each [`Suite`], so suites that run at the same time
//! on one server do not see each other's branches, and leaves no prepared branch behind. It waits
//! for what a server does in its own time (noticing that a socket is closed) with generous bounds,
//! and asserts no duration.

pub mod ending;
pub mod isolation;
pub mod recovery;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    Branch, BranchEnv, BranchRecord, Evidence, PrepareReply, RecoveryScan, Resource,
    ResourceManager, SourceError, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{Epoch, ManagerId, Opening, Xid};

/// The branch type of a harness's resource.
pub type BranchOf<H> = <<H as Harness>::Resource as Resource>::Branch;

/// What the suite needs beside the port: rows, and a second pair of eyes.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// The resource that is tested.
    type Resource: Resource;

    /// The resource. Every call gives the same one, so that released connections are used again.
    fn resource(&self) -> &Self::Resource;

    /// Inserts or updates a row through the branch. `key` is unique to the property (at most 40
    /// bytes of `a-z 0-9 -`).
    ///
    /// # Errors
    /// The server refused; the suite expects that where it asks for it.
    async fn write(
        &self,
        branch: &mut BranchOf<Self>,
        key: &str,
        value: &str,
    ) -> Result<(), SourceError>;

    /// Reads a row through the branch.
    ///
    /// # Errors
    /// The server refused, which fails the property.
    async fn read(
        &self,
        branch: &mut BranchOf<Self>,
        key: &str,
    ) -> Result<Option<String>, SourceError>;

    /// Leaves something behind in the session that outlives a transaction: a setting, a role.
    ///
    /// # Errors
    /// The server refused, which fails the property.
    async fn soil_session(&self, branch: &mut BranchOf<Self>) -> Result<(), SourceError>;

    /// Is there still what [`soil_session`](Self::soil_session) left behind?
    ///
    /// # Errors
    /// The server refused, which fails the property.
    async fn is_session_soiled(&self, branch: &mut BranchOf<Self>) -> Result<bool, SourceError>;

    /// The committed value of a row, read by a client that has nothing to do with the resource.
    async fn committed(&self, key: &str) -> Option<String>;

    /// How many prepared branches of this manager the server has, counted by an independent client.
    async fn prepared_count(&self, manager: ManagerId) -> usize;

    /// Ends a prepared branch from an independent client, as a person would. The connection that
    /// prepared it is closed by then; waits until the server has noticed that.
    async fn end_by_hand(&self, xid: &Xid, decision: Decision);

    /// Makes a prepared transaction that is not of ours (its name holds `unique`), and answers the
    /// text under which a scan has to show it.
    async fn plant_foreign(&self, unique: &str) -> String;

    /// Rolls back what [`plant_foreign`](Self::plant_foreign) made. Panics if it is gone.
    async fn remove_foreign(&self, unique: &str);

    /// Can the resource prove that an absent branch was rolled back by a person?
    fn proves_absence(&self) -> bool;

    /// The same kind of resource, at an address where nobody answers, with the secret (a password)
    /// that is in its address. `None` where that has no meaning.
    fn unreachable(&self) -> Option<(Self::Resource, String)>;
}

/// A harness, and the identities that the properties use up.
pub struct Suite<H> {
    harness: H,
    opening: Opening,
    sequence: AtomicU64,
}

/// Runs every property, one after the other, and asserts at the end that no branch is left.
///
/// # Panics
/// When a property does not hold; the last name that was printed is the property's.
pub async fn run<H: Harness>(harness: H) {
    let suite = Suite::new(harness);
    suite.run_ending().await;
    suite.run_recovery().await;
    suite.run_isolation().await;
    let left = suite.harness.prepared_count(suite.opening.manager).await;
    assert_eq!(left, 0, "the suite leaves no prepared branch behind");
}

macro_rules! run_each {
    ($suite:expr, $module:ident: $($property:ident),+ $(,)?) => {
        $(
            println!("{}", stringify!($property));
            $module::$property($suite).await;
        )+
    };
}

impl<H: Harness> Suite<H> {
    /// A suite with a manager id of its own.
    pub fn new(harness: H) -> Self {
        let mut manager = [0; 10];
        manager[..8].copy_from_slice(&random().to_be_bytes());
        let opening = Opening {
            manager: ManagerId::from_bytes(manager),
            epoch: Epoch(1),
            nonce: random(),
        };
        let sequence = AtomicU64::new(1);
        Self {
            harness,
            opening,
            sequence,
        }
    }

    /// The harness.
    pub const fn harness(&self) -> &H {
        &self.harness
    }

    async fn run_ending(&self) {
        run_each!(self, ending:
            a_prepared_branch_that_commits_shows_its_row,
            a_prepared_branch_that_rolls_back_hides_its_row,
            an_active_branch_rolls_back,
            a_branch_commits_in_one_phase,
            a_read_only_branch_reads_and_refuses_to_write,
            calls_in_the_wrong_order_neither_panic_nor_succeed,
        );
    }

    async fn run_recovery(&self) {
        run_each!(self, recovery:
            a_prepared_branch_survives_its_connection_and_is_committed,
            a_prepared_branch_survives_its_connection_and_is_rolled_back,
            a_branch_that_ended_is_an_unknown_xid,
            finishing_beside_an_open_connection_is_no_lie,
            every_xid_is_parsed_back,
            foreign_prepared_transactions_are_listed_as_foreign,
            inspecting_changes_nothing_and_tells_of_prepared_branches_alone,
            an_absent_branch_that_committed_is_finished,
            an_absent_branch_that_was_rolled_back_by_hand_is_told_where_it_can_be,
            absence_on_another_server_proves_nothing,
            the_identity_is_stable,
            an_unreachable_server_is_no_proof_and_no_secret_is_told,
        );
    }

    async fn run_isolation(&self) {
        run_each!(self, isolation:
            an_active_branch_that_is_dropped_leaves_nothing,
            two_branches_do_not_disturb_each_other,
            a_prepared_branch_keeps_its_locks_and_a_lock_timeout_is_a_rollback_vote,
            a_second_branch_of_the_same_xid_does_not_harm_the_first,
            a_released_connection_carries_nothing_over,
            a_prepare_that_is_given_up_can_be_swept,
        );
    }
}

/// What the properties share.
impl<H: Harness> Suite<H> {
    fn resource(&self) -> &H::Resource {
        self.harness.resource()
    }

    fn next_xid(&self) -> Xid {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.xid(self.opening.gtrid(sequence))
    }

    fn xid(&self, gtrid: unanimous_core::xid::Gtrid) -> Xid {
        Xid {
            gtrid,
            bqual: self.resource().name().clone(),
        }
    }

    /// A key that no other property and no other run uses.
    fn key(xid: &Xid) -> String {
        let opening = xid.gtrid.opening;
        format!(
            "k-{:016x}-{}",
            opening.nonce,
            xid.gtrid.sequence % 1_000_000
        )
    }

    async fn open(&self, xid: &Xid) -> BranchOf<H> {
        self.open_as(xid, false).await
    }

    async fn open_as(&self, xid: &Xid, read_only: bool) -> BranchOf<H> {
        let branch = self.resource().open(env(xid, read_only)).await;
        let branch = branch.expect("a branch can be opened");
        assert_eq!(branch.xid(), xid, "a branch has the XID it was opened with");
        branch
    }

    /// Opens a branch, writes `v` into its key and prepares it.
    async fn prepared(&self, xid: &Xid) -> (BranchOf<H>, BranchRecord) {
        let mut branch = self.open(xid).await;
        self.write(&mut branch, &Self::key(xid)).await;
        let evidence = expect_prepared(branch.prepare().await);
        let record = BranchRecord {
            resource: xid.bqual.clone(),
            identity: branch.identity().clone(),
            evidence,
        };
        (branch, record)
    }

    async fn write(&self, branch: &mut BranchOf<H>, key: &str) {
        let written = self.harness.write(branch, key, "v").await;
        written.expect("a row can be written");
    }

    async fn scan(&self) -> RecoveryScan {
        let scan = self.resource().recover().await;
        scan.expect("a writable server can be scanned")
    }

    async fn is_listed(&self, xid: &Xid) -> bool {
        let owner = XidOwner::Unanimous(xid.clone());
        let listed = self.scan().await.branches;
        listed.iter().filter(|branch| branch.owner == owner).count() == 1
    }

    /// Scans and finishes until the branch is not listed any more, as recovery does. An error is
    /// allowed on the way: some servers do not know a branch while its connection is being closed.
    async fn finish(&self, xid: &Xid, decision: Decision) {
        eventually("a listed branch can be finished", async || {
            if !self.is_listed(xid).await {
                return true;
            }
            // Ok or not: the next look tells.
            let _ = self.resource().finish(xid, decision, None).await;
            false
        })
        .await;
    }

    /// Rolls back whatever appears, until twenty looks in a row have seen nothing: a prepare that
    /// was on its way when its connection closed surfaces after the first looks.
    async fn sweep(&self, xid: &Xid) {
        let mut quiet = 0;
        for _ in 0..600 {
            if self.is_listed(xid).await {
                // Ok or not: the next look tells.
                let _ = self.resource().finish(xid, Decision::Rollback, None).await;
                quiet = 0;
            } else {
                quiet += 1;
            }
            if quiet == 20 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("sweeping does not come to an end");
    }

    async fn assert_committed(&self, xid: &Xid, committed: bool) {
        let row = self.harness.committed(&Self::key(xid)).await;
        let expected = committed.then(|| "v".to_string());
        assert_eq!(row, expected, "what an independent client sees");
    }
}

fn env(xid: &Xid, read_only: bool) -> BranchEnv {
    BranchEnv {
        xid: xid.clone(),
        read_only,
        lock_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
    }
}

fn expect_prepared(reply: PrepareReply) -> Evidence {
    match reply {
        PrepareReply::Prepared(evidence) => evidence,
        PrepareReply::ReadOnly => panic!("a branch that wrote voted read-only"),
        PrepareReply::RolledBack(error) | PrepareReply::Undetermined(error) => {
            panic!("a branch that wrote did not prepare: {error}")
        }
    }
}

/// Tries until it is so. Half a minute is far beyond what any of it takes: it only ends a hang.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}, but it did not come to that");
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
