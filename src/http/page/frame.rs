//! One frame of the live page: what the browser is sent each tick, as JSON.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::{
    store::live_page::{GroupTally, LivePageData, RecentPost},
    telemetry::{Histogram, ProcessSnapshot},
};

/// The time over which delays and rates are computed.
const SPAN: Duration = Duration::from_secs(60);

/// Everything that the page shows. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Frame {
    /// The version of the service. A page that came from another version reloads itself.
    pub(super) version: &'static str,
    /// The service's clock.
    pub(super) at: i64,
    /// The figures from Postgres, the same for every member of the group. `None` while it does not answer.
    pub(super) figures: Option<Figures>,
    /// Why there are no figures, in a few words.
    pub(super) fault: Option<&'static str>,
    /// The figures of this process.
    pub(super) process: Process,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    group: String,
    /// The database's clock.
    now: i64,
    /// Start of the first minute.
    start: i64,
    /// End of the last minute.
    end: i64,
    emotions: Vec<Emotion>,
    subjects: Vec<Subject>,
    /// `None` where posts are not shown.
    posts: Option<Vec<RecentPost>>,
    tally: GroupTally,
    /// Records that the whole group commits a second, over up to a minute.
    rate: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Emotion {
    name: String,
    /// Posts in all the minutes.
    posts: i64,
    /// Mean score.
    score: f64,
    /// Posts minute by minute.
    minutes: Vec<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Subject {
    name: String,
    posts: i64,
    /// Pairs of an emotion and its posts, the most first.
    emotions: Vec<(String, i64)>,
}

/// The figures of one process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Process {
    /// Why it is not ready; empty if it is.
    faults: Vec<String>,
    /// The model in service.
    model: Option<String>,
    /// Partitions assigned to it.
    partitions: usize,
    /// Records of those that are not committed yet.
    lag: i64,
    /// Seconds from a record's time at the broker to the commit of its row, over the last minute.
    delay: Option<Delay>,
    /// Rejected records since its start, by reason, the most first.
    rejects: Vec<(&'static str, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Delay {
    p50: f64,
    p95: f64,
}

/// Values of earlier frames: rates and delays are differences.
#[derive(Debug, Default)]
pub(super) struct History {
    records: VecDeque<(Instant, i64)>,
    delays: VecDeque<(Instant, Histogram)>,
}

impl History {
    /// Records a second since the oldest count.
    fn rate(&mut self, now: Instant, records: i64) -> Option<f64> {
        // Fewer than before: it is another database or group.
        if self.records.back().is_some_and(|(_, known)| *known > records) {
            self.records.clear();
        }
        push(&mut self.records, now, records);
        let (then, earlier) = self.records.front()?;
        let seconds = now.duration_since(*then).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // far below 2⁵³
        (seconds >= 0.5).then(|| (records - earlier) as f64 / seconds)
    }

    fn delay(&mut self, now: Instant, delays: Histogram) -> Option<Delay> {
        push(&mut self.delays, now, delays);
        let (_, newest) = self.delays.back()?;
        let (_, oldest) = self.delays.front()?;
        let since = newest.since(oldest);
        // Without records in the last minute, all since the start count.
        let delays = if since.total() > 0 { &since } else { newest };
        Some(Delay {
            p50: delays.quantile(0.5)?,
            p95: delays.quantile(0.95)?,
        })
    }
}

/// Keeps at most one value that is older than [`SPAN`], so that the values span all of it.
fn push<T>(values: &mut VecDeque<(Instant, T)>, now: Instant, value: T) {
    values.push_back((now, value));
    while values.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
        values.pop_front();
    }
}

