//! Privileges: the service writes rows and creates partitions, readers read. Neither can alter the schema, which
//! belongs to the role that migrates.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    Store,
    error::{StoreError, StoreErrorKind},
    partition::lock_partitions,
};

/// The privileges of the service on each table, besides `SELECT`. On tables that are not listed it has only `SELECT`.
pub const SERVICE_PRIVILEGES: &[(&str, &str)] = &[
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

/// The `SECURITY DEFINER` functions, which only the service may execute.
pub const SERVICE_FUNCTIONS: &[&str] = &["add_partition", "drop_partition"];

/// The roles that use the tables, if they are not the role that migrates. They must exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles<'a> {
    /// The role that `moodstream run` connects as.
    pub service: Option<&'a str>,
    /// The role of dashboards and of users who query.
    pub read: Option<&'a str>,
}

const DOING: &str = "granting privileges";

impl Store {
    /// Grants each role the privileges that it needs and revokes all others, in one transaction. Must be called as the
    /// role that owns the tables.
    ///
    /// # Errors
    /// A role does not exist, is a superuser, is the owner or a member of it, or has `CREATE` on the schema by another grant.
    pub async fn grant(&self, roles: &Roles<'_>) -> Result<(), StoreError> {
        let connect = self.options.connect_options()?;
        let mut connection = PgConnection::connect_with(&connect)
            .await
            .map_err(StoreError::when("connecting to grant privileges"))?;
        let granted = async {
            let mut tx = connection.begin().await.map_err(StoreError::when(DOING))?;
            // Two transactions that change a table's privileges at once fail, and members create partitions meanwhile.
            lock_partitions(&mut tx).await.map_err(StoreError::when(DOING))?;
            for (role, writes) in [(roles.service, true), (roles.read, false)] {
                let Some(role) = role else { continue };
                check_role(&mut tx, role).await?;
                for statement in statements(&mut tx, role, writes).await? {
                    // Built and quoted by the server, from names in its catalogs.
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
    /// The privileges that the service needs and the connected role lacks, such as `INSERT on post`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn missing_privileges(&self) -> Result<Vec<String>, StoreError> {
        let (tables, privileges): (Vec<&str>, Vec<&str>) = SERVICE_PRIVILEGES.iter().copied().unzip();
        let query = sqlx::query_scalar(
            "SELECT needed || ' on ' || relname
             FROM unnest($1::text[], $2::text[]) AS w (relname, privileges),
                  unnest('{SELECT}'::text[] || string_to_array(privileges, ', ')) AS needed
             WHERE to_regclass(relname) IS NOT NULL AND NOT has_table_privilege(to_regclass(relname), needed)
             UNION ALL
             SELECT 'EXECUTE on ' || p.proname FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY ($3)
               AND NOT has_function_privilege(p.oid, 'EXECUTE')",
        )
        .bind(tables)
        .bind(privileges)
        .bind(SERVICE_FUNCTIONS);
        self.run("checking privileges", async |connection| {
            query.fetch_all(connection).await
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
        None => format!("there is no role {role:?}: ask an administrator to create it with CREATE ROLE ... LOGIN"),
        Some((true, _)) => format!("{role:?} is a superuser, which grants can't restrict: name another role"),
        Some((_, true)) => format!("{role:?} owns the tables or is a member of the role that does: name another role"),
        Some((false, false)) => return Ok(()),
    };
    Err(StoreError::new(StoreErrorKind::Settings, DOING, why))
}

/// Checks that the role can't create objects in the schema: they could shadow those of the service.
async fn check_schema(tx: &mut PgConnection, role: &str) -> Result<(), StoreError> {
    let (schema, creates): (String, bool) =
        sqlx::query_as("SELECT current_schema()::text, has_schema_privilege($1, current_schema(), 'CREATE')")
            .bind(role)
            .fetch_one(tx)
            .await
            .map_err(StoreError::when(DOING))?;
    if creates {
        let why =
            format!("{role:?} has CREATE on the schema {schema}: execute REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC");
        return Err(StoreError::new(StoreErrorKind::Settings, DOING, why));
    }
    Ok(())
}

/// Revokes everything first, so that privileges that a later version no longer needs are gone. Partitions are skipped:
/// access through their parent table needs no privileges on them.
async fn statements(tx: &mut PgConnection, role: &str, writes: bool) -> Result<Vec<String>, StoreError> {
    let (tables, privileges): (Vec<&str>, Vec<&str>) = SERVICE_PRIVILEGES.iter().copied().unzip();
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
             UNION ALL SELECT 2, format('GRANT %s ON %s TO %I', w.privileges, m.name, $1)
                       FROM mine m JOIN unnest($3::text[], $4::text[]) AS w (relname, privileges) USING (relname) WHERE $2
             UNION ALL SELECT 2, format('GRANT EXECUTE ON FUNCTION %s TO %I', name, $1) FROM functions
                       WHERE $2 OR NOT proname = ANY ($5)
             -- Tables of later migrations can be read without another grant.
             UNION ALL SELECT 3, format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO %I',
                                        current_schema(), $1))
         SELECT statement FROM statements ORDER BY place",
    )
    .bind(role)
    .bind(writes)
    .bind(tables)
    .bind(privileges)
    .bind(SERVICE_FUNCTIONS)
    .fetch_all(tx)
    .await
    .map_err(StoreError::when(DOING))
}
