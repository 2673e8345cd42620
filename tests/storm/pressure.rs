//! A database that accepts no writes: the service waits within its memory limits, logs the reason, and catches up by itself.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    feed::{Line, Meaning},
    number,
    shutdown::post,
    storm::Storm,
};

/// Limit of records in flight in these tests, in bytes.
const IN_FLIGHT: u64 = 16 << 20;
/// Limit of librdkafka's prefetch for each partition, in KiB.
const PREFETCH_KIB: u64 = 512;

/// Length of a long post's text, in bytes.
const LONG: usize = 4_000;

/// A post with a long text.
fn long_post(number: usize) -> Line {
    let mut line = post(number, 0);
    let Meaning::Post(post) = &mut line.meaning else {
        return line;
    };
    let text = format!("{} {}", post.text, "and the sea ".repeat(LONG / 12));
    line.payload = String::from_utf8(line.payload)
        .unwrap()
        .replace(&post.text, &text)
        .into_bytes();
    line.partition = i32::try_from(number % 4).unwrap();
    post.text = text;
    line
}

/// Resident memory of a process in KiB: now, and the maximum so far.
fn resident(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Number of log lines about failed attempts.
fn complaints(log: &str) -> u64 {
    log.lines()
        .filter(|line| line.contains("the offsets are held back"))
        .count() as u64
}

/// The most attempts in this time: the pauses between them double from 100 ms to 5 s, so more would be a busy loop.
fn most_tries(time: Duration) -> u64 {
    8 + time.as_secs() / 4
}

/// `LOCK_SECONDS=300` holds the lock for five minutes.
#[test]
fn a_locked_database_keeps_the_member_in_its_group_and_its_memory_in_bounds() {
    let seconds = number("LOCK_SECONDS", 20_u64);
    let mut storm = Storm::calm(41);
    storm.join_with(&[
        ("MOODSTREAM_KAFKA__MAX_IN_FLIGHT_BYTES", &IN_FLIGHT.to_string()),
        ("MOODSTREAM_KAFKA__PREFETCH_KIB", &PREFETCH_KIB.to_string()),
        ("MOODSTREAM_LOG__LEVEL", "info,ort=off"),
    ]);
    storm.feed(2_000);
    storm.wait("the first records", Storm::is_drained);
    let pid = storm.members[0].id();
    let (before, _) = resident(pid);
    let epochs = |storm: &Storm| storm.members[0].log().matches(" partition started ").count();
    let reads = epochs(&storm);

    let mut holder = storm.harness.connect().unwrap();
    storm
        .harness
        .execute_on(&mut holder, "BEGIN; LOCK TABLE post IN ACCESS EXCLUSIVE MODE");
    let begun = Instant::now();
    // Twice as much as fits in flight and in the prefetch queues.
    let records = 2 * (IN_FLIGHT + 4 * PREFETCH_KIB * 1024) / LONG as u64;
    storm.send((0..usize::try_from(records).unwrap()).map(long_post).collect());
    storm.wait("back pressure", |storm| {
        storm.members[0].metric("moodstream_paused").unwrap_or(0.0) > 0.0
    });
    for minute in 1..=seconds.div_ceil(60) {
        let held = Duration::from_secs(seconds.min(60 * minute));
        storm.wait("the lock to be held for its time", |_| begun.elapsed() >= held);
    }
    let log = storm.members[0].log();
    let page = storm.members[0].get("/ready").unwrap();
    assert!(
        page.starts_with("HTTP/1.1 503") && page.contains("database: ") && page.contains("lock timeout"),
        "{page}"
    );
    let tries = complaints(&log);
    assert!(
        (2..=most_tries(begun.elapsed())).contains(&tries),
        "{tries} tries in {:?}",
        begun.elapsed()
    );
    let (_, most) = resident(pid);
    // A record in flight takes up its bytes and the post parsed from them.
    let bound = before + (3 * IN_FLIGHT / 1024) + 4 * 2 * PREFETCH_KIB;
    println!(
        "locked for {:.0?}: {} records fed, resident {} MiB before and {} MiB at most, bound {} MiB, {tries} tries",
        begun.elapsed(),
        storm.fed(),
        before / 1024,
        most / 1024,
        bound / 1024
    );
    assert!(most <= bound, "{most} KiB resident, more than {bound}");
    let revoked = storm.members[0].log().contains("partitions revoked");
    assert!(
        epochs(&storm) == reads && !revoked,
        "the member lost its partitions\n{}",
        storm.members[0].log()
    );

    storm.harness.execute_on(&mut holder, "COMMIT");
    let freed = Instant::now();
    storm.wait("the lag to drain", Storm::is_drained);
    let (_, most) = resident(pid);
    println!(
        "drained in {:.1?}, resident {} MiB at most",
        freed.elapsed(),
        most / 1024
    );
    storm.wait("readiness", |storm| storm.members[0].is_ready());
    storm.drain_and_check();
}

/// A small file system for the database's tables.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` if this user may not mount file systems.
    fn mount(kib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=777"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            fs::create_dir(folder.path().join("space")).unwrap();
            let public = Command::new("chmod").arg("755").arg(folder.path()).status().unwrap();
            assert!(public.success());
            return Some(Self(folder));
        }
        println!("skipped: this user may not mount a file system");
        None
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn grow(&self, kib: u32) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={kib}k")])
            .arg(self.folder())
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder()).status();
    }
}

