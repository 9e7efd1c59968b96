//! How long a resource's task waits between its passes.

use super::*;

fn pacing() -> Pacing {
    let interval = Duration::from_millis(150);
    Pacing {
        retry: Pacing::RETRY_MIN,
        idle: interval,
        interval,
        interval_max: Duration::from_millis(500),
    }
}

fn pauses(pacing: &mut Pacing, report: &ResourceReport) -> [u128; 4] {
    [(); 4].map(|()| pacing.next(report).as_millis())
}

#[test]
fn i6_pauses_grow_to_their_limits_and_begin_again() {
    let idle = ResourceReport::new("orders".parse().unwrap());
    let mut left = idle.clone();
    left.log_error = Some(unanimous_core::ports::LogError::new("away"));
    let mut pacing = pacing();
    assert_eq!(pauses(&mut pacing, &idle), [150, 300, 500, 500]);
    assert_eq!(pauses(&mut pacing, &left), [50, 100, 150, 150]);
    assert_eq!(pauses(&mut pacing, &idle), [150, 300, 500, 500]);
    assert_eq!(pacing.next(&left).as_millis(), 50);
    pacing.reset();
    assert_eq!(pauses(&mut pacing, &left), [50, 100, 150, 150]);
    pacing.reset();
    assert_eq!(pacing.next(&idle).as_millis(), 150);
}

#[test]
fn a_pause_is_stretched_by_a_quarter_at_most() {
    let pause = Duration::from_secs(4);
    assert_eq!(jittered(pause, 0), Duration::from_secs(3));
    assert_eq!(jittered(pause, u32::MAX), Duration::from_secs(5));
}
