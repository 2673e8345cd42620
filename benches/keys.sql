-- Measures the disk space of keys, in an empty, migrated database (takes a minute):
--   psql -v ON_ERROR_STOP=1 -d some_database -f benches/keys.sql
-- Keys are inserted in flushes of 1,000, with 19-digit ids like Twitter's: those of posts in order, 20 ms apart, those of deleted
-- posts in random order. docs/sql.md has the results for several rates.
\timing on
SELECT setseed(0.5);
CREATE TEMP TABLE bytes (kind text, keys bigint, table_size bigint, key_index bigint, age_index bigint);
CREATE PROCEDURE pg_temp.fill(kind text, flushes integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR f IN 0 .. flushes - 1 LOOP
        IF kind = 'post' THEN
            INSERT INTO post_key (source, post_id, created_at)
            SELECT 'twitter', (1146000000000000000 + n::bigint * 4000)::text, '2019-07-03 12:00+00'::timestamptz + n * interval '20 milliseconds'
            FROM generate_series(f * 1000, f * 1000 + 999) n;
        ELSE
            INSERT INTO post_key (source, post_id, deleted_at)
            SELECT 'twitter', (1000000000000000000 + floor(random() * 1.4e17))::bigint::text, '2019-07-03 12:00+00'::timestamptz + f * interval '1 second'
            FROM generate_series(1, 1000);
        END IF;
        COMMIT;
    END LOOP;
    INSERT INTO bytes SELECT kind, flushes * 1000, pg_relation_size('post_key'), pg_relation_size('post_key_pkey'),
        pg_relation_size(CASE kind WHEN 'post' THEN 'post_key_seen' ELSE 'post_key_unseen' END);
END $$;
TRUNCATE post_key;
CALL pg_temp.fill('post', 2000);
TRUNCATE post_key;
CALL pg_temp.fill('deletion', 2000);
SELECT kind, keys, table_size / keys AS heap, key_index / keys AS key_index, round(age_index::numeric / keys, 1) AS age_index,
       (table_size + key_index + age_index) / keys AS bytes_a_key FROM bytes;
