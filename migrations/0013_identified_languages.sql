-- Additive. Says of each post whether its language is the record's or was identified from the text.

ALTER TABLE post ADD COLUMN lang_identified boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN post.lang_identified IS 'Whether the language was identified from the text, as the record names none.';

-- A function whose body is parsed when it is made returns the columns that there were then.
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
