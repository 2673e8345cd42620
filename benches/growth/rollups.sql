-- The rollups of all posts, as if the topic had SHARDS partitions, and their days to merge.
TRUNCATE emotion_rollup, emotion_rollup_hour, emotion_rollup_day, rollup_unmerged;
INSERT INTO emotion_rollup (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('minute', p.created_at, 'UTC'), s.subject, p.lang, p.source, p.emotion, p.model_id, p.kafka_offset % SHARDS,
       count(*), sum(p.score), count(p.repost_of), coalesce(sum(p.score) FILTER (WHERE p.repost_of IS NOT NULL), 0)
FROM post p CROSS JOIN LATERAL unnest(array_prepend('', p.subjects)) AS s (subject)
GROUP BY 1, 2, 3, 4, 5, 6, 7;
INSERT INTO emotion_rollup_hour (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('hour', bucket, 'UTC'), subject, coalesce(lang, ''), coalesce(source, ''), emotion, model_id, shard,
       sum(posts), sum(score_sum), sum(reposts), sum(repost_score_sum)
FROM emotion_rollup GROUP BY 1, subject, emotion, model_id, shard, GROUPING SETS ((lang, source), ());
INSERT INTO emotion_rollup_day (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
SELECT date_trunc('day', bucket, 'UTC'), subject, lang, source, emotion, model_id, shard,
       sum(posts), sum(score_sum), sum(reposts), sum(repost_score_sum)
FROM emotion_rollup_hour GROUP BY 1, 2, 3, 4, 5, 6, 7;
INSERT INTO rollup_unmerged (day, claimed, since)
SELECT DISTINCT (bucket AT TIME ZONE 'UTC')::date, false, now() - interval '2 hours' FROM emotion_rollup_day;
