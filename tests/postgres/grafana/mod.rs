//! The dashboards and alert rules, tested without Grafana: their files are consistent, every SQL query returns rows on a real
//! Postgres with variables and macros expanded as Grafana does, and every PromQL query uses metrics and labels that the
//! service exports.

mod scale;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use moodstream::{
    store::{Roles, Store, StoreOptions},
    telemetry::metric,
};
use regex::Regex;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Column as _, PgPool, Row as _};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

/// The schema that the dashboards are written for.
const SCHEMA_VERSION: u64 = 41;
const PANELS: [&str; 4] = ["timeseries", "table", "heatmap", "barchart"];
/// The units of Grafana that the dashboards use.
const UNITS: [&str; 4] = ["short", "percentunit", "s", "cps"];

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboards() -> Vec<(String, Value)> {
    let mut found: Vec<_> = fs::read_dir(grafana().join("dashboards"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), json(&path)))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found.len(), 3);
    found
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a Vec<Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .unwrap_or_else(|| panic!("no list {pointer}"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text {pointer} in {value}"))
}

/// The uids and types of the provisioned data sources.
fn data_sources() -> BTreeMap<String, String> {
    let yaml = fs::read_to_string(grafana().join("provisioning/datasources/moodstream.yaml")).unwrap();
    let entry = Regex::new(r"(?m)^    uid: (\S+)\n    type: (\S+)$").unwrap();
    let found: BTreeMap<_, _> = entry
        .captures_iter(&yaml)
        .map(|c| (c[1].to_owned(), c[2].to_owned()))
        .collect();
    assert_eq!(found.len(), 2);
    for line in yaml.lines().filter(|line| line.contains("password:")) {
        assert!(line.contains("$MOODSTREAM_"), "a secret in a file: {line}");
    }
    found
}

fn check_source(sources: &BTreeMap<String, String>, of: &Value, place: &str) {
    let (uid, kind) = (text(of, "/datasource/uid"), text(of, "/datasource/type"));
    assert_eq!(
        sources.get(uid).map(String::as_str),
        Some(kind),
        "{place}: data source {uid}"
    );
}

/// Expands variables and macros as Grafana's Postgres data source and its format `sqlstring` do.
fn expand(sql: &str, variables: &[(&str, String)], from: OffsetDateTime, to: OffsetDateTime) -> String {
    let quote = |at: OffsetDateTime| format!("'{}'", at.format(&Rfc3339).unwrap());
    let mut sql = sql.to_owned();
    for (name, value) in variables {
        sql = sql
            .replace(&format!("${{{name}:sqlstring}}"), value)
            .replace(&format!("${{{name}}}"), value);
    }
    let filter = Regex::new(r"\$__timeFilter\((\w+)\)").unwrap();
    let between = format!("$1 BETWEEN {} AND {}", quote(from), quote(to));
    let sql = filter
        .replace_all(&sql, between)
        .replace("$__timeFrom()", &quote(from))
        .replace("$__timeTo()", &quote(to));
    assert!(!sql.contains('$'), "not fully expanded: {sql}");
    sql
}

async fn answer(pool: &PgPool, place: &str, sql: &str) -> BTreeSet<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .fetch_all(pool)
        .await
        .unwrap_or_else(|error| panic!("{place}: {error}\n{sql}"));
    assert!(!rows.is_empty(), "{place}: no rows\n{sql}");
    rows[0]
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect()
}

#[test]
fn dashboards_data_sources_and_alerts_are_consistent() {
    let sources = data_sources();
    let mut uids = BTreeSet::new();
    for (name, board) in dashboards() {
        assert_eq!(board["schemaVersion"].as_u64(), Some(SCHEMA_VERSION), "{name}");
        assert!(uids.insert(text(&board, "/uid").to_owned()), "{name}: the uid is taken");
        let mut ids = BTreeSet::new();
        for panel in list(&board, "/panels") {
            let place = format!("{name}: {}", text(panel, "/title"));
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place}: the id is taken");
            assert!(PANELS.contains(&text(panel, "/type")), "{place}");
            let side = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(
                side("x") + side("w") <= 24 && side("h") > 0,
                "{place}: outside the grid"
            );
            check_source(&sources, panel, &place);
            assert!(
                UNITS.contains(&text(panel, "/fieldConfig/defaults/unit")),
                "{place}: unit"
            );
            let mut refs = BTreeSet::new();
            for target in list(panel, "/targets") {
                check_source(&sources, target, &place);
                assert!(refs.insert(text(target, "/refId")), "{place}: the refId is taken");
            }
        }
        for variable in list(&board, "/templating/list").iter().filter(|v| v["type"] == "query") {
            check_source(&sources, variable, &name);
            assert_eq!(variable["query"], variable["definition"]);
        }
    }
    let alerts = json(&grafana().join("provisioning/alerting/moodstream.json"));
    for rule in list(&alerts, "/groups/0/rules") {
        assert!(uids.insert(text(rule, "/uid").to_owned()), "{rule}");
        let refs: BTreeSet<&str> = list(rule, "/data").iter().map(|step| text(step, "/refId")).collect();
        assert!(refs.contains(text(rule, "/condition")));
        let uid = text(&rule["data"][0], "/datasourceUid");
        assert!(sources.contains_key(uid), "{uid}");
        assert!(refs.contains(text(&rule["data"][1], "/model/expression")));
    }
}

