-- The rows in which the rollups differ from a recount of post, in either direction: there must be none.
-- Of the days whose posts are past retention there is nothing left to recount, so they are left out.
WITH kept AS (
    SELECT coalesce(min(to_date(rpad(substring(c.relname FROM '[0-9]+$'), 8, '0101'), 'YYYYMMDD')), 'infinity')::timestamp AT TIME ZONE 'UTC' AS since
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'post'::regclass
), posts AS (
    SELECT p.created_at, t.topic, p.lang, p.source, p.emotion, p.model_id, p.kafka_partition AS shard, p.score,
           p.repost_of IS NOT NULL AS is_repost
    FROM post p CROSS JOIN LATERAL unnest(array_prepend('', p.topics)) AS t (topic)
), recount AS (
    SELECT r.resolution, date_trunc(r.resolution, created_at, 'UTC') AS bucket, topic,
           CASE WHEN total THEN '' ELSE lang END AS lang, CASE WHEN total THEN '' ELSE source END AS source,
           emotion, model_id, shard, count(*) AS posts, sum(score) AS score_sum,
           count(*) FILTER (WHERE is_repost) AS reposts,
           coalesce(sum(score) FILTER (WHERE is_repost), 0) AS repost_score_sum
    FROM posts CROSS JOIN (VALUES ('minute', false), ('hour', false), ('hour', true), ('day', false), ('day', true))
                          AS r (resolution, total)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), rollup AS (
    SELECT r.* FROM (
        SELECT 'minute' AS resolution, bucket, topic, lang, source, emotion, model_id, shard, posts, score_sum, reposts,
               repost_score_sum FROM emotion_rollup
        UNION ALL SELECT 'hour', * FROM emotion_rollup_hour
        UNION ALL SELECT 'day', * FROM emotion_rollup_day) r, kept
    WHERE r.bucket >= kept.since
)
(SELECT 'not in rollup' AS side, d::text FROM (SELECT * FROM recount EXCEPT ALL SELECT * FROM rollup) d)
UNION ALL
(SELECT 'not in recount', d::text FROM (SELECT * FROM rollup EXCEPT ALL SELECT * FROM recount) d)
