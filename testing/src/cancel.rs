//! Futures that are dropped half-way, on purpose.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

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

/// Polls `future` once in every tick, woken or not, up to `polls` times, and drops it then. `Some`
/// if it was completed by then.
///
/// For a future whose work goes on in other tasks, which wake it only at the end: it is dropped at
/// every stage of that work. In virtual time the stages are the same in every run.
pub async fn drop_after_ticks<T>(
    polls: usize,
    tick: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    for poll in 0..polls {
        if poll > 0 {
            tokio::time::sleep(tick).await;
        }
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(value) = polled {
            return Some(value);
        }
    }
    None
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

    #[tokio::test]
    async fn a_future_that_nobody_wakes_is_polled_in_every_tick() {
        let mut ends = Vec::new();
        for polls in 0..5 {
            let mut polled = 0;
            let third = poll_fn(|_| {
                polled += 1;
                if polled == 3 {
                    Poll::Ready(7)
                } else {
                    Poll::Pending
                }
            });
            ends.push(drop_after_ticks(polls, Duration::from_millis(1), third).await);
            assert_eq!(polled, polls.min(3));
        }
        assert_eq!(ends, [None, None, None, Some(7), Some(7)]);
    }
}
