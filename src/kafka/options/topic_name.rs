//! Topic names and patterns.

/// Whether an entry of `topics`, a name or a pattern, matches this topic.
pub(in crate::kafka) fn entry_matches(entry: &str, topic: &str) -> bool {
    if entry.starts_with('^') {
        regex::Regex::new(entry).is_ok_and(|regex| regex.is_match(topic))
    } else {
        entry == topic
    }
}

/// The first part of a pattern that librdkafka, which uses POSIX extended regular expressions, would interpret differently
/// from the `regex` crate: escaped letters and digits such as `\d`, `(?...)` groups, lazy repetition.
pub(super) fn not_posix(pattern: &str) -> Option<&str> {
    if !pattern.starts_with('^') {
        return None;
    }
    let pairs = pattern.char_indices().zip(pattern.chars().skip(1));
    let mut escaped = false;
    for ((at, first), second) in pairs {
        let was_escaped = escaped;
        escaped = first == '\\' && !was_escaped;
        let differs = match first {
            '\\' => !was_escaped && second.is_ascii_alphanumeric(),
            '(' | '*' | '+' | '?' | '}' => !was_escaped && second == '?',
            _ => false,
        };
        if differs {
            return pattern.get(at..at + first.len_utf8() + second.len_utf8());
        }
    }
    None
}

/// Whether a broker accepts this as a topic name: see `org.apache.kafka.common.internals.Topic`.
pub(super) fn is_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(legal) && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_syntax_that_librdkafka_would_interpret_differently_is_found() {
        for (pattern, part) in [
            (r"^posts-\d+$", r"\d"),
            (r"^(?i)posts", "(?"),
            ("^posts.*?$", "*?"),
            (r"^po\wsts", r"\w"),
            (r"^posts\\\d", r"\d"),
        ] {
            assert_eq!(not_posix(pattern), Some(part), "{pattern}");
        }
        for pattern in [
            r"^posts\.[0-9]+$",
            "^(posts|news)-?[a-z]{2,3}$",
            r"^posts\\d",
            r"^a\(?b",
            "posts",
        ] {
            assert_eq!(not_posix(pattern), None, "{pattern}");
        }
    }
}
