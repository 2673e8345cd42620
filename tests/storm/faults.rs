//! How each fault is injected. Nothing here waits for a fixed time: each fault lasts until its effect is observed.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    plan::{Fault, Kind, MEMBERS},
    storm::{STALLED, Storm},
    support::proxy::Cut,
};

const TABLES: [&str; 5] = [
    "post",
    "post_key",
    "emotion_rollup",
    "consumer_offset",
    "consumer_tally",
];

/// Steps of a flush at which a member may fail; see `src/fail_point.rs`.
const STEPS: [&str; 7] = [
    "flush-keys-before",
    "flush-insert-after",
    "flush-rollup-after",
    "flush-offsets-before",
    "flush-commit-before",
    "flush-commit-after",
    "kafka-commit-before",
];

impl Storm {
    /// Feeds records, waits until a share of them is committed, and injects the fault.
    pub fn inject(&mut self, fault: &Fault) {
        self.feed(fault.records);
        // A member that makes room for one that crashes at a fail point is missing from the plan's count. A frozen member needs
        // another one that takes over.
        while self.members.len() < *MEMBERS.start() {
            self.join();
        }
        let committed = self.committed();
        let goal = committed + (self.fed() - committed) * fault.after_percent / 100;
        self.wait_for_group("progress before the fault", |storm| storm.committed() >= goal);
        match fault.kind {
            Kind::Kill => self.kill(fault),
            Kind::Terminate => {
                self.leave(fault);
                self.join();
            }
            Kind::Freeze => self.freeze(fault),
            Kind::Join => {
                self.make_room(fault);
                self.join();
                self.wait_for_group("the new member's readiness", |storm| {
                    storm.members[storm.members.len() - 1].is_ready()
                });
            }
            Kind::Leave => self.leave(fault),
            Kind::FailPoint => self.fail_point(fault),
            Kind::PostgresStopped => self.stop_postgres(),
            Kind::ConnectionCut => self.cut_connection(),
            Kind::CommitCut => self.cut_commit(fault),
            Kind::TableLocked => self.lock_table(fault),
            Kind::DiskFull => self.fill_disk(fault),
            Kind::ReadOnly => self.read_only(),
            Kind::NoRights => self.take_rights(fault),
            Kind::SlowNetwork => self.slow_network(fault),
            Kind::DeadLettersRefused => self.refuse_letters(),
        }
    }

    fn pick(&self, fault: &Fault) -> usize {
        fault.which % self.members.len()
    }

    fn kill(&mut self, fault: &Fault) {
        let mut member = self.members.remove(self.pick(fault));
        member.signal(Signal::KILL);
        self.wait("the killed member to exit", |_| member.ended().is_some());
        self.join();
    }

    /// Keeps at most as many members as partitions: a member without a partition would never reach its fault.
    fn make_room(&mut self, fault: &Fault) {
        while self.members.len() >= *MEMBERS.end() {
            self.leave(fault);
        }
    }

    /// Asks a member to stop, and checks that it exits cleanly, with its records committed.
    fn leave(&mut self, fault: &Fault) {
        let member = self.members.remove(self.pick(fault));
        self.end_well(member);
    }

    /// Freezes a member until the others have committed everything. By then they have its partitions, and the server has ended
    /// its transaction, if it had one.
    fn freeze(&mut self, fault: &Fault) {
        let member = self.members.remove(self.pick(fault));
        member.signal(Signal::STOP);
        self.feed(fault.records);
        let stalls = self.stalls;
        self.wait_for_group("the others to take over", Storm::is_drained);
        self.feed(fault.records);
        if self.stalls > stalls {
            // Its group was replaced: it is killed and started again, as the others were.
            drop(member);
            self.join();
            return;
        }
        member.signal(Signal::CONT);
        self.members.push(member);
    }

    /// Starts a member that crashes, fails or is slow after some flushes.
    fn fail_point(&mut self, fault: &Fault) {
        self.make_room(fault);
        let step = STEPS[fault.which % STEPS.len()];
        let after = fault.how % 7;
        if !fault.how.is_multiple_of(3) {
            // Every few flushes it fails or is slow, and must recover.
            let action = ["20%return(error)", "30%sleep(150)"][fault.how % 2];
            self.join_with(&[("FAILPOINTS", &format!("{step}={action}"))]);
            return;
        }
        let points = format!("{step}={after}*off->return(crash)");
        let mut member = self.member(&[("FAILPOINTS", &points)]);
        let (begun, mut is_stuck) = (Instant::now(), false);
        self.wait("the crash at a fail point", |storm| {
            if storm.is_drained() {
                storm.feed(50);
            }
            let has_ended = member.ended().is_some();
            is_stuck = !has_ended && begun.elapsed() > STALLED && storm.is_stalled(Some(&member));
            has_ended || is_stuck
        });
        if is_stuck {
            drop(member);
            self.replace_group();
            return;
        }
        assert!(
            member.log().contains("fail point"),
            "{} did not crash at its fail point:\n{}",
            member.name,
            member.log()
        );
    }

