//! Default emotion groups, for models whose manifest defines none.

use std::{collections::BTreeMap, sync::Arc};

/// The sentiment groups of GoEmotions (arXiv 2005.00547, figure 2), extended by meaning with the label names of other
/// common emotion sets (Ekman, TweetEval, CARER, SemEval-2018 E-c).
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

/// Groups labels with a commonly agreed meaning into `positive`, `negative`, `ambiguous` and `neutral`, ignoring case.
/// Other labels remain ungrouped, and empty groups are omitted.
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
    fn known_labels_are_grouped_and_others_are_not() {
        let labels: Vec<Arc<str>> = ["Joy", "anger", "LABEL_2"].map(Arc::from).to_vec();
        let groups = default_groups(&labels);
        assert_eq!(
            groups.keys().map(|key| &**key).collect::<Vec<_>>(),
            ["negative", "positive"]
        );
        assert_eq!(groups["positive"], [Arc::from("Joy")]);
    }
}
