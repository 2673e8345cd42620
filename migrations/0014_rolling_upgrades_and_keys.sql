-- Additive. Migrations say which programs may go on writing; keys that are past keeping are found without reading the others;
-- windows that slide refuse minutes that retention has dropped.

CREATE TABLE schema_compat (
    version    bigint PRIMARY KEY,
    min_writer bigint NOT NULL CHECK (min_writer <= version)
);

COMMENT ON TABLE schema_compat IS 'One row a migration from 14 on, written by the migration itself: which programs may go on beside it. A migration is additive where programs that don''t know it may.';
COMMENT ON COLUMN schema_compat.version IS 'Number of the migration.';
COMMENT ON COLUMN schema_compat.min_writer IS 'Oldest schema version, the number of its last migration, whose programs write correctly once this migration is applied.';

INSERT INTO schema_compat (version, min_writer) VALUES (14, 13);

-- Keys by age, in two kinds. Deletions of posts never seen, by when they were stored: equal in a flush, so an entry takes some
-- 6 bytes. The others by the minute of the post or of its deletion, whichever is later, for the same reason.
CREATE INDEX post_key_unseen ON post_key (deleted_at) WHERE created_at IS NULL;
CREATE INDEX post_key_seen ON post_key (date_bin('1 minute', greatest(created_at, deleted_at), '2001-01-01 00:00:00+00'))
    WHERE created_at IS NOT NULL;

COMMENT ON TABLE post_key IS 'Every post that is kept and its deletion, once: keeps posts unique over all days and leads a deletion to its day. Deletions of posts never seen are kept for store.unseen_deletion_days, for posts that come later.';

ALTER TABLE retention_mark ADD COLUMN minutes_retired_until timestamptz;
COMMENT ON COLUMN retention_mark.minutes_retired_until IS 'Start of the oldest day (UTC) of which no row of emotion_rollup was dropped; null while none ever was.';

-- What was dropped before this was written down: the newest day that is counted and has no minutes.
UPDATE retention_mark SET minutes_retired_until = (
    SELECT max(d.bucket) + interval '24 hours'
    FROM (SELECT DISTINCT bucket FROM emotion_rollup_day) d
    WHERE NOT EXISTS (SELECT FROM emotion_rollup m
                      WHERE m.bucket >= d.bucket AND m.bucket < d.bucket + interval '24 hours'));

CREATE FUNCTION minutes_kept_since() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT max(m.minutes_retired_until) FROM retention_mark m);

COMMENT ON FUNCTION minutes_kept_since IS 'Start of the oldest day (UTC) of which all minutes are there; null where none was ever dropped.';

CREATE FUNCTION require_minutes(since timestamptz, kept_since timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF since < kept_since THEN
        RAISE EXCEPTION 'the window reaches back to %, and minutes before % are past retention: give a shorter width or a later start, or ask emotion_trend, which reads hours and days', since, kept_since
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION require_minutes IS 'True, or an error where minutes from since on are past retention. kept_since as from minutes_kept_since.';

CREATE OR REPLACE FUNCTION emotion_rolling(width interval, since timestamptz, until timestamptz, of_topic text DEFAULT '',
                                langs text[] DEFAULT NULL, sources text[] DEFAULT NULL, models text[] DEFAULT NULL,
                                with_reposts boolean DEFAULT true)
RETURNS TABLE (at timestamptz, emotion text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    -- What stands in the window at the start; then what each minute adds, and what it takes out a width later.
    WITH change AS MATERIALIZED (
        SELECT c.at, c.emotion, sum(c.posts) AS posts, sum(c.score_sum) AS score_sum
        FROM (
            SELECT trend_bucket('1 minute', since) AS at, s.emotion, s.posts, s.score_sum
            FROM emotion_sum(trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', since), of_topic, langs,
                             sources, models, with_reposts) s
            UNION ALL
            SELECT m.bucket + interval '1 minute', m.emotion, m.posts, m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since), trend_bucket('1 minute', until), of_topic,
                                langs, sources, models, with_reposts, true) m
            UNION ALL
            SELECT m.bucket + whole_minutes(width) + interval '1 minute', m.emotion, -m.posts, -m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', until) - whole_minutes(width),
                                of_topic, langs, sources, models, with_reposts, true) m) c
        GROUP BY 1, 2),
    standing AS (
        SELECT t.at, e.emotion, sum(c.posts) OVER w AS posts, sum(c.score_sum) OVER w AS score_sum
        FROM generate_series(trend_bucket('1 minute', since), trend_bucket('1 minute', until), interval '1 minute') AS t (at)
        CROSS JOIN (SELECT DISTINCT emotion FROM change) e
        LEFT JOIN change c ON c.at = t.at AND c.emotion = e.emotion
        WINDOW w AS (PARTITION BY e.emotion ORDER BY t.at))
    SELECT s.at, s.emotion, coalesce(s.posts, 0)::bigint,
           (coalesce(s.posts, 0) / nullif(sum(s.posts) OVER (PARTITION BY s.at), 0))::double precision,
           s.score_sum / nullif(s.posts, 0)::double precision
    FROM standing s
    WHERE require_minutes(trend_bucket('1 minute', since) - whole_minutes(width), minutes_kept_since());
