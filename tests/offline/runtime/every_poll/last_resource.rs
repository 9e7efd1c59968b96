//! A commit whose decision goes into the last resource, and the futures of the log around it.

use unanimous::TransactionManager;
use unanimous::log::TableLog;
use unanimous_testing::{Fault, MemoryTable, Step, TableFault, TableStep};

use super::transaction::meet_planned_fault;
use super::{TICK, at_every_poll, polled, soon};
use crate::runtime::World;

/// What a commit meets on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Well,
    /// The other branch votes to roll back.
    Refused,
    /// The last resource was not reached.
    RequestLost,
    /// The last resource was not heard.
    ReplyLost,
    /// Nor was the log, which is asked again.
    BothLost,
    /// The other branch's commit is not heard, so recovery commits it.
    HandedOver,
    /// No last resource: the log decides, and is asked twice.
    Decided,
}

const COURSES: [Course; 7] = [
    Course::Well,
    Course::Refused,
    Course::RequestLost,
    Course::ReplyLost,
    Course::BothLost,
    Course::HandedOver,
    Course::Decided,
];

impl Course {
    fn plan(self, world: &World, table: &MemoryTable) {
        let (orders, ledger) = (world.orders.server(), world.ledger.server());
        match self {
            Self::Well => {}
            Self::Refused => ledger.fail_next(Step::Prepare, Fault::CONFLICT),
            Self::RequestLost => orders.fail_next(Step::CommitLast, Fault::LoseRequest),
            Self::ReplyLost => orders.fail_next(Step::CommitLast, Fault::LoseReply),
            Self::BothLost => {
                orders.fail_next(Step::CommitLast, Fault::LoseReply);
                table.fail_next(TableStep::PutRollback, TableFault::LoseReply);
            }
            Self::HandedOver => ledger.fail_next(Step::Commit, Fault::LoseRequest),
            Self::Decided => table.fail_next(TableStep::Decide, TableFault::LoseReply),
        }
    }

    const fn commits(self) -> bool {
        !matches!(self, Self::Refused | Self::RequestLost)
    }

    async fn start(self, world: &World, table: &MemoryTable) -> TransactionManager {
        let log = TableLog::on(table)
            .last_resource(self != Self::Decided)
            .label("a member");
        world.slow_builder().log(log).start().await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn i7_commit_with_a_last_resource() {
    for course in COURSES {
        at_every_poll(10, async |world, polls| {
            let table = MemoryTable::new("orders");
            table.set_delay(TICK);
            world.orders.server().hosts(&table);
            let tm = course.start(&world, &table).await;
            let tx = world.begin_with_both(&tm, "1").await;
            let gtrid = tx.gtrid();
            course.plan(&world, &table);
            let answer = polled(polls, tx.commit()).await;
            let is_committed = world.is_committed_whole(&tm, gtrid).await;
            let goes_on = polls > 0 && course.commits();
            assert_eq!(is_committed, goes_on, "{course:?} after {polls} polls");
            if is_committed {
                assert_eq!(world.rows(), World::both("1"), "{course:?}, {polls} polls");
            }
            if let Some(answer) = &answer {
                assert_eq!(answer.is_ok(), is_committed, "{course:?}: {answer:?}");
            }
            meet_planned_fault(&world, &tm).await;
            world.commits(&tm, "next").await;
            let report = soon("a recovery pass", tm.recover()).await;
            assert!(report.is_clean(), "{report:?}");
            soon("the shutdown", tm.shutdown()).await.unwrap();
            drop(tm);
            let tm = soon("the next start", course.start(&world, &table)).await;
            world.commits(&tm, "last").await;
            soon("the last shutdown", tm.shutdown()).await.unwrap();
            world.settle().await;
            answer.is_some()
        })
        .await;
    }
}
