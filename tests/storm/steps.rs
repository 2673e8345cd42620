//! The steps of a flush around its transaction, in the service itself: letters before it, Kafka's offsets after it.
//! Those within are in `tests/fail_points`.

use crate::storm::Storm;

const STEPS: [&str; 4] = [
    "dead-letters-before",
    "dead-letters-after",
    "kafka-commit-before",
    "kafka-commit-after",
];

#[test]
fn an_error_or_a_delay_around_the_transaction_changes_nothing() {
    let mut storm = Storm::calm(51);
    for step in STEPS {
        for action in ["5*return(error)", "5*sleep(200)"] {
            storm.join_with(&[("FAILPOINTS", &format!("{step}={action}"))]);
        }
        if storm.members.len() == 4 {
            // Every second member fails, and says so; the others dawdle.
            storm.wait("all that fail to pass their fail points", |storm| {
                if storm.is_drained() {
                    storm.feed(300);
                }
                storm
                    .members
                    .iter()
                    .step_by(2)
                    .all(|member| member.log().contains("fail point"))
            });
            storm.wait("the records", Storm::is_drained);
            for member in std::mem::take(&mut storm.members) {
                storm.end_well(member);
            }
            // All have left at once, and the broker's coordinator may not get over it.
            storm.rename_group();
        }
    }
    storm.join();
    storm.drain_and_check();
}

#[test]
fn a_crash_around_the_transaction_changes_nothing() {
    let mut storm = Storm::calm(52);
    for step in STEPS {
        let mut member = storm.member(&[("FAILPOINTS", &format!("{step}=2*off->return(crash)"))]);
        storm.wait("the crash", |storm| {
            if storm.is_drained() {
                storm.feed(200);
            }
            member.ended().is_some()
        });
        let log = member.log();
        assert!(log.contains(&format!("fail point {step}: crash")), "{log}");
    }
    storm.join();
    storm.drain_and_check();
}
