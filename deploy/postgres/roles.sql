-- The roles beside the owner, who runs `ackline migrate`. Run this with psql, in Ackline's database, after the first `ackline migrate`
-- and after every restore, as a superuser, or as the owner if it may create roles. Later migrations need no more of it.
--
--   ackline_worker   for workers and `ackline`: reads and writes rows, and cannot change the schema
--   ackline_reader   for your application: reads jobs and job_events; dead letters hold whole callbacks, and are not for it
--
--   WORKER_PASSWORD=… READER_PASSWORD=… psql --no-psqlrc --file=deploy/postgres/roles.sql ackline
--
-- Without a variable that role's password stays as it is. An owner of another name: --set=owner=NAME.
\set ON_ERROR_STOP on
\if :{?owner}
\else
    \set owner ackline
\endif
\getenv worker_password WORKER_PASSWORD
\getenv reader_password READER_PASSWORD

BEGIN;

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['ackline_worker', 'ackline_reader']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
\if :{?worker_password}
    ALTER ROLE ackline_worker PASSWORD :'worker_password';
\endif
\if :{?reader_password}
    ALTER ROLE ackline_reader PASSWORD :'reader_password';
\endif

-- Only the owner makes tables here, temporary ones too.
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO ackline_worker, ackline_reader;
GRANT USAGE ON SCHEMA public TO ackline_worker, ackline_reader;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ackline_worker;
REVOKE INSERT, UPDATE, DELETE ON seaql_migrations FROM ackline_worker;
GRANT SELECT ON jobs, job_events TO ackline_reader;
-- What later migrations make.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ackline_worker;

COMMIT;
