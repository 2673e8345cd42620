-- Posts with their emotions, the rollups over them, and the offsets that both cover.

CREATE TABLE post (
    source          text             NOT NULL,
    post_id         text             NOT NULL,
    created_at      timestamptz      NOT NULL,
    author_id       text,
    lang            text             NOT NULL,
    text            text             NOT NULL,
    repost_of       text,
    emotion         text             NOT NULL,
    score           double precision NOT NULL,
    scores          jsonb            NOT NULL,
    model_id        text             NOT NULL,
    topics          text[]           NOT NULL,
    hashtags        text[]           NOT NULL,
    kafka_topic     text             NOT NULL,
    kafka_partition integer          NOT NULL,
    kafka_offset    bigint           NOT NULL,
    ingested_at     timestamptz      NOT NULL DEFAULT now(),
    -- Also the path by which a deletion finds its row.
    PRIMARY KEY (source, post_id, created_at)
) PARTITION BY RANGE (created_at);

COMMENT ON TABLE post IS 'One row a post, with its emotion. Partitioned by UTC day of created_at: name a range of created_at in every query.';
COMMENT ON COLUMN post.source IS 'Where the post was published: twitter, bluesky, mastodon or plain.';
COMMENT ON COLUMN post.post_id IS 'Identity of the post within its source.';
COMMENT ON COLUMN post.created_at IS 'Event time: when the author published the post. Decides the partition and the rollup bucket.';
COMMENT ON COLUMN post.author_id IS 'Identity of the author within the source; null where the record did not tell.';
COMMENT ON COLUMN post.lang IS 'BCP 47 language in lower case; und where unknown.';
COMMENT ON COLUMN post.text IS 'Whole text before cleaning; for a repost, the whole text of the original.';
COMMENT ON COLUMN post.repost_of IS 'For a repost, the post_id of the original; otherwise null.';
COMMENT ON COLUMN post.emotion IS 'The emotion that the model decided on.';
COMMENT ON COLUMN post.score IS 'Score of that emotion, from 0 to 1: a multiple of 2^-20, so that sums are exact.';
COMMENT ON COLUMN post.scores IS 'Scores of all emotions as an object: {"joy": 0.93, ...}.';
COMMENT ON COLUMN post.model_id IS 'The model that decided: its name, @, and a short hash of its contents.';
COMMENT ON COLUMN post.topics IS 'Tracked topics that the post touches, without repeats; empty if none.';
COMMENT ON COLUMN post.hashtags IS 'Hashtags without #, lower case, in order of appearance, without repeats.';
COMMENT ON COLUMN post.kafka_topic IS 'Kafka topic of the record that brought the post.';
COMMENT ON COLUMN post.kafka_partition IS 'Kafka partition of that record; also the shard of its rollup rows.';
COMMENT ON COLUMN post.kafka_offset IS 'Kafka offset of that record.';
COMMENT ON COLUMN post.ingested_at IS 'When the transaction that wrote the row began.';

