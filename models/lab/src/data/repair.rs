//! Repairs the known damage of published sets.

use std::borrow::Cow;

use moodstream::clean::normalise;

/// Rounds of repair: some texts were wrongly encoded twice, none more often.
const MAX_ROUNDS: usize = 4;

/// Repairs a text: UTF-8 that was read as Windows-1252 or Latin-1 (`CafÃ©`), escapes (`\u2019`, `\n`), HTML entities,
/// characters replaced with U+FFFD. The result is in NFC, on one line.
///
/// An undamaged text is only normalised.
#[must_use]
pub fn repair(text: &str) -> String {
    // Mojibake comes first: normalising treats some of its characters as control characters or spaces.
    let mut current = normalise(&replacement(&mojibake(&escapes(text))));
    for _ in 0..MAX_ROUNDS {
        let next = normalise(&replacement(&mojibake(&escapes(&current))));
        if next == current {
            break;
        }
        current = next;
    }
    current
}

/// Replaces JSON's escapes: `\uXXXX`, including surrogate pairs, `\n`, `\r` and `\"`. Other backslashes are kept, and so
/// are the latter three in a text with a Windows path.
fn escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let has_path = names_a_drive(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let short = || short_escape(rest).filter(|_| !has_path);
        let (c, length) = unicode_escape(rest).or_else(short).unwrap_or(('\\', 1));
        out.push(c);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character of the `\uXXXX` at the start of `text`, and the length of the escape.
fn unicode_escape(text: &str) -> Option<(char, usize)> {
    match code_unit(text)? {
        high @ 0xD800..=0xDBFF => {
            let low = code_unit(text.get(6..)?)?
                .checked_sub(0xDC00)
                .filter(|&low| low < 0x400)?;
            Some((char::from_u32(0x10000 + ((high - 0xD800) << 10) + low)?, 12))
        }
        unit => Some((char::from_u32(unit)?, 6)),
    }
}

fn short_escape(text: &str) -> Option<(char, usize)> {
    let c = match text.as_bytes().get(1)? {
        b'n' => '\n',
        b'r' => '\r',
        b'"' => '"',
        _ => return None,
    };
    Some((c, 2))
}

/// Whether the text contains `C:\`, as in `C:\new`.
fn names_a_drive(text: &str) -> bool {
    text.match_indices(":\\").any(|(at, _)| {
        let mut before = text[..at].chars().rev();
        matches!(before.next(), Some('c' | 'C')) && !before.next().is_some_and(char::is_alphanumeric)
    })
}

fn code_unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits
        .bytes()
        .all(|b| b.is_ascii_hexdigit())
        .then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Replaces mojibake, UTF-8 bytes that were read as single characters, with the original characters.
///
/// Only sequences that are unlikely in real text are replaced: `Â` and `Ã` start Latin letters, `â` punctuation and symbols,
/// `ã` kana, `ï` U+FFFD and the byte-order mark, `ð` emoji. `Ö—` and the French `é »` with a no-break space could be decoded
/// as well, but are kept.
fn mojibake(text: &str) -> Cow<'_, str> {
    if !text.contains(['Â', 'Ã', 'â', 'ã', 'ï', 'ð']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (meant, length) = mojibake_at_start(rest).unwrap_or((c, c.len_utf8()));
        out.push(meant);
        rest = &rest[length..];
    }
    Cow::Owned(out)
}

/// The original character of the mojibake at the start of `text`, and the length of the mojibake in bytes.
fn mojibake_at_start(text: &str) -> Option<(char, usize)> {
    let mut chars = text.chars();
    let lead = byte(chars.next()?)?;
    let size = match lead {
        0xC2..=0xC3 => 2,
        0xE2 | 0xE3 | 0xEF => 3,
        0xF0 => 4,
        _ => return None,
    };
    let mut bytes = [lead, 0, 0, 0];
    for slot in &mut bytes[1..size] {
        *slot = byte(chars.next()?).filter(|b| (0x80..0xC0).contains(b))?;
    }
    let meant = std::str::from_utf8(&bytes[..size]).ok()?.chars().next()?;
    Some((meant, text.len() - chars.as_str().len()))
}

/// The byte that is `c` in Windows-1252, or in Latin-1 where that is undefined.
fn byte(c: char) -> Option<u8> {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
    ];
    match u32::from(c) {
        code @ 0x80..=0xFF => u8::try_from(code).ok(),
        _ => HIGH
            .iter()
            .position(|&high| high == c)
            .and_then(|at| u8::try_from(0x80 + at).ok()),
    }
}

/// Replaces U+FFFD, which stands for a lost character, with an apostrophe where English has one, and removes it elsewhere.
fn replacement(text: &str) -> Cow<'_, str> {
    const LOST: char = '\u{FFFD}';
    const ENDINGS: [&str; 8] = ["s", "t", "m", "d", "re", "ve", "ll", "all"];
    if !text.contains(LOST) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split(LOST);
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let word = part.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
        if out.ends_with(|c: char| c.is_ascii_alphabetic()) && ENDINGS.contains(&word.to_ascii_lowercase().as_str()) {
            out.push('\'');
        }
        out.push_str(part);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_damage_is_repaired() {
        for (broken, whole) in [
            ("CafÃ© donâ€™t", "Café don’t"),
            ("Ã¢â‚¬â„¢", "’"),
            ("ðŸ˜‚ ok", "😂 ok"),
            ("Thatï¿½s Maï¿½ (8)", "That's Ma (8)"),
            ("I�m, it�s d�j�", "I'm, it's dj"),
            ("y\\u2019all\\u002c \\ud83d\\ude02 \\u12 \\x", "y’all, 😂 \\u12 \\x"),
            (r#"her: no\nme;\r\n\"yes\"\n\nPC:\n\o/"#, r#"her: no me; "yes" PC: \o/"#),
            ("a &amp;amp; b\tc\n", "a & b c"),
            ("Â£5", "£5"),
        ] {
            assert_eq!(repair(broken), whole, "{broken}");
        }
    }

    #[test]
    fn undamaged_text_is_kept() {
        for text in [
            "Das Ö— ja",
            "Ärger, Ñandú, déjà vu",
            "São Paulo à la",
            "« Âge »",
            "C:\\users",
            "(c:\\data\\new",
            "naïve “quotes”…",
        ] {
            assert_eq!(repair(text), text);
        }
    }

    proptest! {
        #[test]
        fn double_encoding_is_undone(text in "[a-z]{0,5}[àéîõü’“”😂€あ]{1,4}[a-z]{0,5}") {
            let broken: String = text.bytes().map(char::from).collect();
            // Latin-1 shows bytes 0x80 to 0x9F as control characters, which normalising would remove.
            let shown: String = broken.chars().map(|c| u8::try_from(u32::from(c)).map_or(c, as_cp1252)).collect();
            prop_assert_eq!(repair(&shown), text);
        }

        #[test]
        fn repair_never_panics_and_returns_one_line(text in any::<String>()) {
            let repaired = repair(&text);
            let damaged = repaired.contains(['\t', '\n', '\r', '\u{FFFD}']);
            prop_assert!(!damaged);
        }
    }

    fn as_cp1252(b: u8) -> char {
        (0x80..0x2123)
            .filter_map(char::from_u32)
            .find(|&c| c as u32 > 0xFF && byte(c) == Some(b))
            .unwrap_or(b as char)
    }
}
