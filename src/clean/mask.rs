//! Masks or removes handles and links.

use unicode_normalization::char::is_combining_mark;

/// The mask of a handle.
const USER: &str = "@user";
/// The mask of a link.
const LINK: &str = "http";
/// Prefixes of links without a scheme.
const BARE_LINKS: [&str; 5] = ["www.", "t.co/", "pic.twitter.com/", "pic.x.com/", "instagr.am/"];
/// Top-level domains for which a single dot suffices to continue a handle as a domain (`@ann.dev`). Without this list,
/// a missing space after a full stop would make the next word part of the handle.
const HANDLE_DOMAINS: [&str; 9] = ["app", "com", "dev", "io", "me", "net", "org", "social", "xyz"];

/// Replaces handles with `@user` and links with `http`, and drops `RT @x:` prefixes. Expects normalised text.
pub(super) fn mask(text: String) -> String {
    let masked = replace(text, USER, LINK);
    match without_retweet_prefix(&masked) {
        rest if rest.len() == masked.len() => masked,
        rest => rest.to_owned(),
    }
}

/// Whether a masked text contains a mask. If not, there is nothing left to mask.
pub(super) fn has_mask(text: &str) -> bool {
    text.contains(USER) || text.contains(LINK)
}

/// Removes handles, links and `RT @x:` prefixes. Expects normalised text; may leave double spaces.
pub(super) fn remove(text: String) -> String {
    let masked = replace(text, USER, " ");
    replace(without_retweet_prefix(&masked).to_owned(), " ", " ")
}

fn without_retweet_prefix(mut text: &str) -> &str {
    while let Some(rest) = text
        .strip_prefix("RT ")
        .and_then(|rest| rest.strip_prefix(USER))
        .map(str::trim_start)
        .and_then(|rest| rest.strip_prefix(':'))
    {
        text = rest.trim_start();
    }
    text
}

fn replace(text: String, user: &str, link: &str) -> String {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let found = match bytes[at] {
            b'@' => handle_end(&text, at).map(|end| (end, user)),
            b'h' | b'H' | b'w' | b'W' | b't' | b'T' | b'p' | b'P' | b'i' | b'I' => {
                link_end(&text, at).map(|end| (end, link))
            }
            _ => None,
        };
        let Some((end, mask)) = found else {
            at += 1;
            continue;
        };
        out.push_str(&text[copied..at]);
        // Without the separating space, a link would become part of the adjacent word. A handle would become part of the
        // preceding one if a combining mark separated them.
        let glued = if mask == link {
            out.ends_with(char::is_alphanumeric)
        } else {
            copied == at && !out.is_empty()
        };
        if glued {
            out.push(' ');
        }
        out.push_str(mask);
        if mask == link && text[end..].starts_with(char::is_alphanumeric) {
            out.push(' ');
        }
        at = end;
        copied = end;
    }
    if copied == 0 {
        return text;
    }
    out.push_str(&text[copied..]);
    out
}

