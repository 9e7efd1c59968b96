//! A change that need not be on the synchronous standbys: its commit does not wait for them, and
//! the next one's does again.

use crate::failure::Failure;
use crate::session::{Replies, Session};
use crate::sql;

impl Session {
    /// As [`run`](Self::run). No other session's level is changed: where somebody may stand in
    /// between, whoever answers is asked first who it is. But a pooler that nobody has noticed, and
    /// that lends another one for the raise, keeps this one's low.
    pub(crate) async fn run_unawaited(&self, text: &str) -> Result<Replies, Failure> {
        let own = if self.is_direct() {
            String::new()
        } else {
            sql::own_session(self.facts().backend.pid) + "; "
        };
        let lowered = format!("{own}{}", sql::AWAIT_NOBODY);
        let lowered = self.send(&lowered).await?;
        let sent = self.send(text).await;
        let raised = format!("{own}SET synchronous_commit = {}", self.durability());
        let raised = self.send(&raised).await;
        // If it was refused, the change waits; no harm is done.
        let _ = self.read(lowered).await;
        let answer = self.read(sent?).await;
        let raised = match raised {
            Ok(stream) => self.read(stream).await,
            Err(failure) => Err(failure),
        };
        if raised.is_err() {
            self.spoil();
        }
        answer
    }
}
