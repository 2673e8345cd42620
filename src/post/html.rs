//! The text of a status's HTML: the small, sanitised subset that Mastodon's API hands out, but any bytes do no harm.

/// Elements whose ends are the ends of a line.
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

/// The visible text: paragraphs parted by an empty line, `<br>` and blocks by a line end, entities resolved.
///
/// Mastodon hides the ends of a long link in `invisible` spans; they are kept, so the whole URL stands
/// in the text. A link without a text gives its address.
pub(super) fn to_text(html: &str) -> String {
    let mut page = Page {
        text: String::with_capacity(html.len()),
        ..Page::default()
    };
    let mut link = None;
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        page.push(&rest[..at]);
        rest = &rest[at..];
        let Some(tag) = Tag::at(rest) else {
            page.push("<");
            rest = &rest[1..];
            continue;
        };
        let Some(length) = tag.length else {
            // The tag never ends: a browser would drop all that follows, but it may be what the author wrote.
            page.push_raw(rest);
            return page.text;
        };
        let source = &rest[..length];
        rest = &rest[length..];
        match (tag.name.as_str(), tag.closes) {
            ("br", _) => page.breaks = (page.breaks + 1).min(2),
            ("p", _) => page.breaks = 2,
            ("script" | "style", false) => rest = skip_past(rest, &tag.name),
            ("a", false) => link = attribute(source, "href").map(|href| (href, page.solid)),
            ("a", true) => {
                if let Some((href, _)) = link.take().filter(|(_, solid)| *solid == page.solid) {
                    page.push(href);
                }
            }
            (name, closes) if BLOCKS.contains(&name) => {
                page.breaks = page.breaks.max(1);
                if name == "pre" {
                    page.keep_lines = !closes;
                }
            }
            _ => {}
        }
    }
    page.push(rest);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// Line ends owed before the next visible character.
    breaks: usize,
    /// Whether a space is owed before it.
    space: bool,
    /// Whether line ends of the source stand for themselves, as in `<pre>`.
    keep_lines: bool,
    /// How many visible characters were written.
    solid: usize,
}

impl Page {
    /// Writes a run of source text, entities resolved.
    fn push(&mut self, source: &str) {
        self.push_raw(&html_escape::decode_html_entities(source));
    }

    fn push_raw(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\n' if self.keep_lines => self.breaks += 1,
                ' ' | '\t' | '\n' | '\r' | '\u{c}' => self.space = true,
                _ => {
                    if !self.text.is_empty() {
                        match self.breaks {
                            0 if self.space => self.text.push(' '),
                            breaks => self.text.extend(std::iter::repeat_n('\n', breaks)),
                        }
                    }
                    (self.breaks, self.space) = (0, false);
                    self.text.push(c);
                    self.solid += 1;
                }
            }
        }
    }
}

struct Tag {
    /// Lower case; empty for comments and declarations.
    name: String,
    closes: bool,
    /// Bytes from `<` to past `>`, unless the tag never ends.
    length: Option<usize>,
}

impl Tag {
    /// The tag at the `<` that `source` starts with, if it opens one.
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

/// Past the `>` that stands outside of quotes.
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

/// What follows the closing tag of `name`; nothing if there is none.
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

/// The value of a quoted attribute.
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
    fn a_shortened_link_gives_its_whole_address() {
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
    fn what_is_no_tag_is_text() {
        assert_eq!(to_text("I <3 you, 1 < 2 <"), "I <3 you, 1 < 2 <");
        assert_eq!(to_text("never ends <a href=\"x"), "never ends <a href=\"x");
        assert_eq!(
            to_text("a<!-- hidden --><script>if (a < b) {}</script ><style>p{}</style>b"),
            "ab"
        );
    }

    proptest! {
        #[test]
        fn any_string_is_taken(html in ".{0,200}|[<>/a-z\"'=&;! -]{0,200}") {
            let _ = to_text(&html);
        }

        #[test]
        fn text_without_markup_is_only_tidied(text in "[a-z .,!?é😀]{0,100}") {
            let tidy: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            prop_assert_eq!(to_text(&text), tidy.join(" "));
        }
    }
}
