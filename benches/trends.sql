-- Creates the rollups of 100 million posts in the year that ends now, and the posts of its last 8 days, in an empty, migrated
-- database (takes a few minutes):
--   psql -v ON_ERROR_STOP=1 -d some_database -f benches/trends.sql
-- docs/sql.md has the resulting times of the trend functions and the dashboards' queries, and how to measure them.
\timing on
SELECT setseed(0.5);
CREATE TEMP TABLE dim AS
SELECT l.lang, s.source, e.emotion, h.shard, t.subject,
       l.w * s.w * e.w / 4 * t.w AS w, e.s AS score, row_number() OVER () AS n
FROM (SELECT lang, w / sum(w) OVER () AS w FROM (SELECT lang, 1.0 / n ^ 1.3 AS w FROM unnest('{en,ja,es,pt,ar,id,th,ko,tr,fr,und,tl,ru,de,it,hi,pl,nl,fa,ca}'::text[]) WITH ORDINALITY AS l (lang, n)) x) l,
     (VALUES ('twitter', 0.7), ('bluesky', 0.2), ('mastodon', 0.1)) s (source, w),
     (VALUES ('neutral', 0.35, 0.7), ('joy', 0.25, 0.75), ('sadness', 0.12, 0.6), ('anger', 0.1, 0.6), ('surprise', 0.08, 0.5), ('fear', 0.05, 0.5), ('disgust', 0.05, 0.5)) e (emotion, w, s),
     generate_series(0, 3) h (shard),
     (VALUES ('', 1.0), ('football', 0.08), ('music', 0.05), ('weather', 0.03), ('work', 0.02), ('food', 0.01)) t (subject, w);
INSERT INTO emotion_group SELECT 'bench@00000000', e, g FROM (VALUES ('joy', 'positive'), ('anger', 'negative'), ('sadness', 'negative'), ('fear', 'negative'), ('disgust', 'negative'), ('surprise', 'ambiguous'), ('neutral', 'neutral')) v (e, g);
DO $$
DECLARE d timestamptz := date_trunc('day', now(), 'UTC');
BEGIN
 FOR i IN -1..9 LOOP
  EXECUTE format('CREATE TABLE IF NOT EXISTS emotion_rollup_%s PARTITION OF emotion_rollup FOR VALUES FROM (%L) TO (%L)', to_char((d - i * interval '24 hours') AT TIME ZONE 'UTC', 'YYYYMMDD'), d - i * interval '24 hours', d - (i-1) * interval '24 hours');
 END LOOP;
 FOR i IN 0..4 LOOP
  EXECUTE format('CREATE TABLE IF NOT EXISTS emotion_rollup_hour_%s PARTITION OF emotion_rollup_hour FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 50)', to_char(date_trunc('month', d) - i * interval '1 month', 'YYYYMM'), date_trunc('month', d) - i * interval '1 month', date_trunc('month', d) - (i-1) * interval '1 month');
 END LOOP;
 FOR i IN 0..1 LOOP
  EXECUTE format('CREATE TABLE IF NOT EXISTS emotion_rollup_day_%s PARTITION OF emotion_rollup_day FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 50)', to_char(date_trunc('year', d) - i * interval '1 year', 'YYYY'), date_trunc('year', d) - i * interval '1 year', date_trunc('year', d) - (i-1) * interval '1 year');
 END LOOP;
