//! I6: many more transactions than connections. Nobody waits for what somebody holds who waits for
//! him, in whatever order the pools hear of them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::timeout;
use unanimous::ports::Room;
use unanimous::{BranchError, BranchErrorKind, EnlistError, Transaction, TransactionManager, Xid};
use unanimous_testing::Step;

use super::World;
use super::attack::soon;
use super::fragile::{FragileBranch, FragileResource};

const SIZE: usize = 3;
const TRANSACTIONS: usize = 60;

/// What an adapter's pool does: whoever asks waits in a queue, for a limited time.
#[derive(Clone)]
pub(crate) struct Pool {
    pub(crate) room: Room,
    sessions: Arc<Semaphore>,
    /// How many of the sessions in it have died.
    dead: Arc<AtomicUsize>,
}

impl Pool {
    fn new(wait: Duration) -> Self {
        let mend = "raise its size";
        let room = Room {
            branches_max: SIZE,
            wait,
            mend,
        };
        let (sessions, dead) = (Arc::new(Semaphore::new(SIZE)), Arc::default());
        Self {
            room,
            sessions,
            dead,
        }
    }

    pub(crate) async fn lend(&self, xid: &Xid) -> Result<OwnedSemaphorePermit, BranchError> {
        // As on several threads: sometimes one is asked first, sometimes another.
        let is_orders = xid.bqual.as_str() == "orders";
        for _ in 0..xid.gtrid.sequence / if is_orders { 1 } else { 3 } % 3 {
            yield_now().await;
        }
        loop {
            let lent = timeout(self.room.wait, Arc::clone(&self.sessions).acquire_owned());
            let Ok(lent) = lent.await else {
                let (kind, name) = (BranchErrorKind::Unavailable, xid.bqual.clone());
                return Err(BranchError::new(kind, name, "the pool is used up"));
            };
            let (one_less, relaxed) = (|dead: usize| dead.checked_sub(1), Ordering::Relaxed);
            let was_dead = self.dead.fetch_update(relaxed, relaxed, one_less);
            if was_dead.is_err() {
                return Ok(lent.unwrap());
            }
            // Thrown away: for a new one it waits once more, behind everybody else.
            drop(lent);
            yield_now().await;
        }
    }
}

struct Pooled {
    world: World,
    orders: FragileResource,
    ledger: FragileResource,
    tm: TransactionManager,
}

impl Pooled {
    async fn new(wait: Duration) -> Self {
        let world = World::new();
        let pooled = |inner| {
            let mut resource = FragileResource::new(inner);
            resource.pool = Some(Pool::new(wait));
            resource
        };
        let (orders, ledger) = (pooled(&world.orders), pooled(&world.ledger));
        let builder = world.builder().resource(&orders).resource(&ledger);
        let builder = builder.config(|config| {
            // Only a stall is ever seen: the machine may be slow.
            config.prepare_timeout = Duration::from_secs(30);
            config.finish_timeout = Duration::from_secs(30);
        });
        Self {
            tm: builder.start().await.unwrap(),
            world,
            orders,
            ledger,
        }
    }

    async fn commit(&self, number: usize) -> Result<(), EnlistError> {
        let mut tx = self.tm.begin();
        let branches = if number.is_multiple_of(2) {
            tx.enlist((&self.orders, &self.ledger)).await?
        } else {
            let (ledger, orders) = tx.enlist((&self.ledger, &self.orders)).await?;
            (orders, ledger)
        };
        write(branches, number);
        yield_now().await;
        // A restart in between rolls it back.
        let _ = tx.commit().await;
        Ok(())
    }

    fn free(&self) -> [usize; 2] {
        let free = |resource: &FragileResource| {
            let pool = resource.pool.as_ref().unwrap();
            pool.sessions.available_permits()
        };
        [free(&self.orders), free(&self.ledger)]
    }

    /// All connections are used up.
    async fn hold(&self) -> Vec<Transaction> {
        let mut held = Vec::new();
        for _ in 0..SIZE {
            let mut tx = self.tm.begin();
            tx.enlist((&self.orders, &self.ledger)).await.unwrap();
            held.push(tx);
        }
        held
    }

    async fn end(self) {
        self.world.settle().await;
        super::eventually("all are back", || self.free() == [SIZE; 2]).await;
    }
}

fn write((orders, ledger): (&mut FragileBranch, &mut FragileBranch), number: usize) {
    let key = format!("k{number}");
    // A branch whose server was restarted takes nothing any more.
    let _ = orders.inner.put(&key, "1");
    let _ = ledger.inner.put(&key, "1");
}