#[tokio::test]
async fn every_sql_query_returns_rows() {
    let cluster = crate::support::postgres::Postgres::start().unwrap();
    let url = cluster.database().unwrap();
    let store = Store::connect(&StoreOptions {
        url: url.as_str().into(),
        ..StoreOptions::default()
    })
    .await
    .unwrap();
    store.migrate().await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let now = OffsetDateTime::now_utc();
    let seed = include_str!("../../support/seed.sql").replace("{now}", &now.format(&Rfc3339).unwrap());
    sqlx::raw_sql(AssertSqlSafe(seed))
        .execute(&mut *pool.acquire().await.unwrap())
        .await
        .unwrap();
    // As Grafana connects: with the privilege to read and no other.
    cluster.execute("CREATE ROLE dashboards LOGIN").unwrap();
    let read = Some("dashboards");
    store.grant(&Roles { service: None, read }).await.unwrap();
    let pool = PgPool::connect(&url.replace("postgres@", "dashboards@")).await.unwrap();

    let values = |subject: &str, lang: &str, source: &str, model: &str, reposts: &str| {
        [
            ("subject", subject),
            ("lang", lang),
            ("source", source),
            ("model", model),
            ("reposts", reposts),
            ("reference", "'8 days'"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
    };
    // The variables' defaults, which select everything; and a selection of each.
    let choices = [
        values("''", "'*'", "'*'", "'*'", "true"),
        values(
            "'football'",
            "'en','ja'",
            "'twitter','bluesky'",
            "'emotion-roberta-6x384@seed'",
            "false",
        ),
    ];
    let mut queries = 0;
    for (name, board) in dashboards() {
        for variable in list(&board, "/templating/list").iter().filter(|v| v["type"] == "query") {
            let sql = expand(text(variable, "/query"), &[], now - Duration::DAY, now);
            answer(&pool, &format!("{name}: variable {}", variable["name"]), &sql).await;
            if variable["includeAll"] == true {
                assert_eq!(variable["allValue"], "'*'", "{name}: what the queries expect for all");
            }
        }
        for panel in list(&board, "/panels") {
            for target in list(panel, "/targets")
                .iter()
                .filter(|target| target["rawSql"].is_string())
            {
                let place = format!("{name}: {}", text(panel, "/title"));
                for choice in &choices {
                    for days in [1, 7, 60] {
                        let sql = expand(text(target, "/rawSql"), choice, now - Duration::days(days), now);
                        let columns = answer(&pool, &place, &sql).await;
                        if target["format"] == "time_series" {
                            assert!(
                                columns.contains("time") && columns.contains("value"),
                                "{place}: {columns:?}"
                            );
                        }
                        for name in list(panel, "/fieldConfig/overrides")
                            .iter()
                            .map(|o| text(o, "/matcher/options"))
                        {
                            assert!(columns.contains(name), "{place}: no column {name}");
                        }
                        if let Some(field) = panel.pointer("/options/xField").and_then(Value::as_str) {
                            assert!(columns.contains(field), "{place}: no column {field}");
                        }
                    }
                }
                queries += 1;
            }
        }
    }
    let alerts = json(&grafana().join("provisioning/alerting/moodstream.json"));
    for rule in list(&alerts, "/groups/0/rules") {
        if let Some(sql) = rule.pointer("/data/0/model/rawSql").and_then(Value::as_str) {
            answer(
                &pool,
                text(rule, "/title"),
                &expand(sql, &[], now - Duration::HOUR, now),
            )
            .await;
            queries += 1;
        }
    }
    assert!(queries > 15, "{queries}");
}

#[test]
fn every_promql_query_uses_exported_metrics_and_labels() {
    let exported: BTreeMap<&str, BTreeSet<&str>> = metric::ALL.iter().map(|m| (m.name, labels_of(m))).collect();
    let mut queries = Vec::new();
    for (name, board) in dashboards() {
        for panel in list(&board, "/panels") {
            for target in list(panel, "/targets")
                .iter()
                .filter(|target| target["expr"].is_string())
            {
                queries.push((
                    format!("{name}: {}", text(panel, "/title")),
                    text(target, "/expr").to_owned(),
                ));
            }
        }
    }
    let alerts = json(&grafana().join("provisioning/alerting/moodstream.json"));
    for rule in list(&alerts, "/groups/0/rules") {
        if let Some(expr) = rule.pointer("/data/0/model/expr").and_then(Value::as_str) {
            queries.push((text(rule, "/title").to_owned(), expr.to_owned()));
        }
    }
    assert!(queries.len() > 12);
    let names = Regex::new(r"moodstream_[a-z_]+").unwrap();
    let by = Regex::new(r"by \(([a-z_, ]+)\)").unwrap();
    for (place, expr) in queries {
        let mut labels: BTreeSet<&str> = ["le", "instance"].into();
        for name in names.find_iter(&expr).map(|found| found.as_str()) {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|b| exported.contains_key(b)));
            let known = exported
                .get(base.unwrap_or(name))
                .unwrap_or_else(|| panic!("{place}: no metric {name}"));
            labels.extend(known);
        }
        for label in by
            .captures_iter(&expr)
            .flat_map(|c| c[1].split(", ").map(str::to_owned).collect::<Vec<_>>())
        {
            assert!(labels.contains(&*label), "{place}: no label {label}");
        }
    }
}

fn labels_of(metric: &metric::Metric) -> BTreeSet<&'static str> {
    metric.labels.iter().map(|label| label.name).collect()
}

/// A program of Prometheus, as installed by setup or on PATH.
fn prometheus(program: &str) -> PathBuf {
    let runtime = std::env::var_os("MOODSTREAM_RUNTIME")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime"), PathBuf::from);
    let installed = runtime.join("prometheus/bin").join(program);
    if installed.exists() { installed } else { program.into() }
}

#[test]
fn prometheus_alert_rules_pass_their_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
    ] {
        let run = std::process::Command::new(prometheus("promtool"))
            .args(arguments)
            .current_dir(&folder)
            .output();
        let Ok(output) = run else {
            println!("skipped: no promtool; deploy/setup installs it on systems with apt-get");
            return;
        };
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    }
}
