//! A storm of faults that changes nothing: several processes of the service's binary run in one group on a real broker and
//! a real Postgres, with faults drawn from a seed. At the end the tables must match an independent oracle.
//!
//! `SEED=n FAULTS=n make storm` runs a storm of any length. A short one is part of the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod cluster;
mod faults;
mod feed;
mod fences;
mod harness;
mod member;
mod oracle;
mod plan;
mod poison;
mod pressure;
mod revoked;
mod shutdown;
mod steps;
mod storm;
#[path = "../support/mod.rs"]
mod support;

use std::{env, time::Instant};

use storm::Storm;

/// A number from an environment variable.
fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        _ => default,
    }
}

#[test]
fn a_storm_changes_nothing() {
    let (seed, faults) = (number("SEED", 20_260_301), number("FAULTS", 32));
    let plan = plan::plan(seed, faults);
    println!("storm: SEED={seed} FAULTS={faults}\n{}", plan::table(&plan));

    let begun = Instant::now();
    let mut storm = Storm::new(seed);
    for (number, fault) in plan.iter().enumerate() {
        println!(
            "{:7.1} s  {:3} {}",
            begun.elapsed().as_secs_f64(),
            number + 1,
            fault.kind
        );
        storm.inject(fault);
    }
    println!(
        "{:7.1} s  waiting for the remaining records",
        begun.elapsed().as_secs_f64()
    );
    let summary = storm.drain_and_check();
    let merged = storm.merged();
    assert!(merged > 0, "no shards were merged during the storm");
    println!(
        "{:7.1} s  {summary}; {merged} merged rows, {} failed starts, the group was stuck {} times",
        begun.elapsed().as_secs_f64(),
        storm.failed_starts,
        storm.stalls
    );
}
