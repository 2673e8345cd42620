//! Turns what a format parsed into a finished [`Post`]: the validation and normalisation shared by all formats.

use std::{borrow::Cow, collections::HashSet};

use serde::Deserialize;
use unicode_normalization::char::is_combining_mark;

use super::{
    Deletion, Envelope, EventTime, Hashtag, Id, Language, MissingTime, Parsed, Post, Reason, Reject, Source, Text,
    TimeSource,
    clock::{self, Zone},
    json::{List, Object, Scalar},
    options::{Limits, ParseOptions},
};

/// The record's metadata and the parse options, which every format needs.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) options: &'a ParseOptions,
}

impl<'a> Input<'a> {
    pub(super) fn limits(self) -> &'a Limits {
        &self.options.limits
    }

    pub(super) fn zone(self) -> &'a Zone {
        &self.options.time_zone
    }

    /// Returns the first readable time among these fields; see [`clock::first`].
    pub(super) fn time(self, fields: &[(&Scalar<'_>, &str)]) -> Result<Option<EventTime>, Reject> {
        clock::first(fields, self.zone())
    }
}

/// A parsed post before validation.
pub(super) struct Draft<'a> {
    pub(super) source: Source,
    pub(super) id: Option<Id>,
    pub(super) created_at: Option<EventTime>,
    /// Whether the record's timestamp may stand in for a missing time: true for formats in which the time is optional.
    pub(super) allow_record_time: bool,
    pub(super) author_id: Option<Id>,
    pub(super) lang: Option<&'a str>,
    pub(super) text: Option<Cow<'a, str>>,
    pub(super) repost_of: Option<Id>,
    pub(super) quoted_text: Option<Cow<'a, str>>,
    /// The hashtags that the format lists. If the format has no such list, they are extracted from the text.
    pub(super) hashtags: Option<Vec<&'a str>>,
}

impl Draft<'_> {
    /// Validates and normalises the post.
    ///
    /// # Errors
    ///
    /// Returns [`Reason::NoId`], [`Reason::NoText`] or [`Reason::BadTime`] if that part is missing, and
    /// [`Reason::TooLarge`] if the text exceeds the limit.
    pub(super) fn finish(self, input: Input<'_>) -> Result<Parsed, Reject> {
        let limits = input.limits();
        let Some(id) = self.id else {
            return Err(Reject::new(
                Reason::NoId,
                format!("a {} post without an id", self.source),
            ));
        };
        let no_text = |what: &str| Err(Reject::new(Reason::NoText, what));
        let Some(text) = self.text else {
            return no_text(&format!("the {} post {id} has no text", self.source));
        };
        let Ok(text) = Text::new(text) else {
            return no_text(&format!("the text of the {} post {id} is empty", self.source));
        };
        let chars = text.chars().count();
        if chars > limits.max_text_chars {
            let detail = format!(
                "the text of the post {id} has {chars} characters, more than {}",
                limits.max_text_chars
            );
            return Err(Reject::new(Reason::TooLarge, detail));
        }
        let no_time = |hint: &str| {
            let detail = format!("the {} post {id} has no creation time{hint}", self.source);
            Err(Reject::new(Reason::BadTime, detail))
        };
        let (created_at, time_source) = match (self.created_at, input.envelope.event_time()) {
            (Some(time), _) => (time, TimeSource::Post),
            (None, Some(_)) if self.allow_record_time && input.options.missing_time == MissingTime::Reject => {
                return no_time(", and posts.missing_time is `reject`");
            }
            (None, Some(time)) if self.allow_record_time => (time, TimeSource::Record),
            (None, _) => return no_time(""),
        };
        let hashtags = match self.hashtags {
            Some(listed) => distinct(listed.into_iter(), limits),
            None => distinct(hashtags_in(&text).into_iter(), limits),
        };
        let quoted_text = self
            .quoted_text
            .and_then(|quoted| Text::new(quoted.chars().take(limits.max_text_chars).collect::<String>()).ok());
        Ok(Parsed::Post(Box::new(Post {
            source: self.source,
            created_at,
            time_source,
            author_id: self.author_id,
            lang: self.lang.map_or(Language::UNDETERMINED, Language::of_tag),
            lang_identified: false,
            text,
            repost_of: self.repost_of,
            quoted_text,
            hashtags,
            id,
        })))
    }
}

/// Returns the deletion of a post, or a reject with the detail `without_id` if the record doesn't name the post.
pub(super) fn deletion(source: Source, post_id: Option<Id>, without_id: &str) -> Result<Parsed, Reject> {
    match post_id {
        Some(post_id) => Ok(Parsed::Deletion(Deletion { source, post_id })),
        None => Err(Reject::new(Reason::NoId, without_id)),
    }
}

