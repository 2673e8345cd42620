-- Rollups by hour and by day beside those by minute, reposts told apart in all three, and the emotion groups.

ALTER TABLE emotion_rollup
    ADD COLUMN reposts          bigint           NOT NULL DEFAULT 0,
    ADD COLUMN repost_score_sum double precision NOT NULL DEFAULT 0;

COMMENT ON COLUMN emotion_rollup.reposts IS 'How many of the posts are reposts.';
COMMENT ON COLUMN emotion_rollup.repost_score_sum IS 'Sum of the reposts'' scores; exact.';

UPDATE emotion_rollup r SET reposts = n.reposts, repost_score_sum = n.score_sum
FROM (SELECT date_trunc('minute', p.created_at) AS bucket, t.topic, p.lang, p.source, p.emotion, p.model_id,
             p.kafka_partition AS shard, count(*) AS reposts, sum(p.score) AS score_sum
      FROM post p CROSS JOIN LATERAL unnest(array_prepend('', p.topics)) AS t (topic)
      WHERE p.repost_of IS NOT NULL
      GROUP BY 1, 2, 3, 4, 5, 6, 7) n
WHERE (r.bucket, r.topic, r.lang, r.source, r.emotion, r.model_id, r.shard)
    = (n.bucket, n.topic, n.lang, n.source, n.emotion, n.model_id, n.shard);

CREATE TABLE emotion_rollup_hour (LIKE emotion_rollup INCLUDING ALL) PARTITION BY RANGE (bucket);
CREATE TABLE emotion_rollup_day (LIKE emotion_rollup INCLUDING ALL) PARTITION BY RANGE (bucket);

COMMENT ON TABLE emotion_rollup_hour IS 'As emotion_rollup, by hour, kept in the same transaction. Also holds totals over all languages and sources, in rows whose lang and source are empty. Partitioned by UTC month. Query emotion_by_hour or emotion_trend.';
COMMENT ON COLUMN emotion_rollup_hour.bucket IS 'Start of the UTC hour of created_at.';
COMMENT ON COLUMN emotion_rollup_hour.lang IS 'As in post; the empty string in a total over all languages and sources.';
COMMENT ON COLUMN emotion_rollup_hour.source IS 'As in post; the empty string in a total over all languages and sources.';
COMMENT ON TABLE emotion_rollup_day IS 'As emotion_rollup_hour, by UTC day. Partitioned by UTC year. Query emotion_by_day or emotion_trend.';
COMMENT ON COLUMN emotion_rollup_day.bucket IS 'Start of the UTC day of created_at.';
COMMENT ON COLUMN emotion_rollup_day.lang IS 'As in post; the empty string in a total over all languages and sources.';
COMMENT ON COLUMN emotion_rollup_day.source IS 'As in post; the empty string in a total over all languages and sources.';

-- The months and years of what is there. The names are those that the service gives and looks for.
DO $$
DECLARE
    start timestamp;
BEGIN
    FOR start IN SELECT DISTINCT date_trunc('month', bucket AT TIME ZONE 'UTC') FROM emotion_rollup LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF emotion_rollup_hour FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 50)',
                       'emotion_rollup_hour_' || to_char(start, 'YYYYMM'),
                       start AT TIME ZONE 'UTC', (start + interval '1 month') AT TIME ZONE 'UTC');
    END LOOP;
    FOR start IN SELECT DISTINCT date_trunc('year', bucket AT TIME ZONE 'UTC') FROM emotion_rollup LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF emotion_rollup_day FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 50)',
                       'emotion_rollup_day_' || to_char(start, 'YYYY'),
                       start AT TIME ZONE 'UTC', (start + interval '1 year') AT TIME ZONE 'UTC');
    END LOOP;
END
$$;

INSERT INTO emotion_rollup_hour (bucket, topic, lang, source, emotion, model_id, shard,
                                 posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('hour', bucket, 'UTC'), topic, coalesce(lang, ''), coalesce(source, ''), emotion, model_id, shard,
       sum(posts)::bigint, sum(score_sum), sum(reposts)::bigint, sum(repost_score_sum)
FROM emotion_rollup
GROUP BY 1, topic, emotion, model_id, shard, GROUPING SETS ((lang, source), ());

INSERT INTO emotion_rollup_day (bucket, topic, lang, source, emotion, model_id, shard,
                                posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('day', bucket, 'UTC'), topic, lang, source, emotion, model_id, shard,
       sum(posts)::bigint, sum(score_sum), sum(reposts)::bigint, sum(repost_score_sum)
FROM emotion_rollup_hour
GROUP BY 1, topic, lang, source, emotion, model_id, shard;

CREATE TABLE emotion_group (
    model_id   text NOT NULL,
    emotion    text NOT NULL,
    group_name text NOT NULL,
    PRIMARY KEY (model_id, emotion, group_name)
);

COMMENT ON TABLE emotion_group IS 'The groups that each model''s manifest puts its emotions into: positive, negative ... Written by the service when it starts with the model.';
COMMENT ON COLUMN emotion_group.model_id IS 'As in post.';
COMMENT ON COLUMN emotion_group.emotion IS 'As in post.';
COMMENT ON COLUMN emotion_group.group_name IS 'A group that the emotion belongs to; an emotion may be in several, or in none and then has no row.';
