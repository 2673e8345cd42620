-- Additive. Migrations say which programs may go on writing; keys that are past keeping are found without reading the others;
-- the trend functions refuse what they can't answer: minutes that retention has dropped, ranges without an end, nulls.

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

CREATE OR REPLACE FUNCTION whole_minutes(span interval) RETURNS interval
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    seconds numeric;
BEGIN
    IF NOT isfinite(span) OR span > interval '36525 days' THEN
        RAISE EXCEPTION 'give a step or width of at most 36525 days, a hundred years, not %', span
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF extract(year FROM span) <> 0 OR extract(month FROM span) <> 0 THEN
        RAISE EXCEPTION 'months and years have no fixed length: give a step or width in minutes, hours or days, not %', span
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    seconds := extract(epoch FROM span);
    IF seconds <= 0 OR seconds % 60 <> 0 THEN
        RAISE EXCEPTION 'posts are counted by the minute: give a step or width of whole minutes, not %', span
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN make_interval(mins => (seconds / 60)::integer);
END
$$;

COMMENT ON FUNCTION whole_minutes IS 'The same span in minutes, a day being 24 hours in every time zone. Refuses months, years, more than 36525 days, and what is no whole number of minutes.';

CREATE FUNCTION check_window(width interval, since timestamptz, until timestamptz, kept_since timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF width IS NULL OR since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until)
       OR until - since > interval '366 days' THEN
        RAISE EXCEPTION 'a window slides by the minute: give a width and a range of at most 366 days, or ask emotion_trend, which takes any step'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF since - width < kept_since THEN
        RAISE EXCEPTION 'the window reaches back to %, and minutes before % are past retention: give a shorter width or a later start, or ask emotion_trend, which reads hours and days', since - width, kept_since
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION check_window IS 'True, or an error where a window that slides can''t be answered: without a width or an end, over more than 366 days, or where minutes are past retention. kept_since as from minutes_kept_since.';

