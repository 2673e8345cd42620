//! A record's shape: the known keys of its outermost object. It is cheap to compute and determines the format.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    Format, Reason, Reject,
    json::{self, Object},
};

macro_rules! keys {
    ($($key:ident = $name:literal,)*) => {
        /// A key that helps to determine the format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Key { $($key,)* }

        /// [`Shape`] has one bit per key.
        const _: () = assert!([$(Key::$key),*].len() <= u128::BITS as usize);

        impl Key {
            fn of(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$key),)*
                    _ => None,
                }
            }
        }
    };
}

keys! {
    Account = "account", Action = "action", Actor = "actor", Ancestors = "ancestors", Body = "body", Commit = "commit",
    Content = "content", Control = "control", ConversationId = "conversation_id", CreatedAt = "created_at", Data = "data",
    Delete = "delete", Did = "did", DirectMessage = "direct_message", Disconnect = "disconnect", Drop = "drop",
    EditHistory = "edit_history_tweet_ids", Entities = "entities", Error = "error", Errors = "errors", Event = "event",
    ExtendedTweet = "extended_tweet", ForUser = "for_user", Friends = "friends", FriendsStr = "friends_str",
    FullText = "full_text", Id = "id", IdStr = "id_str", Info = "info", Kind = "kind", Limit = "limit",
    LongObject = "long_object", MemberCount = "member_count", Meta = "meta", NoteTweet = "note_tweet", Object = "object",
    ObjectType = "objectType", Payload = "payload", PostedTime = "postedTime", PublicMetrics = "public_metrics",
    Reblog = "reblog", Recipient = "recipient", ReferencedTweets = "referenced_tweets", ReplySettings = "reply_settings",
    Results = "results", RetweetedStatus = "retweeted_status", ScreenName = "screen_name", ScrubGeo = "scrub_geo",
    SpoilerText = "spoiler_text", StatusWithheld = "status_withheld", Statuses = "statuses", Stream = "stream",
    Text = "text", TweetCreateEvents = "tweet_create_events", Undrop = "undrop", User = "user",
    UserWithheld = "user_withheld", Username = "username", Verb = "verb", Visibility = "visibility", Warning = "warning",
    EventType = "event_type", Truncated = "truncated", Schema = "schema", SpecVersion = "specversion",
    Deleted = "deleted", UnderscoreDeleted = "__deleted", Before = "before", After = "after", Op = "op", Table = "table",
    Type = "type",
}

/// Messages of Twitter's and GNIP's streams that concern the stream rather than a post.
const CONTROL_MESSAGES: &[(Key, &str)] = &[
    (Key::Limit, "a limit notice"),
    (Key::ScrubGeo, "a notice to scrub locations"),
    (Key::Warning, "a stream warning"),
    (Key::Disconnect, "a disconnect notice"),
    (Key::StatusWithheld, "a notice of a withheld status"),
    (Key::UserWithheld, "a notice of a withheld user"),
    (Key::Drop, "a drop notice"),
    (Key::Undrop, "an undrop notice"),
    (Key::Friends, "a list of friends"),
    (Key::FriendsStr, "a list of friends"),
    (Key::ForUser, "a site stream's envelope"),
    (Key::Control, "a site stream's control message"),
    (Key::DirectMessage, "a direct message"),
    (Key::Info, "a stream information message"),
    (Key::Error, "an error message"),
];

/// The set of known keys of an object.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape(u128);

impl Shape {
    /// Reads the keys, validating the JSON syntax along the way.
    ///
    /// # Errors
    ///
    /// Returns [`Reason::NotJson`] if `json` is not a JSON object.
    pub(super) fn of(json: &str) -> Result<Self, Reject> {
        json::read(json)
    }

    pub(super) fn has(self, key: Key) -> bool {
        self.0 & (1 << key as u8) != 0
    }

    pub(super) fn has_any(self, keys: &[Key]) -> bool {
        keys.iter().any(|&key| self.has(key))
    }

    pub(super) fn has_all(self, keys: &[Key]) -> bool {
        keys.iter().all(|&key| self.has(key))
    }

    /// Returns the format that the keys indicate, or `None` if they match no known format.
    ///
    /// Objects that have only fields common to v2 and the plain format are taken as plain.
    pub(super) fn format(self) -> Option<Format> {
        use Key as K;
        let texts = [K::Text, K::FullText, K::Content, K::Body];
        if self.has_all(&[K::Did, K::Kind]) || self.has_all(&[K::Did, K::Commit]) {
            return Some(Format::Jetstream);
        }
        if self.has(K::Event) && self.has_any(&[K::Payload, K::Stream]) && !self.has_any(&texts) {
            return Some(Format::Mastodon);
        }
        if self.has(K::Verb) && self.has_any(&[K::ObjectType, K::Actor, K::Object, K::Body])
            || self.has(K::PostedTime) && self.has_any(&[K::Body, K::LongObject])
        {
            return Some(Format::ActivityStreams);
        }
        if !self.has_any(&texts) {
            if self.has(K::Delete) || self.has(K::Event) || self.control_message().is_some() {
                return Some(Format::TwitterV1);
            }
            // Other envelopes with a `data` key also have a kind or an id.
            let other = self.has(K::Data) && self.has_any(&[K::Id, K::Type, K::Kind]);
            if !other && self.has_any(&[K::Data, K::Errors, K::Meta]) || self.has_all(&[K::Id, K::Action]) {
                return Some(Format::TwitterV2);
            }
        }
        if self.has(K::Content) && self.has_any(&[K::Account, K::Reblog, K::Visibility, K::SpoilerText])
            || self.has_all(&[K::SpoilerText, K::Text])
        {
            return Some(Format::Mastodon);
        }
        if self.has_any(&[K::FullText, K::RetweetedStatus, K::ExtendedTweet, K::IdStr])
            || self.has_all(&[K::Text, K::Truncated])
            || self.has_all(&[K::Text, K::User, K::CreatedAt])
        {
            return Some(Format::TwitterV1);
        }
        let v2_fields = [
            K::EditHistory,
            K::ConversationId,
            K::PublicMetrics,
            K::ReferencedTweets,
            K::NoteTweet,
            K::ReplySettings,
            K::EventType,
            K::Entities,
        ];
        if self.has(K::Text) && self.has_any(&v2_fields) || self.has(K::NoteTweet) {
            return Some(Format::TwitterV2);
        }
        let deleted = self.has_any(&[K::Deleted, K::UnderscoreDeleted]) && !self.has_any(&[K::ScreenName, K::Username]);
        (self.has_any(&[K::Text, K::Content]) || deleted).then_some(Format::Plain)
    }

