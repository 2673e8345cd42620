//! Sample posts from a seed: the same seed and time give the same bytes.
//!
//! A sample is half an hour of a small, made-up social network: stories and their moods come and go, people repost, quote and
//! delete posts, clients send posts twice or late, and some records are damaged.

use std::collections::VecDeque;

use fastrand::Rng;
use time::{Duration, OffsetDateTime};

use crate::{
    damage,
    draft::{Draft, Relation, Wire},
    languages::{Language, OTHERS},
    phrases::{EMOJI, ENGLISH, EVERYDAY, EVERYDAY_HASHTAGS, EVERYDAY_NAMES, Mood, OPENERS, STORIES, Story, of_mood},
    wire,
};

/// How many records of each kind a sample holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Posts that are neither reposts nor quotes.
    pub posts: usize,
    /// Reposts.
    pub reposts: usize,
    /// Quotes.
    pub quotes: usize,
    /// Posts that arrive long after they were written; counted as posts, reposts or quotes too.
    pub late: usize,
    /// Records sent a second time.
    pub duplicates: usize,
    /// Deletion notices.
    pub deletions: usize,
    /// Records that the parser rejects.
    pub damaged: usize,
}

impl Counts {
    /// All records: late posts are among the posts, reposts and quotes.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.posts + self.reposts + self.quotes + self.duplicates + self.deletions + self.damaged
    }
}

/// What a post was written to express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The post's text, each run of white space as one space.
    pub text: String,
    /// BCP 47.
    pub lang: &'static str,
    /// The emotion, as models trained on Ekman's emotions name it.
    pub emotion: &'static str,
}

/// Records in the order in which they arrive, one line each.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The records.
    pub records: Vec<Vec<u8>>,
    /// What its posts were written to express, without reposts.
    pub intents: Vec<Intent>,
    /// How many of each kind there are.
    pub counts: Counts,
}

/// Reposts and quotes refer to one of this many previous posts.
const RECENT: usize = 300;
const AUTHORS: u32 = 700;

/// Generates sample records: posts in every wire format, reposts, duplicates, deletions, late posts and damaged records.
#[derive(Debug)]
pub struct Writer {
    rng: Rng,
    serial: u64,
    recent: VecDeque<Draft>,
}