-- The newest posts, of all and of one emotion; posts by hashtag. Of the 8.1 microseconds of the server's processor
-- that a row costs, they take 1.0, 1.6 and 1.5. (BRIN on created_at takes 0.1, but can't give the newest in order.)
CREATE INDEX post_created_at ON post (created_at);
CREATE INDEX post_emotion_created_at ON post (emotion, created_at);
CREATE INDEX post_hashtags ON post USING gin (hashtags);

CREATE TABLE post_key (
    source     text NOT NULL,
    post_id    text NOT NULL,
    created_at timestamptz,
    deleted_at timestamptz,
    PRIMARY KEY (source, post_id),
    CHECK (created_at IS NOT NULL OR deleted_at IS NOT NULL)
) WITH (fillfactor = 90);

COMMENT ON TABLE post_key IS 'Every post and every deletion seen, once: keeps posts unique over all days, leads a deletion to its day, and remembers deletions for posts that come later.';
COMMENT ON COLUMN post_key.source IS 'As in post.';
COMMENT ON COLUMN post_key.post_id IS 'As in post.';
COMMENT ON COLUMN post_key.created_at IS 'Event time of the post; null for a deletion of a post never seen.';
COMMENT ON COLUMN post_key.deleted_at IS 'When the deletion was stored; null while the post stands. A deletion is final.';

CREATE TABLE emotion_rollup (
    bucket    timestamptz      NOT NULL,
    topic     text             NOT NULL,
    lang      text             NOT NULL,
    source    text             NOT NULL,
    emotion   text             NOT NULL,
    model_id  text             NOT NULL,
    shard     integer          NOT NULL,
    posts     bigint           NOT NULL,
    score_sum double precision NOT NULL,
    PRIMARY KEY (bucket, topic, lang, source, emotion, model_id, shard)
) PARTITION BY RANGE (bucket);

COMMENT ON TABLE emotion_rollup IS 'Posts and score sums by minute: at every moment equal to a recount from post. Partitioned by UTC day of bucket. Query emotion_by_minute, which adds up the shards.';
COMMENT ON COLUMN emotion_rollup.bucket IS 'Start of the minute of created_at.';
COMMENT ON COLUMN emotion_rollup.topic IS 'A tracked topic, or the empty string for all posts. A post counts once in each of its topics and once under the empty string.';
COMMENT ON COLUMN emotion_rollup.lang IS 'As in post.';
COMMENT ON COLUMN emotion_rollup.source IS 'As in post.';
COMMENT ON COLUMN emotion_rollup.emotion IS 'As in post.';
COMMENT ON COLUMN emotion_rollup.model_id IS 'As in post.';
COMMENT ON COLUMN emotion_rollup.shard IS 'The Kafka partition that the posts came from: consumers do not wait for each other''s rows.';
COMMENT ON COLUMN emotion_rollup.posts IS 'How many posts.';
COMMENT ON COLUMN emotion_rollup.score_sum IS 'Sum of their scores; exact.';

CREATE TABLE consumer_offset (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

COMMENT ON TABLE consumer_offset IS 'How far each Kafka partition is settled: moved in the transaction that writes what the records did. The truth; the offsets at the broker follow.';
COMMENT ON COLUMN consumer_offset.consumer_group IS 'The consumer group.';
COMMENT ON COLUMN consumer_offset.topic IS 'Kafka topic.';
COMMENT ON COLUMN consumer_offset.partition IS 'Kafka partition.';
COMMENT ON COLUMN consumer_offset.next_offset IS 'Offset of the first record that is not settled.';
COMMENT ON COLUMN consumer_offset.updated_at IS 'When it last moved.';

CREATE TABLE consumer_tally (
    consumer_group text    NOT NULL,
    topic          text    NOT NULL,
    partition      integer NOT NULL,
    records        bigint  NOT NULL,
    inserted       bigint  NOT NULL,
    duplicates     bigint  NOT NULL,
    deletions      bigint  NOT NULL,
    filtered       bigint  NOT NULL,
    late           bigint  NOT NULL,
    rejected       bigint  NOT NULL,
    removed        bigint  NOT NULL,
    last_flush     uuid    NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition),
    CHECK (records = inserted + duplicates + deletions + filtered + late + rejected)
) WITH (fillfactor = 50);

COMMENT ON TABLE consumer_tally IS 'What became of every settled record: counted in the transaction that moves the offset.';
COMMENT ON COLUMN consumer_tally.consumer_group IS 'The consumer group.';
COMMENT ON COLUMN consumer_tally.topic IS 'Kafka topic.';
COMMENT ON COLUMN consumer_tally.partition IS 'Kafka partition.';
COMMENT ON COLUMN consumer_tally.records IS 'Records settled: the sum of inserted, duplicates, deletions, filtered, late and rejected.';
COMMENT ON COLUMN consumer_tally.inserted IS 'Posts that were new.';
COMMENT ON COLUMN consumer_tally.duplicates IS 'Posts whose key was settled before: by an earlier copy, or by their deletion.';
COMMENT ON COLUMN consumer_tally.deletions IS 'Deletion notices.';
COMMENT ON COLUMN consumer_tally.filtered IS 'Posts outside the wanted languages or topics.';
COMMENT ON COLUMN consumer_tally.late IS 'Posts older than the retention.';
COMMENT ON COLUMN consumer_tally.rejected IS 'Records sent to the dead-letter topic.';
COMMENT ON COLUMN consumer_tally.removed IS 'Posts taken out again by the deletion notices: inserted less removed, over all partitions, is the rows of post (before retention).';
COMMENT ON COLUMN consumer_tally.last_flush IS 'Identity of the last flush of the partition: tells a writer whether a commit whose answer was lost took place.';

CREATE VIEW emotion_by_minute AS
SELECT bucket, topic, lang, source, emotion,
       sum(posts)::bigint AS posts,
       sum(score_sum) / sum(posts)::double precision AS mean_score
FROM emotion_rollup
GROUP BY bucket, topic, lang, source, emotion;

COMMENT ON VIEW emotion_by_minute IS 'Posts and mean score by minute, topic, language, source and emotion. topic is the empty string for all posts: always name a topic, or posts count more than once.';
COMMENT ON COLUMN emotion_by_minute.bucket IS 'Start of the minute.';
COMMENT ON COLUMN emotion_by_minute.topic IS 'A tracked topic, or the empty string for all posts.';
COMMENT ON COLUMN emotion_by_minute.lang IS 'BCP 47 language; und where unknown.';
COMMENT ON COLUMN emotion_by_minute.source IS 'Where the posts were published.';
COMMENT ON COLUMN emotion_by_minute.emotion IS 'The emotion.';
COMMENT ON COLUMN emotion_by_minute.posts IS 'How many posts.';
COMMENT ON COLUMN emotion_by_minute.mean_score IS 'Mean of their scores.';
