//! Rows, rollups, offsets, deletions, partitions and retention in Postgres.