    /// Whether it is a row change as written by Debezium (`before`, `after`, `op`) or Maxwell and Canal (`table`, `type`,
    /// `data`).
    pub(super) fn is_row_change(self) -> bool {
        use Key as K;
        !self.has_any(&[K::Text, K::Content])
            && (self.has(K::Op) && self.has_any(&[K::Before, K::After]) || self.has_all(&[K::Table, K::Type, K::Data]))
    }

    /// Whether it is the envelope of Kafka Connect's JSON converter.
    pub(super) fn is_connect(self) -> bool {
        self.has_all(&[Key::Schema, Key::Payload]) && !self.has_any(&[Key::Text, Key::Content, Key::Event])
    }

    /// Describes the object if it is a stream's control message.
    pub(super) fn control_message(self) -> Option<&'static str> {
        CONTROL_MESSAGES
            .iter()
            .find(|(key, _)| self.has(*key))
            .map(|(_, what)| *what)
    }

    /// Describes the object if it is of a known kind other than a post.
    pub(super) fn non_post(self) -> Option<&'static str> {
        if self.has_any(&[Key::ScreenName, Key::Username]) {
            return Some("a user");
        }
        if self.has(Key::Recipient) {
            return Some("a direct message");
        }
        if self.has(Key::MemberCount) {
            return Some("a list of members");
        }
        self.has(Key::Ancestors).then_some("a thread's context")
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut shape = Shape::default();
        while let Some(key) = object.next_key_seed(KnownKey)? {
            // Any format may have a name under `user`; only Twitter has an object there.
            let marks = match key {
                Some(Key::User) => object.next_value::<Object<IgnoredAny>>()?.as_ref().is_some(),
                // Null is significant here: it marks a tombstone in Kafka Connect and an original post in Mastodon.
                Some(Key::Schema | Key::Payload | Key::Reblog) => object.next_value::<IgnoredAny>().map(|_| true)?,
                // Any other key counts only if it has a value.
                _ => object.next_value::<Option<IgnoredAny>>()?.is_some(),
            };
            if let Some(key) = key
                && marks
            {
                shape.0 |= 1 << key as u8;
            }
        }
        Ok(shape)
    }
}

struct KnownKey;

impl<'de> DeserializeSeed<'de> for KnownKey {
    type Value = Option<Key>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownKey {
    type Value = Option<Key>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Key::of(name))
    }
}

/// Returns the reject of an object in no known format. It names the first few keys to help identify the object.
pub(super) fn unknown(json: &str) -> Reject {
    let keys: Vec<String> = json::read::<Names>(json).map(|names| names.0).unwrap_or_default();
    if keys.is_empty() {
        return Reject::new(Reason::UnknownFormat, "an empty object");
    }
    if let Some(name) = ["text", "content"]
        .into_iter()
        .find(|name| keys.iter().any(|key| key == name))
    {
        return Reject::new(Reason::NoText, format!("`{name}` is null"));
    }
    let value: Value = json::read(json).unwrap_or_default();
    let string = |name: &str| value.get(name).and_then(Value::as_str);
    // SNS, SQS and other queues wrap their messages like this. A configured path can't reach into a string.
    let holds_json = |name: &&String| string(name).is_some_and(|text| json::read::<Names>(text).is_ok());
    let wrapped = keys.iter().find(holds_json);
    // The keys that most often hold the text.
    let text = [
        "body",
        "message",
        "tweet",
        "comment",
        "selftext",
        "caption",
        "review",
        "post",
        "full_text",
        "title",
    ]
    .into_iter()
    .find(|name| string(name).is_some());
    let hint = match text {
        _ if let Some(name) = wrapped => format!("`{name}` holds JSON in a string: send its content as the record"),
        Some(name) => format!("if the text is under `{name}`, set posts.fields.text = \"{name}\""),
        None => "posts.fields can map other keys".to_owned(),
    };
    Reject::new(
        Reason::UnknownFormat,
        format!(
            "an object with the keys {} is not a known post format; {hint}",
            keys.join(", ")
        ),
    )
}

/// The first few keys of an object.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        const SHOWN: usize = 8;
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = object.next_key::<String>()? {
            object.next_value::<IgnoredAny>()?;
            if names.len() < SHOWN {
                names.push(name.chars().take(30).collect());
            }
        }
        Ok(Names(names))
    }
}
