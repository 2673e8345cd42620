//! Replaces emoji and emoticons with words.

use super::normalise::is_pictographic;

/// Emoticons and their words. They match only between spaces, which keeps `xD` out of words and `:/` out of `http://`.
const EMOTICONS: [(&str, &str); 44] = [
    (":'-(", "crying"),
    (":'(", "crying"),
    (";_;", "crying"),
    ("T_T", "crying"),
    (":'-)", "joy"),
    (":')", "joy"),
    (":-)", "smile"),
    (":)", "smile"),
    (":]", "smile"),
    ("=)", "smile"),
    ("=]", "smile"),
    ("(:", "smile"),
    ("^_^", "smile"),
    ("^^", "smile"),
    (":-D", "laugh"),
    (":D", "laugh"),
    ("=D", "laugh"),
    (";D", "laugh"),
    ("xD", "laugh"),
    ("XD", "laugh"),
    (";-)", "wink"),
    (";)", "wink"),
    (":-P", "playful"),
    (":P", "playful"),
    (":p", "playful"),
    (":-(", "sad"),
    (":(", "sad"),
    (":[", "sad"),
    ("=(", "sad"),
    ("=[", "sad"),
    ("):", "sad"),
    (":/", "annoyed"),
    (":-/", "annoyed"),
    (":\\", "annoyed"),
    (":|", "indifferent"),
    ("-_-", "annoyed"),
    (">:(", "angry"),
    (":@", "angry"),
    (":O", "surprised"),
    (":o", "surprised"),
    (":-O", "surprised"),
    ("O_O", "surprised"),
    ("<3", "love"),
    ("</3", "heartbroken"),
];

/// Replaces each emoji with its Unicode name and each emoticon between spaces with a word. Skin tones
/// are omitted, because they describe the author rather than the emotion.
pub(super) fn to_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for word in text.split_whitespace() {
        out.push(' ');
        match EMOTICONS.iter().find(|(emoticon, _)| *emoticon == word) {
            Some((_, name)) => out.push_str(name),
            None if word.is_ascii() => out.push_str(word),
            None => name_emoji(word, &mut out),
        }
    }
    out
}

fn name_emoji(word: &str, out: &mut String) {
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let length = sequence_length(rest);
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (sequence, after) = rest.split_at(length);
        out.push(' ');
        match lookup(sequence) {
            Some(name) => out.push_str(name),
            None => push_names_of_parts(sequence, out),
        }
        out.push(' ');
        rest = after;
    }
}

fn lookup(sequence: &str) -> Option<&'static str> {
    let emoji = emojis::get(sequence)?;
    Some(emoji.with_skin_tone(emojis::SkinTone::Default).unwrap_or(emoji).name())
}

fn push_names_of_parts(sequence: &str, out: &mut String) {
    let mut buffer = [0; 4];
    for c in sequence.chars() {
        if let Some(name) = lookup(c.encode_utf8(&mut buffer))
            && !is_skin_tone(c)
        {
            out.push_str(name);
            out.push(' ');
        }
    }
}

/// Returns the length in bytes of the emoji at the start of `text`, or 0 if there is none.
fn sequence_length(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    let Some((_, first)) = chars.next() else { return 0 };
    if is_regional_indicator(first) {
        let pair = chars.next_if(|&(_, c)| is_regional_indicator(c));
        return pair.map_or(first.len_utf8(), |(at, c)| at + c.len_utf8());
    }
    let keycap = first.is_ascii_digit() || first == '#' || first == '*';
    if keycap {
        chars.next_if(|&(_, c)| c == '\u{FE0F}');
        return chars
            .next_if(|&(_, c)| c == '\u{20E3}')
            .map_or(0, |(at, c)| at + c.len_utf8());
    }
    if !is_pictographic(first) {
        return 0;
    }
    let mut end = first.len_utf8();
    while let Some(&(at, c)) = chars.peek() {
        let part = matches!(c, '\u{FE0E}' | '\u{FE0F}' | '\u{20E3}' | '\u{E0020}'..='\u{E007F}') || is_skin_tone(c);
        if c == '\u{200D}' {
            chars.next();
            let Some((at, next)) = chars.next_if(|&(_, c)| is_pictographic(c)) else {
                break;
            };
            end = at + next.len_utf8();
        } else if part {
            chars.next();
            end = at + c.len_utf8();
        } else {
            break;
        }
    }
    end
}

fn is_regional_indicator(c: char) -> bool {
    matches!(c, '\u{1F1E6}'..='\u{1F1FF}')
}

fn is_skin_tone(c: char) -> bool {
    matches!(c, '\u{1F3FB}'..='\u{1F3FF}')
}
