//! Who does something by hand, and why: the words, checked, and the record that holds them. What is
//! done goes on without whoever asked for it.

use unanimous_core::ports::{ByHand, Evidence, HandAct, HandState, Remark, ServerIdentity};
use unanimous_core::xid::{Gtrid, ResourceName};

use crate::log::wall_clock;
use crate::manager::Inner;

pub(super) struct Person {
    who: Remark,
    reason: Remark,
}

impl Person {
    /// # Errors
    /// Not a line of text: says which.
    pub(super) fn of(who: &str, reason: &str) -> Result<Self, String> {
        let line = |what: &str, text: &str| {
            Remark::new(text.trim())
                .ok_or_else(|| format!("{what} has to be one line of text, of at most 1000 bytes"))
        };
        Ok(Self {
            who: line("who", who)?,
            reason: line("the reason", reason)?,
        })
    }

    /// A new record of what is done with this branch.
    ///
    /// # Errors
    /// The system gives no random bits.
    pub(super) fn record(
        &self,
        inner: &Inner,
        (gtrid, resource): (Gtrid, ResourceName),
        act: HandAct,
        proof: Option<(ServerIdentity, Evidence)>,
        state: HandState,
    ) -> Result<ByHand, String> {
        let mut id = [0; 8];
        let random = getrandom::fill(&mut id);
        random.map_err(|_| "the operating system gives no random bits".to_owned())?;
        Ok(ByHand {
            id: u64::from_le_bytes(id),
            gtrid,
            resource,
            act,
            by: inner.log.opening(),
            who: self.who.clone(),
            when: wall_clock::now(),
            reason: self.reason.clone(),
            proof,
            state,
        })
    }
}

/// What a person does, in a task of its own: nobody who goes away leaves it half done.
pub(super) async fn apart<T: Send + 'static>(
    inner: &Inner,
    acting: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    let cut = |_| {
        "it panicked, which is a bug, or the runtime was shut down; what is recorded stays: look \
         again"
            .to_owned()
    };
    inner.runtime.spawn(acting).await.map_err(cut)?
}
