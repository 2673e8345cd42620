//! Who may do what: the service writes rows and makes partitions, readers read. Neither can alter the schema, which
//! belongs to the role that migrates.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    Store,
    error::{Fault, StoreError},
    partition::lock_partitions,
};

/// What the service does to each table beside reading it. What is not named here it only reads.
pub const WRITES: &[(&str, &str)] = &[
    ("post", "INSERT, DELETE"),
    ("post_key", "INSERT, UPDATE, DELETE"),
    ("emotion_rollup", "INSERT, UPDATE, DELETE"),
    ("emotion_rollup_hour", "INSERT, UPDATE, DELETE"),
    ("emotion_rollup_day", "INSERT, UPDATE, DELETE"),
    ("emotion_group", "INSERT, DELETE"),
    ("model_language", "INSERT, UPDATE, DELETE"),
    ("consumer_offset", "INSERT, UPDATE"),
    ("consumer_tally", "INSERT, UPDATE"),
    ("retention_mark", "UPDATE"),
    ("rollup_unmerged", "INSERT, UPDATE, DELETE"),
];

/// The functions that only the service may call: they run with the owner's rights.
pub const SERVICE_FUNCTIONS: &[&str] = &["add_partition", "drop_partition"];

/// The roles that work with the tables, where the role that migrates is another one. They must exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles<'a> {
    /// The role that `moodstream run` connects as.
    pub service: Option<&'a str>,
    /// The role of dashboards and of whoever queries.
    pub read: Option<&'a str>,
}

const DOING: &str = "granting rights";

impl Store {
    /// Gives each role what it needs, and takes from it what it does not, in one transaction. To be called by the
    /// role that owns the tables.
    ///
    /// # Errors
    /// A role is absent, is the owner itself or may act as it, or has more rights than can be taken from it here.
    pub async fn grant(&self, roles: &Roles<'_>) -> Result<(), StoreError> {
        let connect = self.options.connect_options()?;
        let mut connection = PgConnection::connect_with(&connect)
            .await
            .map_err(StoreError::when("connecting to grant rights"))?;
        let granted = async {
            let mut tx = connection.begin().await.map_err(StoreError::when(DOING))?;
            // Two that change the rights of a table at once fail; partitions are made meanwhile.
            lock_partitions(&mut tx).await.map_err(StoreError::when(DOING))?;
            for (role, writes) in [(roles.service, true), (roles.read, false)] {
                let Some(role) = role else { continue };
                check_role(&mut tx, role).await?;
                for statement in statements(&mut tx, role, writes).await? {
                    // Written by the server's own quoting, from names in its catalogue.
                    sqlx::raw_sql(AssertSqlSafe(statement))
                        .execute(&mut *tx)
                        .await
                        .map_err(StoreError::when(DOING))?;
                }
                check_schema(&mut tx, role).await?;
            }
            tx.commit().await.map_err(StoreError::when(DOING))
        };
        let granted = granted.await;
        let _ = connection.close().await;
        granted
    }
}

impl Store {
    /// The rights that the service lacks to run as the role that it is connected as: `INSERT on post`, for example.
    ///
    /// # Errors
    /// The database can't be asked.
    pub async fn lacking_rights(&self) -> Result<Vec<String>, StoreError> {
        const DOING: &str = "looking at rights";
        let (tables, rights): (Vec<&str>, Vec<&str>) = WRITES.iter().copied().unzip();
        let query = sqlx::query_scalar(
            "SELECT needed || ' on ' || relname
             FROM unnest($1::text[], $2::text[]) AS w (relname, rights),
                  unnest('{SELECT}'::text[] || string_to_array(rights, ', ')) AS needed
             WHERE to_regclass(relname) IS NOT NULL AND NOT has_table_privilege(to_regclass(relname), needed)
             UNION ALL
             SELECT 'EXECUTE on ' || p.proname FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY ($3)
               AND NOT has_function_privilege(p.oid, 'EXECUTE')",
        )
        .bind(tables)
        .bind(rights)
        .bind(SERVICE_FUNCTIONS);
        self.with(DOING, async |connection| {
            query.fetch_all(connection).await.map_err(StoreError::when(DOING))
        })
        .await
    }
}

