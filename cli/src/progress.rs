//! A bar on long work: on a terminal only, on standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use unanimous::operator::Access;

/// Short work needs no bar.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(200);

/// The pass, with a bar of how many branches have been ended.
pub(crate) async fn shown<T>(access: &Access, expected: usize, pass: impl Future<Output = T>) -> T {
    if expected == 0 || !std::io::stderr().is_terminal() {
        return pass.await;
    }
    let before = access.ended().await.unwrap_or_default();
    let mut pass = std::pin::pin!(pass);
    tokio::select! {
        ended = &mut pass => return ended,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let bar = bar(expected);
    let ended = loop {
        tokio::select! {
            ended = &mut pass => break ended,
            now = looked(access) => bar.set_position(now.saturating_sub(before)),
        }
    };
    bar.finish_and_clear();
    ended
}

fn bar(expected: usize) -> ProgressBar {
    let bar = ProgressBar::new(expected as u64);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} ended, {eta} left") {
        Ok(style) => bar.with_style(style),
        // The usual one.
        Err(_) => bar,
    }
}

/// How many it is after a pause.
async fn looked(access: &Access) -> u64 {
    tokio::time::sleep(PAUSE).await;
    match access.ended().await {
        Some(ended) => ended,
        None => std::future::pending().await,
    }
}