impl Writer {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            serial: 0,
            recent: VecDeque::new(),
        }
    }

    /// Generates about `records` records whose posts were written in the `span` before `now`.
    pub fn sample(&mut self, records: usize, span: Duration, now: OffsetDateTime) -> Sample {
        let mut counts = Counts::default();
        let mut intents = Vec::with_capacity(records);
        let mut arrivals: Vec<(OffsetDateTime, Vec<u8>)> = Vec::with_capacity(records + records / 8);
        for phase in self.phases(records) {
            let at = now - span * (1.0 - phase);
            if self.rng.u8(..) < 5 {
                counts.damaged += 1;
                arrivals.push((at, damage::record(&mut self.rng)));
                continue;
            }
            let mut draft = self.draft(phase, at);
            match draft.relation {
                Relation::Original => counts.posts += 1,
                Relation::RepostOf(_) => counts.reposts += 1,
                Relation::Quotes(_) => counts.quotes += 1,
            }
            if !matches!(draft.relation, Relation::RepostOf(_)) {
                intents.push(Intent {
                    text: draft.text.split_whitespace().collect::<Vec<_>>().join(" "),
                    lang: draft.lang,
                    emotion: draft.mood.emotion(),
                });
            }
            let mut arrival = at + Duration::milliseconds(self.rng.i64(50..4_000));
            // A client that was offline sends posts hours after they were written.
            if self.rng.u8(..) < 4 && draft.wire.has_time() {
                counts.late += 1;
                draft.at = at - Duration::seconds(self.rng.i64(3_600..10_800));
                arrival += Duration::seconds(self.rng.i64(60..600));
            }
            let bytes = wire::encode(&draft, &mut self.rng);
            if self.rng.u8(..) < 7 && draft.wire.has_id() {
                counts.duplicates += 1;
                arrivals.push((arrival + Duration::seconds(self.rng.i64(0..40)), bytes.clone()));
            }
            if self.rng.u8(..) < 10
                && let Some(notice) = wire::deletion(&draft)
            {
                counts.deletions += 1;
                arrivals.push((arrival + Duration::seconds(self.rng.i64(41..300)), notice));
            }
            arrivals.push((arrival, bytes));
        }
        arrivals.sort_by_key(|(arrival, _)| *arrival);
        Sample {
            records: arrivals.into_iter().map(|(_, bytes)| bytes).collect(),
            intents,
            counts,
        }
    }

    /// Generates the next record of a continuous stream, in which the stories repeat every ten minutes.
    pub fn next_live(&mut self, now: OffsetDateTime) -> Vec<u8> {
        let phase = (now.unix_timestamp().rem_euclid(600)) as f64 / 600.0;
        let draft = self.draft(phase, now);
        wire::encode(&draft, &mut self.rng)
    }

    /// Draws `n` times between 0 (the start of the span) and 1 (now), ascending, and more of them near the stories' peaks.
    fn phases(&mut self, n: usize) -> Vec<f64> {
        let most = 1.0 + STORIES.iter().map(|story| story.height).fold(0.0, f64::max);
        let mut phases = Vec::with_capacity(n);
        while phases.len() < n {
            let phase = self.rng.f64();
            if self.rng.f64() * most < 1.0 + STORIES.iter().map(|story| loudness(story, phase)).sum::<f64>() {
                phases.push(phase);
            }
        }
        phases.sort_by(f64::total_cmp);
        phases
    }

    fn draft(&mut self, phase: f64, at: OffsetDateTime) -> Draft {
        self.serial += 1;
        let author = self.rng.u32(..AUTHORS);
        let relation = self.relation();
        let mut draft = match relation {
            Relation::RepostOf(ref original) => Draft {
                wire: original.wire,
                serial: self.serial,
                at,
                author,
                lang: original.lang,
                text: original.text.clone(),
                mood: original.mood,
                relation,
            },
            Relation::Original | Relation::Quotes(_) => {
                let (lang, mood, text) = self.text(phase);
                let wire = match relation {
                    Relation::Quotes(ref quoted) => quoted.wire,
                    _ => Wire::draw(&mut self.rng),
                };
                Draft {
                    wire,
                    serial: self.serial,
                    at,
                    author,
                    lang,
                    text,
                    mood,
                    relation,
                }
            }
        };
        if let Relation::Original = draft.relation {
            self.recent.push_back(draft.clone());
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        if !draft.wire.has_lang() {
            draft.lang = "und";
        }
        draft
    }

    fn relation(&mut self) -> Relation {
        let roll = self.rng.u8(..100);
        if roll >= 20 || self.recent.is_empty() {
            return Relation::Original;
        }
        let picked = &self.recent[self.rng.usize(..self.recent.len())];
        match roll {
            0..15 if picked.wire.has_reposts() => Relation::RepostOf(Box::new(picked.clone())),
            15.. if picked.wire.has_quotes() => Relation::Quotes(Box::new(picked.clone())),
            _ => Relation::Original,
        }
    }

    /// Generates a text, with its language and what it expresses.
    fn text(&mut self, phase: f64) -> (&'static str, Mood, String) {
        let story = self.story(phase);
        let mood = weighted(
            &mut self.rng,
            story.map_or(EVERYDAY, |story| story.moods),
            |(_, weight)| *weight,
        )
        .0;
        let foreign: Option<&Language> =
            (self.rng.u8(..100) < 36).then(|| weighted(&mut self.rng, OTHERS, |language| language.weight));
        let (lang, lists) = foreign.map_or(("en", ENGLISH), |language| (language.code, language.phrases));

        let name = match (story, lang) {
            (Some(story), _) => story.name,
            (None, "en") => pick(&mut self.rng, EVERYDAY_NAMES),
            // Everyday names such as "our garden" are English; the stories' names fit every language.
            (None, _) => STORIES[self.rng.usize(..STORIES.len())].name,
        };
        let (expressed, phrases) = of_mood(lists, mood);
        let mut text = String::new();
        if lang == "en" && self.rng.u8(..100) < 25 {
            text.push_str(pick(&mut self.rng, OPENERS));
            text.push(' ');
        }
        let cores = if self.rng.u8(..100) < 8 { 4 } else { 1 };
        for core in 0..cores {
            if core > 0 {
                text.push_str(if self.rng.bool() { ". " } else { "\n\n" });
            }
            text.push_str(&pick(&mut self.rng, phrases).replace("{x}", name));
        }
        match self.rng.u8(..100) {
            0..4 => text = text.to_uppercase(),
            4..7 => text = text.replace('o', "ooo"),
            _ => {}
        }
        self.close(&mut text, mood, story);
        (lang, expressed, text)
    }

    fn close(&mut self, text: &mut String, mood: Mood, story: Option<&Story>) {
        let rng = &mut self.rng;
        if rng.u8(..100) < 50 {
            text.push(' ');
            text.push_str(pick(rng, of_mood(EMOJI, mood).1));
        }
        let (hashtags, likely) = story.map_or((EVERYDAY_HASHTAGS, 22), |story| (story.hashtags, 60));
        if rng.u8(..100) < likely {
            text.push_str(" #");
            text.push_str(pick(rng, hashtags));
        }
        if rng.u8(..100) < 10 {
            text.push_str(&format!(" https://example.org/{:x}", rng.u32(..)));
        }
    }

    fn story(&mut self, phase: f64) -> Option<&'static Story> {
        let loud: Vec<f64> = STORIES.iter().map(|story| loudness(story, phase)).collect();
        let mut roll = self.rng.f64() * (1.0 + loud.iter().sum::<f64>());
        STORIES.iter().zip(loud).find_map(|(story, loud)| {
            roll -= loud;
            (roll < 0.0).then_some(story)
        })
    }
}

