//! Settings of the store.

use std::{fmt, str::FromStr, time::Duration};

use sqlx::postgres::PgConnectOptions;

use super::error::{StoreError, StoreErrorKind};

/// A database URL. `Debug` and `Display` do not show the password.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The whole URL, including its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for DatabaseUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

/// Shows only parts that are useful in a message and can't contain a password: user, host, port, database and `sslmode`.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(mut url) = url::Url::parse(&self.0) else {
            return f.write_str("(not a URL)");
        };
        let hidden = url.password().is_some() && url.set_password(Some("***")).is_err();
        if hidden || misread(&url) {
            return f.write_str("(hidden)");
        }
        let sslmode = url
            .query_pairs()
            .find(|(key, _)| key == "sslmode")
            .map(|(_, mode)| mode);
        let sslmode = sslmode.filter(|mode| SSL_MODES.contains(&&**mode)).map(String::from);
        url.set_query(sslmode.map(|mode| format!("sslmode={mode}")).as_deref());
        f.write_str(url.as_str())
    }
}

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Whether the password seems to contain an unescaped character that ends it: the URL parser then takes the first part for
/// a host and port, and the rest for a path, a query or a fragment.
fn misread(url: &url::Url) -> bool {
    url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) || url.fragment().is_some()
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// How to reach Postgres and how long to wait for it.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreOptions {
    /// `postgres://user:password@host:port/database?sslmode=verify-full`: `sslmode`, `sslrootcert`, `sslcert`
    /// and `sslkey` as in libpq.
    pub url: DatabaseUrl,
    /// Maximum number of connections. A flush holds one; partitions, retention and pings share the others.
    pub max_connections: u32,
    /// Seconds to wait for a connection.
    pub connect_timeout_seconds: u64,
    /// Seconds after which the server cancels a statement. Also how long it keeps a transaction whose client is silent,
    /// and with it the locks on the partitions' offsets. If the server is silent for 5 seconds longer, the connection is
    /// closed. 0: no limit; then a connection that is lost silently is kept until TCP gives up, which may be never.
    pub statement_timeout_seconds: u64,
    /// Seconds to wait for a lock. 0: forever.
    pub lock_timeout_seconds: u64,
    /// Whether a commit waits until its WAL is on disk. If false, a crash of the server may lose the last transactions as a
    /// whole. Their records are then read again from Kafka, so nothing is lost or doubled while Kafka retains them.
    pub synchronous_commit: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            url: "postgres://localhost/moodstream".into(),
            max_connections: 4,
            connect_timeout_seconds: 10,
            statement_timeout_seconds: 60,
            lock_timeout_seconds: 15,
            synchronous_commit: true,
        }
    }
}

/// Time beyond the statement timeout for the server to cancel the statement and report it.
const GRACE: Duration = Duration::from_secs(5);
/// The longest timeout that Postgres accepts: it counts milliseconds in 32 bits.
const LONGEST_TIMEOUT_SECONDS: u64 = i32::MAX as u64 / 1000;

