-- Retention drops posts and forgets their keys, while the rollups by hour and by day go on counting them. Were such a post
-- stored again, after the retention was raised and the topic read anew, it would count twice. So it is kept for ever how far
-- retention has come: older posts are late, whatever the settings say later.
CREATE TABLE retention_mark (
    single        boolean PRIMARY KEY DEFAULT true CHECK (single),
    retired_until timestamptz
);

COMMENT ON TABLE retention_mark IS 'One row: how far retention has come. Posts older than that are counted as late, also when the retention is raised.';
COMMENT ON COLUMN retention_mark.single IS 'Always true: there is one row.';
COMMENT ON COLUMN retention_mark.retired_until IS 'Start of the oldest day (UTC) of which no post or key was dropped; null while none ever was.';

-- What was dropped before this was written down: the newest day that is counted and has no partition of posts.
INSERT INTO retention_mark (retired_until)
SELECT max(d.bucket) + interval '24 hours'
FROM (SELECT DISTINCT bucket FROM emotion_rollup_day) d
WHERE to_regclass(format('%I.%I', current_schema(), 'post_' || to_char(d.bucket AT TIME ZONE 'UTC', 'YYYYMMDD'))) IS NULL;
