//! I6: when nothing fails any more, everything is resolved without a person; a server that stays
//! away delays neither a start nor the branches of the others; nothing hangs or panics.

use std::sync::Arc;
use std::time::Duration;

use super::journal::Invariant;
use super::run::{eventually, in_doubt};
use super::world::World;

/// Waits until nothing is in doubt, but at the server that is away.
pub(super) async fn settle(world: &Arc<World>, away: Option<usize>, patience: Duration) {
    let here: Vec<usize> = (0..world.servers.len())
        .filter(|at| Some(*at) != away)
        .collect();
    let is_started = async || {
        let mut members = world.members.iter();
        members.all(|member| member.now().manager.is_some())
    };
    if !eventually(patience, is_started).await {
        violated(world, "a process does not start".to_owned());
    }
    let is_idle = async || {
        let all = world.account.all();
        !all.values().any(|tx| tx.is_active)
    };
    if !eventually(patience, is_idle).await {
        violated(world, "an application waits for ever".to_owned());
    }
    let is_resolved = async || here.iter().all(|at| in_doubt(world, *at).is_empty());
    if !eventually(patience, is_resolved).await {
        for at in &here {
            let left = in_doubt(world, *at);
            violated(
                world,
                format!("left in doubt at {at} (away: {away:?}): {left:?}"),
            );
        }
    }
    if away.is_some() {
        return;
    }
    let is_free = async || {
        let mut servers = world.servers.iter();
        servers.all(|server| server.memory.open_sessions() == 0)
    };
    if !eventually(patience, is_free).await {
        let open = world
            .servers
            .iter()
            .map(|server| server.memory.open_sessions());
        violated(
            world,
            format!("sessions stay open: {:?}", open.collect::<Vec<_>>()),
        );
    }
    if !eventually(patience, async || pending(world).await.is_empty()).await {
        violated(
            world,
            format!("decisions stay pending: {:?}", pending(world).await),
        );
    }
}

async fn pending(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for member in &world.members {
        match member.now().log {
            None => all.push("there is no log".to_owned()),
            Some(log) => match log.pending().await {
                Ok(pending) => all.extend(pending.iter().map(|d| d.gtrid.to_string())),
                Err(error) => all.push(error.to_string()),
            },
        }
    }
    all
}

fn violated(world: &World, text: String) {
    world.journal.violated(Invariant::I6Liveness, text);
}

#[test]
fn i6_everything_is_resolved_at_the_end_of_every_world() {
    super::assert_held(Invariant::I6Liveness);
}