    /// While Postgres is down the members report it and keep running.
    fn stop_postgres(&mut self) {
        self.database_is_well = false;
        self.harness.postgres.crash().unwrap();
        self.until_complaint("database");
        self.harness.postgres.come_back().unwrap();
        self.database_is_well = true;
    }

    fn cut_connection(&mut self) {
        self.wait("a transaction to cut", |storm| {
            if storm.is_drained() {
                storm.feed(200);
            }
            storm.harness.terminate("xact_start IS NOT NULL") > 0
        });
    }

    fn cut_commit(&mut self, fault: &Fault) {
        self.harness.to_postgres.cut([Cut::Before, Cut::After][fault.how % 2]);
        self.wait("a commit to cut", |storm| {
            if storm.is_drained() {
                storm.feed(100);
            }
            !storm.harness.to_postgres.cuts()
        });
    }

    fn lock_table(&mut self, fault: &Fault) {
        self.database_is_well = false;
        let table = TABLES[fault.which % TABLES.len()];
        let mut holder = self.harness.connect().unwrap();
        self.harness.execute_on(
            &mut holder,
            &format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
        );
        if fault.how.is_multiple_of(2) {
            self.until_complaint("lock timeout");
        } else {
            // Only until a member waits: the lock is released before the lock timeout.
            self.wait("a member to wait for the lock", |storm| {
                if storm.is_drained() {
                    storm.feed(100);
                }
                storm
                    .harness
                    .number("SELECT count(*) FROM pg_locks WHERE NOT granted")
                    .unwrap_or(0)
                    > 0
            });
        }
        self.harness.execute_on(&mut holder, "COMMIT");
        self.database_is_well = true;
    }

    /// Raises the server's error for a full disk, for writes to the drawn table.
    fn fill_disk(&mut self, fault: &Fault) {
        self.database_is_well = false;
        let table = TABLES[fault.which % TABLES.len()];
        self.harness.execute(&format!(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
             END $$;
             CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION no_space()"
        ));
        self.until_complaint("disk space");
        self.harness.execute("DROP FUNCTION no_space CASCADE");
        self.database_is_well = true;
    }

    fn read_only(&mut self) {
        self.database_is_well = false;
        let name = self.harness.database_name().to_owned();
        let alter = |how: &str| format!("ALTER DATABASE {name} {how} default_transaction_read_only");
        self.harness.execute(&format!("{} = on", alter("SET")));
        self.harness.terminate("true");
        self.until_complaint("read-only");
        // The default of this session is read-only, too.
        self.harness
            .execute(&format!("SET transaction_read_only = off; {}", alter("RESET")));
        self.harness.terminate("true");
        self.database_is_well = true;
    }

    fn take_rights(&mut self, fault: &Fault) {
        self.database_is_well = false;
        let table = TABLES[fault.which % TABLES.len()];
        self.harness
            .execute(&format!("REVOKE INSERT, UPDATE ON {table} FROM storm"));
        self.until_complaint("check user, password and grants");
        self.harness
            .execute(&format!("GRANT INSERT, UPDATE ON {table} TO storm"));
        self.database_is_well = true;
    }

    fn slow_network(&mut self, fault: &Fault) {
        let delay = 10 + (fault.how % 60) as u64;
        self.harness.to_postgres.delay(Duration::from_millis(delay));
        self.feed(fault.records);
        let goal = self.committed() + 80;
        self.wait("progress over a slow network", |storm| storm.committed() >= goal);
        self.harness.to_postgres.delay(Duration::ZERO);
    }

    fn refuse_letters(&mut self) {
        self.to_broker.refuse_produce(true);
        self.feed_poison(8);
        self.until_complaint("dead letters");
        self.to_broker.refuse_produce(false);
    }

    /// Feeds records until a member reports these words in `/ready`.
    fn until_complaint(&mut self, words: &str) {
        self.feed(100);
        self.wait(&format!("a member to report: {words}"), |storm| {
            if storm.database_is_well && storm.is_drained() {
                storm.feed_poison(1);
            }
            storm.members.iter().any(|member| member.complains_of(words))
        });
    }
}
