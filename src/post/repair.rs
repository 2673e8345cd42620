//! Repairs common faults in producers' JSON.

/// Repairs [lone surrogates](repair_surrogates) and [invalid numbers](repair_numbers). Returns `None` if there are none.
pub(super) fn repair(json: &str) -> Option<String> {
    let surrogates = repair_surrogates(json);
    let numbers = repair_numbers(surrogates.as_deref().unwrap_or(json));
    numbers.or(surrogates)
}

/// Replaces each `NaN`, `Infinity` and `-Infinity` with `null`. Returns `None` if there is none. Python and JavaScript
/// tools write them.
fn repair_numbers(json: &str) -> Option<String> {
    let mut repaired = String::new();
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
                    repaired.push_str(&json[copied..at]);
                    repaired.push_str("null");
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
    repaired.push_str(&json[copied..]);
    Some(repaired)
}

/// Replaces each lone UTF-16 surrogate escape (`\ud83d` without its counterpart) with `\ufffd`. Returns `None` if there is
/// none. Producers that cut strings by UTF-16 code units leave such halves behind.
pub(super) fn repair_surrogates(json: &str) -> Option<String> {
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
    let mut repaired = bytes.to_vec();
    for start in lone {
        repaired[start + 2..start + 6].copy_from_slice(b"fffd");
    }
    String::from_utf8(repaired).ok()
}

/// Returns the UTF-16 code unit of the `\uXXXX` escape that starts at `at`.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let escape = bytes.get(at..at + 6)?;
    if !escape.starts_with(b"\\u") {
        return None;
    }
    escape[2..]
        .iter()
        .try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}
