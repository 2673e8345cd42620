//! The faults of a storm, drawn from its seed before it begins: the same seed makes the same plan.

use std::fmt;

use fastrand::Rng;

/// A kind of fault. Faults of brokers are injected into a mock cluster, in `cluster.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A member is killed with SIGKILL and replaced.
    Kill,
    /// A member is stopped with SIGTERM, must exit cleanly, and is replaced.
    Terminate,
    /// A member is stopped with SIGSTOP until others have done its work, so that it is fenced when it resumes.
    Freeze,
    /// A member joins.
    Join,
    /// A member leaves.
    Leave,
    /// A member crashes, fails or is slow at a step of a flush.
    FailPoint,
    /// Postgres is stopped at once and started again.
    PostgresStopped,
    /// `pg_terminate_backend` during a transaction.
    ConnectionCut,
    /// The connection is lost at COMMIT, before or after it took place.
    CommitCut,
    /// A table is locked.
    TableLocked,
    /// The database's disk is full.
    DiskFull,
    /// The database accepts only reads.
    ReadOnly,
    /// A privilege is revoked.
    NoRights,
    /// The network to Postgres is slow.
    SlowNetwork,
    /// The dead-letter topic can't be written.
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
            Self::PostgresStopped => "postgres stopped immediately",
            Self::ConnectionCut => "connection cut in a transaction",
            Self::CommitCut => "connection lost at commit",
            Self::TableLocked => "table locked",
            Self::DiskFull => "disk full",
            Self::ReadOnly => "database read-only",
            Self::NoRights => "privilege revoked",
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
    /// It is injected when this percentage of the uncommitted records has been committed.
    pub after_percent: i64,
    /// Which member, table or step, modulo their number.
    pub which: usize,
    /// A second choice, such as what happens at a fail point.
    pub how: usize,
}

/// The minimum and maximum number of members.
pub const MEMBERS: std::ops::RangeInclusive<usize> = 2..=4;

/// The faults of a storm: every kind once, in random order, and then random ones.
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
fn the_same_seed_makes_the_same_plan() {
    for seed in [0, 1, 20_260_301, u64::MAX] {
        assert_eq!(plan(seed, 300), plan(seed, 300));
        assert_eq!(
            plan(seed, 300)[..40],
            plan(seed, 40)[..],
            "a longer storm begins as a shorter one"
        );
    }
    assert_ne!(plan(1, 40), plan(2, 40));
    // Pinned, so that a reported seed reproduces the same storm later.
    let kinds: Vec<Kind> = plan(1, 5).iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, PINNED);
}

#[test]
fn every_kind_of_fault_occurs_and_the_number_of_members_stays_in_bounds() {
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