impl Process {
    pub(super) fn new(snapshot: ProcessSnapshot, faults: Vec<String>, history: &mut History) -> Self {
        let mut rejects: Vec<(&'static str, u64)> = snapshot.rejects.into_iter().collect();
        rejects.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        Self {
            faults,
            model: snapshot.model,
            partitions: snapshot.partitions,
            lag: snapshot.lag,
            delay: history.delay(Instant::now(), snapshot.broker_delay),
            rejects,
        }
    }
}

impl Figures {
    pub(super) fn new(group: &str, data: LivePageData, history: &mut History) -> Self {
        let rate = history.rate(Instant::now(), data.tally.records);
        Self {
            group: group.to_owned(),
            now: data.now.unix_timestamp(),
            start: data.start.unix_timestamp(),
            end: data.end.unix_timestamp(),
            emotions: emotions(&data),
            subjects: subjects(&data),
            posts: data.posts,
            tally: data.tally,
            rate,
        }
    }
}

/// The emotions with the most posts first, each over all the minutes.
#[allow(clippy::cast_precision_loss)] // far below 2⁵³
fn emotions(data: &LivePageData) -> Vec<Emotion> {
    let minute_of = |bucket: OffsetDateTime| usize::try_from((bucket - data.start).whole_minutes()).ok();
    let length = minute_of(data.end).unwrap_or(0);
    let mut by_name: BTreeMap<&str, (Vec<i64>, f64)> = BTreeMap::new();
    for count in &data.minutes {
        let (minutes, score_sum) = by_name.entry(&count.emotion).or_insert_with(|| (vec![0; length], 0.0));
        if let Some(minute) = minute_of(count.bucket).and_then(|minute| minutes.get_mut(minute)) {
            *minute += count.posts;
            *score_sum += count.score_sum;
        }
    }
    let mut emotions: Vec<Emotion> = by_name
        .into_iter()
        .map(|(name, (minutes, score_sum))| {
            let posts = minutes.iter().sum();
            Emotion {
                name: name.to_owned(),
                posts,
                score: score_sum / posts.max(1) as f64,
                minutes,
            }
        })
        .collect();
    emotions.sort_by(|a, b| b.posts.cmp(&a.posts).then_with(|| a.name.cmp(&b.name)));
    emotions
}

fn subjects(data: &LivePageData) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    // The counts are sorted by subject.
    for count in &data.subjects {
        if subjects.last().is_none_or(|subject| subject.name != count.subject) {
            subjects.push(Subject {
                name: count.subject.clone(),
                posts: 0,
                emotions: Vec::new(),
            });
        }
        if let Some(subject) = subjects.last_mut() {
            subject.posts += count.posts;
            subject.emotions.push((count.emotion.clone(), count.posts));
        }
    }
    for subject in &mut subjects {
        subject
            .emotions
            .sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    }
    subjects.sort_by(|a, b| b.posts.cmp(&a.posts).then_with(|| a.name.cmp(&b.name)));
    subjects
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use time::macros::datetime;

    use super::*;
    use crate::store::live_page::{MinuteCount, SubjectCount};

    fn data() -> LivePageData {
        let start = datetime!(2026-03-01 12:00 UTC);
        let count = |minute: i64, emotion: &str, posts: i64| MinuteCount {
            bucket: start + time::Duration::minutes(minute),
            emotion: emotion.to_owned(),
            posts,
            score_sum: posts as f64 * 0.5,
        };
        let subject = |subject: &str, emotion: &str, posts: i64| SubjectCount {
            subject: subject.to_owned(),
            emotion: emotion.to_owned(),
            posts,
        };
        LivePageData {
            now: start + time::Duration::minutes(3),
            start,
            end: start + time::Duration::minutes(3),
            minutes: vec![count(0, "joy", 2), count(0, "anger", 7), count(2, "joy", 9)],
            subjects: vec![subject("a", "joy", 1), subject("b", "anger", 1), subject("b", "joy", 2)],
            posts: None,
            tally: GroupTally::default(),
        }
    }

    #[test]
    fn minutes_without_posts_are_zero_and_the_largest_come_first() {
        let figures = Figures::new("g", data(), &mut History::default());
        let names: Vec<_> = figures.emotions.iter().map(|one| (&*one.name, &*one.minutes)).collect();
        assert_eq!(names, [("joy", [2, 0, 9].as_slice()), ("anger", &[7, 0, 0])]);
        assert_eq!(figures.emotions[0].score, 0.5);
        assert_eq!(figures.subjects[0].name, "b");
        assert_eq!(
            figures.subjects[0].emotions,
            [("joy".to_owned(), 2), ("anger".to_owned(), 1)]
        );
    }

    #[test]
    fn a_rate_is_that_of_the_last_minute() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(history.rate(start, 1_000), None);
        let mut rate = None;
        for second in 1..=100_u32 {
            let records = 1_000 + (i64::from(second) - 30).max(0) * 50;
            rate = history.rate(start + Duration::from_secs(second.into()), records);
        }
        assert_eq!(rate, Some(50.0));
        assert!(history.records.len() < 70);
        let later = start + Duration::from_secs(101);
        assert_eq!(history.rate(later, 3), None, "counted anew");
    }

    #[test]
    fn delays_are_those_of_the_last_minute() {
        let (mut history, start) = (History::default(), Instant::now());
        let mut delays = Histogram::new(&[1.0, 10.0]);
        (0..100).for_each(|_| delays.record(5.0));
        let delay = history.delay(start, delays.clone()).unwrap();
        assert!(delay.p50 > 1.0, "{delay:?}: nothing was before it");
        history.delay(start + Duration::from_secs(90), delays.clone());
        (0..40).for_each(|_| delays.record(0.5));
        let delay = history.delay(start + Duration::from_secs(120), delays).unwrap();
        assert!(delay.p95 <= 1.0, "{delay:?}");
    }

    #[test]
    fn the_reason_with_the_most_rejects_comes_first() {
        let snapshot = ProcessSnapshot {
            rejects: [("no_text", 3), ("not_json", 12), ("id", 3)].into(),
            lag: 7,
            ..ProcessSnapshot::default()
        };
        let process = Process::new(snapshot, Vec::new(), &mut History::default());
        assert_eq!(process.rejects, [("not_json", 12), ("id", 3), ("no_text", 3)]);
        assert_eq!((process.lag, process.delay), (7, None));
    }
}
