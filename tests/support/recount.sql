-- The rows in which the rollups differ from a recount of post, in either direction: there must be none.
-- Days whose posts are past retention are left out, because there is nothing to recount.
WITH kept AS (
    SELECT coalesce(min(to_date(rpad(substring(c.relname FROM '[0-9]+$'), 8, '0101'), 'YYYYMMDD')), 'infinity')::timestamp AT TIME ZONE 'UTC' AS since
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'post'::regclass
), posts AS (
    SELECT p.created_at, t.subject, p.lang, p.source, p.emotion, p.model_id, p.score,
           p.repost_of IS NOT NULL AS is_repost
    FROM post p CROSS JOIN LATERAL unnest(array_prepend('', p.subjects)) AS t (subject)
), recount AS (
    SELECT r.resolution, date_trunc(r.resolution, created_at, 'UTC') AS bucket, subject,
           CASE WHEN total THEN '' ELSE lang END AS lang, CASE WHEN total THEN '' ELSE source END AS source,
           emotion, model_id, count(*) AS posts, sum(score) AS score_sum,
           count(*) FILTER (WHERE is_repost) AS reposts,
           coalesce(sum(score) FILTER (WHERE is_repost), 0) AS repost_score_sum
    FROM posts CROSS JOIN (VALUES ('minute', false), ('hour', false), ('hour', true), ('day', false), ('day', true))
                          AS r (resolution, total)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), rows AS (
    SELECT r.* FROM (
        SELECT 'minute' AS resolution, bucket, subject, lang, source, emotion, model_id, posts, score_sum, reposts, repost_score_sum
        FROM emotion_rollup
        UNION ALL SELECT 'hour', bucket, subject, lang, source, emotion, model_id, posts, score_sum, reposts, repost_score_sum
        FROM emotion_rollup_hour
        UNION ALL SELECT 'day', bucket, subject, lang, source, emotion, model_id, posts, score_sum, reposts, repost_score_sum
        FROM emotion_rollup_day) r, kept
    WHERE r.bucket >= kept.since
), rollup AS (
    -- Shards of closed days are merged, and a deletion may be subtracted from any of them: only their sum must be right.
    SELECT resolution, bucket, subject, lang, source, emotion, model_id, sum(posts)::bigint AS posts, sum(score_sum) AS score_sum,
           sum(reposts)::bigint AS reposts, sum(repost_score_sum) AS repost_score_sum
    FROM rows GROUP BY 1, 2, 3, 4, 5, 6, 7
)
(SELECT 'not in rollup' AS side, d::text FROM (SELECT * FROM recount EXCEPT ALL SELECT * FROM rollup) d)
UNION ALL
(SELECT 'not in recount', d::text FROM (SELECT * FROM rollup EXCEPT ALL SELECT * FROM recount) d)
UNION ALL
(SELECT 'without posts', r::text FROM rows r WHERE r.posts <= 0)
