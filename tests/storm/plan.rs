//! What a storm throws, drawn from its seed before it begins: the same seed throws the same plan.

use std::fmt;

use fastrand::Rng;

/// A kind of fault. Those of the broker are thrown at a mock cluster, in `cluster.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of a member, and another in its place.
    Kill,
    /// SIGTERM of a member, which has to end well, and another in its place.
    Terminate,
    /// SIGSTOP of a member until others have done its work, so that it wakes fenced.
    Freeze,
    /// One member more.
    Join,
    /// One member less.
    Leave,
    /// A member that crashes, fails or is slow at a step of a flush.
    FailPoint,
    /// Postgres stopped at once, and started again.
    PostgresStopped,
    /// `pg_terminate_backend` in mid-transaction.
    ConnectionCut,
    /// The connection lost at COMMIT, before or after it took place.
    CommitCut,
    /// A table locked.
    TableLocked,
    /// No space left on the database's disk.
    DiskFull,
    /// A database that takes reads alone.
    ReadOnly,
    /// A privilege taken away.
    NoRights,
    /// A slow network to Postgres.
    SlowNetwork,
    /// A dead-letter topic that can't be written.
    DeadLettersRefused,
}

impl Kind {
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::Terminate,
        Self::Freeze,
        Self::Join,
        Self::Leave,
        Self::FailPoint,
        Self::PostgresStopped,
        Self::ConnectionCut,
        Self::CommitCut,
        Self::TableLocked,
        Self::DiskFull,
        Self::ReadOnly,
        Self::NoRights,
        Self::SlowNetwork,
        Self::DeadLettersRefused,
    ];

    const fn words(self) -> &'static str {
        match self {
            Self::Kill => "member killed (SIGKILL)",
            Self::Terminate => "member stopped (SIGTERM)",
            Self::Freeze => "member frozen past its session",
            Self::Join => "member joins",
            Self::Leave => "member leaves",
            Self::FailPoint => "fail point in a flush",
            Self::PostgresStopped => "postgres stopped at once",
            Self::ConnectionCut => "connection cut in a transaction",
            Self::CommitCut => "connection lost at commit",
            Self::TableLocked => "table locked",
            Self::DiskFull => "disk full",
            Self::ReadOnly => "database read-only",
            Self::NoRights => "privilege taken away",
            Self::SlowNetwork => "slow network to postgres",
            Self::DeadLettersRefused => "dead letters refused",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// Records fed before it.
    pub records: usize,
    /// It strikes when this share of what is not yet settled has been, in percent.
    pub after_percent: i64,
    /// Which member, table or step: taken modulo how many there are.
    pub which: usize,
    /// A second choice of the same kind.
    pub how: usize,
}

/// The fewest and the most members.
pub const MEMBERS: std::ops::RangeInclusive<usize> = 2..=4;

/// The faults of a storm: every kind once, in an order of the seed's, and then as they are drawn.
pub fn plan(seed: u64, faults: usize) -> Vec<Fault> {
    let mut random = Rng::with_seed(seed);
    let mut first = Kind::ALL;
    random.shuffle(&mut first);
    let mut members = *MEMBERS.start();
    (0..faults)
        .map(|number| {
            let drawn = first
                .get(number)
                .copied()
                .unwrap_or_else(|| Kind::ALL[random.usize(..Kind::ALL.len())]);
            let kind = match drawn {
                Kind::Join if members == *MEMBERS.end() => Kind::Leave,
                Kind::Leave if members == *MEMBERS.start() => Kind::Join,
                other => other,
            };
            match kind {
                Kind::Join => members += 1,
                Kind::Leave => members -= 1,
                _ => {}
            }
            Fault {
                kind,
                records: random.usize(150..600),
                after_percent: random.i64(0..100),
                which: random.usize(..1 << 20),
                how: random.usize(..1 << 20),
            }
        })
        .collect()
}

/// The faults by kind, as a table.
pub fn table(faults: &[Fault]) -> String {
    use fmt::Write as _;
    let mut table = String::new();
    for kind in Kind::ALL {
        let count = faults.iter().filter(|fault| fault.kind == kind).count();
        let _ = writeln!(table, "  {kind:34} {count:5}");
    }
    let _ = writeln!(table, "  {:34} {:5}", "all", faults.len());
    table
}

#[test]
fn the_same_seed_throws_the_same_plan() {
    for seed in [0, 1, 20_260_301, u64::MAX] {
        assert_eq!(plan(seed, 300), plan(seed, 300));
        assert_eq!(
            plan(seed, 300)[..40],
            plan(seed, 40)[..],
            "a longer storm begins as a shorter one"
        );
    }
    assert_ne!(plan(1, 40), plan(2, 40));
    // Pinned, so that a seed told today throws the same storm tomorrow.
    let kinds: Vec<Kind> = plan(1, 5).iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, PINNED);
}

#[test]
fn every_kind_is_thrown_and_the_members_keep_to_their_number() {
    for seed in 0..200 {
        let plan = plan(seed, 60);
        for kind in Kind::ALL {
            let twins = [kind, if kind == Kind::Leave { Kind::Join } else { kind }];
            assert!(
                plan.iter().any(|fault| twins.contains(&fault.kind)),
                "seed {seed}: {kind}"
            );
        }
        let mut members = *MEMBERS.start();
        for fault in &plan {
            match fault.kind {
                Kind::Join => members += 1,
                Kind::Leave => members -= 1,
                _ => {}
            }
            assert!(MEMBERS.contains(&members), "seed {seed}");
        }
    }
}

#[cfg(test)]
const PINNED: [Kind; 5] = [
    Kind::SlowNetwork,
    Kind::DiskFull,
    Kind::NoRights,
    Kind::Join,
    Kind::Kill,
];
