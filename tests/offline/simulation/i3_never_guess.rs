//! I3: neither `commit` nor `outcome` says anything that is not so.

use unanimous::TransactionOutcome;

use super::account::Answer;
use super::journal::Invariant;
use super::world::World;

pub(super) fn judge(world: &World) {
    for tx in world.account.all().values() {
        let is_anywhere = tx.at.iter().any(|at| world.servers[*at].has(&tx.mark()));
        let is_everywhere = tx.untouched().all(|at| world.servers[*at].has(&tx.mark()));
        let mut lies = Vec::new();
        match &tx.answer {
            Some(Answer::RolledBack) if is_anywhere => lies.push("answered to be rolled back"),
            Some(Answer::Heuristic) if tx.by_hand.is_empty() => {
                lies.push("answered to be heuristic")
            }
            Some(
                Answer::Committed | Answer::RolledBack | Answer::Undetermined | Answer::Heuristic,
            )
            | None => {}
        }
        for outcome in &tx.outcomes {
            match outcome {
                TransactionOutcome::Committed if !is_everywhere => lies.push("said committed"),
                TransactionOutcome::RolledBack if is_anywhere => lies.push("said rolled back"),
                TransactionOutcome::Heuristic(_) if tx.by_hand.is_empty() => {
                    lies.push("said heuristic")
                }
                TransactionOutcome::Committed
                | TransactionOutcome::RolledBack
                | TransactionOutcome::InDoubt
                | TransactionOutcome::Unknown
                | _ => {}
            }
        }
        if tx.outcomes.last() == Some(&TransactionOutcome::InDoubt) {
            lies.push("still in doubt");
        }
        for lie in lies {
            let text = format!("{}: {lie}; there: {is_anywhere} {is_everywhere}", tx.mark());
            world.journal.violated(Invariant::I3NeverGuess, text);
        }
    }
}

#[test]
fn i3_no_answer_of_any_world_is_a_lie() {
    super::assert_held(Invariant::I3NeverGuess);
}
