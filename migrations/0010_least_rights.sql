-- Partitions are made and dropped through two functions that run with the rights of whoever owns the tables: so the
-- service needs none of those rights itself. `moodstream migrate` grants what it does need to the role of the settings.

CREATE FUNCTION add_partition(parent text, suffix text, lower timestamptz, upper timestamptz, fill integer DEFAULT 100)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
AS $$
DECLARE
    child text := parent || '_' || suffix;
BEGIN
    -- Called by roles with fewer rights than this function has: it makes partitions of these tables, and nothing else.
    IF suffix IS NULL OR suffix !~ '^[0-9]{4,8}$' THEN
        RAISE EXCEPTION 'the suffix of a partition is 4 to 8 digits, not %', quote_nullable(suffix)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class c
                   WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = parent AND c.relkind = 'p'
                     AND c.relowner = current_user::regrole) THEN
        RAISE EXCEPTION '% is none of the partitioned tables', quote_nullable(parent)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF (upper > lower AND upper <= lower + interval '366 days' AND fill BETWEEN 10 AND 100) IS NOT TRUE THEN
        RAISE EXCEPTION 'a partition reaches over at most a year, not from % to %', lower, upper
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass(format('%I.%I', current_schema(), child)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Made apart and then attached: that stops neither readers nor writers of the other days, as CREATE TABLE ...
    -- PARTITION OF would.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = %s)', child, parent, fill);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, lower, upper);
    RETURN true;
END
$$;

COMMENT ON FUNCTION add_partition IS 'Makes the partition PARENT_SUFFIX of one of the partitioned tables, unless it is there: true if it was not.';

CREATE FUNCTION drop_partition(parent text, suffix text)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
AS $$
DECLARE
    child text;
BEGIN
    SELECT c.relname INTO child
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE p.relnamespace = current_schema()::regnamespace AND p.relname = parent AND p.relkind = 'p'
      AND c.relnamespace = p.relnamespace AND c.relname = parent || '_' || suffix;
    IF child IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', child);
    RETURN true;
END
$$;

COMMENT ON FUNCTION drop_partition IS 'Drops the partition PARENT_SUFFIX of one of the partitioned tables: false if it was not there.';

REVOKE EXECUTE ON FUNCTION add_partition, drop_partition FROM PUBLIC;

-- A fixed path, temporary tables last: nobody can slip in a table or operator of their own.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION add_partition SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION drop_partition SET search_path = %I, pg_temp', current_schema());
END
$$;
