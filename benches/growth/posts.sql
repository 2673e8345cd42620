-- Posts number $1 up to $2 of $3, from $4 to $5, with their keys: 40 % reposts; a quarter have hashtags, a few popular and many rare.
WITH written AS (
    INSERT INTO post (source, post_id, created_at, author_id, lang, text, repost_of, emotion, score, scores, model_id, subjects,
                      hashtags, kafka_topic, kafka_partition, kafka_offset)
    SELECT ('{twitter,bluesky,mastodon}'::text[])[1 + width_bucket(r[1], '{0.7,0.9}'::float8[])],
           (1146000000000000000 + n * 4000)::text, $4 + ($5 - $4) * (n::float8 / $3), 'author-' || floor(1e6 * r[2] ^ 3),
           ('{en,ja,es,pt,ar,id,th,ko,tr,fr,und,tl,ru,de,it,hi,pl,nl,fa,ca}'::text[])[ceil(20 ^ r[3])::int],
           'post ' || n || repeat(' some words as people write them', 1 + (r[4] * 5)::int),
           CASE WHEN r[5] < 0.4 THEN floor(n * r[6])::text END, e.emotion, s.score,
           jsonb_build_object('neutral', r[7], 'joy', r[8], 'sadness', r[9], 'anger', r[10], 'surprise', r[11], 'fear', r[4],
                              'disgust', r[2]) || jsonb_build_object(e.emotion, s.score),
           'bench@00000000',
           array_remove(ARRAY[CASE WHEN r[7] < 0.08 THEN 'football' END, CASE WHEN r[8] < 0.05 THEN 'music' END,
                              CASE WHEN r[9] < 0.03 THEN 'weather' END, CASE WHEN r[10] < 0.02 THEN 'work' END,
                              CASE WHEN r[11] < 0.01 THEN 'food' END], NULL),
           CASE WHEN r[12] < 0.15 THEN ARRAY[h.a] WHEN r[12] < 0.25 AND h.a <> h.b THEN ARRAY[h.a, h.b] ELSE '{}' END,
           'posts', 0, n
    FROM (SELECT n, ARRAY[random(), random(), random(), random(), random(), random(), random(), random(), random(), random(),
                          random(), random(), random(), random(), random()] AS r
          FROM generate_series($1, $2 - 1) n) g,
         LATERAL (SELECT ('{neutral,joy,sadness,anger,surprise,fear,disgust}'::text[])
                             [1 + width_bucket(r[13], '{0.35,0.6,0.72,0.82,0.9,0.95}'::float8[])] AS emotion) e,
         LATERAL (SELECT floor((0.2 + 0.8 * r[14]) * 1048576) / 1048576 AS score) s,
         LATERAL (SELECT 'tag' || floor(50000 ^ r[14]) AS a, 'tag' || floor(50000 ^ r[15]) AS b) h
    RETURNING source, post_id, created_at)
INSERT INTO post_key (source, post_id, created_at) SELECT source, post_id, created_at FROM written
