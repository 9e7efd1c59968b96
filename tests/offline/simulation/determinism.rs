//! The same seed is the same world, byte for byte: else a failing seed could not be replayed.

use super::run::run;

#[test]
fn a_seed_gives_the_same_journal_byte_for_byte() {
    for seed in 0..20 {
        let (once, again) = (run(seed), run(seed));
        if once.journal != again.journal {
            let lines = once.journal.lines().zip(again.journal.lines());
            let differs = lines.clone().position(|(one, other)| one != other);
            let (one, other) = lines.last().unwrap_or_default();
            panic!("seed {seed} differs at line {differs:?}; last: {one:?} and {other:?}");
        }
        assert!(
            once.journal.lines().count() > 50,
            "seed {seed} does something"
        );
    }
    assert_ne!(run(1).journal, run(2).journal);
}
