//! The contents of the samples: stories, moods and hand-written phrases.
//!
//! A post is an opener, a core and a closer, each drawn from the lists here; `{x}` stands for the story's name. The
//! stories, names and people are made up.

/// What a sample post is meant to express. The model may predict something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Joy,
    Love,
    Hope,
    Amusement,
    Anger,
    Sadness,
    Fear,
    Surprise,
    Disgust,
    Neutral,
}

/// Something that people talk about for a while: its share of the posts swells and fades around `peak`.
pub(crate) struct Story {
    /// The proper name put where a phrase says `{x}`.
    pub(crate) name: &'static str,
    pub(crate) hashtags: &'static [&'static str],
    /// The time of the peak, as a share of the whole span: 0 is its start, 1 is now.
    pub(crate) peak: f64,
    /// How long it lasts, as a share of the span (one standard deviation).
    pub(crate) width: f64,
    /// Posts at the peak, relative to 1 for everyday talk.
    pub(crate) height: f64,
    /// Moods with their weights.
    pub(crate) moods: &'static [(Mood, u32)],
}

use Mood::{Amusement, Anger, Disgust, Fear, Hope, Joy, Love, Neutral, Sadness, Surprise};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "Nordhaven",
        hashtags: &["CupFinal", "NordhavenFC"],
        peak: 0.14,
        width: 0.05,
        height: 2.6,
        moods: &[(Joy, 8), (Amusement, 2), (Love, 2), (Surprise, 2), (Anger, 1)],
    },
    Story {
        name: "Linea",
        hashtags: &["LineaDown", "outage"],
        peak: 0.36,
        width: 0.055,
        height: 2.4,
        moods: &[(Anger, 9), (Disgust, 2), (Amusement, 2), (Sadness, 1), (Neutral, 1)],
    },
    Story {
        name: "Orbit Nine",
        hashtags: &["OrbitNine", "space"],
        peak: 0.56,
        width: 0.045,
        height: 2.2,
        moods: &[(Surprise, 5), (Hope, 5), (Joy, 4), (Love, 1), (Fear, 1)],
    },
    Story {
        name: "Edda",
        hashtags: &["StormEdda", "weather"],
        peak: 0.76,
        width: 0.05,
        height: 2.0,
        moods: &[(Fear, 8), (Sadness, 3), (Hope, 1), (Neutral, 2), (Surprise, 1)],
    },
    Story {
        name: "Mira Solano",
        hashtags: &["MiraSolano", "LastTour"],
        peak: 0.92,
        width: 0.04,
        height: 2.3,
        moods: &[(Sadness, 6), (Love, 6), (Joy, 2)],
    },
];

/// The moods of everyday talk.
pub(crate) const EVERYDAY: &[(Mood, u32)] = &[
    (Joy, 5),
    (Love, 3),
    (Hope, 3),
    (Amusement, 3),
    (Anger, 3),
    (Sadness, 3),
    (Fear, 2),
    (Surprise, 2),
    (Disgust, 1),
    (Neutral, 5),
];

pub(crate) const EVERYDAY_HASHTAGS: &[&str] = &[
    "coffee",
    "monday",
    "caturday",
    "nowplaying",
    "homeoffice",
    "gardening",
    "exams",
    "commute",
    "running",
    "bookclub",
    "fridayfeeling",
    "throwback",
    "recipe",
    "dogsofthetimeline",
    "rustlang",
];

/// The subjects of everyday talk, put where a phrase says `{x}`.
pub(crate) const EVERYDAY_NAMES: &[&str] = &[
    "my sister's exam",
    "the new bakery",
    "our neighbour's cat",
    "the 7:40 train",
    "this week",
    "the office move",
    "our garden",
    "the marathon",
    "that film",
    "my old phone",
    "the school play",
    "Grandma's recipe",
    "the landlord",
    "the group project",
    "my first job",
    "the last bus",
];

pub(crate) const OPENERS: &[&str] = &[
    "ok so",
    "honestly,",
    "not gonna lie,",
    "update:",
    "hey @lena_k",
    "@tomasz",
    "well,",
    "just now:",
    "I mean,",
    "friends,",
    "so",
    "hear me out:",
    "PSA:",
    "day 3:",
    "@mara.solis @jonas",
    "thread:",
    "hmm.",
];

pub(crate) const EMOJI: &[(Mood, &[&str])] = &[
    (Joy, &["🎉", "😄", "🥳", "😁🎊", "🙌", "⚽️🎉", "✨", ":)", "😀😀😀"]),
    (Love, &["❤️", "🥰", "😍", "💕", "🫶🏽", "❤️‍🔥", "<3", "💐"]),
    (Hope, &["🤞", "🌱", "🌈", "💪🏾", "🙏", "🚀", "☀️"]),
    (Amusement, &["😂", "🤣🤣", "💀", "😹", "lol", "haha", "😆"]),
    (Anger, &["😡", "🤬", "😤", "👎", "🙄", "!!!", "💢"]),
    (Sadness, &["😢", "💔", "😭😭", "🥺", "😞", ":(", "🕯️"]),
    (Fear, &["😨", "😰", "🫣", "😱", "⚠️", "🌪️"]),
    (Surprise, &["😮", "🤯", "😳", "👀", "wow", "‼️"]),
    (Disgust, &["🤢", "🤮", "😖", "🚮"]),
    (Neutral, &["📌", "🗓️", "👇", "☕️", "📷", "🧵"]),
];

