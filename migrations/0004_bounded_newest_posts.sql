-- A filter that few posts pass made newest_posts read every post of its range: it now looks among the newest of them.

CREATE OR REPLACE FUNCTION newest_posts(of_emotion text, since timestamptz, until timestamptz, most bigint DEFAULT 50000,
                                        of_topic text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                                        models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS SETOF post
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    SELECT p.*
    FROM (SELECT q.* FROM post q
          WHERE q.created_at >= since AND q.created_at < until AND (of_emotion IS NULL OR q.emotion = of_emotion)
          ORDER BY q.created_at DESC
          LIMIT CASE WHEN of_topic = '' AND langs IS NULL AND sources IS NULL AND models IS NULL AND with_reposts
                     THEN most ELSE greatest(most, 100000) END) p
    WHERE (of_topic = '' OR of_topic = ANY (p.topics)) AND (langs IS NULL OR p.lang = ANY (langs))
      AND (sources IS NULL OR p.source = ANY (sources)) AND (models IS NULL OR p.model_id = ANY (models))
      AND (with_reposts OR p.repost_of IS NULL)
    ORDER BY p.created_at DESC LIMIT most;
END;

COMMENT ON FUNCTION newest_posts IS 'The newest posts of an emotion (null: of any), at most so many. Topic, languages, sources, models and reposts are looked for among the newest 100,000 posts of the range (of the emotion), or as many as are asked for if that is more: what lies before these is not found. The other arguments as of emotion_share.';