END $$;
-- the table, and the expected number of posts per bucket
CREATE FUNCTION pg_temp.fill(target text, step interval, since timestamptz, until timestamptz, a_bucket float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
 EXECUTE format('INSERT INTO %I (bucket, subject, lang, source, emotion, model_id, shard, posts, score_sum, reposts, repost_score_sum)
  SELECT bucket, subject, lang, source, emotion, ''bench@00000000'', shard, p, floor(p * score * 1048576) / 1048576, floor(p * 0.4), floor(floor(p * 0.4) * score * 1048576) / 1048576
  FROM (SELECT b AS bucket, d.*, floor($4 * d.w * (1 + 0.4 * sin(extract(epoch FROM b) / 13750)) * (0.9 + 0.2 * random()) + random())::bigint AS p
        FROM generate_series($1, $2 - interval ''1 microsecond'', $3) b, dim d) x WHERE p > 0', target) USING since, until, step, a_bucket;
END $$;
SELECT pg_temp.fill('emotion_rollup_day', '1 day', date_trunc('day', now() - interval '365 days', 'UTC'), now(), 100e6 / 365);
SELECT pg_temp.fill('emotion_rollup_hour', '1 hour', date_trunc('day', now() - interval '92 days', 'UTC'), now(), 100e6 / 365 / 24);
SELECT pg_temp.fill('emotion_rollup', '1 minute', date_trunc('day', now() - interval '8 days', 'UTC'), now(), 100e6 / 365 / 1440);
INSERT INTO emotion_rollup_day SELECT bucket, subject, '', '', emotion, model_id, shard, sum(posts), sum(score_sum), sum(reposts), sum(repost_score_sum) FROM emotion_rollup_day GROUP BY 1,2,5,6,7;
INSERT INTO emotion_rollup_hour SELECT bucket, subject, '', '', emotion, model_id, shard, sum(posts), sum(score_sum), sum(reposts), sum(repost_score_sum) FROM emotion_rollup_hour GROUP BY 1,2,5,6,7;
VACUUM ANALYZE emotion_rollup, emotion_rollup_hour, emotion_rollup_day;
SELECT 'day', count(*), sum(posts) FILTER (WHERE subject = '' AND lang <> '') FROM emotion_rollup_day UNION ALL SELECT 'hour', count(*), sum(posts) FILTER (WHERE subject = '' AND lang <> '') FROM emotion_rollup_hour UNION ALL SELECT 'minute', count(*), sum(posts) FILTER (WHERE subject = '') FROM emotion_rollup;
-- The posts of those minutes: 274 thousand per day, 2.2 million in total; 40 % reposts; a quarter have hashtags, a few popular and many rare.
DO $$
DECLARE d timestamptz := date_trunc('day', now(), 'UTC');
BEGIN
 FOR i IN -1..9 LOOP
  EXECUTE format('CREATE TABLE IF NOT EXISTS post_%s PARTITION OF post FOR VALUES FROM (%L) TO (%L)', to_char((d - i * interval '24 hours') AT TIME ZONE 'UTC', 'YYYYMMDD'), d - i * interval '24 hours', d - (i-1) * interval '24 hours');
 END LOOP;
END $$;
INSERT INTO post (source, post_id, created_at, author_id, lang, text, repost_of, emotion, score, scores, model_id, subjects, hashtags, kafka_topic, kafka_partition, kafka_offset)
SELECT ('{twitter,bluesky,mastodon}'::text[])[1 + width_bucket(r[1], '{0.7,0.9}'::float8[])], n::text, at, 'author-' || floor(1e6 * r[2] ^ 3),
       ('{en,ja,es,pt,ar,id,th,ko,tr,fr,und,tl,ru,de,it,hi,pl,nl,fa,ca}'::text[])[ceil(20 ^ r[3])::int],
       'post ' || n || repeat(' some words as people write them', 1 + (r[4] * 5)::int), CASE WHEN r[5] < 0.4 THEN floor(n * r[6])::text END, e.emotion,
       s.score, jsonb_build_object('neutral', r[7], 'joy', r[8], 'sadness', r[9], 'anger', r[10], 'surprise', r[11], 'fear', r[4], 'disgust', r[2]) || jsonb_build_object(e.emotion, s.score),
       'bench@00000000', array_remove(ARRAY[CASE WHEN r[7] < 0.08 THEN 'football' END, CASE WHEN r[8] < 0.05 THEN 'music' END, CASE WHEN r[9] < 0.03 THEN 'weather' END, CASE WHEN r[10] < 0.02 THEN 'work' END, CASE WHEN r[11] < 0.01 THEN 'food' END], NULL),
       CASE WHEN r[12] < 0.15 THEN ARRAY[h.a] WHEN r[12] < 0.25 AND h.a <> h.b THEN ARRAY[h.a, h.b] ELSE '{}' END, 'bench', n % 4, n / 4
FROM (SELECT n, date_trunc('day', now() - interval '8 days', 'UTC') + n * interval '86400 seconds' / (100e6 / 365) AS at,
             ARRAY[random(), random(), random(), random(), random(), random(), random(), random(), random(), random(), random(), random(), random(), random(), random()] AS r
      FROM generate_series(1, 2600000) n) g,
     LATERAL (SELECT ('{neutral,joy,sadness,anger,surprise,fear,disgust}'::text[])[1 + width_bucket(r[13], '{0.35,0.6,0.72,0.82,0.9,0.95}'::float8[])] AS emotion) e,
     LATERAL (SELECT floor((0.2 + 0.8 * r[14]) * 1048576) / 1048576 AS score) s,
     LATERAL (SELECT 'tag' || floor(50000 ^ r[14]) AS a, 'tag' || floor(50000 ^ r[15]) AS b) h
WHERE at < now();
VACUUM ANALYZE post;
SELECT 'post', count(*), min(created_at), max(created_at), count(repost_of), count(*) FILTER (WHERE hashtags <> '{}') FROM post;
