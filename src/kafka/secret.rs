//! Which properties of librdkafka hold secrets.

/// Whether a property's value must not be shown. Errs on the side of hiding.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `sasl.jaas.config` and `sasl.oauthbearer.config` hold credentials within; PEM texts may hold a key.
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