/// English phrases by mood. About two posts in three are English.
pub(crate) const ENGLISH: &[(Mood, &[&str])] = &[
    (
        Joy,
        &[
            "best day in months, and {x} is the reason",
            "I can't stop smiling about {x}",
            "WE DID IT. {x}, what a moment",
            "so happy right now, thank you {x}",
            "dancing in the kitchen because of {x}",
            "this made my whole week",
            "passed!! I actually passed!!",
            "sun is out, bread is warm, life is good",
            "the whole street is singing for {x} and so am I",
            "finally some wonderful news",
            "I have waited years for {x} and it was worth every minute",
            "what a beautiful goal, {x} forever",
        ],
    ),
    (
        Love,
        &[
            "I love {x} with all my heart",
            "forever grateful to the people who brought me {x}",
            "my grandmother called just to say she is proud of me",
            "{x} got me through the hardest year of my life, thank you",
            "fell asleep on the sofa with the cat on my chest, could not love her more",
            "every single song of {x} feels like home",
            "you are all so kind, I adore this place",
            "married ten years today and still the luckiest person I know",
            "thank you {x}, for everything",
        ],
    ),
    (
        Hope,
        &[
            "I really think {x} is going to work out",
            "small steps, but we will get there",
            "fingers crossed for {x}, I believe in it",
            "tomorrow will be better, I can feel it",
            "if {x} can do it then so can we",
            "new job on Monday, nervous but ready",
            "looking forward to what {x} brings next",
            "keep going, it gets easier, I promise",
            "one day kids will read about {x} in school and be inspired",
        ],
    ),
    (
        Amusement,
        &[
            "{x} has been the funniest thing on my timeline all day",
            "my dad just asked whether {x} is a kind of cheese",
            "I laughed so hard that the whole train looked at me",
            "the cat has learned to open the fridge, we are doomed",
            "nobody: ... me at 3 am: reading everything about {x}",
            "put salt in my coffee this morning, how is your day going",
            "the memes about {x} are better than {x} itself",
            "he said 'trust me' and then walked into a glass door",
        ],
    ),
    (
        Anger,
        &[
            "two hours without service and not a word from {x}. unacceptable",
            "I am so done with {x}",
            "how dare they call that customer support",
            "{x} should be ashamed of themselves",
            "whoever designed this form has never met a human being",
            "third time this month. I want my money back, {x}",
            "absolutely furious, they knew about it for weeks",
            "stop lying to us about {x}",
            "this referee is a disgrace and {x} deserved better",
            "another price rise? are you kidding me",
            "I've been on hold with {x} for fifty minutes and then they hung up",
        ],
    ),
    (
        Sadness,
        &[
            "I can't believe {x} is over",
            "crying on the bus again, it's fine",
            "the house is so quiet without her",
            "heartbroken. there will never be another {x}",
            "missed the last train and the only person I wanted to call isn't here any more",
            "everybody is celebrating and I just feel empty",
            "goodbye {x}, you were the sound of my youth",
            "we had to say goodbye to our old dog this morning",
            "I studied for weeks and still failed",
            "those poor families, my heart goes out to everyone hit by {x}",
        ],
    ),
    (
        Fear,
        &[
            "the wind is getting louder and I am scared",
            "{x} is heading straight for us and the shelters are full",
            "please stay inside, {x} is worse than they said",
            "my hands are shaking, has anyone heard from the harbour?",
            "I don't feel safe here tonight",
            "windows rattling, power flickering, kids under the table. {x} is terrifying",
            "results come tomorrow and I can't sleep",
            "the water is at the second step now, I'm really worried",
            "something is wrong with {x}, I have a bad feeling",
        ],
    ),
    (
        Surprise,
        &[
            "wait, WHAT? {x} really did that?",
            "did not see that coming at all",
            "I had to read it three times: {x}!",
            "no way. no way. no way.",
            "my jaw is on the floor, {x} just landed on its own",
            "turns out my neighbour of ten years is a twin",
            "is anyone else seeing this light in the sky?",
            "I open the door and there they all are, unbelievable",
        ],
    ),
    (
        Disgust,
        &[
            "found a hair in my soup and a second one in the dessert",
            "the station smells like something died in it",
            "the way {x} talks about its own customers makes me sick",
            "gross. just gross.",
            "somebody left fish in the office microwave, again",
            "I feel ill reading what {x} wrote",
        ],
    ),
    (
        Neutral,
        &[
            "reading up on {x} before the meeting",
            "{x}: what we know so far",
            "the timetable changes on the 14th, see the notice at the stop",
            "does anyone have a link about {x}?",
            "part two of my notes is online",
            "lunch was soup",
            "looking for a second-hand bike, size 54, pick-up possible",
            "recording starts at 20:15, doors at 19:00",
            "version 2.3 is out, the changes are in the usual place",
            "{x} is trending again, I see",
        ],
    ),
];

impl Mood {
    /// The emotion that a post in this mood expresses, as models trained on Ekman's emotions name it.
    pub(crate) const fn emotion(self) -> &'static str {
        match self {
            Joy | Love | Hope | Amusement => "joy",
            Anger => "anger",
            Sadness => "sadness",
            Fear => "fear",
            Surprise => "surprise",
            Disgust => "disgust",
            Neutral => "neutral",
        }
    }
}

/// Returns the phrases of `mood` in `of`, and their mood: that of the nearest mood if a language lacks it.
pub(crate) fn of_mood(of: &'static [(Mood, &'static [&'static str])], mood: Mood) -> (Mood, &'static [&'static str]) {
    let nearest = match mood {
        Hope | Amusement => Joy,
        Disgust => Anger,
        other => other,
    };
    [mood, nearest]
        .iter()
        .find_map(|wanted| of.iter().find(|(m, _)| m == wanted))
        .map_or((mood, &[]), |(mood, phrases)| (*mood, phrases))
}