impl StoreOptions {
    /// How long the server may be silent during a statement before its connection is closed; `None` for no limit.
    pub(super) fn patience(&self) -> Option<Duration> {
        let statement = self.statement_timeout_seconds;
        (statement > 0).then(|| Duration::from_secs(statement) + GRACE)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds.max(1))
    }

    /// Checks the settings without connecting.
    ///
    /// # Errors
    /// [`StoreErrorKind::Settings`] with what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.max_connections == 0 {
            let why = "database.max_connections is 0: set it to at least 1";
            return Err(StoreError::new(StoreErrorKind::Settings, "reading the settings", why));
        }
        for (name, seconds) in [
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("statement_timeout_seconds", self.statement_timeout_seconds),
            ("lock_timeout_seconds", self.lock_timeout_seconds),
        ] {
            if seconds > LONGEST_TIMEOUT_SECONDS {
                let why = format!("database.{name} is {seconds}: set it to at most {LONGEST_TIMEOUT_SECONDS}");
                return Err(StoreError::new(StoreErrorKind::Settings, "reading the settings", why));
            }
        }
        self.connect_options().map(drop)
    }

    pub(super) fn connect_options(&self) -> Result<PgConnectOptions, StoreError> {
        // sqlx accepts other schemes and treats them as Postgres.
        let url = self.url.expose();
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            let why = "the URL must start with postgres:// or postgresql://: write postgres://USER:PASSWORD@HOST:5432/DATABASE";
            return Err(StoreError::new(StoreErrorKind::Settings, "reading the URL", why));
        }
        if url::Url::parse(url).is_ok_and(|url| misread(&url)) {
            let why = "there is an @ or # where a URL can't have one: in a password, write # as %23, / as %2F, ? as %3F, @ as %40";
            return Err(StoreError::new(StoreErrorKind::Settings, "reading the URL", why));
        }
        let settings = |why: String| StoreError::new(StoreErrorKind::Settings, "reading the URL", why);
        let authority = url
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split(['/', '?', '#']).next());
        if authority.is_some_and(|authority| authority.rsplit('@').next().unwrap_or_default().contains(',')) {
            return Err(settings(
                "it names several hosts: give one, which may be a DNS name or proxy for the primary".to_owned(),
            ));
        }
        let parsed = url::Url::parse(url).ok();
        for (name, value) in parsed.iter().flat_map(url::Url::query_pairs) {
            check_parameter(&name, &value)
                .map_err(|error| StoreError::new(StoreErrorKind::Settings, "reading the URL", error))?;
        }
        let mut options = PgConnectOptions::from_str(url).map_err(|e| match e {
            sqlx::Error::Configuration(why) => StoreError::new(StoreErrorKind::Settings, "reading the URL", why),
            other => StoreError::new(StoreErrorKind::Settings, "reading the URL", other),
        })?;
        // The driver takes the brackets as part of the host name.
        if let Some(url::Host::Ipv6(address)) = parsed.as_ref().and_then(url::Url::host).filter(|_| {
            !parsed
                .iter()
                .flat_map(url::Url::query_pairs)
                .any(|(name, _)| name == "host" || name == "hostaddr")
        }) {
            options = options.host(&address.to_string());
        }
        let names_user = parsed
            .as_ref()
            .is_some_and(|url| !url.username().is_empty() || url.query_pairs().any(|(name, _)| name == "user"));
        if !names_user && std::env::var_os("PGUSER").is_none() && whoami::username().is_err() {
            return Err(settings(
                "it has no user, and the user of this process has no name on this system: write postgres://USER@HOST/DATABASE"
                    .to_owned(),
            ));
        }
        // Floats are sent in binary, so their text format doesn't matter, and poolers refuse the parameter.
        if options.get_application_name().is_none() {
            options = options.application_name("moodstream");
        }
        Ok(options.extra_float_digits(None))
    }

    /// Statements that each new connection executes. Startup parameters would be refused by poolers.
    pub(super) fn session(&self) -> String {
        let Self {
            statement_timeout_seconds: statement,
            lock_timeout_seconds: lock,
            ..
        } = self;
        let commit = if self.synchronous_commit { "on" } else { "off" };
        format!(
            "SET statement_timeout = '{statement}s'; SET idle_in_transaction_session_timeout = '{statement}s';
             SET lock_timeout = '{lock}s'; SET synchronous_commit = {commit}; SET timezone = 'UTC';
             SET client_min_messages = warning;
             SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
             -- Every lookup is of a few keys out of millions, but without statistics, above all on new day
             -- partitions, the planner may choose otherwise.
             SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
             -- Before Postgres 18, a plan with a disabled step has a cost for which it would be compiled in each flush.
             SET jit = off"
        )
    }
}

/// A parameter of the URL that can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ParameterError {
    #[error("`sslmode` must be one of {}", SSL_MODES.join(", "))]
    SslMode,
    #[error("the parameter `ssl` is not supported: write sslmode=require, or sslmode=verify-full")]
    Ssl,
    #[error("the parameter `connect_timeout` is not supported: set database.connect_timeout_seconds")]
    ConnectTimeout,
    #[error("the parameter `{}` is not supported: remove it", .0.escape_debug())]
    Unknown(String),
}

