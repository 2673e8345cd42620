-- Measures the trend functions: the median of five calls each, in milliseconds, on the rollups created by benches/trends.sql:
--   psql -v ON_ERROR_STOP=1 -d some_database -f benches/trends.sql -f benches/trend_times.sql
\timing off
CREATE TEMP TABLE question (place serial, name text, call text);
INSERT INTO question (name, call) VALUES
('trend 1h', 'emotion_trend(now() - interval ''1 hour'', now())'),
('trend 6h', 'emotion_trend(now() - interval ''6 hours'', now())'),
('trend 24h by 5m', 'emotion_trend(now() - interval ''24 hours'', now(), ''5 minutes'')'),
('trend 24h en', 'emotion_trend(now() - interval ''24 hours'', now(), langs => ''{en}'')'),
('trend 30d', 'emotion_trend(now() - interval ''30 days'', now())'),
('trend 30d en,ja', 'emotion_trend(now() - interval ''30 days'', now(), langs => ''{en,ja}'')'),
('trend 365d', 'emotion_trend(now() - interval ''365 days'', now())'),
('trend 365d football', 'emotion_trend(now() - interval ''365 days'', now(), of_subject => ''football'')'),
('trend 365d bluesky', 'emotion_trend(now() - interval ''365 days'', now(), sources => ''{bluesky}'')'),
('group trend 365d', 'group_trend(now() - interval ''365 days'', now())'),
('rolling 5m over 6h', 'emotion_rolling(''5 minutes'', now() - interval ''6 hours'', now())'),
('rolling 1h over 6h', 'emotion_rolling(''1 hour'', now() - interval ''6 hours'', now())'),
('rolling 24h over 6h', 'emotion_rolling(''24 hours'', now() - interval ''6 hours'', now())'),
('group rolling 24h over 6h', 'group_rolling(''24 hours'', now() - interval ''6 hours'', now())'),
('now', 'emotion_now'),
('change 1h', 'emotion_change(''1 hour'')'),
('change 24h', 'emotion_change(''24 hours'')'),
('unusual 1h/7d', 'emotion_unusual(''1 hour'', ''7 days'')'),
('unusual 15m/6h', 'emotion_unusual(''15 minutes'', ''6 hours'')'),
('by language 6h', 'emotion_by(''language'', now() - interval ''6 hours'', now())'),
('by language 24h', 'emotion_by(''language'', now() - interval ''24 hours'', now())'),
('by source 30d', 'emotion_by(''source'', now() - interval ''30 days'', now())'),
('by subject 30d', 'emotion_by(''subject'', now() - interval ''30 days'', now())'),
('by language 365d', 'emotion_by(''language'', now() - interval ''365 days'', now())'),
('drift 30d', 'label_drift(now() - interval ''60 days'', now() - interval ''30 days'', now(), ''1 day'')');
CREATE TEMP TABLE taken (place integer, milliseconds double precision);
DO $$
DECLARE
    asked record;
    began timestamptz;
    -- Literal SQL, as Grafana sends it: with constants the planner can exclude branches and partitions.
    moment text := now()::text;
BEGIN
    FOR round IN 1 .. 5 LOOP
        FOR asked IN SELECT * FROM question ORDER BY place LOOP
            began := clock_timestamp();
            EXECUTE 'SELECT * FROM ' || replace(asked.call, 'now()', quote_literal(moment) || '::timestamptz');
            INSERT INTO taken VALUES (asked.place, 1000 * extract(epoch FROM clock_timestamp() - began));
        END LOOP;
    END LOOP;
END $$;
SELECT format('| %s | %s |', q.name, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY t.milliseconds)::numeric)) AS row
FROM question q JOIN taken t USING (place) GROUP BY q.place, q.name ORDER BY q.place;
