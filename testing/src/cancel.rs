//! Futures that are dropped half-way, on purpose.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Polls `future` up to `polls` times and drops it then. `Some` if it was completed by then.
///
/// A test that tries every number of polls until it gets `Some` has dropped the future at each of
/// its await points at which it did wait.
pub async fn drop_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_is_completed_or_dropped_after_so_many_polls() {
        let twice_pending = || async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            7
        };
        let mut ends = Vec::new();
        for polls in 0..5 {
            ends.push(drop_after(polls, twice_pending()).await);
        }
        assert_eq!(ends, [None, None, None, Some(7), Some(7)]);
    }
}
