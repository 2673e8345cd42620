-- Not additive: programs that don't know of merged shards would take deleted posts out of rows that are gone. They end at
-- their next flush; those from before migration 14 must be stopped first.
--
-- Rows of a rollup that differ in their shard alone become one, of shard -1, once their day is closed: see
-- src/store/merge.rs.

CREATE TABLE rollup_unmerged (
    day     date        NOT NULL,
    claimed boolean     NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (day, claimed)
);

COMMENT ON TABLE rollup_unmerged IS 'Days (UTC) whose rollups were changed since their shards were last merged.';
COMMENT ON COLUMN rollup_unmerged.day IS 'The day of the buckets.';
COMMENT ON COLUMN rollup_unmerged.claimed IS 'Whether a member has taken it up; flushes go on to add a row that is not claimed.';
COMMENT ON COLUMN rollup_unmerged.since IS 'When the first flush after the last merging changed the day.';

-- What was written before is merged as well.
INSERT INTO rollup_unmerged (day, claimed)
SELECT DISTINCT (bucket AT TIME ZONE 'UTC')::date, false FROM emotion_rollup_day;

DO $$
DECLARE
    rollup text;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['emotion_rollup', 'emotion_rollup_hour', 'emotion_rollup_day'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.shard IS %L', rollup,
                       'The Kafka partition that the posts came from, so that consumers do not wait for each other''s rows; -1 where those of a closed day were merged.');
    END LOOP;
END
$$;

INSERT INTO schema_compat (version, min_writer) VALUES (15, 15);
