//! Lists of posts, and what is no post: shared by the wire formats.

use serde_json::value::RawValue;

use super::{Parsed, Reason, Reject, json};

/// The one post of a list: read by `each` if it is the list's only element.
///
/// # Errors
///
/// [`Reason::SeveralPosts`] if posts are among several elements, [`Reason::NotAPost`] for an empty
/// list, else the first element's reason.
pub(super) fn one_of(list: &str, each: impl Fn(&str) -> Result<Parsed, Reject>) -> Result<Parsed, Reject> {
    let elements: Vec<&RawValue> = json::read(list)?;
    let one = |element: &RawValue| match element.get() {
        json if json.starts_with('{') => each(json),
        _ => Err(Reject::new(
            Reason::UnknownFormat,
            "a list of values that are no objects",
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
                    "a list of {} elements with posts among them: feed them one a record",
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
                    "a list of {} elements, none a post; the first: {}",
                    elements.len(),
                    first.detail
                ),
            )
        },
    ))
}

/// The reject of something known that is no post.
pub(super) fn not_a_post(what: &str) -> Reject {
    Reject::new(Reason::NotAPost, format!("{what}, not a post"))
}