/// Removes duplicates, keeping the order, and drops words that are not valid hashtags.
fn distinct<'a>(tags: impl Iterator<Item = &'a str>, limits: &Limits) -> Vec<Hashtag> {
    let mut seen = HashSet::new();
    tags.filter_map(|tag| Hashtag::new(tag).ok())
        .filter(|tag| seen.insert(tag.clone()))
        .take(limits.max_hashtags)
        .collect()
}

/// Extracts hashtags from a text: `#` at the start of a word, then letters, marks, digits and `_`, not only digits.
fn hashtags_in(text: &str) -> Vec<&str> {
    let in_word =
        |c: char| c.is_alphanumeric() || c == '_' || is_combining_mark(c) || matches!(c, '\u{200c}' | '\u{200d}');
    let mut tags = Vec::new();
    let mut before = None;
    let mut rest = text;
    while let Some(at) = rest.find(['#', '＃']) {
        before = rest[..at].chars().next_back().or(before);
        let sign = if rest[at..].starts_with('#') { '#' } else { '＃' };
        rest = &rest[at + sign.len_utf8()..];
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        let tag = &rest[..end];
        let starts_word = before.is_none_or(|c| !in_word(c) && !matches!(c, '&' | '/' | '#' | '＃'));
        if starts_word && tag.chars().any(|c| !c.is_numeric()) {
            tags.push(tag);
        }
        before = Some(tag.chars().next_back().unwrap_or(sign));
        rest = &rest[end..];
    }
    tags
}

/// Unescapes `&amp;`, `&lt;` and `&gt;`, the only characters that Twitter escapes in texts.
pub(super) fn twitter_unescape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find('&') else {
        return Cow::Borrowed(text);
    };
    let mut plain = String::with_capacity(text.len());
    plain.push_str(&text[..first]);
    let mut rest = &text[first..];
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (character, length) = match rest {
            _ if rest.starts_with("&amp;") => ('&', 5),
            _ if rest.starts_with("&lt;") => ('<', 4),
            _ if rest.starts_with("&gt;") => ('>', 4),
            _ => ('&', 1),
        };
        plain.push(character);
        rest = &rest[length..];
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// The `entities` of Twitter's formats, reduced to what is used.
#[derive(Debug, Deserialize)]
pub(super) struct Entities<'a> {
    #[serde(borrow, default)]
    hashtags: List<Object<ListedHashtag<'a>>>,
}

impl Entities<'_> {
    /// Returns the hashtags, if the list is present.
    pub(super) fn tags(&self) -> Option<Vec<&str>> {
        tag_names(&self.hashtags)
    }
}

/// A listed hashtag. Each format uses a different key for the word.
#[derive(Debug, Deserialize)]
pub(super) struct ListedHashtag<'a> {
    #[serde(borrow, default)]
    text: Scalar<'a>,
    #[serde(borrow, default)]
    tag: Scalar<'a>,
    #[serde(borrow, default)]
    name: Scalar<'a>,
}

/// Returns the words of a list of hashtags, if the list is present.
pub(super) fn tag_names<'t>(tags: &'t List<Object<ListedHashtag<'_>>>) -> Option<Vec<&'t str>> {
    let word = |tag: &'t ListedHashtag<'_>| [&tag.text, &tag.tag, &tag.name].into_iter().find_map(Scalar::as_str);
    tags.0
        .as_ref()
        .map(|list| list.iter().filter_map(Object::as_ref).filter_map(word).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashtags_are_found_where_a_word_starts() {
        let found = |text| distinct(hashtags_in(text).into_iter(), &Limits::default());
        assert_eq!(
            found("#Tea and #tea, (#milk_2) ＃お茶、#हिन्दी!"),
            ["tea", "milk_2", "お茶", "हिन्दी"]
        );
        assert_eq!(found("a#b &#39; /#x ##y #1 # #"), [""; 0]);
        assert_eq!(found("#a#b #c"), ["a", "c"]);
    }

    #[test]
    fn three_entities_are_unescaped_and_only_once() {
        assert_eq!(
            twitter_unescape("a &amp;lt; b &lt;3 &gt; &quot; & &amp"),
            "a &lt; b <3 > &quot; & &amp"
        );
        assert!(matches!(twitter_unescape("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn listed_hashtags_are_bounded() {
        let long = "x".repeat(Hashtag::MAX_BYTES + 1);
        let tags: Vec<String> = (0..500).map(|n| format!("#T{}", n / 2)).chain([long]).collect();
        let limits = Limits::default();
        let kept = distinct(tags.iter().map(String::as_str), &limits);
        assert_eq!(kept.len(), limits.max_hashtags);
        assert_eq!(kept[..2], ["t0", "t1"]);
    }
}
