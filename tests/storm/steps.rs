//! Failures in the steps around a flush's transaction, in the service itself: dead letters before it, and the commit to Kafka
//! after it. Steps within the transaction are tested in `tests/fail_points`.

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
            // Every second member fails, and logs it; the others are slow.
            storm.wait("all failing members to reach their fail points", |storm| {
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
            // All members have left at once, which may get the broker's coordinator stuck.
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
