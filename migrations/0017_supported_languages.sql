-- Additive. Says which languages each model was judged in, and of each post whether its language is one of them.

CREATE TABLE model_language (
    model_id text NOT NULL,
    lang text NOT NULL,
    macro_f1 double precision NOT NULL CHECK (macro_f1 BETWEEN 0 AND 1),
    PRIMARY KEY (model_id, lang)
);
COMMENT ON TABLE model_language IS 'The languages that each model''s manifest lists. Written by the service when it starts with the model; a model that lists none has no rows.';
COMMENT ON COLUMN model_language.model_id IS 'As in post.';
COMMENT ON COLUMN model_language.lang IS 'A primary subtag of BCP 47, as in post.';
COMMENT ON COLUMN model_language.macro_f1 IS 'How well it did on posts in that language: macro-averaged F1, from 0 to 1.';

ALTER TABLE post ADD COLUMN lang_supported boolean;
COMMENT ON COLUMN post.lang_supported IS 'Whether the model''s manifest lists the language. NULL where the post''s language is not known, or the manifest lists none.';

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
                     THEN coalesce(most, 50000) ELSE greatest(most, 100000) END) p
    WHERE (of_topic = '' OR of_topic = ANY (p.topics)) AND (langs IS NULL OR p.lang = ANY (langs))
      AND (sources IS NULL OR p.source = ANY (sources)) AND (models IS NULL OR p.model_id = ANY (models))
      AND (with_reposts OR p.repost_of IS NULL)
    ORDER BY p.created_at DESC LIMIT coalesce(most, 50000);
END;

INSERT INTO schema_compat (version, min_writer) VALUES (17, 15);
