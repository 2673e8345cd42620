//! The damage that published sets are known for, and its repair.

use std::borrow::Cow;

use moodstream::clean::normalise;

/// Rounds of repair: text that was encoded twice too often is met, more is not.
const MAX_ROUNDS: usize = 4;

/// Mends a text: UTF-8 that was read as Windows-1252 or Latin-1 (`CafÃ©`), escapes left in
/// (`\u2019`, `\n`), HTML entities, characters lost to U+FFFD; then NFC, on one line.
///
/// A sound text stays as it is, but for what normalising does.
#[must_use]
pub fn mend(text: &str) -> String {
    // Bytes in disguise come first: normalising takes some of them for control characters or spaces.
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

/// JSON's escapes as the characters that they stand for: `\uXXXX`, surrogate pairs too, `\n`, `\r` and `\"`. Other
/// backslashes stay, and so do the latter three where a path of Windows makes them doubtful.
fn escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let doubtful = names_a_drive(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let short = || short_escape(rest).filter(|_| !doubtful);
        let (c, length) = unicode_escape(rest).or_else(short).unwrap_or(('\\', 1));
        out.push(c);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character that the `\uXXXX` at the start of `text` stands for, and its length there.
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

/// Whether `C:\` is in it, as in `C:\new`.
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

/// Runs of characters that are UTF-8 bytes in disguise, as the characters meant.
///
/// Only what can hardly be meant as it stands: `Â` and `Ã` lead the Latin letters, `â` punctuation and
/// symbols, `ã` kana, `ï` U+FFFD and the byte-order mark, `ð` emoji. `Ö—` and the French `é »` with its
/// hard space, which would decode too, stay.
fn mojibake(text: &str) -> Cow<'_, str> {
    if !text.contains(['Â', 'Ã', 'â', 'ã', 'ï', 'ð']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (meant, length) = disguised(rest).unwrap_or((c, c.len_utf8()));
        out.push(meant);
        rest = &rest[length..];
    }
    Cow::Owned(out)
}

/// The character disguised at the start of `text`, and the bytes it takes there.
fn disguised(text: &str) -> Option<(char, usize)> {
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

/// The byte that Windows-1252 (with Latin-1 in its gaps) shows as `c`.
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

/// U+FFFD, the mark of a lost character: an apostrophe between letters where English has one,
/// nothing elsewhere.
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
    fn known_damage_is_mended() {
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
            assert_eq!(mend(broken), whole, "{broken}");
        }
    }

    #[test]
    fn sound_text_stays() {
        for text in [
            "Das Ö— ja",
            "Ärger, Ñandú, déjà vu",
            "São Paulo à la",
            "« Âge »",
            "C:\\users",
            "(c:\\data\\new",
            "naïve “quotes”…",
        ] {
            assert_eq!(mend(text), text);
        }
    }

    proptest! {
        #[test]
        fn double_encoding_is_undone(text in "[a-z]{0,5}[àéîõü’“”😂€あ]{1,4}[a-z]{0,5}") {
            let broken: String = text.bytes().map(char::from).collect();
            // Latin-1 shows bytes 0x80 to 0x9F as control characters, which normalising would remove.
            let shown: String = broken.chars().map(|c| u8::try_from(u32::from(c)).map_or(c, show)).collect();
            prop_assert_eq!(mend(&shown), text);
        }

        #[test]
        fn mending_never_panics_and_leaves_one_line(text in any::<String>()) {
            let mended = mend(&text);
            let damaged = mended.contains(['\t', '\n', '\r', '\u{FFFD}']);
            prop_assert!(!damaged);
        }
    }

    fn show(b: u8) -> char {
        (0x80..0x2123)
            .filter_map(char::from_u32)
            .find(|&c| c as u32 > 0xFF && byte(c) == Some(b))
            .unwrap_or(b as char)
    }
}
