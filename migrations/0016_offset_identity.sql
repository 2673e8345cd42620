-- An offset means something only in the log it was read from. A topic that was deleted and made anew, or that of another
-- cluster after a failover, has other records at the same offsets. So the cluster and the last record settled are kept beside
-- the offset. All columns may be empty: members of the version before go on beside new ones, and leave them as they are.

ALTER TABLE consumer_offset
    ADD COLUMN cluster_id       text,
    ADD COLUMN record_offset    bigint,
    ADD COLUMN record_timestamp timestamptz,
    ADD COLUMN record_hash      bigint;

COMMENT ON COLUMN consumer_offset.cluster_id IS 'Id of the Kafka cluster that the offset is of; empty where it is not known.';
COMMENT ON COLUMN consumer_offset.record_offset IS 'Offset of the last record settled. What is known of that record holds only where this is next_offset - 1.';
COMMENT ON COLUMN consumer_offset.record_timestamp IS 'Timestamp of that record.';
COMMENT ON COLUMN consumer_offset.record_hash IS 'Hash of its key and value: at the next start the broker must have the same record there.';

INSERT INTO schema_compat (version, min_writer) VALUES (16, 15);