END;

CREATE OR REPLACE FUNCTION group_rolling(width interval, since timestamptz, until timestamptz, of_topic text DEFAULT '',
                              langs text[] DEFAULT NULL, sources text[] DEFAULT NULL, models text[] DEFAULT NULL,
                              with_reposts boolean DEFAULT true)
RETURNS TABLE (at timestamptz, group_name text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    WITH single AS MATERIALIZED (
        SELECT c.at, c.emotion, c.model_id, sum(c.posts) AS posts, sum(c.score_sum) AS score_sum
        FROM (
            SELECT trend_bucket('1 minute', since) AS at, s.emotion, s.model_id, s.posts, s.score_sum
            FROM emotion_sum(trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', since), of_topic, langs,
                             sources, models, with_reposts) s
            UNION ALL
            SELECT m.bucket + interval '1 minute', m.emotion, m.model_id, m.posts, m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since), trend_bucket('1 minute', until), of_topic,
                                langs, sources, models, with_reposts, true) m
            UNION ALL
            SELECT m.bucket + whole_minutes(width) + interval '1 minute', m.emotion, m.model_id, -m.posts, -m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', until) - whole_minutes(width),
                                of_topic, langs, sources, models, with_reposts, true) m) c
        GROUP BY 1, 2, 3),
    -- Of each group and, as the group null, of all posts.
    change AS MATERIALIZED (
        SELECT s.at, g.group_name, sum(s.posts) AS posts, sum(s.score_sum) AS score_sum
        FROM single s JOIN emotion_group g ON g.model_id = s.model_id AND g.emotion = s.emotion GROUP BY 1, 2
        UNION ALL
        SELECT s.at, NULL, sum(s.posts), sum(s.score_sum) FROM single s GROUP BY 1),
    standing AS (
        SELECT t.at, g.group_name, sum(c.posts) OVER w AS posts, sum(c.score_sum) OVER w AS score_sum
        FROM generate_series(trend_bucket('1 minute', since), trend_bucket('1 minute', until), interval '1 minute') AS t (at)
        CROSS JOIN (SELECT DISTINCT group_name FROM change) g
        LEFT JOIN change c ON c.at = t.at AND c.group_name IS NOT DISTINCT FROM g.group_name
        WINDOW w AS (PARTITION BY g.group_name ORDER BY t.at))
    SELECT s.at, s.group_name, coalesce(s.posts, 0)::bigint,
           (coalesce(s.posts, 0) / nullif(every.posts, 0))::double precision,
           s.score_sum / nullif(s.posts, 0)::double precision
    FROM standing s JOIN standing every ON every.at = s.at AND every.group_name IS NULL
    WHERE s.group_name IS NOT NULL
      AND require_minutes(trend_bucket('1 minute', since) - whole_minutes(width), minutes_kept_since());
END;

COMMENT ON FUNCTION emotion_rolling IS 'A window of the given width (whole minutes) that slides by the minute: for each minute at, posts, share and mean score of each emotion from at - width up to, not including, at. Share and mean are null where there are no posts. Refuses windows that reach back into minutes past retention. The other arguments as of emotion_share.';
