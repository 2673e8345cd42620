-- Not additive: programs that don't know this migration write to columns of the old names. They end at their next flush; those
-- from before migration 14 must be stopped first.
--
-- What users track is called a subject, as a topic is Kafka's. The names change and the rows stay: columns are renamed in place.
-- Names of parameters and of results can't be changed, so the functions that have them are made again, otherwise as they were.

ALTER TABLE post RENAME COLUMN topics TO subjects;
ALTER TABLE emotion_rollup RENAME COLUMN topic TO subject;
ALTER TABLE emotion_rollup_hour RENAME COLUMN topic TO subject;
ALTER TABLE emotion_rollup_day RENAME COLUMN topic TO subject;
ALTER VIEW emotion_by_minute RENAME COLUMN topic TO subject;
ALTER VIEW emotion_by_hour RENAME COLUMN topic TO subject;
ALTER VIEW emotion_by_day RENAME COLUMN topic TO subject;

COMMENT ON COLUMN post.subjects IS 'Tracked subjects that the post touches, without repeats; empty if none.';
COMMENT ON COLUMN consumer_tally.filtered IS 'Posts outside the wanted languages or subjects.';
COMMENT ON VIEW emotion_by_minute IS 'Posts and mean score by minute, subject, language, source and emotion. subject is the empty string for all posts: always name a subject, or posts count more than once.';
DO $$
DECLARE
    resolution text;
