//! Who is called alive, and who silent, however slow the table answers.

use std::time::Duration;

use unanimous_core::ports::DecisionTable;
use unanimous_core::xid::{Epoch, ManagerId};
use unanimous_testing::MemoryTable;

use super::shared::Watched;

const PATIENCE: Duration = Duration::from_secs(1);

/// Epoch 1 is of a member that is dead for long, 2 of one that was seen just now.
async fn dead_and_alive() -> MemoryTable {
    let table = MemoryTable::new("log 1");
    table.init(ManagerId::from_bytes([7; 10])).await.unwrap();
    table.join(1, "dead").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    table.join(2, "alive").await.unwrap();
    table
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_look_makes_nobody_alive() {
    let table = dead_and_alive().await;
    for delay in [1, 150, 2000] {
        table.set_delay(Duration::from_millis(delay));
        let watched = Watched::by_age(&table, PATIENCE).await.unwrap();
        assert!(!watched.is_alive(Epoch(1)), "{delay} ms each way");
    }
}

/// Two looks at least, however slow they are, and as far from each other as was asked.
#[tokio::test(start_paused = true)]
async fn who_lives_is_seen_by_a_long_look_however_slow_it_is() {
    let table = dead_and_alive().await;
    table.set_delay(Duration::from_secs(2));
    let beating = table.clone();
    let task = tokio::spawn(async move {
        loop {
            beating.beat(Epoch(2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let watched = Watched::for_long(&table, PATIENCE).await.unwrap();
    task.abort();
    assert!(watched.has_lived(Epoch(2)));
    assert!(!watched.has_lived(Epoch(1)));
}
