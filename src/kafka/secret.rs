//! Recognises librdkafka properties that hold secrets.

/// Whether a property's value must not be shown. When in doubt it is hidden.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `sasl.jaas.config` and `sasl.oauthbearer.config` contain credentials; PEM texts may contain a key.
    [
        "password",
        "secret",
        "jaas",
        "oauthbearer.config",
        "assertion",
        "token",
        "credential",
        ".pem",
        "ssl.key",
    ]
    .iter()
    .any(|part| name.contains(part))
}