BEGIN
    FOREACH resolution IN ARRAY ARRAY['', '_hour', '_day'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.subject IS %L', 'emotion_rollup' || resolution,
                       'A tracked subject, or the empty string for all posts. A post counts once in each of its subjects and once under the empty string.');
    END LOOP;
    FOREACH resolution IN ARRAY ARRAY['minute', 'hour', 'day'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.subject IS %L', 'emotion_by_' || resolution,
                       'A tracked subject, or the empty string for all posts.');
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION check_dimension(dimension text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF (dimension IN ('language', 'source', 'subject')) IS NOT TRUE THEN
        RAISE EXCEPTION 'a dimension is language, source or subject, not %', quote_nullable(dimension)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN true;
END
$$;

-- The view keeps its rights while the functions are made again.
CREATE OR REPLACE VIEW emotion_now AS
SELECT NULL::interval AS width, NULL::text AS emotion, NULL::bigint AS posts, NULL::double precision AS share,
       NULL::double precision AS mean_score;

DROP FUNCTION
    emotion_counts, emotion_steps, emotion_sum, emotion_share, group_share, emotion_trend, group_trend,
    emotion_rolling, group_rolling, emotion_change, emotion_unusual, emotion_by, newest_posts, top_hashtags,
    top_authors, top_posts, label_drift;

CREATE FUNCTION emotion_counts(resolution text, since timestamptz, until timestamptz, of_subject text, langs text[],
                               sources text[], models text[], with_reposts boolean, with_totals boolean)
RETURNS TABLE (bucket timestamptz, subject text, lang text, source text, emotion text, model_id text, posts bigint,
               score_sum double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    SELECT r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id,
           CASE WHEN with_reposts THEN r.posts ELSE r.posts - r.reposts END,
           CASE WHEN with_reposts THEN r.score_sum ELSE r.score_sum - r.repost_score_sum END
    FROM emotion_rollup r
    WHERE resolution = 'minute' AND r.bucket >= since AND r.bucket < until
      AND (of_subject IS NULL OR r.subject = of_subject) AND (langs IS NULL OR r.lang = ANY (langs))
      AND (sources IS NULL OR r.source = ANY (sources)) AND (models IS NULL OR r.model_id = ANY (models))
    UNION ALL
    SELECT r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id,
           CASE WHEN with_reposts THEN r.posts ELSE r.posts - r.reposts END,
           CASE WHEN with_reposts THEN r.score_sum ELSE r.score_sum - r.repost_score_sum END
    FROM emotion_rollup_hour r
    WHERE resolution = 'hour' AND with_totals AND langs IS NULL AND sources IS NULL AND r.lang = '' AND r.source = ''
      AND r.bucket >= since AND r.bucket < until
      AND (of_subject IS NULL OR r.subject = of_subject) AND (models IS NULL OR r.model_id = ANY (models))
    UNION ALL
    SELECT r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id,
           CASE WHEN with_reposts THEN r.posts ELSE r.posts - r.reposts END,
           CASE WHEN with_reposts THEN r.score_sum ELSE r.score_sum - r.repost_score_sum END
    FROM emotion_rollup_hour r
    WHERE resolution = 'hour' AND NOT (with_totals AND langs IS NULL AND sources IS NULL) AND r.lang <> '' AND r.source <> ''
      AND r.bucket >= since AND r.bucket < until
      AND (of_subject IS NULL OR r.subject = of_subject) AND (langs IS NULL OR r.lang = ANY (langs))
      AND (sources IS NULL OR r.source = ANY (sources)) AND (models IS NULL OR r.model_id = ANY (models))
    UNION ALL
    SELECT r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id,
           CASE WHEN with_reposts THEN r.posts ELSE r.posts - r.reposts END,
           CASE WHEN with_reposts THEN r.score_sum ELSE r.score_sum - r.repost_score_sum END
    FROM emotion_rollup_day r
    WHERE resolution = 'day' AND with_totals AND langs IS NULL AND sources IS NULL AND r.lang = '' AND r.source = ''
      AND r.bucket >= since AND r.bucket < until
      AND (of_subject IS NULL OR r.subject = of_subject) AND (models IS NULL OR r.model_id = ANY (models))
    UNION ALL
    SELECT r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id,
           CASE WHEN with_reposts THEN r.posts ELSE r.posts - r.reposts END,
           CASE WHEN with_reposts THEN r.score_sum ELSE r.score_sum - r.repost_score_sum END
    FROM emotion_rollup_day r
    WHERE resolution = 'day' AND NOT (with_totals AND langs IS NULL AND sources IS NULL) AND r.lang <> '' AND r.source <> ''
      AND r.bucket >= since AND r.bucket < until
      AND (of_subject IS NULL OR r.subject = of_subject) AND (langs IS NULL OR r.lang = ANY (langs))
      AND (sources IS NULL OR r.source = ANY (sources)) AND (models IS NULL OR r.model_id = ANY (models));
END;

COMMENT ON FUNCTION emotion_counts IS 'Rows of one rollup: what the other functions are made from. of_subject null: every subject, and all posts as the empty string; langs, sources or models null: all of them; with_reposts false leaves reposts out; with_totals true lets totals over languages and sources stand for them, their lang and source then empty.';

CREATE FUNCTION emotion_steps(step interval, since timestamptz, until timestamptz, of_subject text, langs text[],
                              sources text[], models text[], with_reposts boolean, with_totals boolean)
RETURNS TABLE (bucket timestamptz, subject text, lang text, source text, emotion text, model_id text, posts bigint,
               score_sum double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    -- greatest() passes over nulls: without a start there are no rows.
    -- Whole days, hours or minutes up to the last one that ends by `until`; then whole hours; then minutes.
    SELECT * FROM emotion_counts(trend_resolution(step), trend_bucket(step, since),
        CASE trend_resolution(step) WHEN 'day' THEN trend_bucket('24 hours', until)
                                    WHEN 'hour' THEN trend_bucket('1 hour', until) ELSE until END,
        of_subject, langs, sources, models, with_reposts, with_totals)
    UNION ALL
    SELECT * FROM emotion_counts(CASE WHEN trend_resolution(step) = 'day' AND since IS NOT NULL THEN 'hour' END,
        greatest(trend_bucket(step, since), trend_bucket('24 hours', until)), trend_bucket('1 hour', until),
        of_subject, langs, sources, models, with_reposts, with_totals)
    UNION ALL
    SELECT * FROM emotion_counts(CASE WHEN trend_resolution(step) <> 'minute' AND since IS NOT NULL THEN 'minute' END,
        greatest(trend_bucket(step, since), trend_bucket('1 hour', until)), until,
        of_subject, langs, sources, models, with_reposts, with_totals);
END;

COMMENT ON FUNCTION emotion_steps IS 'Rows of the coarsest rollup that the step can be made from, from the whole step that since lies in; what the last step has before until, from finer ones. Other arguments as of emotion_counts.';

CREATE FUNCTION emotion_sum(since timestamptz, until timestamptz, of_subject text, langs text[], sources text[],
                            models text[], with_reposts boolean)
RETURNS TABLE (subject text, emotion text, model_id text, posts bigint, score_sum double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- least() passes over nulls: without an end there are no rows.
    SELECT c.subject, c.emotion, c.model_id, sum(c.posts)::bigint, sum(c.score_sum)
    FROM (
        SELECT * FROM emotion_counts(CASE WHEN until IS NOT NULL THEN 'minute' END, since,
            least(until, trend_bucket('1 hour', since + interval '59 minutes 59.999999 seconds')),
            of_subject, langs, sources, models, with_reposts, true)
        UNION ALL
        SELECT * FROM emotion_counts('hour', trend_bucket('1 hour', since + interval '59 minutes 59.999999 seconds'),
            trend_bucket('1 hour', until), of_subject, langs, sources, models, with_reposts, true)
        UNION ALL
        SELECT * FROM emotion_counts('minute', greatest(trend_bucket('1 hour', until),
            least(until, trend_bucket('1 hour', since + interval '59 minutes 59.999999 seconds'))),
            until, of_subject, langs, sources, models, with_reposts, true)) c
    GROUP BY 1, 2, 3
    HAVING sum(c.posts) > 0;
END;

COMMENT ON FUNCTION emotion_sum IS 'Posts and score sums of a range of whole minutes: whole hours from the rollup by hour, the rest at both ends from the rollup by minute. Arguments as of emotion_counts.';

CREATE FUNCTION emotion_share(since timestamptz, until timestamptz, of_subject text DEFAULT '', langs text[] DEFAULT NULL,
                              sources text[] DEFAULT NULL, models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (emotion text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT s.emotion, sum(s.posts)::bigint, (sum(s.posts) / sum(sum(s.posts)) OVER ())::double precision,
           sum(s.score_sum) / sum(s.posts)::double precision
    FROM emotion_sum(trend_bucket('1 minute', since), trend_bucket('1 minute', until), of_subject, langs, sources, models,
                     with_reposts) s
    GROUP BY s.emotion;
END;

COMMENT ON FUNCTION emotion_share IS 'Posts, share and mean score of each emotion in the minutes from since up to, not including, until. of_subject: a tracked subject, or the empty string for all posts; langs, sources, models: null for all; with_reposts: whether reposts count.';

CREATE FUNCTION group_share(since timestamptz, until timestamptz, of_subject text DEFAULT '', langs text[] DEFAULT NULL,
                            sources text[] DEFAULT NULL, models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (group_name text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 4
BEGIN ATOMIC
    WITH s AS MATERIALIZED (
        SELECT * FROM emotion_sum(trend_bucket('1 minute', since), trend_bucket('1 minute', until), of_subject, langs,
                                  sources, models, with_reposts))
    SELECT g.group_name, sum(s.posts)::bigint, (sum(s.posts) / (SELECT sum(posts) FROM s))::double precision,
           sum(s.score_sum) / sum(s.posts)::double precision
    FROM s JOIN emotion_group g ON g.model_id = s.model_id AND g.emotion = s.emotion
    GROUP BY g.group_name;
END;

COMMENT ON FUNCTION group_share IS 'As emotion_share, of each group that the models'' manifests name; shares are of all posts, grouped or not.';

CREATE FUNCTION emotion_trend(since timestamptz, until timestamptz, step interval DEFAULT NULL,
                              of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                              models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (bucket timestamptz, emotion text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    SELECT trend_bucket(trend_step(step, since, until), c.bucket), c.emotion, sum(c.posts)::bigint,
           (sum(c.posts) / sum(sum(c.posts)) OVER (PARTITION BY trend_bucket(trend_step(step, since, until), c.bucket)))::double precision,
           sum(c.score_sum) / sum(c.posts)::double precision
    FROM emotion_steps(trend_step(step, since, until), since, until, of_subject, langs, sources, models, with_reposts, true) c
    GROUP BY 1, 2
    HAVING sum(c.posts) > 0;
END;

COMMENT ON FUNCTION emotion_trend IS 'Posts, share and mean score of each emotion, step by step: from the whole step that since lies in, up to until, so that the last step may hold a part alone. step: whole minutes, null for one that suits the range; whole days are read from the rollup by day, whole hours from that by hour. The other arguments as of emotion_share.';

CREATE FUNCTION group_trend(since timestamptz, until timestamptz, step interval DEFAULT NULL,
                            of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                            models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (bucket timestamptz, group_name text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    WITH s AS MATERIALIZED (
        SELECT trend_bucket(trend_step(step, since, until), c.bucket) AS bucket, c.emotion, c.model_id,
               sum(c.posts) AS posts, sum(c.score_sum) AS score_sum
        FROM emotion_steps(trend_step(step, since, until), since, until, of_subject, langs, sources, models, with_reposts,
                           true) c
        GROUP BY 1, 2, 3
        HAVING sum(c.posts) > 0),
    every AS (SELECT bucket, sum(posts) AS posts FROM s GROUP BY 1)
    SELECT s.bucket, g.group_name, sum(s.posts)::bigint, (sum(s.posts) / min(every.posts))::double precision,
           sum(s.score_sum) / sum(s.posts)::double precision
    FROM s JOIN every ON every.bucket = s.bucket
           JOIN emotion_group g ON g.model_id = s.model_id AND g.emotion = s.emotion
    GROUP BY 1, 2;
END;

COMMENT ON FUNCTION group_trend IS 'As emotion_trend, of each group that the models'' manifests name; shares are of all posts, grouped or not.';

CREATE FUNCTION emotion_rolling(width interval, since timestamptz, until timestamptz, of_subject text DEFAULT '',
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
            FROM emotion_sum(trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', since), of_subject, langs,
                             sources, models, with_reposts) s
            UNION ALL
            SELECT m.bucket + interval '1 minute', m.emotion, m.posts, m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since), trend_bucket('1 minute', until), of_subject,
                                langs, sources, models, with_reposts, true) m
            UNION ALL
            SELECT m.bucket + whole_minutes(width) + interval '1 minute', m.emotion, -m.posts, -m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', until) - whole_minutes(width),
                                of_subject, langs, sources, models, with_reposts, true) m) c
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

COMMENT ON FUNCTION emotion_rolling IS 'A window of the given width (whole minutes) that slides by the minute over at most 366 days: for each minute at, posts, share and mean score of each emotion from at - width up to, not including, at. Share and mean are null where there are no posts. Refuses windows that reach back into minutes past retention. The other arguments as of emotion_share.';

CREATE FUNCTION group_rolling(width interval, since timestamptz, until timestamptz, of_subject text DEFAULT '',
                              langs text[] DEFAULT NULL, sources text[] DEFAULT NULL, models text[] DEFAULT NULL,
                              with_reposts boolean DEFAULT true)
RETURNS TABLE (at timestamptz, group_name text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    WITH single AS MATERIALIZED (
        SELECT c.at, c.emotion, c.model_id, sum(c.posts) AS posts, sum(c.score_sum) AS score_sum
        FROM (
            SELECT trend_bucket('1 minute', since) AS at, s.emotion, s.model_id, s.posts, s.score_sum
            FROM emotion_sum(trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', since), of_subject, langs,
                             sources, models, with_reposts) s
            UNION ALL
            SELECT m.bucket + interval '1 minute', m.emotion, m.model_id, m.posts, m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since), trend_bucket('1 minute', until), of_subject,
                                langs, sources, models, with_reposts, true) m
            UNION ALL
            SELECT m.bucket + whole_minutes(width) + interval '1 minute', m.emotion, m.model_id, -m.posts, -m.score_sum
            FROM emotion_counts('minute', trend_bucket('1 minute', since) - whole_minutes(width), trend_bucket('1 minute', until) - whole_minutes(width),
                                of_subject, langs, sources, models, with_reposts, true) m) c
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

COMMENT ON FUNCTION group_rolling IS 'As emotion_rolling, of each group that the models'' manifests name; shares are of all posts, grouped or not.';

CREATE FUNCTION emotion_change(width interval DEFAULT '1 hour', until timestamptz DEFAULT now(), of_subject text DEFAULT '',
                               langs text[] DEFAULT NULL, sources text[] DEFAULT NULL, models text[] DEFAULT NULL,
                               with_reposts boolean DEFAULT true)
RETURNS TABLE (emotion text, posts bigint, share double precision, share_before double precision,
               share_day_ago double precision, share_week_ago double precision, change double precision,
               change_day double precision, change_week double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    WITH s AS MATERIALIZED (
        SELECT v.place, e.emotion, sum(e.posts) AS posts,
               (sum(e.posts) / sum(sum(e.posts)) OVER (PARTITION BY v.place))::double precision AS share
        FROM (VALUES (0, interval '0'), (1, whole_minutes(width)), (2, interval '24 hours'), (3, interval '168 hours')) AS v (place, back)
        CROSS JOIN LATERAL emotion_sum(trend_bucket('1 minute', until) - v.back - whole_minutes(width),
                                       trend_bucket('1 minute', until) - v.back, of_subject, langs, sources, models,
                                       with_reposts) e
        GROUP BY 1, 2),
    -- A window without posts has no shares; an emotion without posts in a window that has some has the share 0.
    w AS (
        SELECT e.emotion, p.place, coalesce(s.posts, 0) AS posts, coalesce(s.share, 0) AS share
        FROM (SELECT DISTINCT emotion FROM s) e CROSS JOIN (SELECT DISTINCT place FROM s) p
        LEFT JOIN s ON s.emotion = e.emotion AND s.place = p.place),
    c AS (
        SELECT w.emotion, coalesce(sum(w.posts) FILTER (WHERE place = 0), 0)::bigint AS posts,
               max(w.share) FILTER (WHERE place = 0) AS share, max(w.share) FILTER (WHERE place = 1) AS before,
               max(w.share) FILTER (WHERE place = 2) AS day_ago, max(w.share) FILTER (WHERE place = 3) AS week_ago
        FROM w GROUP BY 1)
    SELECT c.emotion, c.posts, c.share, c.before, c.day_ago, c.week_ago, c.share - c.before, c.share - c.day_ago,
           c.share - c.week_ago
    FROM c;
END;

COMMENT ON FUNCTION emotion_change IS 'The share of each emotion in the window of the given width (whole minutes) that ends at until, in the window before it, and in the same window a day and a week ago; change, change_day and change_week are the differences, where 0.01 is a percentage point. Null where a window has no posts. The other arguments as of emotion_share.';

CREATE FUNCTION emotion_unusual(width interval DEFAULT '1 hour', history interval DEFAULT '7 days',
                                threshold double precision DEFAULT 3.5, until timestamptz DEFAULT now(),
                                least_posts bigint DEFAULT 20, of_subject text DEFAULT NULL, langs text[] DEFAULT NULL,
                                sources text[] DEFAULT NULL, models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (subject text, emotion text, bucket timestamptz, posts bigint, share double precision,
               usual_share double precision, z double precision, unusual boolean)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 50
BEGIN ATOMIC
    WITH counted AS MATERIALIZED (
        SELECT c.subject, trend_bucket(whole_minutes(width), c.bucket) AS bucket, c.emotion, sum(c.posts) AS posts
        FROM emotion_counts(trend_resolution(whole_minutes(width)), trend_bucket(whole_minutes(width), until) - whole_minutes(width) - whole_windows(width, history),
                            trend_bucket(whole_minutes(width), until), of_subject, langs, sources, models, with_reposts, true) c
        GROUP BY 1, 2, 3),
    every AS (SELECT c.subject, c.bucket, sum(c.posts) AS posts FROM counted c GROUP BY 1, 2 HAVING sum(c.posts) > 0),
    -- An emotion without posts in a window that has some has the share 0.
    shares AS (
        SELECT e.subject, e.bucket, n.emotion, coalesce(c.posts, 0) AS posts,
               (coalesce(c.posts, 0) / e.posts)::double precision AS share
        FROM every e JOIN (SELECT DISTINCT subject, emotion FROM counted) n ON n.subject = e.subject
        LEFT JOIN counted c ON c.subject = e.subject AND c.bucket = e.bucket AND c.emotion = n.emotion),
    past AS (SELECT * FROM shares WHERE shares.bucket < trend_bucket(whole_minutes(width), until) - whole_minutes(width)),
    median AS (
        SELECT p.subject, p.emotion, percentile_cont(0.5) WITHIN GROUP (ORDER BY p.share) AS share
        FROM past p GROUP BY 1, 2),
    spread AS (
        SELECT p.subject, p.emotion, percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(p.share - m.share)) AS mad,
               avg(abs(p.share - m.share)) AS mean_deviation
        FROM past p JOIN median m ON m.subject = p.subject AND m.emotion = p.emotion GROUP BY 1, 2),
    scored AS (
        SELECT s.subject, s.emotion, s.bucket, s.posts, s.share, m.share AS usual_share,
               CASE WHEN d.mad > 0 THEN 0.6745 * (s.share - m.share) / d.mad
                    WHEN d.mean_deviation > 0 THEN (s.share - m.share) / (1.253314 * d.mean_deviation)
                    -- Always the same share, and now another one: beyond any threshold.
                    WHEN s.share > m.share THEN 'Infinity'::double precision
                    WHEN s.share < m.share THEN '-Infinity'::double precision
                    ELSE 0 END AS z
        FROM shares s JOIN median m ON m.subject = s.subject AND m.emotion = s.emotion
                      JOIN spread d ON d.subject = s.subject AND d.emotion = s.emotion
        WHERE s.bucket = trend_bucket(whole_minutes(width), until) - whole_minutes(width))
    SELECT s.subject, s.emotion, s.bucket, s.posts::bigint, s.share, s.usual_share, s.z,
           coalesce(s.z >= threshold AND s.posts >= least_posts, false)
    FROM scored s;
END;

COMMENT ON FUNCTION emotion_unusual IS 'Emotions whose share rises beyond what is usual, by subject: the last complete window of the given width that ends at or before until, against all whole windows of the same width in the history before it, by the modified z-score 0.6745 (x - median) / MAD (Iglewicz and Hoaglin 1993; where the MAD is 0, by the mean absolute deviation; where the share was always the same, infinite for any other one). width and history are whole minutes, a day being 24 hours in every time zone. unusual where z reaches the threshold and there are at least least_posts posts. of_subject null: every subject, and all posts as the empty string. The other arguments as of emotion_share.';

CREATE FUNCTION emotion_by(dimension text, since timestamptz, until timestamptz, of_subject text DEFAULT '',
                           langs text[] DEFAULT NULL, sources text[] DEFAULT NULL, models text[] DEFAULT NULL,
                           with_reposts boolean DEFAULT true)
RETURNS TABLE (value text, emotion text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 200
BEGIN ATOMIC
    SELECT CASE dimension WHEN 'subject' THEN c.subject WHEN 'source' THEN c.source WHEN 'language' THEN c.lang END,
           c.emotion, sum(c.posts)::bigint,
           (sum(c.posts) / sum(sum(c.posts)) OVER (PARTITION BY
               CASE dimension WHEN 'subject' THEN c.subject WHEN 'source' THEN c.source WHEN 'language' THEN c.lang END))::double precision,
           sum(c.score_sum) / sum(c.posts)::double precision
    FROM emotion_steps(CASE WHEN until - since > interval '7 days' THEN interval '24 hours' ELSE trend_step(NULL, since, until) END,
                       since, until, CASE WHEN dimension <> 'subject' THEN of_subject END, langs, sources, models,
                       with_reposts, dimension = 'subject') c
    WHERE (dimension <> 'subject' OR c.subject <> '') AND check_dimension(dimension)
    GROUP BY 1, 2
    HAVING sum(c.posts) > 0;
END;

COMMENT ON FUNCTION emotion_by IS 'Posts, share and mean score of each emotion for each language, source or tracked subject; dimension is one of these words: language, source, subject (which of_subject then does not narrow). Shares are within the language, source or subject. The range begins with the whole step that since lies in (of a day where it is longer than a week, else of trend_step) and ends at until. The other arguments as of emotion_share.';

CREATE FUNCTION newest_posts(of_emotion text, since timestamptz, until timestamptz, most bigint DEFAULT 50000,
                             of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                             models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS SETOF post
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    SELECT p.*
    FROM (SELECT q.* FROM post q
          WHERE q.created_at >= since AND q.created_at < until AND (of_emotion IS NULL OR q.emotion = of_emotion)
          ORDER BY q.created_at DESC
          LIMIT CASE WHEN of_subject = '' AND langs IS NULL AND sources IS NULL AND models IS NULL AND with_reposts
                     THEN coalesce(most, 50000) ELSE greatest(most, 100000) END) p
    WHERE (of_subject = '' OR of_subject = ANY (p.subjects)) AND (langs IS NULL OR p.lang = ANY (langs))
      AND (sources IS NULL OR p.source = ANY (sources)) AND (models IS NULL OR p.model_id = ANY (models))
      AND (with_reposts OR p.repost_of IS NULL)
    ORDER BY p.created_at DESC LIMIT coalesce(most, 50000);
END;

COMMENT ON FUNCTION newest_posts IS 'The newest posts of an emotion (null: of any), at most so many. Subject, languages, sources, models and reposts are looked for among the newest 100,000 posts of the range (of the emotion), or as many as are asked for if that is more: what lies before these is not found. The other arguments as of emotion_share.';

CREATE FUNCTION top_hashtags(of_emotion text, since timestamptz, until timestamptz, most bigint DEFAULT 50000,
                             of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                             models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (hashtag text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    WITH n AS MATERIALIZED (
        SELECT p.hashtags, p.score
        FROM newest_posts(of_emotion, since, until, most, of_subject, langs, sources, models, with_reposts) p)
    SELECT h.hashtag, count(*), count(*)::double precision / (SELECT count(*) FROM n), avg(n.score)
    FROM n CROSS JOIN LATERAL unnest(n.hashtags) AS h (hashtag) GROUP BY 1 ORDER BY 2 DESC, 1;
END;

COMMENT ON FUNCTION top_hashtags IS 'Hashtags of an emotion''s posts, the most frequent first, with the share of the posts that have it: of the newest posts of the range, at most so many. Arguments as of newest_posts; say LIMIT.';

CREATE FUNCTION top_authors(of_emotion text, since timestamptz, until timestamptz, most bigint DEFAULT 50000,
                            of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                            models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (source text, author_id text, posts bigint, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT p.source, p.author_id, count(*), avg(p.score)
    FROM newest_posts(of_emotion, since, until, most, of_subject, langs, sources, models, with_reposts) p
    WHERE p.author_id IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2;
END;

COMMENT ON FUNCTION top_authors IS 'Authors of an emotion''s posts, those with most posts first: of the newest posts of the range, at most so many. Arguments as of newest_posts; say LIMIT.';

CREATE FUNCTION top_posts(of_emotion text, since timestamptz, until timestamptz, most bigint DEFAULT 50000,
                          of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                          models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (created_at timestamptz, source text, post_id text, lang text, emotion text, score double precision,
               text text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT p.created_at, p.source, p.post_id, p.lang, p.emotion, p.score, p.text
    FROM newest_posts(of_emotion, since, until, most, of_subject, langs, sources, models, with_reposts) p
    ORDER BY p.score DESC, p.created_at DESC;
END;

COMMENT ON FUNCTION top_posts IS 'Posts of an emotion, the surest first: of the newest posts of the range, at most so many. Arguments as of newest_posts; say LIMIT.';

CREATE FUNCTION label_drift(reference_since timestamptz, since timestamptz, until timestamptz, step interval DEFAULT NULL,
                            of_subject text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                            models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (bucket timestamptz, posts bigint, drift double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    WITH reference AS MATERIALIZED (
        SELECT s.emotion, s.share FROM emotion_share(trend_bucket('1 hour', reference_since),
            trend_bucket('1 hour', reference_since) + interval '168 hours', of_subject, langs, sources, models, with_reposts) s),
    now AS MATERIALIZED (
        SELECT * FROM emotion_trend(since, until, step, of_subject, langs, sources, models, with_reposts)),
    pairs AS (
        SELECT b.bucket, b.posts, coalesce(t.share, 0) AS p, coalesce(r.share, 0) AS q
        FROM (SELECT n.bucket, sum(n.posts)::bigint AS posts FROM now n GROUP BY 1) b
        CROSS JOIN (SELECT emotion FROM reference UNION SELECT emotion FROM now) e
        LEFT JOIN now t ON t.bucket = b.bucket AND t.emotion = e.emotion
        LEFT JOIN reference r ON r.emotion = e.emotion)
    SELECT x.bucket, x.posts,
           CASE WHEN sum(x.q) > 0 THEN
               greatest(0, sum(CASE WHEN x.p > 0 THEN x.p * ln(2 * x.p / (x.p + x.q)) ELSE 0 END
                             + CASE WHEN x.q > 0 THEN x.q * ln(2 * x.q / (x.p + x.q)) ELSE 0 END) / (2 * ln(2.0::double precision)))
           END
    FROM pairs x GROUP BY 1, 2;
END;

COMMENT ON FUNCTION label_drift IS 'How far the mix of emotions is from that of the reference week that begins at reference_since: the Jensen-Shannon divergence in bits, 0 for the same mix, 1 for none in common; null where the reference has no posts. The other arguments as of emotion_trend.';

CREATE OR REPLACE VIEW emotion_now AS
SELECT w.width, s.emotion, s.posts, s.share, s.mean_score
FROM (VALUES (interval '5 minutes'), (interval '1 hour'), (interval '24 hours')) AS w (width)
CROSS JOIN LATERAL emotion_share(now() - w.width, now()) s;

INSERT INTO schema_compat (version, min_writer) VALUES (18, 18);
