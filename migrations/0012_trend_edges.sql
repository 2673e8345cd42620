-- Additive. The trend functions answer exactly at the ends of a range, and refuse steps and widths that they can't be right for.

CREATE FUNCTION whole_minutes(span interval) RETURNS interval
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    seconds numeric := extract(epoch FROM span);
BEGIN
    IF extract(year FROM span) <> 0 OR extract(month FROM span) <> 0 THEN
        RAISE EXCEPTION 'months and years have no fixed length: give a step or width in minutes, hours or days, not %', span
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF seconds <= 0 OR seconds % 60 <> 0 THEN
        RAISE EXCEPTION 'posts are counted by the minute: give a step or width of whole minutes, not %', span
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN make_interval(mins => (seconds / 60)::integer);
END
$$;

COMMENT ON FUNCTION whole_minutes IS 'The same span in minutes, a day being 24 hours in every time zone. Refuses months, years, and what is no whole number of minutes.';

CREATE OR REPLACE FUNCTION trend_step(step interval, since timestamptz, until timestamptz) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(whole_minutes(step), CASE
    WHEN until - since <= interval '6 hours' THEN interval '1 minute'
    WHEN until - since <= interval '26 hours' THEN interval '5 minutes'
    WHEN until - since <= interval '32 days' THEN interval '1 hour'
    ELSE interval '24 hours' END);

COMMENT ON FUNCTION trend_step IS 'The step itself (whole minutes) or, where it is null, one that suits the range: a minute up to 6 hours, 5 minutes up to a day, an hour up to a month, a day beyond.';

CREATE FUNCTION emotion_steps(step interval, since timestamptz, until timestamptz, of_topic text, langs text[],
                              sources text[], models text[], with_reposts boolean, with_totals boolean)
RETURNS TABLE (bucket timestamptz, topic text, lang text, source text, emotion text, model_id text, posts bigint,
               score_sum double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
BEGIN ATOMIC
    -- Whole days, hours or minutes up to the last one that ends by `until`; then whole hours; then minutes.
    SELECT * FROM emotion_counts(trend_resolution(step), trend_bucket(step, since),
        CASE trend_resolution(step) WHEN 'day' THEN trend_bucket('24 hours', until)
                                    WHEN 'hour' THEN trend_bucket('1 hour', until) ELSE until END,
        of_topic, langs, sources, models, with_reposts, with_totals)
    UNION ALL
    SELECT * FROM emotion_counts(CASE WHEN trend_resolution(step) = 'day' THEN 'hour' END,
        greatest(trend_bucket(step, since), trend_bucket('24 hours', until)), trend_bucket('1 hour', until),
        of_topic, langs, sources, models, with_reposts, with_totals)
    UNION ALL
    SELECT * FROM emotion_counts(CASE WHEN trend_resolution(step) <> 'minute' THEN 'minute' END,
        greatest(trend_bucket(step, since), trend_bucket('1 hour', until)), until,
        of_topic, langs, sources, models, with_reposts, with_totals);
END;

COMMENT ON FUNCTION emotion_steps IS 'Rows of the coarsest rollup that the step can be made from, from the whole step that since lies in; what the last step has before until, from finer ones. Other arguments as of emotion_counts.';

CREATE OR REPLACE FUNCTION emotion_trend(since timestamptz, until timestamptz, step interval DEFAULT NULL,
                              of_topic text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                              models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (bucket timestamptz, emotion text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    SELECT trend_bucket(trend_step(step, since, until), c.bucket), c.emotion, sum(c.posts)::bigint,
           (sum(c.posts) / sum(sum(c.posts)) OVER (PARTITION BY trend_bucket(trend_step(step, since, until), c.bucket)))::double precision,
           sum(c.score_sum) / sum(c.posts)::double precision
    FROM emotion_steps(trend_step(step, since, until), since, until, of_topic, langs, sources, models, with_reposts, true) c
    GROUP BY 1, 2
    HAVING sum(c.posts) > 0;
END;

COMMENT ON FUNCTION emotion_trend IS 'Posts, share and mean score of each emotion, step by step: from the whole step that since lies in, up to until, so that the last step may hold a part alone. step: whole minutes, null for one that suits the range; whole days are read from the rollup by day, whole hours from that by hour. The other arguments as of emotion_share.';

CREATE OR REPLACE FUNCTION group_trend(since timestamptz, until timestamptz, step interval DEFAULT NULL,
                            of_topic text DEFAULT '', langs text[] DEFAULT NULL, sources text[] DEFAULT NULL,
                            models text[] DEFAULT NULL, with_reposts boolean DEFAULT true)
RETURNS TABLE (bucket timestamptz, group_name text, posts bigint, share double precision, mean_score double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    WITH s AS MATERIALIZED (
        SELECT trend_bucket(trend_step(step, since, until), c.bucket) AS bucket, c.emotion, c.model_id,
               sum(c.posts) AS posts, sum(c.score_sum) AS score_sum
        FROM emotion_steps(trend_step(step, since, until), since, until, of_topic, langs, sources, models, with_reposts,
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
    WHERE dimension <> 'topic' OR c.topic <> ''
    GROUP BY 1, 2
    HAVING sum(c.posts) > 0;
END;

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
    FROM standing s;
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
    WHERE s.group_name IS NOT NULL;
END;

CREATE OR REPLACE FUNCTION emotion_change(width interval DEFAULT '1 hour', until timestamptz DEFAULT now(), of_topic text DEFAULT '',
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
                                       trend_bucket('1 minute', until) - v.back, of_topic, langs, sources, models,
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
        FROM emotion_counts(trend_resolution(whole_minutes(width)), trend_bucket(whole_minutes(width), until) - whole_minutes(width) - whole_minutes(history),
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

COMMENT ON FUNCTION emotion_rolling IS 'A window of the given width (whole minutes) that slides by the minute: for each minute at, posts, share and mean score of each emotion from at - width up to, not including, at. Share and mean are null where there are no posts. The other arguments as of emotion_share.';
COMMENT ON FUNCTION emotion_change IS 'The share of each emotion in the window of the given width (whole minutes) that ends at until, in the window before it, and in the same window a day and a week ago; change, change_day and change_week are the differences, where 0.01 is a percentage point. Null where a window has no posts. The other arguments as of emotion_share.';
COMMENT ON FUNCTION emotion_unusual IS 'Emotions whose share rises beyond what is usual, by topic: the last complete window of the given width that ends at or before until, against all windows of the same width in the history before it, by the modified z-score 0.6745 (x - median) / MAD (Iglewicz and Hoaglin 1993; where the MAD is 0, by the mean absolute deviation; where the share was always the same, infinite for any other one). width and history are whole minutes, a day being 24 hours in every time zone. unusual where z reaches the threshold and there are at least least_posts posts. of_topic null: every topic, and all posts as the empty string. The other arguments as of emotion_share.';
COMMENT ON FUNCTION emotion_by IS 'Posts, share and mean score of each emotion for each language, source or tracked topic; dimension is one of these words: language, source, topic (which of_topic then does not narrow). Shares are within the language, source or topic. The range begins with the whole step that since lies in (of a day where it is longer than a week, else of trend_step) and ends at until. The other arguments as of emotion_share.';

COMMENT ON TABLE post IS 'One row a post, with its emotion. Partitioned by created_at, by UTC day, month or year as retention asks for: name a range of created_at in every query.';
COMMENT ON TABLE emotion_rollup IS 'Posts and score sums by minute: at every moment equal to a recount from post. Partitioned by bucket as post is by created_at. Query emotion_by_minute, which adds up the shards.';
