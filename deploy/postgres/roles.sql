-- Creates the database and its three roles, each with the least privileges: one owns the tables and migrates, one is used by the
-- service, and one reads (dashboards and ad hoc queries). Run it once with psql 14 or later as a superuser, with the passwords in
-- the environment:
--
--   MOODSTREAM_OWNER_PASSWORD=... MOODSTREAM_SERVICE_PASSWORD=... MOODSTREAM_READ_PASSWORD=... \
--       psql --set ON_ERROR_STOP=1 --file deploy/postgres/roles.sql
--
-- The owner grants the other roles their rights after each upgrade:
--
--   moodstream migrate --service-role moodstream_service --read-role moodstream_read
\getenv owner_password MOODSTREAM_OWNER_PASSWORD
\getenv service_password MOODSTREAM_SERVICE_PASSWORD
\getenv read_password MOODSTREAM_READ_PASSWORD

CREATE ROLE moodstream_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE moodstream_service LOGIN PASSWORD :'service_password';
CREATE ROLE moodstream_read LOGIN PASSWORD :'read_password';

CREATE DATABASE moodstream OWNER moodstream_owner;
REVOKE ALL ON DATABASE moodstream FROM PUBLIC;
GRANT CONNECT ON DATABASE moodstream TO moodstream_service, moodstream_read;