#[tokio::test]
async fn i6_more_transactions_than_connections_all_get_their_turn() {
    let pooled = Pooled::new(Duration::from_secs(2)).await;
    let all = (0..TRANSACTIONS).map(|number| pooled.commit(number));
    for enlisted in soon("their turns", join_all(all)).await {
        enlisted.unwrap();
    }
    for number in 0..TRANSACTIONS {
        let row = pooled.world.orders.server().row(&format!("k{number}"));
        assert_eq!(row.as_deref(), Some("1"), "{number}");
    }
    pooled.end().await;
}

#[tokio::test]
async fn i6_a_restart_of_a_server_half_way_stalls_nobody() {
    let pooled = Pooled::new(Duration::from_secs(2)).await;
    let ended = AtomicUsize::new(0);
    let all = (0..TRANSACTIONS).map(|number| {
        let (pooled, ended) = (&pooled, &ended);
        async move {
            let enlisted = pooled.commit(number).await;
            if ended.fetch_add(1, Ordering::Relaxed) == TRANSACTIONS / 2 {
                pooled.world.ledger.server().crash();
                let pool = pooled.ledger.pool.as_ref().unwrap();
                pool.dead.store(SIZE, Ordering::Relaxed);
            }
            enlisted
        }
    });
    for enlisted in soon("their turns", join_all(all)).await {
        enlisted.unwrap();
    }
    pooled.end().await;
}

#[tokio::test]
async fn i7_an_enlist_that_is_dropped_while_it_waits_keeps_nobody_waiting() {
    let pooled = Pooled::new(Duration::from_secs(60)).await;
    let held = pooled.hold().await;
    let mut tx = pooled.tm.begin();
    let waiting = tx.enlist((&pooled.orders, &pooled.ledger));
    let given_up = timeout(Duration::from_millis(20), waiting).await;
    assert!(given_up.is_err());
    drop(held);
    // It holds nothing, and is not in the queue any more.
    let held = soon("the others' turn", pooled.hold()).await;
    drop(held);
    let again = tx.enlist((&pooled.orders, &pooled.ledger));
    let branches = soon("its own turn", again).await.unwrap();
    write(branches, 1);
    tx.commit().await.unwrap();
    pooled.end().await;
}

#[tokio::test]
async fn i6_who_holds_what_the_other_waits_for_is_told_what_mends_it() {
    let pooled = Pooled::new(Duration::from_millis(50)).await;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..SIZE {
        first.push(pooled.tm.begin());
        second.push(pooled.tm.begin());
    }
    for tx in &mut first {
        tx.enlist(&pooled.orders).await.unwrap();
    }
    for tx in &mut second {
        tx.enlist(&pooled.ledger).await.unwrap();
    }
    let waiting = first[0].enlist(&pooled.ledger);
    let refused = soon("its limit", waiting).await.map(drop).unwrap_err();
    let EnlistError::Branch(error) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(error.kind(), BranchErrorKind::Unavailable);
    let text = refused.to_string();
    assert!(text.contains("no connection of the pool was free within 50ms"));
    assert!(text.contains("raise its size"), "{text}");
    assert!(first.remove(0).commit().await.is_err());
    drop((first, second));
    pooled.end().await;
}

fn by_hand<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The application may wait on a runtime that is not the manager's, and that ends first.
#[test]
fn i7_places_are_waited_for_on_any_runtime() {
    let own = tokio::runtime::Runtime::new().unwrap();
    let pooled = own.block_on(Pooled::new(Duration::from_secs(60)));
    let held = own.block_on(pooled.hold());
    let mut tx = pooled.tm.begin();
    {
        let other = tokio::runtime::Builder::new_current_thread();
        let other = { other }.enable_time().build().unwrap();
        let waiting = tx.enlist((&pooled.orders, &pooled.ledger));
        let given_up = other.block_on(async { timeout(Duration::from_millis(20), waiting).await });
        assert!(given_up.is_err());
    }
    drop(held);
    // On none at all.
    write(
        by_hand(tx.enlist((&pooled.orders, &pooled.ledger))).unwrap(),
        1,
    );
    own.block_on(async {
        tx.commit().await.unwrap();
        let asked = pooled.world.journal.count(super::attack::asked(Step::Open));
        assert_eq!(asked, 2 * (SIZE + 1));
        pooled.end().await;
    });
}
