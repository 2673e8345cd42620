-- Nine days of posts that end now, in the tables as flushes would leave them, for tests that need data.
-- Everything about a post follows from its number, so the data is always the same.
CREATE TEMP TABLE seed AS
SELECT n, '{now}'::timestamptz - interval '1 second' - n * interval '97 seconds' AS created_at,
       hashint4(n) & 1048575 AS dice, (ARRAY['en', 'en', 'en', 'ja', 'es', 'pt'])[n % 6 + 1] AS lang,
       (ARRAY['twitter', 'twitter', 'bluesky', 'mastodon'])[n % 4 + 1] AS source,
       -- Anger rises in the last hour.
       CASE WHEN n < 37 AND n % 2 = 0 THEN 'anger'
            ELSE (ARRAY['joy', 'neutral', 'sadness', 'neutral', 'joy', 'surprise', 'anger', 'joy', 'fear', 'neutral', 'disgust'])[(hashint4(n) & 1023) % 11 + 1] END AS emotion
FROM generate_series(0, 8100) AS n;
DO $do$
DECLARE d timestamptz;
BEGIN
    FOR d IN SELECT DISTINCT date_trunc('day', created_at, 'UTC') FROM seed LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF post FOR VALUES FROM (%L) TO (%L)',
            'post_' || to_char(d AT TIME ZONE 'UTC', 'YYYYMMDD'), d, d + interval '24 hours');
        EXECUTE format('CREATE TABLE %I PARTITION OF emotion_rollup FOR VALUES FROM (%L) TO (%L)',
            'emotion_rollup_' || to_char(d AT TIME ZONE 'UTC', 'YYYYMMDD'), d, d + interval '24 hours');
    END LOOP;
    FOR d IN SELECT DISTINCT date_trunc('month', created_at, 'UTC') FROM seed LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF emotion_rollup_hour FOR VALUES FROM (%L) TO (%L)',
            'emotion_rollup_hour_' || to_char(d AT TIME ZONE 'UTC', 'YYYYMM'), d, (d AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
    END LOOP;
    FOR d IN SELECT DISTINCT date_trunc('year', created_at, 'UTC') FROM seed LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF emotion_rollup_day FOR VALUES FROM (%L) TO (%L)',
            'emotion_rollup_day_' || to_char(d AT TIME ZONE 'UTC', 'YYYY'), d, (d AT TIME ZONE 'UTC' + interval '1 year') AT TIME ZONE 'UTC');
    END LOOP;
END
$do$;
INSERT INTO post (source, post_id, created_at, author_id, lang, text, repost_of, emotion, score, scores, model_id, subjects,
                  hashtags, kafka_topic, kafka_partition, kafka_offset)
SELECT source, n::text, created_at, 'author-' || dice % 40, lang, 'post ' || n || ' about nothing much',
       CASE WHEN dice % 5 = 0 THEN (n + 7)::text END, emotion, (262144 + dice / 2) / 1048576.0,
       jsonb_build_object(emotion, 0.5), 'emotion-roberta-6x384@seed', CASE n % 5 WHEN 0 THEN ARRAY['football'] WHEN 1 THEN ARRAY['weather'] ELSE '{}' END,
       CASE n % 3 WHEN 0 THEN ARRAY['tag' || dice % 9] ELSE '{}' END, 'posts', n % 3, n / 3
FROM seed;
INSERT INTO post_key (source, post_id, created_at) SELECT source, post_id, created_at FROM post;
INSERT INTO emotion_rollup (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('minute', created_at), subject, lang, source, emotion, model_id, kafka_partition, count(*), sum(score),
       count(repost_of), coalesce(sum(score) FILTER (WHERE repost_of IS NOT NULL), 0)
FROM post, unnest(subjects || ''::text) AS subject GROUP BY 1, 2, 3, 4, 5, 6, 7;
INSERT INTO emotion_rollup_hour (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('hour', bucket, 'UTC'), subject, coalesce(lang, ''), coalesce(source, ''), emotion, model_id, shard,
       sum(posts), sum(score_sum), sum(reposts), sum(repost_score_sum)
FROM emotion_rollup GROUP BY 1, subject, emotion, model_id, shard, GROUPING SETS ((lang, source), ());
INSERT INTO emotion_rollup_day (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('day', bucket, 'UTC'), subject, lang, source, emotion, model_id, shard,
       sum(posts), sum(score_sum), sum(reposts), sum(repost_score_sum)
FROM emotion_rollup_hour GROUP BY 1, 2, 3, 4, 5, 6, 7;
INSERT INTO emotion_group VALUES ('emotion-roberta-6x384@seed', 'joy', 'positive'), ('emotion-roberta-6x384@seed', 'anger', 'negative'),
    ('emotion-roberta-6x384@seed', 'sadness', 'negative'), ('emotion-roberta-6x384@seed', 'fear', 'negative'),
    ('emotion-roberta-6x384@seed', 'disgust', 'negative'), ('emotion-roberta-6x384@seed', 'surprise', 'ambiguous'),
    ('emotion-roberta-6x384@seed', 'neutral', 'neutral');
INSERT INTO model_language VALUES ('emotion-roberta-6x384@seed', 'en', 0.63), ('emotion-roberta-6x384@seed', 'es', 0.58);
INSERT INTO consumer_tally VALUES ('moodstream', 'posts', 0, 10000, 8101, 500, 100, 1000, 99, 200, 0, gen_random_uuid());
DROP TABLE seed;
