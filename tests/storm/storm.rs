//! The storm itself: members, the feed, and waiting.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rdkafka::ClientConfig;
use rustix::process::Signal;
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::{
    feed::{Feed, Line, PARTITIONS},
    harness::{DEAD_LETTERS, GROUP, Harness, PATIENCE, TOPIC, produce, read_back},
    member::Member,
    oracle::Oracle,
    plan::MEMBERS,
    support::{broker::Broker, proxy::Proxy},
};

/// Time after which a group that assigns no partitions is considered stuck: several session timeouts.
pub const STALLED: Duration = Duration::from_secs(40);

/// Interval at which members are checked while waiting for something else.
const TEND: Duration = Duration::from_millis(300);

pub struct Storm {
    pub members: Vec<Member>,
    pub harness: Harness,
    pub to_broker: Proxy,
    /// `None` with a mock cluster.
    broker: Option<Broker>,
    /// False during a database fault that would make a starting member exit.
    pub database_is_well: bool,
    /// Members that exited during startup, because something that they need was not available yet.
    pub failed_starts: usize,
    /// How many of those must still be started again.
    missing: usize,
    /// How many times the broker's coordinator got stuck in a rebalance and the whole group was replaced.
    pub stalls: usize,
    settings: PathBuf,
    config: ClientConfig,
    feed: Feed,
    lines: Vec<Line>,
    started: usize,
    tended: Instant,
    folder: TempDir,
}

impl Storm {
    /// A storm without members.
    pub fn calm(seed: u64) -> Self {
        Self::with_postgres(seed, &[])
    }

    /// The same with settings for Postgres.
    pub fn with_postgres(seed: u64, settings: &[&str]) -> Self {
        Self::build(seed, settings, None)
    }

    /// The same on another Kafka cluster, which has the topics already.
    pub fn on(seed: u64, config: ClientConfig) -> Self {
        Self::build(seed, &[], Some(config))
    }

    fn build(seed: u64, settings: &[&str], cluster: Option<ClientConfig>) -> Self {
        let mut folder = tempfile::tempdir().unwrap();
        // The members' logs are kept if something fails.
        folder.disable_cleanup(true);
        let harness = Harness::new(folder.path(), settings);
        let to_broker = harness.runtime.block_on(Proxy::start(0));
        let (broker, config) = match cluster {
            Some(config) => (None, config),
            None => {
                let broker = Broker::start_behind(Some(to_broker.port));
                to_broker.lead_to(broker.port());
                broker.create_topic(TOPIC, PARTITIONS);
                broker.create_topic(DEAD_LETTERS, 1);
                let config = broker.config();
                (Some(broker), config)
            }
        };
        let settings = harness.write_settings(config.get("bootstrap.servers").unwrap(), GROUP);
        Self {
            members: Vec::new(),
            harness,
            to_broker,
            broker,
            config,
            database_is_well: true,
            failed_starts: 0,
            missing: 0,
            stalls: 0,
            settings,
            feed: Feed::new(seed, OffsetDateTime::now_utc()),
            lines: Vec::new(),
            started: 0,
            tended: Instant::now(),
            folder,
        }
    }