/// Refuses parameters that the driver would silently ignore, because they may matter for security.
fn check_parameter(name: &str, value: &str) -> Result<(), ParameterError> {
    const KNOWN: [&str; 16] = [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "options",
    ];
    match name {
        "sslmode" | "ssl-mode" if !SSL_MODES.contains(&value) => Err(ParameterError::SslMode),
        "ssl" => Err(ParameterError::Ssl),
        _ if KNOWN.contains(&name) || name.starts_with("options[") => Ok(()),
        "application_name" | "statement-cache-capacity" => Ok(()),
        // These match what the driver does anyway.
        "channel_binding" if matches!(value, "prefer" | "disable") => Ok(()),
        "gssencmode" if matches!(value, "prefer" | "disable") => Ok(()),
        "connect_timeout" => Err(ParameterError::ConnectTimeout),
        _ => Err(ParameterError::Unknown(name.chars().take(40).collect())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for url in [
            "postgres://user:hunter2@db.example:5432/moods?sslmode=require",
            "postgres://user@db.example/moods?password=hunter2&sslmode=require",
            "hunter2",
            // Unescaped characters that end a password in a URL.
            "postgres://user:12/hunter2@db.example/moods",
            "postgres://user:12?hunter2@db.example/moods",
            "postgres://user:12#hunter2@db.example/moods",
            "postgres://user:#hunter2",
            "postgres://user:a@hunter2@db.example/moods",
            "postgres://db.example/moods?password=a&hunter2=b&c=hunter2&sslmode=hunter2",
        ] {
            let options = StoreOptions {
                url: url.into(),
                ..StoreOptions::default()
            };
            let shown = format!("{options:?} {}", options.url);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let shown = DatabaseUrl::from("postgres://user:hunter2@db.example:5432/moods?sslmode=require").to_string();
        assert_eq!(shown, "postgres://user:***@db.example:5432/moods?sslmode=require");
    }

    #[test]
    fn an_unescaped_password_is_reported_as_the_cause() {
        for url in [
            "postgres://user:12/x@db/moods",
            "postgres://user:12?x@db/moods",
            "postgres://user:12#x@db/moods",
        ] {
            let options = StoreOptions {
                url: url.into(),
                ..StoreOptions::default()
            };
            let error = options.connect_options().unwrap_err().to_string();
            assert!(error.contains("%23") && !error.contains("12"), "{error}");
        }
    }

    #[test]
    fn a_url_without_a_user_connects_as_the_user_of_the_process() {
        let options = StoreOptions {
            url: "postgres://localhost/db".into(),
            ..StoreOptions::default()
        };
        let user = std::env::var("PGUSER").or_else(|_| whoami::username().map_err(|_| std::env::VarError::NotPresent));
        let found = options.connect_options().unwrap();
        assert_eq!(found.get_username(), user.unwrap());
        assert_ne!(found.get_username(), "anonymous");
    }

    #[test]
    fn an_ipv6_address_is_a_host_without_its_brackets() {
        for (url, host) in [
            ("postgres://user@[::1]:5433/db", "::1"),
            ("postgres://user@[::1]:5433/db?host=other", "other"),
            ("postgres://user@127.0.0.1/db?channel_binding=prefer", "127.0.0.1"),
        ] {
            let options = StoreOptions {
                url: url.into(),
                ..StoreOptions::default()
            };
            let options = options.connect_options().unwrap();
            assert_eq!(
                (options.get_host(), options.get_application_name()),
                (host, Some("moodstream"))
            );
        }
    }

    #[test]
    fn settings_are_checked() {
        for url in [
            "",
            "mysql://localhost/x",
            "postgres://localhost:port/x",
            "postgres://localhost/x?sslmode=perhaps",
            "postgres://localhost/x?channel_binding=require",
            "postgres://localhost/x?target_session_attrs=read-write",
            "postgres://localhost/x?connect_timeout=3",
            "postgres://one,two/x",
            "postgres://user:pass@one:5432,two:5433/x",
        ] {
            let options = StoreOptions {
                url: url.into(),
                ..StoreOptions::default()
            };
            let error = options.connect_options().unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Settings, "{url}");
        }
        let fault = |url: &str| {
            let options = StoreOptions {
                url: url.into(),
                ..StoreOptions::default()
            };
            options.connect_options().unwrap_err().to_string()
        };
        assert!(fault("postgres://h/x?channel_binding=require").contains("`channel_binding`"));
        assert!(fault("postgres://h/x?sslmode=on").contains("one of disable, allow, prefer"));
        assert!(fault("postgres://h/x?ssl=true").contains("sslmode=require"));
        assert!(fault("jdbc:postgresql://h/x").contains("postgres://USER:PASSWORD@HOST"));
        let none = StoreOptions {
            max_connections: 0,
            ..StoreOptions::default()
        };
        assert!(none.check().unwrap_err().to_string().contains("max_connections is 0"));
        let long = StoreOptions {
            lock_timeout_seconds: LONGEST_TIMEOUT_SECONDS + 1,
            ..StoreOptions::default()
        };
        let why = long.check().unwrap_err().to_string();
        assert!(
            why.contains("lock_timeout_seconds is 2147484: set it to at most"),
            "{why}"
        );
        assert!(fault("postgres://u@one:1,two:2/x").contains("several hosts"));
        assert!(fault("postgres://h/x?connect_timeout=3").contains("connect_timeout_seconds"));
        assert!(toml::from_str::<StoreOptions>("urll = 'x'").is_err());
        let options: StoreOptions = toml::from_str("url = 'postgres://h/d'\nsynchronous_commit = false").unwrap();
        assert!(!options.synchronous_commit);
    }
}
