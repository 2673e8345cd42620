//! Tests the reader of `/metrics` that other tests use.

#[path = "../support/exposition.rs"]
mod reader;

use reader::{by_label, samples, total};

const PAGE: &str = "# HELP rejects_total Rejected records by reason.\n\
    # TYPE rejects_total counter\n\
    rejects_total{reason=\"not_json\"} 12\n\
    rejects_total{topic=\"a\",reason=\"no_text\"} 3\n\
    rejects_total{reason=\"a \\\"b\\\\\\n,c}\"} 1\n\
    rejects_total_other{reason=\"x\"} 9\n\
    letters_total 15 1700000000000\n\
    broken{reason=\"x\n";

#[test]
fn samples_are_read_by_label_and_in_total() {
    let rejects = by_label(PAGE, "rejects_total", "reason");
    let expected = [("a \"b\\\n,c}", 1.0), ("no_text", 3.0), ("not_json", 12.0)];
    assert_eq!(rejects, expected.map(|(name, value)| (name.to_owned(), value)).into());
    assert_eq!(total(PAGE, "letters_total"), 15.0);
    assert_eq!(total(PAGE, "rejects_total"), 16.0);
    assert_eq!(total(PAGE, "absent_total"), 0.0);
}

proptest::proptest! {
    #[test]
    fn any_page_is_read(page in ".{0,300}") {
        let _ = samples(&page).count();
    }

    #[test]
    fn any_label_value_is_read_back(value in "[^\r\n]{0,40}") {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        let page = format!("m{{a=\"{escaped}\",b=\"1\"}} 4\n");
        let read: Vec<_> = samples(&page).collect();
        // In the format, as for str::lines, other line breaks than \n don't end a line.
        proptest::prop_assert_eq!(read.len(), 1);
        proptest::prop_assert_eq!(read[0].label("a"), Some(value.as_str()));
    }
}
