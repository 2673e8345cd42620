//! Fail points: steps of a flush at which tests can make the service crash, fail or wait.
//!
//! They exist only if the feature `fail-points` is enabled *and* the build has debug assertions. The tests enable the
//! feature; release builds never have fail points. `FAILPOINTS=flush-commit-after=return(crash)` activates one. The syntax is
//! that of the crate [`fail`](https://docs.rs/fail). The return values mean:
//!
//! - `crash`: the process aborts, as if killed by SIGKILL;
//! - anything else: the step fails, as if the connection were lost.

/// The steps, in the order in which a flush reaches them.
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

/// Marks a step. `fail_point!("name", value)` returns `value` from the enclosing function, and
/// `fail_point!("name")` returns an error; the latter requires `StoreError` to be in scope.
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

/// Activates the fail points configured in the environment until the returned guard is dropped.
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

/// A step in async code at which tests can make it wait or crash the process.
#[cfg(all(feature = "fail-points", debug_assertions))]
pub(crate) async fn pause(name: &'static str) {
    let work = move || fail::fail_point!(name, |what: Option<String>| hit(name, what.as_deref()));
    // On a blocking thread, so that other tasks continue.
    let _ = tokio::task::spawn_blocking(work).await;
}

#[cfg(all(feature = "fail-points", debug_assertions))]
pub(crate) fn hit(name: &str, what: Option<&str>) {
    eprintln!("fail point {name}: {}", what.unwrap_or("error"));
    if what == Some("crash") {
        std::process::abort();
    }
}
