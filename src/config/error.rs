//! Errors of the settings.

use std::io;

use crate::{
    clean::UnknownProfile, filter::FilterError, kafka::KafkaError, store::StoreError, telemetry::LogLevelError,
};

/// An invalid setting. The message is one line that names the setting, the reason, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The settings file can't be read.
    #[error("settings file {file}")]
    Read {
        /// Its path.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The text is not TOML, names an unknown setting, or has a value of the wrong type.
    ///
    /// The parser's error is not kept because it shows the line, which may contain a password.
    #[error("{place}: {fault}")]
    Parse {
        /// The file with line and column, or the layers.
        place: String,
        /// What is wrong, without the value.
        fault: String,
    },
    /// The file has a section by both its old and its new name.
    #[error(
        "settings file {file} has both [[{new}]] and [[{old}]], which is its old name: write [[{new}]] for all of them"
    )]
    Renamed {
        /// Its path.
        file: String,
        /// The old name.
        old: &'static str,
        /// The new name.
        new: &'static str,
    },
    /// An environment variable that is not a setting or has an invalid value.
    #[error("environment variable {}: {fault}", name.escape_debug())]
    Variable {
        /// Its full name.
        name: String,
        /// What is wrong with it.
        fault: ValueError,
    },
    /// A flag with an invalid value.
    #[error("flag for {key}: {fault}")]
    Flag {
        /// The setting, with dots.
        key: String,
        /// What is wrong with it.
        fault: ValueError,
    },
    /// A number that must be at least 1.
    #[error("{name} is 0: {advice}")]
    Zero {
        /// The setting, with dots.
        name: &'static str,
        /// What to write instead.
        advice: &'static str,
    },
    /// A number outside its range.
    #[error("{name} is {value}: set it to a number from {least} to {most}")]
    Range {
        /// The setting, with dots.
        name: &'static str,
        /// The number given.
        value: u64,
        /// The smallest allowed.
        least: u64,
        /// The largest allowed.
        most: u64,
    },
    /// No model is set.
    #[error("model.path is not set: name a model folder, for example models/emotion-xlm-roberta-12x384-multilingual")]
    NoModel,
    /// A single record may exceed the limit on all records in flight.
    #[error("posts.max_bytes is larger than kafka.max_in_flight_bytes: a record must fit")]
    RecordSize,
    /// CUDA graphs are recorded one at a time.
    #[error("classify.cuda_graphs allows only one session: set classify.sessions to 1, or remove it")]
    CudaGraphSessions,
    /// Rollups would be dropped before the posts that they count. A late post or a deletion changes the rollups of its time.
    #[error(
        "{name} is {days}, but posts are kept {}: rollups must be kept as long as what they count, so give more days, or set \
         store.retention_days lower",
        .posts.map_or_else(|| "forever".to_owned(), |posts| format!("{posts} days"))
    )]
    Retention {
        /// The setting, with dots.
        name: &'static str,
        /// How many days the rollups are kept.
        days: u32,
        /// How many days posts are kept; `None` for no limit.
        posts: Option<u32>,
    },
    /// An invalid language.
    #[error("posts.languages: {}", one_line(.0))]
    Languages(FilterError),
    /// An invalid tracked subject.
    #[error("{}", one_line(.0))]
    Filter(FilterError),
    /// `model.profile` is not a cleaning profile.
    #[error("model.profile: {0}")]
    Profile(UnknownProfile),
    /// `log.level` is not a valid filter.
    #[error(transparent)]
    Log(#[from] LogLevelError),
    /// The database's URL or pool.
    #[error(transparent)]
    Database(StoreError),
    /// The settings of the Kafka client.
    #[error("{}", one_line(.0))]
    Kafka(KafkaError),
    /// No model is set for a command that needs nothing else.
    #[error("no model: set --model DIR, MOODSTREAM_MODEL__PATH or model.path in the settings file")]
    NoModelGiven,
    /// Standard input can't be read twice.
    #[error("--shift-timestamps reads the input twice: use a file instead of -")]
    ReadTwice,
}

/// An invalid name or value of a variable or flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// No setting has the variable's name.
    #[error("no such setting; did you mean {meant}?")]
    Misspelt {
        /// The variable of the most similar setting.
        meant: String,
    },
    /// No setting has the variable's name or a similar one.
    #[error(
        "no such setting: they are written MOODSTREAM_SECTION__KEY with two underscores, and the sections are {sections}"
    )]
    Unknown {
        /// All sections, separated by commas.
        sections: String,
    },
    /// A repeated table, `[[name]]`.
    #[error("[[{0}]] can be set in the settings file alone")]
    FileOnly(String),
    /// The name has an empty part.
    #[error("the name has an empty part: write SECTION__KEY")]
    EmptyPart,
    /// A setting is used as a section.
    #[error("{0} is not a section")]
    NoSection(String),
    /// A list in neither the file's notation nor that of variables.
    #[error("write the names separated by commas and without brackets: a,b")]
    List,
}

/// Joins the lines of a message: the regex compiler's errors span several lines, and names in the settings may have line breaks.
pub(super) fn one_line(error: &impl ToString) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
