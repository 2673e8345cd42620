//! Bad input: checks the fuzzers' properties on their seeds and random mutations of them. `make fuzz` searches
//! longer.

#[path = "../fuzz/properties.rs"]
mod properties;
#[path = "../fuzz/seeds.rs"]
mod seeds;

use std::sync::LazyLock;

use proptest::prelude::*;

/// The name and the seeds of a target.
type Seeds = (&'static str, Vec<Vec<u8>>);

static SEEDS: LazyLock<Vec<Seeds>> = LazyLock::new(|| seeds::all(200).into());

fn seeds_of(target: &str) -> &'static [Vec<u8>] {
    SEEDS
        .iter()
        .find(|(name, _)| *name == target)
        .map_or(&[], |(_, seeds)| seeds)
}

/// Mutates a seed as a fuzzer does: truncates it, splices it with another one, and replaces ranges of bytes.
fn changed(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds_of(target);
    let seed = || prop::sample::select(seeds);
    let cuts = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            0_usize..40,
            prop_oneof![
                "[\\[\\]{}\":,0-9a-z\\\\\u{0}<>&#@=_.'\n-]{0,8}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..6),
                any::<char>().prop_map(|c| c.to_string().into_bytes()),
            ],
        ),
        0..5,
    );
    (seed(), seed(), any::<prop::sample::Index>(), any::<bool>(), cuts).prop_map(|(one, other, at, splice, cuts)| {
        let mut input = one;
        if splice && !other.is_empty() {
            input.truncate(at.index(input.len() + 1));
            input.extend_from_slice(&other[at.index(other.len())..]);
        }
        for (at, length, with) in cuts {
            let start = at.index(input.len() + 1);
            let end = (start + length).min(input.len());
            input.splice(start..end, with);
        }
        input
    })
}

#[test]
fn properties_hold_for_the_seeds() {
    for (target, property) in [
        ("parse", properties::parse as fn(&[u8])),
        ("clean", properties::clean),
        ("tokenise", properties::tokenise),
        ("settings", properties::settings),
    ] {
        assert!(seeds_of(target).len() > 15, "{target} has too few seeds");
        for seed in seeds_of(target) {
            property(seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn any_record_is_handled(input in changed("parse")) {
        properties::parse(&input);
    }

    #[test]
    fn any_text_is_cleaned(input in changed("clean")) {
        properties::clean(&input);
    }

    #[test]
    fn any_text_is_tokenised(input in changed("tokenise")) {
        properties::tokenise(&input);
    }

    #[test]
    fn any_settings_are_read_or_refused_without_showing_secrets(input in changed("settings")) {
        properties::settings(&input);
    }
}
