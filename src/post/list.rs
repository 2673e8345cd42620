//! Lists of posts and rejects of non-posts, shared by the wire formats.

use serde_json::value::RawValue;

use super::{Parsed, Reason, Reject, json};

/// Parses a list that holds a single post; `each` parses the element.
///
/// # Errors
///
/// Returns [`Reason::SeveralPosts`] if the list has several elements and any of them is a post,
/// [`Reason::NotAPost`] if it is empty, and otherwise the first element's reject.
pub(super) fn single_post(list: &str, each: impl Fn(&str) -> Result<Parsed, Reject>) -> Result<Parsed, Reject> {
    let elements: Vec<&RawValue> = json::read(list)?;
    let one = |element: &RawValue| match element.get() {
        json if json.starts_with('{') => each(json),
        _ => Err(Reject::new(
            Reason::UnknownFormat,
            "a list of values that are not objects",
        )),
    };
    let mut failed = None;
    match elements[..] {
        [] => return Err(not_a_post("an empty list")),
        [only] => return one(only),
        _ => {}
    }
    for element in &elements {
        match one(element) {
            Err(reject) if reject.reason != Reason::SeveralPosts => {
                failed.get_or_insert(reject);
            }
            _ => {
                let detail = format!(
                    "a list of {} elements that include posts: send one post per record",
                    elements.len()
                );
                return Err(Reject::new(Reason::SeveralPosts, detail));
            }
        }
    }
    Err(failed.map_or_else(
        || not_a_post("an empty list"),
        |first| {
            Reject::new(
                first.reason,
                format!(
                    "a list of {} elements, none of them a post; the first: {}",
                    elements.len(),
                    first.detail
                ),
            )
        },
    ))
}

/// Returns the reject of a known kind of object that is not a post.
pub(super) fn not_a_post(what: &str) -> Reject {
    Reject::new(Reason::NotAPost, format!("{what}, not a post"))
}
