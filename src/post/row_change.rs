//! Row changes as written by change data capture tools. The row is the post.
//!
//! - Debezium: <https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events>
//! - Maxwell: <https://maxwells-daemon.io/dataformat/>, and Canal's flat messages, which hold a list of rows.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Parsed, Reason, Reject,
    draft::Input,
    json::{self, Scalar},
    list::{not_a_post, single_post},
    plain,
};

#[derive(Deserialize)]
struct RowChange<'a> {
    #[serde(borrow, default)]
    op: Scalar<'a>,
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    kind: Scalar<'a>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// Parses one change. `row` parses an inserted or updated row; a deleted row deletes its post.
pub(super) fn parse(
    json: &str,
    input: Input<'_>,
    row: impl Fn(&str) -> Result<Parsed, Reject>,
) -> Result<Parsed, Reject> {
    let change: RowChange<'_> = json::read(json)?;
    let debezium = change.op.as_str();
    let name = debezium.or_else(|| change.kind.as_str()).unwrap_or_default();
    let is_deletion = matches!(name, "d" | "delete" | "DELETE");
    let values = match (debezium, is_deletion) {
        (Some(_), true) => change.before,
        (Some(_), false) => change.after,
        (None, _) => change.data,
    };
    match name {
        "c" | "r" | "u" | "insert" | "bootstrap-insert" | "update" | "replace" | "INSERT" | "UPDATE" | "d"
        | "delete" | "DELETE" => {}
        other => return Err(not_a_post(&format!("the change `{other}` of a table"))),
    }
    let Some(values) = values else {
        let detail = match is_deletion {
            true => "a row was deleted, but the change holds none of its values (see REPLICA IDENTITY)",
            false => "a row change without the row's values",
        };
        return Err(Reject::new(Reason::NoId, detail));
    };
    let each = |values: &str| match is_deletion {
        true => plain::deletion(values, input),
        false => row(values),
    };
    // Debezium's MongoDB connector writes the document as a string.
    let document = json::read::<Cow<'_, str>>(values.get());
    match document.as_deref().unwrap_or(values.get()) {
        list if list.starts_with('[') => single_post(list, each),
        values => each(values),
    }
}
