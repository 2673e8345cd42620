//! Measures the cost of one scrape per second as a share of throughput: the CPU time of a scrape of an idle service relative to
//! the CPU time per second of the same process working off a backlog. Both are measured in one run, so that the ratio is valid
//! on any machine.
//!
//! ```text
//! cargo bench --bench scrape
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::Child,
    time::{Duration, Instant},
};

use moodstream::telemetry::metric;
use support::{
    exposition,
    service::{Bench, Service, wait_for},
};

const POSTS: usize = 12_000;
const SCRAPES: u32 = 2_000;
const IDLE: Duration = Duration::from_secs(5);
/// USER_HZ, the unit of times in `/proc/PID/stat`: 100 on every supported architecture.
const TICKS_PER_SECOND: f64 = 100.0;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the CPU time that a process has used, in seconds, and the time of measurement.
fn usage(child: &Child) -> (f64, Instant) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // The name in parentheses may contain anything; utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..=12].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    (ticks / TICKS_PER_SECOND, Instant::now())
}

fn committed(service: &Service) -> f64 {
    service
        .get("/metrics")
        .map_or(0.0, |page| exposition::total(&page, metric::OUTCOMES))
}

fn main() {
    let lines: Vec<Vec<u8>> = (0..POSTS)
        .map(|n| {
            let text = format!(
                "post number {n} of a long and mostly happy day, with {} more to come",
                POSTS - n
            );
            format!("{{\"id\":\"{n}\",\"text\":\"{text}\",\"lang\":\"en\",\"created_at\":\"2026-03-01T12:00:00Z\"}}")
                .into_bytes()
        })
        .collect();
    let bench = Bench::start();
    bench.feed(&lines, "scraped", 8);
    let service = bench.service("scraped");
    let child = Killed(service.command().spawn().unwrap());

    wait_for("the first records", || committed(&service) > 0.0);
    let (cpu, at) = usage(&child.0);
    let first = committed(&service);
    let mut samples = 0_u32;
    let mut next = Instant::now();
    wait_for("the backlog", || {
        // Scrape rarely, since this is the baseline.
        if Instant::now() < next {
            return false;
        }
        next = Instant::now() + Duration::from_secs(1);
        samples += 1;
        committed(&service) >= POSTS as f64
    });
    let (cpu_end, end) = usage(&child.0);
    let seconds = (end - at).as_secs_f64();
    let working = (cpu_end - cpu) / seconds;
    let rate = (POSTS as f64 - first) / seconds;

    let (cpu, at) = usage(&child.0);
    wait_for("an idle period", || at.elapsed() >= IDLE);
    let (cpu_end, end) = usage(&child.0);
    let idle = (cpu_end - cpu) / (end - at).as_secs_f64();

    let (cpu, at) = usage(&child.0);
    let mut bytes = 0;
    for _ in 0..SCRAPES {
        bytes = service.get("/metrics").unwrap().len();
    }
    let (cpu_end, end) = usage(&child.0);
    let elapsed = (end - at).as_secs_f64();
    let scrape = (cpu_end - cpu - idle * elapsed) / f64::from(SCRAPES);

    println!("working    {working:.2} CPU seconds per second, {rate:.0} posts per second ({samples} samples)");
    println!("idle       {idle:.3} CPU seconds per second");
    println!(
        "a scrape   {:.0} µs of CPU time, {:.0} µs until answered, {bytes} bytes",
        scrape * 1e6,
        elapsed / f64::from(SCRAPES) * 1e6
    );
    println!(
        "one scrape per second costs {:.3} % of the throughput",
        100.0 * scrape / working
    );
    assert!(
        scrape < 0.01 * working,
        "one scrape per second costs 1 % of the throughput or more"
    );
}
