//! Rows like those of the real stream, for the benches of the database.
#![allow(dead_code, unreachable_pub)]

use std::{collections::BTreeMap, sync::Arc};

use moodstream::{
    model::{ModelInfo, Precision, Prediction, ProblemType, Provider, SupportedLanguages},
    post::{EventTime, Hashtag, Language, Origin, Post, Source, Text, TimeSource},
    store::PostRow,
};
use time::OffsetDateTime;

const EMOTIONS: [&str; 7] = ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"];
const LANGUAGES: [&str; 8] = ["en", "en", "en", "ja", "es", "pt", "ar", "und"];

/// The model that the rows name.
pub fn model() -> Arc<ModelInfo> {
    Arc::new(ModelInfo {
        id: "bench@00000000".into(),
        labels: EMOTIONS.map(Arc::from).into(),
        profile: "twitter-roberta".into(),
        groups: BTreeMap::new(),
        languages: SupportedLanguages::default(),
        problem_type: ProblemType::SingleLabelClassification,
        precision: Precision::Fp32,
        provider: Provider::Cpu,
    })
}

pub fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 20
}

/// A post like those of the real stream: 100 characters of text, and a hashtag on one in four.
pub fn post(origin: Origin, number: u64, created_at: OffsetDateTime) -> PostRow {
    let n = mix(number);
    let id = 1_146_000_000_000_000_000 + number * 4_000;
    let score = (n % (1 << 20)) as f64 / f64::from(1 << 20);
    let emotion = EMOTIONS[(n % 7) as usize];
    PostRow {
        post: Arc::new(Post {
            source: Source::Twitter,
            id: id.to_string().try_into().unwrap(),
            created_at: EventTime::new(created_at).unwrap(),
            time_source: TimeSource::Post,
            author_id: Some((n % 10_000_000_000).to_string().try_into().unwrap()),
            lang: Language::of_tag(LANGUAGES[(n % 8) as usize]),
            lang_identified: false,
            text: Text::new(format!(
                "post {n:020} {}",
                "some words as people write them ".repeat(1 + (n % 5) as usize)
            ))
            .unwrap(),
            repost_of: (n % 5 < 2).then(|| (id - 77).to_string().try_into().unwrap()),
            quoted_text: None,
            hashtags: if n.is_multiple_of(4) {
                vec![Hashtag::new(format!("tag{}", n % 500)).unwrap()]
            } else {
                Vec::new()
            },
        }),
        prediction: Prediction {
            emotion: emotion.into(),
            score,
            scores: [score; 7].into(),
        },
        subjects: if n.is_multiple_of(10) {
            vec!["work".into()]
        } else {
            Vec::new()
        },
        origin,
        timestamp: None,
    }
}