/// The share of a story at a time, relative to 1 for everyday talk.
fn loudness(story: &Story, phase: f64) -> f64 {
    let off = (phase - story.peak) / story.width;
    story.height * (-0.5 * off * off).exp()
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn weighted<'a, T>(rng: &mut Rng, of: &'a [T], weight: impl Fn(&T) -> u32) -> &'a T {
    let mut roll = rng.u32(..of.iter().map(&weight).sum::<u32>());
    for item in of {
        let weight = weight(item);
        if roll < weight {
            return item;
        }
        roll -= weight;
    }
    &of[of.len() - 1]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use std::collections::HashSet;

    use time::macros::datetime;

    use super::*;
    use moodstream::post::{Envelope, ParseOptions, Parsed, Reject, parse};

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn sample(seed: u64, records: usize) -> Sample {
        Writer::new(seed).sample(records, Duration::minutes(30), NOW)
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_gives_others() {
        assert_eq!(sample(1, 500).records, sample(1, 500).records);
        assert_ne!(sample(1, 500).records, sample(2, 500).records);
    }

    #[test]
    fn the_counts_add_up_and_every_kind_is_there() {
        let Sample { records, counts, .. } = sample(3, 3_000);
        assert_eq!(counts.records(), records.len());
        let Counts {
            posts,
            reposts,
            quotes,
            late,
            duplicates,
            deletions,
            damaged,
        } = counts;
        for (kind, n) in [
            ("posts", posts),
            ("reposts", reposts),
            ("quotes", quotes),
            ("late", late),
        ] {
            assert!(n > 20, "{kind}: {n}");
        }
        for (kind, n) in [
            ("duplicates", duplicates),
            ("deletions", deletions),
            ("damaged", damaged),
        ] {
            assert!(n > 20, "{kind}: {n}");
        }
    }

    fn parsed(record: &[u8]) -> Result<Parsed, Reject> {
        let envelope = Envelope {
            timestamp: Some(NOW),
            fallback_id: "posts/0/0@0".try_into().ok(),
        };
        parse(record, &envelope, &ParseOptions::default())
    }

    #[test]
    fn the_parser_s_outcomes_match_the_counts() {
        let Sample { records, counts, .. } = sample(8, 3_000);
        let (mut posts, mut reposts, mut deletions, mut rejects) = (0, 0, 0, 0);
        for record in records {
            match parsed(&record) {
                Ok(Parsed::Post(post)) if post.repost_of.is_some() => reposts += 1,
                Ok(Parsed::Post(_)) => posts += 1,
                Ok(Parsed::Deletion(_)) => deletions += 1,
                Err(_) => rejects += 1,
            }
        }
        assert_eq!((deletions, rejects), (counts.deletions, counts.damaged));
        assert!(reposts >= counts.reposts);
        assert_eq!(
            posts + reposts,
            counts.posts + counts.reposts + counts.quotes + counts.duplicates
        );
    }

    #[test]
    fn texts_survive_their_wire_format() {
        let mut writer = Writer::new(9);
        for i in 0..2_000 {
            let draft = writer.draft(f64::from(i) / 2_000.0, NOW);
            let bytes = wire::encode(&draft, &mut writer.rng);
            let Ok(Parsed::Post(post)) = parsed(&bytes) else {
                panic!("no post: {}", String::from_utf8_lossy(&bytes));
            };
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(
                words(&post.text),
                words(&draft.text),
                "{}",
                String::from_utf8_lossy(&bytes)
            );
            assert_eq!((post.lang.as_str(), post.created_at.get()), (draft.lang, NOW));
            assert_eq!(
                post.repost_of.is_some(),
                matches!(draft.relation, Relation::RepostOf(_))
            );
        }
    }

    #[test]
    fn every_post_but_reposts_has_an_intent() {
        let Sample { counts, intents, .. } = sample(8, 3_000);
        assert_eq!(intents.len(), counts.posts + counts.quotes);
        let mut languages: Vec<&str> = intents.iter().map(|intent| intent.lang).collect();
        languages.sort_unstable();
        languages.dedup();
        assert_eq!(languages.len(), OTHERS.len() + 2, "with en and und: {languages:?}");
        let joy = intents.iter().filter(|intent| intent.text.contains("qué alegría"));
        assert!(joy.clone().count() > 0 && joy.clone().all(|intent| (intent.lang, intent.emotion) == ("es", "joy")));
    }

    #[test]
    fn a_record_is_one_line() {
        for record in sample(4, 3_000).records {
            assert!(
                !record.is_empty() && !record.contains(&b'\n'),
                "{}",
                String::from_utf8_lossy(&record)
            );
        }
    }

    #[test]
    fn texts_vary() {
        let mut writer = Writer::new(5);
        let texts: HashSet<String> = (0..2_000).map(|i| writer.text(f64::from(i) / 2_000.0).2).collect();
        assert!(texts.len() > 1_200, "{} distinct texts of 2,000", texts.len());
        assert!(texts.iter().all(|text| !text.contains("{x}")));
    }

    #[test]
    fn a_story_is_loudest_at_its_peak() {
        let mut writer = Writer::new(6);
        let phases = writer.phases(4_000);
        let near = |peak: f64| phases.iter().filter(|phase| (*phase - peak).abs() < 0.02).count();
        assert!(
            near(STORIES[0].peak) > 2 * near(0.25),
            "{} against {}",
            near(STORIES[0].peak),
            near(0.25)
        );
    }
}