CREATE FUNCTION check_dimension(dimension text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF (dimension IN ('language', 'source', 'topic')) IS NOT TRUE THEN
        RAISE EXCEPTION 'a dimension is language, source or topic, not %', quote_nullable(dimension)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION check_dimension IS 'True, or an error where emotion_by has no such dimension.';

CREATE FUNCTION whole_windows(width interval, history interval) RETURNS interval
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    windows integer := floor(extract(epoch FROM whole_minutes(history)) / extract(epoch FROM whole_minutes(width)));
BEGIN
    IF windows = 0 THEN
        RAISE EXCEPTION 'a history of % has no window of %: give a longer one', history, width
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN whole_minutes(width) * windows;
END
$$;

COMMENT ON FUNCTION whole_windows IS 'How much of the history is whole windows of that width.';

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
    WHERE check_window(whole_minutes(width), trend_bucket('1 minute', since), trend_bucket('1 minute', until), minutes_kept_since());
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
      AND check_window(whole_minutes(width), trend_bucket('1 minute', since), trend_bucket('1 minute', until), minutes_kept_since());
END;

CREATE OR REPLACE FUNCTION emotion_steps(step interval, since timestamptz, until timestamptz, of_topic text, langs text[],
                              sources text[], models text[], with_reposts boolean, with_totals boolean)
RETURNS TABLE (bucket timestamptz, topic text, lang text, source text, emotion text, model_id text, posts bigint,
               score_sum double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    -- greatest() passes over nulls: without a start there are no rows.
    -- Whole days, hours or minutes up to the last one that ends by `until`; then whole hours; then minutes.
    SELECT * FROM emotion_counts(trend_resolution(step), trend_bucket(step, since),
        CASE trend_resolution(step) WHEN 'day' THEN trend_bucket('24 hours', until)
                                    WHEN 'hour' THEN trend_bucket('1 hour', until) ELSE until END,
        of_topic, langs, sources, models, with_reposts, with_totals)
    UNION ALL
    SELECT * FROM emotion_counts(CASE WHEN trend_resolution(step) = 'day' AND since IS NOT NULL THEN 'hour' END,
        greatest(trend_bucket(step, since), trend_bucket('24 hours', until)), trend_bucket('1 hour', until),
        of_topic, langs, sources, models, with_reposts, with_totals)
    UNION ALL
    SELECT * FROM emotion_counts(CASE WHEN trend_resolution(step) <> 'minute' AND since IS NOT NULL THEN 'minute' END,
        greatest(trend_bucket(step, since), trend_bucket('1 hour', until)), until,
        of_topic, langs, sources, models, with_reposts, with_totals);
END;

CREATE OR REPLACE FUNCTION emotion_sum(since timestamptz, until timestamptz, of_topic text, langs text[], sources text[],
                            models text[], with_reposts boolean)
RETURNS TABLE (topic text, emotion text, model_id text, posts bigint, score_sum double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- least() passes over nulls: without an end there are no rows.
    SELECT c.topic, c.emotion, c.model_id, sum(c.posts)::bigint, sum(c.score_sum)
    FROM (
        SELECT * FROM emotion_counts(CASE WHEN until IS NOT NULL THEN 'minute' END, since,
            least(until, trend_bucket('1 hour', since + interval '59 minutes 59.999999 seconds')),
            of_topic, langs, sources, models, with_reposts, true)
        UNION ALL
        SELECT * FROM emotion_counts('hour', trend_bucket('1 hour', since + interval '59 minutes 59.999999 seconds'),
            trend_bucket('1 hour', until), of_topic, langs, sources, models, with_reposts, true)
        UNION ALL
        SELECT * FROM emotion_counts('minute', greatest(trend_bucket('1 hour', until),
            least(until, trend_bucket('1 hour', since + interval '59 minutes 59.999999 seconds'))),
            until, of_topic, langs, sources, models, with_reposts, true)) c
    GROUP BY 1, 2, 3
    HAVING sum(c.posts) > 0;
END;

CREATE OR REPLACE FUNCTION emotion_by(dimension text, since timestamptz, until timestamptz, of_topic text DEFAULT '',
                           langs text[] DEFAULT NULL, sources text[] DEFAULT NULL, models text[] DEFAULT NULL,
                           with_reposts boolean DEFAULT true)
RETURNS TABLE (value text, emotion text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 200
BEGIN ATOMIC
    SELECT CASE dimension WHEN 'topic' THEN c.topic WHEN 'source' THEN c.source WHEN 'language' THEN c.lang END,
           c.emotion, sum(c.posts)::bigint,
           (sum(c.posts) / sum(sum(c.posts)) OVER (PARTITION BY
               CASE dimension WHEN 'topic' THEN c.topic WHEN 'source' THEN c.source WHEN 'language' THEN c.lang END))::double precision,
           sum(c.score_sum) / sum(c.posts)::double precision
    FROM emotion_steps(CASE WHEN until - since > interval '7 days' THEN interval '24 hours' ELSE trend_step(NULL, since, until) END,
                       since, until, CASE WHEN dimension <> 'topic' THEN of_topic END, langs, sources, models,
                       with_reposts, dimension = 'topic') c
    WHERE (dimension <> 'topic' OR c.topic <> '') AND check_dimension(dimension)
    GROUP BY 1, 2
    HAVING sum(c.posts) > 0;
END;

CREATE OR REPLACE FUNCTION emotion_unusual(width interval DEFAULT '1 hour', history interval DEFAULT '7 days',
                                threshold double precision DEFAULT 3.5, until timestamptz DEFAULT now(),
                                least_posts bigint DEFAULT 20, of_topic text DEFAULT NULL, langs text[] DEFAULT NULL,
                                sources text[] DEFAULT NULL, models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (topic text, emotion text, bucket timestamptz, posts bigint, share double precision,
               usual_share double precision, z double precision, unusual boolean)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 50
BEGIN ATOMIC
    WITH counted AS MATERIALIZED (
        SELECT c.topic, trend_bucket(whole_minutes(width), c.bucket) AS bucket, c.emotion, sum(c.posts) AS posts
        FROM emotion_counts(trend_resolution(whole_minutes(width)), trend_bucket(whole_minutes(width), until) - whole_minutes(width) - whole_windows(width, history),
                            trend_bucket(whole_minutes(width), until), of_topic, langs, sources, models, with_reposts, true) c
        GROUP BY 1, 2, 3),
    every AS (SELECT c.topic, c.bucket, sum(c.posts) AS posts FROM counted c GROUP BY 1, 2 HAVING sum(c.posts) > 0),
    -- An emotion without posts in a window that has some has the share 0.
    shares AS (
        SELECT e.topic, e.bucket, n.emotion, coalesce(c.posts, 0) AS posts,
               (coalesce(c.posts, 0) / e.posts)::double precision AS share
        FROM every e JOIN (SELECT DISTINCT topic, emotion FROM counted) n ON n.topic = e.topic
        LEFT JOIN counted c ON c.topic = e.topic AND c.bucket = e.bucket AND c.emotion = n.emotion),
    past AS (SELECT * FROM shares WHERE shares.bucket < trend_bucket(whole_minutes(width), until) - whole_minutes(width)),
    median AS (
        SELECT p.topic, p.emotion, percentile_cont(0.5) WITHIN GROUP (ORDER BY p.share) AS share
        FROM past p GROUP BY 1, 2),
    spread AS (
        SELECT p.topic, p.emotion, percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(p.share - m.share)) AS mad,
               avg(abs(p.share - m.share)) AS mean_deviation
        FROM past p JOIN median m ON m.topic = p.topic AND m.emotion = p.emotion GROUP BY 1, 2),
    scored AS (
        SELECT s.topic, s.emotion, s.bucket, s.posts, s.share, m.share AS usual_share,
               CASE WHEN d.mad > 0 THEN 0.6745 * (s.share - m.share) / d.mad
                    WHEN d.mean_deviation > 0 THEN (s.share - m.share) / (1.253314 * d.mean_deviation)
                    -- Always the same share, and now another one: beyond any threshold.
                    WHEN s.share > m.share THEN 'Infinity'::double precision
                    WHEN s.share < m.share THEN '-Infinity'::double precision
                    ELSE 0 END AS z
        FROM shares s JOIN median m ON m.topic = s.topic AND m.emotion = s.emotion
                      JOIN spread d ON d.topic = s.topic AND d.emotion = s.emotion
        WHERE s.bucket = trend_bucket(whole_minutes(width), until) - whole_minutes(width))
    SELECT s.topic, s.emotion, s.bucket, s.posts::bigint, s.share, s.usual_share, s.z,
           coalesce(s.z >= threshold AND s.posts >= least_posts, false)
    FROM scored s;
END;

COMMENT ON FUNCTION emotion_rolling IS 'A window of the given width (whole minutes) that slides by the minute over at most 366 days: for each minute at, posts, share and mean score of each emotion from at - width up to, not including, at. Share and mean are null where there are no posts. Refuses windows that reach back into minutes past retention. The other arguments as of emotion_share.';
COMMENT ON FUNCTION emotion_unusual IS 'Emotions whose share rises beyond what is usual, by topic: the last complete window of the given width that ends at or before until, against all whole windows of the same width in the history before it, by the modified z-score 0.6745 (x - median) / MAD (Iglewicz and Hoaglin 1993; where the MAD is 0, by the mean absolute deviation; where the share was always the same, infinite for any other one). width and history are whole minutes, a day being 24 hours in every time zone. unusual where z reaches the threshold and there are at least least_posts posts. of_topic null: every topic, and all posts as the empty string. The other arguments as of emotion_share.';
