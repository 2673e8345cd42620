//! The names of environment variables with settings.

use std::sync::LazyLock;

use regex::Regex;

use super::{error::ValueError, names};

/// The prefix of environment variables with settings.
pub const PREFIX: &str = "MOODSTREAM_";

/// Variables with the prefix that are not settings: those of the command line, deploy/, the build and the tests.
const OTHERS: &[&str] = &[
    "CONFIG",
    "RUNTIME",
    "RENEW",
    "WRITE_DOCS",
    "PG_BIN",
    "TANSU",
    "CHROMIUM",
    "PROMETHEUS_URL",
    "OWNER_PASSWORD",
    "SERVICE_PASSWORD",
    "READ_PASSWORD",
];
/// Prefixes of groups of such variables.
const OTHER_GROUPS: &[&str] = &["TEST_", "POSTGRES_"];

/// Whether a variable with the prefix is meant for another program.
pub(super) fn is_other(name: &str) -> bool {
    let name = &name[PREFIX.len()..];
    OTHERS.contains(&name) || OTHER_GROUPS.iter().any(|group| name.starts_with(group)) || is_kubernetes(name)
}

/// Whether Kubernetes created the variable for a service whose name begins with `moodstream`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_kubernetes(name: &str) -> bool {
    static SERVICE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?:\A|_)(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)\z").ok()
    });
    !name.contains("__") && SERVICE.as_ref().is_some_and(|service| service.is_match(name))
}

/// Returns the keys of the setting that a variable names: `MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD` -> `kafka`,
/// `properties`, `sasl.password`.
///
/// # Errors
/// Returns an error if there is no such setting, suggesting a similar one.
pub(super) fn path(name: &str) -> Result<Vec<String>, ValueError> {
    let name = &name[PREFIX.len()..];
    let path: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
    if let [section, table, property @ ..] = path.as_slice()
        && section == "kafka"
        && table == "properties"
        && !property.iter().all(String::is_empty)
    {
        let property = property.join(".").replace('_', ".");
        return Ok(vec![section.clone(), table.clone(), property]);
    }
    if names::NAMES.iter().any(|keys| *keys == path) {
        return match path.as_slice() {
            [only] => Err(ValueError::FileOnly(only.clone())),
            _ => Ok(path),
        };
    }
    let meant = names::meant(name).filter(|keys| keys.len() > 1);
    Err(match meant {
        Some(keys) => ValueError::Misspelt {
            meant: format!("{PREFIX}{}", keys.join("__").to_ascii_uppercase()),
        },
        None => {
            let mut sections: Vec<&str> = names::NAMES.iter().filter_map(|keys| keys.first().copied()).collect();
            sections.dedup();
            let sections = sections.join(", ");
            ValueError::Unknown { sections }
        }
    })
}
