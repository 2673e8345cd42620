//! The emotion groups of a model whose manifest names none.

use std::{collections::BTreeMap, sync::Arc};

/// The sentiment groups of GoEmotions (arXiv 2005.00547, figure 2), with the label names of the other
/// common emotion sets (Ekman, TweetEval, CARER, SemEval-2018 E-c) put where their meaning lies.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "positive",
        &[
            "admiration",
            "amusement",
            "approval",
            "caring",
            "desire",
            "excitement",
            "gratitude",
            "joy",
            "love",
            "optimism",
            "pride",
            "relief",
            "happiness",
            "happy",
            "enthusiasm",
            "fun",
            "trust",
            "positive",
        ],
    ),
    (
        "negative",
        &[
            "anger",
            "annoyance",
            "disappointment",
            "disapproval",
            "disgust",
            "embarrassment",
            "fear",
            "grief",
            "nervousness",
            "remorse",
            "sadness",
            "hate",
            "worry",
            "boredom",
            "pessimism",
            "angry",
            "sad",
            "negative",
        ],
    ),
    (
        "ambiguous",
        &["confusion", "curiosity", "realization", "surprise", "anticipation"],
    ),
    ("neutral", &["neutral", "no emotion", "empty"]),
];

/// Puts the labels whose meaning is commonly agreed into `positive`, `negative`, `ambiguous` and `neutral`,
/// without regard to case; labels of other names stay ungrouped, and groups without a label are left out.
#[must_use]
pub fn default_groups(labels: &[Arc<str>]) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let mut groups = BTreeMap::new();
    for (group, names) in GROUPS {
        let members: Vec<Arc<str>> = labels
            .iter()
            .filter(|label| names.contains(&label.to_lowercase().as_str()))
            .cloned()
            .collect();
        if !members.is_empty() {
            groups.insert(Arc::from(*group), members);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_labels_find_their_group_and_others_none() {
        let labels: Vec<Arc<str>> = ["Joy", "anger", "LABEL_2"].map(Arc::from).to_vec();
        let groups = default_groups(&labels);
        assert_eq!(
            groups.keys().map(|key| &**key).collect::<Vec<_>>(),
            ["negative", "positive"]
        );
        assert_eq!(groups["positive"], [Arc::from("Joy")]);
    }
}
