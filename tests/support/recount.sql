-- The rows in which emotion_rollup differs from a recount of post, in either direction: there must be none.
WITH recount AS (
    SELECT date_trunc('minute', p.created_at) AS bucket, t.topic, p.lang, p.source, p.emotion, p.model_id,
           p.kafka_partition AS shard, count(*) AS posts, sum(p.score) AS score_sum
    FROM post p CROSS JOIN LATERAL unnest(array_prepend('', p.topics)) AS t (topic)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), rollup AS (
    SELECT bucket, topic, lang, source, emotion, model_id, shard, posts, score_sum FROM emotion_rollup
)
(SELECT 'not in rollup' AS side, d::text FROM (SELECT * FROM recount EXCEPT ALL SELECT * FROM rollup) d)
UNION ALL
(SELECT 'not in recount', d::text FROM (SELECT * FROM rollup EXCEPT ALL SELECT * FROM recount) d)
