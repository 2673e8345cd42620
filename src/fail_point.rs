//! Fail points: steps of a flush at which tests make the service crash, fail or wait.
//!
//! They exist where the feature `fail-points` is on *and* the build has debug assertions: the tests turn the feature
//! on, and no release build has them, whatever its features. `FAILPOINTS=flush-commit-after=return(crash)` arms one;
//! the syntax is that of the crate [`fail`](https://docs.rs/fail), and what they return is
//!
//! - `crash`: the process aborts, as by SIGKILL;
//! - anything else: the step fails, as by a connection that was lost.

/// The steps, in the order in which a flush passes them.
#[cfg(all(feature = "fail-points", debug_assertions))]
pub const STEPS: [&str; 18] = [
    "window-before",
    "dead-letters-before",
    "dead-letters-after",
    "flush-begin",
    "flush-fences-after",
    "flush-keys-before",
    "flush-keys-after",
    "flush-insert-before",
    "flush-insert-after",
    "flush-delete-after",
    "flush-rollup-before",
    "flush-rollup-after",
    "flush-offsets-before",
    "flush-offsets-after",
    "flush-commit-before",
    "flush-commit-after",
    "kafka-commit-before",
    "kafka-commit-after",
];

/// Marks a step: `fail_point!("name", value)` returns that value from the function around it, and
/// `fail_point!("name")` an error, for which `StoreError` must be in scope.
macro_rules! fail_point {
    ($name:literal) => {
        fail_point!($name, Err(StoreError::at_fail_point($name).into()))
    };
    ($name:literal, $value:expr) => {
        #[cfg(all(feature = "fail-points", debug_assertions))]
        fail::fail_point!($name, |what: Option<String>| {
            $crate::fail_point::hit($name, what.as_deref());
            $value
        });
    };
}
pub(crate) use fail_point;

/// Arms what the environment says, for as long as the answer lives.
#[cfg(all(feature = "fail-points", debug_assertions))]
#[must_use]
pub(crate) fn arm() -> impl Drop {
    struct Armed(Option<fail::FailScenario<'static>>);
    impl Drop for Armed {
        fn drop(&mut self) {
            if let Some(scenario) = self.0.take() {
                scenario.teardown();
            }
        }
    }
    Armed(Some(fail::FailScenario::setup()))
}

/// Passes a step at which async code can be made to wait, or the process to crash.
#[cfg(all(feature = "fail-points", debug_assertions))]
pub(crate) async fn pause(name: &'static str) {
    let work = move || fail::fail_point!(name, |what: Option<String>| hit(name, what.as_deref()));
    // Off the async threads, which go on meanwhile.
    let _ = tokio::task::spawn_blocking(work).await;
}

#[cfg(all(feature = "fail-points", debug_assertions))]
pub(crate) fn hit(name: &str, what: Option<&str>) {
    eprintln!("fail point {name}: {}", what.unwrap_or("error"));
    if what == Some("crash") {
        std::process::abort();
    }
}
