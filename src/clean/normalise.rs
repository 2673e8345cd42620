//! The first step of every profile: unifies different encodings of the same text.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The maximum length of an HTML entity, in bytes. The longest name in the standard has 33.
const MAX_ENTITY: usize = 40;

/// Normalises to NFC, decodes HTML entities even if escaped repeatedly, removes control and zero-width characters,
/// collapses runs of whitespace into one space, and trims.
///
/// This is the first step of every [`Profile`](super::Profile). On its own it turns a text into a single line.
#[must_use]
pub fn normalise(text: &str) -> String {
    let mut pass = Pass {
        out: String::with_capacity(text.len()),
        space: false,
        joiner: None,
    };
    for c in nfc(text).chars() {
        pass.push(c);
    }
    // Decoded entities and removed characters can bring a base character and its accent together.
    match nfc(&pass.out) {
        Cow::Borrowed(_) => pass.out,
        Cow::Owned(composed) => composed,
    }
}

fn nfc(text: &str) -> Cow<'_, str> {
    // NFC does not change anything below U+0300, which covers most posts.
    if text.chars().all(|c| c < '\u{300}') || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    let composed: String = text.nfc().collect();
    if composed == text {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(composed)
    }
}

/// One pass over the characters. The output is only revisited when a `;` closes an entity, so that an entity produced by
/// decoding another one (`&amp;lt;`) is found in the same pass.
struct Pass {
    out: String,
    /// Whether whitespace was seen since the last character written.
    space: bool,
    /// A pending zero-width joiner or non-joiner. The next character decides whether it is kept.
    joiner: Option<char>,
}

impl Pass {
    fn push(&mut self, c: char) {
        self.place(c);
        // A decoded entity may itself be the `;` that closes another one. This is a loop rather than recursion, because the
        // sender determines its depth.
        let mut last = c;
        while last == ';' {
            let Some(decoded) = self.take_entity() else { return };
            for c in decoded.chars().map(windows_1252).flat_map(|c| std::iter::once(c).nfc()) {
                self.place(c);
                last = c;
            }
            if decoded.is_empty() {
                return;
            }
        }
    }

    fn place(&mut self, c: char) {
        if c.is_ascii_graphic() {
            return self.write(c);
        }
        match c {
            _ if c.is_whitespace() => self.space = true,
            '\u{200C}' | '\u{200D}' => self.joiner = Some(c),
            '\u{FE0E}' | '\u{FE0F}' => {
                if !self.space && self.joiner.is_none() && self.out.ends_with(takes_variation_selector) {
                    self.out.push(c);
                }
            }
            '\u{E0020}'..='\u{E007F}' => {
                // Tag characters after a black flag spell the flags of England, Scotland and Wales.
                if !self.space && self.joiner.is_none() && self.out.ends_with(takes_tag) {
                    self.out.push(c);
                }
            }
            _ if is_junk(c) => {}
            _ => self.write(c),
        }
    }

    fn write(&mut self, c: char) {
        if self.space {
            self.space = false;
            self.joiner = None;
            if !self.out.is_empty() {
                self.out.push(' ');
            }
        } else if let Some(joiner) = self.joiner.take()
            && self
                .out
                .chars()
                .next_back()
                .is_some_and(|before| joins(before, joiner, c))
        {
            self.out.push(joiner);
        }
        self.out.push(c);
    }

    /// Called after writing `;`: removes the entity that it closes and returns the decoded text.
    fn take_entity(&mut self) -> Option<String> {
        let bytes = self.out.as_bytes();
        let window = bytes.len().saturating_sub(MAX_ENTITY);
        let start = window + bytes[window..].iter().rposition(|&b| b == b'&')?;
        let entity = &self.out[start..];
        let decoded = match html_escape::decode_html_entities(entity) {
            Cow::Owned(decoded) => decoded,
            Cow::Borrowed(_) if control_reference(entity) => String::new(),
            Cow::Borrowed(_) => return None,
        };
        self.out.truncate(start);
        // The space before the entity is already written. The next character decides whether it is kept.
        if self.out.ends_with(' ') {
            self.out.pop();
            self.space = true;
        }
        Some(decoded)
    }
}

/// Whether a numeric entity refers to a control character, which decoders refuse.
fn control_reference(entity: &str) -> bool {
    let Some(number) = entity.strip_prefix("&#").and_then(|rest| rest.strip_suffix(';')) else {
        return false;
    };
    let value = match number.strip_prefix(['x', 'X']) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16),
        None if number.bytes().all(|b| b.is_ascii_digit()) => number.parse(),
        _ => return false,
    };
    value.is_ok_and(|value| value < 0x20)
}

/// Maps C1 control characters as Windows-1252, as the HTML standard does: `&#146;` is a right quote.
fn windows_1252(c: char) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
    ];
    match u32::from(c) {
        code @ 0x80..=0x9F => HIGH.get(code as usize - 0x80).copied().unwrap_or(c),
        _ => c,
    }
}

/// Invisible characters without meaning: controls, soft hyphen, zero-width spaces, directional marks, byte order marks,
/// variation selectors other than those for emoji, and noncharacters.
fn is_junk(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
            | '\u{FFF0}'..='\u{FFFB}' | '\u{FDD0}'..='\u{FDEF}' | '\u{E0000}'..='\u{E0FFF}')
        || u32::from(c) & 0xFFFE == 0xFFFE
}

/// Whether `c` can be (part of) an emoji, judged by its block rather than by its code point.
pub(super) fn is_pictographic(c: char) -> bool {
    matches!(c,
        '©' | '®' | '‼' | '⁉' | '™' | 'ℹ' | '\u{2190}'..='\u{21FF}' | '\u{2300}'..='\u{23FF}' | 'Ⓜ'
        | '\u{25A0}'..='\u{27BF}' | '⤴' | '⤵' | '\u{2B00}'..='\u{2BFF}' | '〰' | '〽' | '㊗' | '㊙'
        | '\u{1F000}'..='\u{1FAFF}')
}

fn takes_variation_selector(c: char) -> bool {
    is_pictographic(c) || c.is_ascii_digit() || c == '#' || c == '*'
}

fn takes_tag(c: char) -> bool {
    matches!(c, '\u{1F3F4}' | '\u{E0020}'..='\u{E007E}')
}

/// Whether a joiner between two characters is significant: it combines several emoji into one, or affects the shaping of
/// letters in Arabic and Indic scripts.
fn joins(before: char, joiner: char, after: char) -> bool {
    let emoji = joiner == '\u{200D}'
        && (is_pictographic(before) || before == '\u{FE0F}' || takes_tag(before))
        && is_pictographic(after);
    emoji || (has_joined_letters(before) && has_joined_letters(after))
}

fn has_joined_letters(c: char) -> bool {
    matches!(c, '\u{620}'..='\u{DFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{1820}'..='\u{18AA}')
}