    pub fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("not a mock cluster")
    }

    /// A storm with running members.
    pub fn new(seed: u64) -> Self {
        let mut storm = Self::calm(seed);
        storm.begin();
        storm
    }

    /// Starts members, and waits for a first commit.
    pub fn begin(&mut self) {
        for _ in 0..*MEMBERS.start() {
            self.join();
        }
        self.feed(200);
        self.wait_for_group("a first commit", |storm| storm.committed() > 0);
        // Closed days are merged in every round of maintenance, not only an hour after their first change.
        self.harness.execute(
            "ALTER TABLE rollup_unmerged ALTER COLUMN since SET DEFAULT now() - interval '2 hours';
             UPDATE rollup_unmerged SET since = since - interval '2 hours'",
        );
    }

    /// Number of merged rollup rows.
    pub fn merged(&mut self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM emotion_rollup WHERE shard = -1)
                        + (SELECT count(*) FROM emotion_rollup_hour WHERE shard = -1)
                        + (SELECT count(*) FROM emotion_rollup_day WHERE shard = -1)";
        self.harness.number(sql).unwrap_or(0)
    }

    /// Adds a member.
    pub fn join(&mut self) {
        self.join_with(&[]);
    }

    /// Adds a member with environment variables: settings or fail points.
    pub fn join_with(&mut self, environment: &[(&str, &str)]) {
        let member = self.member(environment);
        self.members.push(member);
    }

    /// Starts a member that is not among the checked ones.
    pub fn member(&mut self, environment: &[(&str, &str)]) -> Member {
        self.started += 1;
        Member::start(format!("member-{}", self.started), &self.settings, environment)
    }

    pub fn feed(&mut self, records: usize) {
        let lines = self.feed.take(records);
        self.send(lines);
    }

    pub fn feed_poison(&mut self, records: usize) {
        let lines = (0..records).map(|_| self.feed.poison()).collect();
        self.send(lines);
    }

    /// Feeds the given records.
    pub fn send(&mut self, lines: Vec<Line>) {
        produce(&self.config, &lines);
        self.lines.extend(lines);
    }

    /// Forgets all fed records, for a recreated topic.
    pub fn forget_lines(&mut self) {
        self.lines.clear();
    }

    /// Number of records fed.
    pub fn fed(&self) -> i64 {
        i64::try_from(self.lines.len()).unwrap()
    }

    /// Number of records committed: the sum of the offsets in the database.
    pub fn committed(&mut self) -> i64 {
        let sql = format!(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM consumer_offset
             WHERE topic = '{TOPIC}'"
        );
        self.harness.number(&sql).unwrap_or(0)
    }

    pub fn is_drained(&mut self) -> bool {
        self.committed() == self.fed()
    }

    /// Waits for a condition, and checks the members in the meantime.
    pub fn wait(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            if begun.elapsed() > PATIENCE {
                self.give_up(&format!("waited {PATIENCE:?} for {what}"));
            }
            self.tend();
            pause();
        }
    }

    /// As [`Self::wait`], for conditions that need the group to assign partitions. The coordinator of the tests' broker
    /// sometimes never finishes a rebalance, or never starts the one due after members have left, and then assigns nothing to
    /// new members of the group either. In that case all members are killed and the group continues under another name. This
    /// is one more fault, and is counted.
    pub fn wait_for_group(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        let mut met = false;
        self.wait(what, |storm| {
            met = condition(storm);
            met || (begun.elapsed() > STALLED && storm.is_stalled(None))
        });
        if !met {
            self.replace_group();
            self.wait(what, condition);
        }
    }

    /// Kills all members, and starts as many in a group with another name.
    pub fn replace_group(&mut self) {
        println!("          the broker's coordinator is stuck: replacing the members by a group with another name");
        let count = self.members.len().max(*MEMBERS.start());
        self.members.clear();
        self.rename_group();
        for _ in 0..count {
            self.join();
        }
    }

    /// Renames the group in the database and the settings, to a name that is new to the broker's coordinator. There must be no
    /// members.
    pub fn rename_group(&mut self) {
        assert!(self.members.is_empty());
        self.stalls += 1;
        let group = format!("{GROUP}-{}", self.stalls);
        for table in ["consumer_offset", "consumer_tally"] {
            self.harness
                .execute(&format!("UPDATE {table} SET consumer_group = '{group}'"));
        }
        self.harness
            .write_settings(self.config.get("bootstrap.servers").unwrap(), &group);
    }

    /// Whether the coordinator has left a partition unassigned or a member waiting for its assignment. `guest` is in the group
    /// too, but not among the members.
    pub fn is_stalled(&self, guest: Option<&Member>) -> bool {
        let members = || self.members.iter().chain(guest);
        let waits = |member: &Member| member.complains_of("waiting for the group's assignment");
        let held = |member: &Member| member.metric("moodstream_assigned_partitions");
        let all_held: f64 = members().filter_map(held).sum();
        self.broker.is_some() && (members().any(waits) || all_held < f64::from(PARTITIONS))
    }

    /// Checks that no running member has exited. A member may exit during startup, and is then started again.
    fn tend(&mut self) {
        if self.tended.elapsed() < TEND {
            return;
        }
        self.tended = Instant::now();
        let mut place = 0;
        while place < self.members.len() {
            let Some(status) = self.members[place].ended() else {
                place += 1;
                continue;
            };
            let member = self.members.remove(place);
            if member.was_running() || status.code() != Some(1) {
                let words = format!(
                    "{} exited unexpectedly with {status}:\n{}",
                    member.name,
                    tail(&member.log())
                );
                self.give_up(&words);
            }
            self.failed_starts += 1;
            self.missing += 1;
        }
        while self.database_is_well && self.missing > 0 {
            self.missing -= 1;
            self.join();
        }
    }

    /// Sends SIGTERM, and requires exit code 0 unless the member was still starting.
    pub fn end_well(&mut self, mut member: Member) {
        let was_running = member.was_running();
        member.signal(Signal::TERM);
        let mut status = None;
        self.wait("the stopped member to exit", |_| {
            status = member.ended();
            status.is_some()
        });
        let status = status.unwrap();
        if status.code() != Some(0) && was_running {
            let words = format!(
                "{} was stopped and exited with {status}:\n{}",
                member.name,
                tail(&member.log())
            );
            self.give_up(&words);
        }
    }

    /// Waits until everything is committed, stops all members, and checks the tables.
    pub fn drain_and_check(&mut self) -> String {
        self.wait_for_group("everything to be committed", Self::is_drained);
        for member in std::mem::take(&mut self.members) {
            self.end_well(member);
        }
        let oracle = Oracle::new(&self.lines, read_back(&self.config, TOPIC));
        oracle.check(&self.harness, &read_back(&self.config, DEAD_LETTERS));
        self.folder.disable_cleanup(false);
        oracle.summary()
    }

    /// Prints the state, and fails.
    fn give_up(&mut self, why: &str) -> ! {
        let offsets: Vec<(i32, i64)> = if self.harness.connect().is_some() {
            self.harness
                .rows("SELECT partition, next_offset FROM consumer_offset ORDER BY 1")
        } else {
            Vec::new()
        };
        for member in &self.members {
            eprintln!("--- {} ({})\n{}", member.name, member.id(), tail(&member.log()));
            eprintln!("{}", member.get("/ready").unwrap_or_else(|| "no answer".into()));
        }
        let mut ends = vec![0; usize::try_from(PARTITIONS).unwrap()];
        for line in &self.lines {
            ends[usize::try_from(line.partition).unwrap()] += 1;
        }
        panic!(
            "{why}\ncommitted {offsets:?} of {ends:?}; logs in {}",
            self.folder.path().display()
        );
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[allow(clippy::disallowed_methods)] // between two checks of a condition
fn pause() {
    thread::sleep(Duration::from_millis(5));
}
