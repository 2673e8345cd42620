//! Secrets are planted in every setting that may hold one, and looked for in everything that comes out.

use crate::support::service::{model, moodstream};

const SECRET: &str = "hunter2hunter2";

#[test]
fn planted_secrets_are_in_no_output() {
    let url = format!("postgres://me:{SECRET}@127.0.0.1:1/moods");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    std::fs::write(&broken, format!("[database]\nurl = \"postgres://me:{SECRET}@db\n")).unwrap();
    let broken = broken.to_str().unwrap();
    for arguments in [
        vec!["--help"],
        vec!["run", "--help"],
        vec!["migrate", "--help"],
        vec!["check"],
        vec!["run"],
        vec!["run", "--until-caught-up"],
        vec!["migrate"],
        vec!["run", "--config", broken],
    ] {
        let output = moodstream()
            .args(&arguments)
            .env("MOODSTREAM_KAFKA__TOPICS", "posts")
            .env("MOODSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "sasl_plaintext")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_USERNAME", "me")
            .env("MOODSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", SECRET)
            .env("MOODSTREAM_DATABASE__URL", &url)
            .env("MOODSTREAM_MODEL__PATH", model())
            .env("MOODSTREAM_HTTP__LISTEN", "127.0.0.1:0")
            .env("MOODSTREAM_LOG__LEVEL", "trace")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.is_empty(), "{arguments:?} says nothing");
        assert!(!said.contains(SECRET), "{arguments:?} shows a secret");
    }
}
