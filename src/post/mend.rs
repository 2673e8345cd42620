//! Faults of JSON that common producers make, mended.

/// `json` without the faults that common producers make: [lone surrogates](mend_surrogates) and
/// [numbers that JSON has not](mend_numbers); nothing if there are none.
pub(super) fn mend(json: &str) -> Option<String> {
    let surrogates = mend_surrogates(json);
    let numbers = mend_numbers(surrogates.as_deref().unwrap_or(json));
    numbers.or(surrogates)
}

/// `json` with each `NaN`, `Infinity` and `-Infinity` replaced by `null`; nothing if there is none. Python's and
/// JavaScript's tools write them.
fn mend_numbers(json: &str) -> Option<String> {
    let mut mended = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    let bytes = json.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let word = ["-Infinity", "Infinity", "NaN"]
                    .into_iter()
                    .find(|word| bytes[at..].starts_with(word.as_bytes()));
                if let Some(word) = word {
                    mended.push_str(&json[copied..at]);
                    mended.push_str("null");
                    copied = at + word.len();
                    at = copied;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return None;
    }
    mended.push_str(&json[copied..]);
    Some(mended)
}

/// `json` with each lone UTF-16 surrogate escape (`\ud83d` without its partner) replaced by `\ufffd`;
/// nothing if there is none. Producers that cut strings by UTF-16 units leave such halves behind.
pub(super) fn mend_surrogates(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut lone = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match escaped_unit(bytes, at) {
            Some(0xD800..=0xDBFF) if matches!(escaped_unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                lone.push(at);
                at += 6;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    if lone.is_empty() {
        return None;
    }
    let mut mended = bytes.to_vec();
    for start in lone {
        mended[start + 2..start + 6].copy_from_slice(b"fffd");
    }
    String::from_utf8(mended).ok()
}

/// The UTF-16 unit of the `\uXXXX` that starts at `at`.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let escape = bytes.get(at..at + 6)?;
    if !escape.starts_with(b"\\u") {
        return None;
    }
    escape[2..]
        .iter()
        .try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}