/// Returns the end of the handle whose `@` is at `at`: `@name`, `@name@host.tld` (Mastodon) or
/// `@name.host.tld` (Bluesky). Returns `None` for a lone `@` or that of an email address.
fn handle_end(text: &str, at: usize) -> Option<usize> {
    if text[..at].ends_with(|c: char| c.is_alphanumeric() && c < '\u{2E80}' || c == '_') {
        return None;
    }
    let bytes = text.as_bytes();
    if !bytes.get(at + 1).is_some_and(|&b| is_name(b)) {
        return None;
    }
    // Repeat until nothing follows that would be part of the handle after it is replaced with `@user`.
    let mut end = at + 1;
    loop {
        if end > at + 1 && scheme_at(text, end).is_some() {
            return Some(end);
        }
        let name = skip_marks(text, run(bytes, end, is_name));
        let host = match bytes.get(name) {
            Some(b'@') => domain_end(text, name + 1, false),
            Some(b'.') => domain_end(text, name, true),
            Some(&b) if is_name(b) => Some(name),
            _ => None,
        };
        match host {
            Some(host) => end = host,
            None => return Some(name),
        }
    }
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Returns the end of the domain at `at`. With `continued`, `at` is the dot that precedes the rest of a domain.
fn domain_end(text: &str, at: usize, continued: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    // A combining mark is removed with the mask, so it must not end the domain early.
    let label_end = |from: usize| {
        let rest = &text[from..];
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || is_mark(c));
        let end = rest.find(ends).unwrap_or(rest.len());
        // A link may follow the domain without a space. It is masked on its own, so the domain ends before it.
        let mut glued = [5, 4].into_iter().filter_map(|length| end.checked_sub(length));
        from + glued
            .find(|&start| start > 0 && scheme_at(rest, start).is_some())
            .unwrap_or(end)
    };
    let mut end = if continued { at } else { label_end(at) };
    let mut dots = 0;
    let mut last = end;
    while bytes.get(end) == Some(&b'.') {
        let label = label_end(end + 1);
        if label == end + 1 {
            break;
        }
        last = end + 1;
        end = label;
        dots += 1;
    }
    let known = HANDLE_DOMAINS
        .iter()
        .any(|tld| text[last..end].eq_ignore_ascii_case(tld));
    let enough = if continued {
        dots > 1 || (dots == 1 && known)
    } else {
        dots > 0 && end > at
    };
    enough.then_some(end)
}

/// Returns the length of the URL scheme at `at`.
fn scheme_at(text: &str, at: usize) -> Option<usize> {
    let scheme = ["https://", "http://"]
        .into_iter()
        .find(|scheme| starts(text, at, scheme));
    scheme.map(str::len)
}

fn starts(text: &str, at: usize, prefix: &str) -> bool {
    let start = text.as_bytes().get(at..at + prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Returns the end of the link that starts at `at`, excluding punctuation that ends the sentence.
fn link_end(text: &str, at: usize) -> Option<usize> {
    let start = match text.as_bytes()[at] | 0x20 {
        b'h' => scheme_at(text, at)?,
        _ => {
            let prefix = BARE_LINKS.into_iter().find(|prefix| starts(text, at, prefix))?;
            // Scraped posts append `pic.twitter.com/…` to their last word without a space.
            let glued = prefix.starts_with("pic.");
            // A combining mark before the link may be removed with a mask, which is then separated from it by a space.
            let joins = |c: char| (c.is_alphanumeric() && !is_mark(c)) || "_.-@/".contains(c);
            if !glued && text[..at].ends_with(joins) {
                return None;
            }
            let first = text[at + prefix.len()..].chars().next()?;
            if !first.is_alphanumeric() {
                return None;
            }
            prefix.len()
        }
    };
    let mut from = at + start;
    loop {
        let rest = &text[from..];
        let end = rest.find(|c| !in_link(c)).unwrap_or(rest.len());
        let link = &rest[..end];
        let has_parenthesis = link.contains('(');
        let link = link.trim_end_matches(|c: char| ".,:;!?'\"]}*_~".contains(c) || (c == ')' && !has_parenthesis));
        let end = skip_marks(text, from + link.len());
        // After the `http` mask, this would start another link.
        match text[end..].strip_prefix("://") {
            Some(_) => from = end + "://".len(),
            None => return Some(end),
        }
    }
}

/// Whether a character can be part of a link: letters of any alphabet except scripts written without spaces, in which the
/// text continues directly after the link.
fn in_link(c: char) -> bool {
    (c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '`' | '|'))
        || (!c.is_ascii() && c < '\u{2E80}' && (c.is_alphanumeric() || is_combining_mark(c)))
        || matches!(c, '\u{200C}' | '\u{200D}')
}

/// Skips combining marks, which would attach to the mask's last letter, and joiners, which would have nothing to join.
fn skip_marks(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    at + rest.find(|c| !is_mark(c)).unwrap_or(rest.len())
}

fn is_mark(c: char) -> bool {
    is_combining_mark(c) || matches!(c, '\u{200C}' | '\u{200D}')
}

fn run(bytes: &[u8], from: usize, accept: impl Fn(u8) -> bool) -> usize {
    bytes[from..]
        .iter()
        .position(|&b| !accept(b))
        .map_or(bytes.len(), |length| from + length)
}
