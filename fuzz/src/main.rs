//! libFuzzer around one target, whose name is in the environment: `UNANIMOUS_FUZZ_TARGET`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod targets;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("UNANIMOUS_FUZZ_TARGET").unwrap_or_default();
        let known = targets::TARGETS.iter().find(|(known, _)| *known == name);
        let Some((_, target)) = known else {
            panic!("UNANIMOUS_FUZZ_TARGET={name}: run it by `cargo xtask fuzz`");
        };
        TARGET.get_or_init(|| *target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