async fn check_role(tx: &mut PgConnection, role: &str) -> Result<(), StoreError> {
    let found: Option<(bool, bool)> = sqlx::query_as(
        "SELECT rolsuper, pg_has_role(oid, current_user::regrole, 'MEMBER') FROM pg_roles WHERE rolname = $1",
    )
    .bind(role)
    .fetch_optional(tx)
    .await
    .map_err(StoreError::when(DOING))?;
    let why = match found {
        None => format!("there is no role {role:?}: an administrator makes it with CREATE ROLE ... LOGIN"),
        Some((true, _)) => format!("{role:?} is a superuser, whom no grant limits: name another role"),
        Some((_, true)) => format!("{role:?} owns the tables or may act as their owner: name another role"),
        Some((false, false)) => return Ok(()),
    };
    Err(StoreError::new(Fault::Settings, DOING, why))
}

/// The schema is the owner's: who may create in it could put something in the way of the tables.
async fn check_schema(tx: &mut PgConnection, role: &str) -> Result<(), StoreError> {
    let (schema, creates): (String, bool) =
        sqlx::query_as("SELECT current_schema()::text, has_schema_privilege($1, current_schema(), 'CREATE')")
            .bind(role)
            .fetch_one(tx)
            .await
            .map_err(StoreError::when(DOING))?;
    if creates {
        let why = format!("{role:?} may create in the schema {schema}: REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC");
        return Err(StoreError::new(Fault::Settings, DOING, why));
    }
    Ok(())
}

/// All of it is taken away first, so that what a later version needs no more is gone. Partitions are left alone:
/// whoever goes through their table needs no rights on them.
async fn statements(tx: &mut PgConnection, role: &str, writes: bool) -> Result<Vec<String>, StoreError> {
    let (tables, rights): (Vec<&str>, Vec<&str>) = WRITES.iter().copied().unzip();
    sqlx::query_scalar(
        "WITH mine AS (
             SELECT c.oid, c.relname, c.oid::regclass::text AS name FROM pg_class c
             WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
               AND NOT c.relispartition),
         functions AS (
             SELECT p.proname, p.oid::regprocedure::text AS name FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proowner = current_user::regrole),
         statements (place, statement) AS (
             SELECT 1, format('REVOKE ALL ON SCHEMA %I FROM %I', current_schema(), $1)
             UNION ALL SELECT 1, format('REVOKE ALL ON %s FROM %I', name, $1) FROM mine
             UNION ALL SELECT 1, format('REVOKE ALL ON FUNCTION %s FROM %I', name, $1) FROM functions
             UNION ALL SELECT 2, format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), $1)
             UNION ALL SELECT 2, format('GRANT SELECT ON %s TO %I', name, $1) FROM mine
             UNION ALL SELECT 2, format('GRANT %s ON %s TO %I', w.rights, m.name, $1)
                       FROM mine m JOIN unnest($3::text[], $4::text[]) AS w (relname, rights) USING (relname) WHERE $2
             UNION ALL SELECT 2, format('GRANT EXECUTE ON FUNCTION %s TO %I', name, $1) FROM functions
                       WHERE $2 OR NOT proname = ANY ($5)
             -- What a later migration makes can be read without another grant.
             UNION ALL SELECT 3, format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO %I',
                                        current_schema(), $1))
         SELECT statement FROM statements ORDER BY place",
    )
    .bind(role)
    .bind(writes)
    .bind(tables)
    .bind(rights)
    .bind(SERVICE_FUNCTIONS)
    .fetch_all(tx)
    .await
    .map_err(StoreError::when(DOING))
}