#[test]
fn a_full_disk_is_waited_out() {
    let Some(disk) = SmallDisk::mount(1_500) else { return };
    let mut storm = Storm::calm(42);
    let space = disk.folder().join("space");
    storm.harness.postgres.give(&space).unwrap();
    let name = storm.harness.database_name().to_owned();
    storm
        .harness
        .execute(&format!("CREATE TABLESPACE small LOCATION '{}'", space.display()));
    storm.harness.execute("GRANT CREATE ON TABLESPACE small TO storm");
    storm
        .harness
        .execute(&format!("ALTER DATABASE {name} SET default_tablespace = small"));
    storm.join_with(&[("MOODSTREAM_LOG__LEVEL", "info,ort=off")]);
    storm.feed(500);
    storm.wait("the disk to be full", |storm| {
        storm.feed(200);
        storm
            .members
            .first()
            .is_some_and(|member| member.complains_of("disk space"))
    });
    let (begun, before) = (Instant::now(), complaints(&storm.members[0].log()));
    storm.wait("some more attempts", |storm| {
        complaints(&storm.members[0].log()) >= before + 4
    });
    let tries = complaints(&storm.members[0].log()) - before;
    assert!(
        tries <= most_tries(begun.elapsed()),
        "{tries} tries in {:?}",
        begun.elapsed()
    );
    disk.grow(200_000);
    storm.drain_and_check();
    drop(storm);
}

#[test]
fn missing_privileges_are_waited_out() {
    let mut storm = Storm::calm(43);
    storm.join_with(&[("MOODSTREAM_LOG__LEVEL", "info,ort=off")]);
    storm.feed(500);
    storm.wait("the first records", Storm::is_drained);
    storm.harness.execute("REVOKE INSERT ON emotion_rollup FROM storm");
    let begun = Instant::now();
    storm.feed(2_000);
    storm.wait("some attempts", |storm| complaints(&storm.members[0].log()) >= 5);
    let log = storm.members[0].log();
    assert!(complaints(&log) <= most_tries(begun.elapsed()), "{log}");
    let complaint = log.lines().find(|line| line.contains("held back")).unwrap();
    for words in [
        "writing rollups",
        "permission denied for table emotion_rollup",
        "grants",
    ] {
        assert!(complaint.contains(words), "{complaint}");
    }
    // Nothing else fills the log in the meantime.
    assert!((log.lines().count() as u64) < 60, "{log}");
    storm.harness.execute("GRANT INSERT ON emotion_rollup TO storm");
    storm.drain_and_check();
}
