//! Bounds the number of series with a topic label: a pattern in `kafka.topics` may match any number of topics.

use std::{collections::HashSet, sync::Mutex};

use crate::sync::lock;

/// The maximum number of topics with their own series in a process.
pub const MAX_TOPICS: usize = 100;
/// The label of all other topics. It can't be a topic's name, because of the parentheses.
pub const OTHER_TOPICS: &str = "(other)";

static NAMED: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Returns the value of the label `topic`: the name for the first [`MAX_TOPICS`] topics used by this process.
#[must_use]
pub fn topic_label(topic: &str) -> String {
    let mut named = lock(&NAMED);
    label_in(named.get_or_insert_default(), topic).to_owned()
}

fn label_in<'a>(named: &mut HashSet<String>, topic: &'a str) -> &'a str {
    if named.contains(topic) {
        return topic;
    }
    if named.len() >= MAX_TOPICS {
        return OTHER_TOPICS;
    }
    named.insert(topic.to_owned());
    topic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_share_a_label() {
        let mut named = HashSet::new();
        let topics: Vec<String> = (0..10_000).map(|number| format!("posts.{number}")).collect();
        let labels: HashSet<&str> = topics.iter().map(|topic| label_in(&mut named, topic)).collect();
        assert_eq!(labels.len(), MAX_TOPICS + 1);
        assert_eq!(
            label_in(&mut named, "posts.7"),
            "posts.7",
            "the first ones keep their own"
        );
        assert_eq!(label_in(&mut named, "posts.9999"), OTHER_TOPICS);
    }
}
