//! Extracts the text from a status's HTML: the small sanitised subset that Mastodon's API returns. Any input is safe.

/// Elements that end a line.
const BLOCKS: &[&str] = &[
    "blockquote",
    "div",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "li",
    "ol",
    "pre",
    "tr",
    "ul",
];

/// Returns the visible text: an empty line between paragraphs, a newline for `<br>` and block elements, entities decoded.
///
/// Mastodon hides the start and the end of a long link in `invisible` spans. They are kept, so that the text contains
/// the complete URL. A link without text is replaced by its address.
pub(super) fn to_text(html: &str) -> String {
    let mut out = TextWriter {
        text: String::with_capacity(html.len()),
        ..TextWriter::default()
    };
    let mut link = None;
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        out.push(&rest[..at]);
        rest = &rest[at..];
        let Some(tag) = Tag::at(rest) else {
            out.push("<");
            rest = &rest[1..];
            continue;
        };
        let Some(length) = tag.length else {
            // An unterminated tag: a browser would drop the rest, but it may be part of what the author wrote.
            out.push_raw(rest);
            return out.text;
        };
        let source = &rest[..length];
        rest = &rest[length..];
        match (tag.name.as_str(), tag.closes) {
            ("br", _) => out.line_breaks = (out.line_breaks + 1).min(2),
            ("p", _) => out.line_breaks = 2,
            ("script" | "style", false) => rest = skip_past(rest, &tag.name),
            ("a", false) => link = attribute(source, "href").map(|href| (href, out.visible)),
            ("a", true) => {
                if let Some((href, _)) = link.take().filter(|(_, visible)| *visible == out.visible) {
                    out.push(href);
                }
            }
            (name, closes) if BLOCKS.contains(&name) => {
                out.line_breaks = out.line_breaks.max(1);
                if name == "pre" {
                    out.preformatted = !closes;
                }
            }
            _ => {}
        }
    }
    out.push(rest);
    out.text
}

#[derive(Default)]
struct TextWriter {
    text: String,
    /// Pending line breaks, written before the next visible character.
    line_breaks: usize,
    /// Whether a space is pending.
    space: bool,
    /// Whether newlines in the source are kept, as in `<pre>`.
    preformatted: bool,
    /// The number of visible characters written.
    visible: usize,
}

impl TextWriter {
    /// Appends source text, decoding entities.
    fn push(&mut self, source: &str) {
        self.push_raw(&html_escape::decode_html_entities(source));
    }

    fn push_raw(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\n' if self.preformatted => self.line_breaks += 1,
                ' ' | '\t' | '\n' | '\r' | '\u{c}' => self.space = true,
                _ => {
                    if !self.text.is_empty() {
                        match self.line_breaks {
                            0 if self.space => self.text.push(' '),
                            breaks => self.text.extend(std::iter::repeat_n('\n', breaks)),
                        }
                    }
                    (self.line_breaks, self.space) = (0, false);
                    self.text.push(c);
                    self.visible += 1;
                }
            }
        }
    }
}

struct Tag {
    /// In lower case; empty for comments and declarations.
    name: String,
    closes: bool,
    /// The length in bytes from `<` through `>`, or `None` if the tag is unterminated.
    length: Option<usize>,
}

impl Tag {
    /// Parses the tag at the `<` that `source` starts with, or returns `None` if it does not start a tag.
    fn at(source: &str) -> Option<Self> {
        if source.starts_with("<!--") {
            let length = source.find("-->").map_or(source.len(), |end| end + 3);
            return Some(Self {
                name: String::new(),
                closes: false,
                length: Some(length),
            });
        }
        let body = &source[1..];
        let closes = body.starts_with('/');
        let body = if closes { &body[1..] } else { body };
        if !body.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!') {
            return None;
        }
        let name = body
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        Some(Self {
            name,
            closes,
            length: end_of_tag(source),
        })
    }
}

/// Returns the position after the first `>` outside quotes.
fn end_of_tag(source: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in source.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// Returns the rest after the closing tag of `name`, or an empty string if there is none.
fn skip_past<'a>(source: &'a str, name: &str) -> &'a str {
    let mut rest = source;
    while let Some(at) = rest.find("</") {
        rest = &rest[at + 2..];
        if rest
            .get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
        {
            return rest.find('>').map_or("", |end| &rest[end + 1..]);
        }
    }
    ""
}

/// Returns the value of a quoted attribute.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = tag;
    while let Some(at) = rest.find(name) {
        let starts_word = rest[..at].ends_with(|c: char| c.is_ascii_whitespace());
        rest = &rest[at + name.len()..];
        let Some(value) = rest.strip_prefix('=').filter(|_| starts_word) else {
            continue;
        };
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        return value[1..].split(quote).next();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::to_text;

    #[test]
    fn paragraphs_and_breaks_become_line_ends() {
        assert_eq!(to_text("<p>One<br />two</p><p>three</p>"), "One\ntwo\n\nthree");
        assert_eq!(to_text("<p>a<br><br><br>b</p>"), "a\n\nb");
        assert_eq!(to_text("<ul><li>a</li><li>b</li></ul>"), "a\nb");
        assert_eq!(to_text("<pre><code>let a;\nlet b;</code></pre>"), "let a;\nlet b;");
        assert_eq!(to_text("  a \n b  "), "a b");
    }

    #[test]
    fn a_shortened_link_keeps_its_complete_address() {
        let html = "<p>see <a href=\"https://ex.example/a/long/way\" rel=\"nofollow\"><span class=\"invisible\">https://</span>\
            <span class=\"ellipsis\">ex.example/a/lo</span><span class=\"invisible\">ng/way</span></a>!</p>";
        assert_eq!(to_text(html), "see https://ex.example/a/long/way!");
        assert_eq!(
            to_text("<a href='https://ex.example/?a=1&amp;b=2'></a>"),
            "https://ex.example/?a=1&b=2"
        );
        assert_eq!(
            to_text("<a data-href=\"x\" href=\"https://ex.example\">here</a>"),
            "here"
        );
    }

    #[test]
    fn hashtags_and_mentions_keep_their_signs() {
        let html = "<p><span class=\"h-card\"><a href=\"https://ex.example/@ann\" class=\"u-url mention\">@<span>ann</span></a></span> \
            <a href=\"https://ex.example/tags/tea\" class=\"mention hashtag\">#<span>tea</span></a></p>";
        assert_eq!(to_text(html), "@ann #tea");
    }

    #[test]
    fn entities_are_resolved_once_and_never_become_tags() {
        assert_eq!(
            to_text("<p>it&#39;s &lt;b&gt; &amp;amp; &quot;so&quot; &eacute; &#x1F600;</p>"),
            "it's <b> &amp; \"so\" é 😀"
        );
    }

    #[test]
    fn text_that_is_not_a_tag_is_kept() {
        assert_eq!(to_text("I <3 you, 1 < 2 <"), "I <3 you, 1 < 2 <");
        assert_eq!(to_text("never ends <a href=\"x"), "never ends <a href=\"x");
        assert_eq!(
            to_text("a<!-- hidden --><script>if (a < b) {}</script ><style>p{}</style>b"),
            "ab"
        );
    }

    proptest! {
        #[test]
        fn any_string_is_handled(html in ".{0,200}|[<>/a-z\"'=&;! -]{0,200}") {
            let _ = to_text(&html);
        }

        #[test]
        fn text_without_markup_is_only_tidied(text in "[a-z .,!?é😀]{0,100}") {
            let tidy: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            prop_assert_eq!(to_text(&text), tidy.join(" "));
        }
    }
}
