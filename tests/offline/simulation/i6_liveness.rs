//! I6: when nothing fails any more, everything is resolved without a person; a server that stays
//! away delays neither a start nor the branches of the others; nothing hangs or panics.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use unanimous::Xid;

use super::journal::Invariant;
use super::run::{eventually, in_doubt};
use super::world::World;

/// How long a question to a log may take before it is asked again.
const SILENCE: Duration = Duration::from_secs(10);

/// Waits until nothing is in doubt, but at the server that is away. `false` if that never comes.
pub(super) async fn settle(world: &Arc<World>, away: Option<usize>, patience: Duration) -> bool {
    let all = 0..world.servers.len();
    let here: Vec<usize> = all.filter(|at| Some(*at) != away).collect();
    let members = || world.members.iter();
    let is_started = async || members().all(|member| member.now().manager.is_some());
    if !eventually(patience, is_started).await {
        return never(world, "a process does not start".to_owned());
    }
    let is_idle = async || !world.account.all().values().any(|tx| tx.is_active);
    if !eventually(patience, is_idle).await {
        let mut waiting = world.account.all();
        waiting.retain(|_, tx| tx.is_active);
        return never(world, format!("applications wait for ever: {waiting:?}"));
    }
    let is_resolved = async || here.iter().all(|at| for_recovery(world, *at).is_empty());
    if !eventually(patience, is_resolved).await {
        let left: Vec<_> = here.iter().map(|at| for_recovery(world, *at)).collect();
        return never(world, format!("in doubt (away: {away:?}): {left:?}"));
    }
    if away.is_some() {
        return true;
    }
    let sessions = || {
        world
            .servers
            .iter()
            .map(|server| server.memory.open_sessions())
    };
    if !eventually(patience, async || sessions().all(|open| open == 0)).await {
        let open: Vec<usize> = sessions().collect();
        return never(world, format!("sessions stay open: {open:?}"));
    }
    if !eventually(patience, async || pending(world).await.is_empty()).await {
        let pending = pending(world).await;
        return never(world, format!("decisions stay pending: {pending:?}"));
    }
    true
}

/// What is in doubt, but for what is left to a person: a branch that somebody has rolled back
/// against its decision, and that is there again after the decision was forgotten.
fn for_recovery(world: &World, at: usize) -> Vec<Xid> {
    let known = world.account.all();
    let mut left = in_doubt(world, at);
    left.retain(|xid| {
        let tx = known.get(&xid.gtrid);
        !tx.is_some_and(|tx| tx.is_decided && tx.by_hand.contains(&at))
    });
    left
}

async fn pending(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for member in &world.members {
        match member.now().log {
            None => all.push("there is no log".to_owned()),
            // Of whoever has ended meanwhile a lost question is never answered.
            Some(log) => match timeout(SILENCE, log.pending()).await {
                Ok(Ok(pending)) => all.extend(pending.iter().map(|d| d.gtrid.to_string())),
                Ok(Err(error)) => all.push(error.to_string()),
                Err(_) => all.push("the log does not answer".to_owned()),
            },
        }
    }
    all
}

fn never(world: &World, text: String) -> bool {
    world.journal.violated(Invariant::I6Liveness, text);
    false
}

#[test]
fn i6_everything_is_resolved_at_the_end_of_every_world() {
    super::assert_held(Invariant::I6Liveness);
}
