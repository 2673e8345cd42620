//! The page as users see it: a running service with posts, in a real browser.

use serde_json::{Value, json};

use super::{
    browser::{Browser, Tab},
    harness::{HOSTILE, Harness, SUBJECT},
    installed,
};
use crate::support::service::wait_for;

/// JavaScript that reads a table: a list per row, with the exact values of numeric cells and the text of the others.
fn table(selector: &str) -> String {
    format!(
        "[...document.querySelectorAll('{selector} > tbody > tr')].map(row => [...row.cells].map(cell => \
         cell.querySelector('data') ? Number(cell.querySelector('data').value) : cell.textContent))"
    )
}

fn open(browser: &mut Browser, url: &str, records: usize) -> Tab {
    let tab = browser.tab();
    set_viewport(browser, &tab, 1_280, "light");
    browser.open(&tab, url);
    browser.wait(
        &tab,
        "the page to show all records",
        &format!("document.querySelector('#tally [data-name=\"all records\"] data')?.value === '{records}'"),
    );
    tab
}

fn set_viewport(browser: &mut Browser, tab: &Tab, width: u32, scheme: &str) {
    let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
    browser.call(tab, "Emulation.setDeviceMetricsOverride", metrics);
    let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
    browser.call(tab, "Emulation.setEmulatedMedia", features);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_sql_returns_and_posts_only_as_text() {
    let Some(mut browser) = Browser::start() else { return };
    let mut harness = Harness::start();
    let (url, records) = (harness.url(), harness.records);
    wait_for("the service to answer", || harness.service.get("/live").is_some());
    let tab = open(&mut browser, &url, records);
    // The tally comes from the database. The lag comes from the process, which updates it twice a second.
    browser.wait(
        &tab,
        "the lag to be 0",
        "document.querySelector('#lag data')?.value === '0'",
    );

    figures_match_sql(&mut browser, &tab, &harness).await;
    hostile_posts_are_inert(&mut browser, &tab, &harness).await;
    the_live_region_stays_silent(&mut browser, &tab);
    every_control_is_reachable_by_keyboard(&mut browser, &tab);
    let activity = browser.take_activity();
    assert_eq!(activity.errors, Vec::<String>::new());
    assert!(activity.requests.len() >= 5, "{:?}", activity.requests);
    let elsewhere: Vec<&String> = activity
        .requests
        .iter()
        .filter(|request| !request.starts_with(&url) && *request != "about:blank")
        .collect();
    assert_eq!(
        elsewhere,
        Vec::<&String>::new(),
        "the page sent requests to other hosts"
    );

    the_page_fits_every_width(&mut browser, &tab);
    axe_finds_no_violation(&mut browser, &tab);
    every_member_shows_the_same_figures(&mut browser, &tab, &harness);
    the_page_recovers_from_outages(&mut browser, &tab, &mut harness);
}

async fn figures_match_sql(browser: &mut Browser, tab: &Tab, harness: &Harness) {
    browser.evaluate(tab, "document.querySelector('#minutes summary').click()");
    let shown = browser.evaluate(
        tab,
        &format!(
            "({{ range: [...document.querySelectorAll('#range time')].map(time => time.dateTime), posts: Number(document.querySelector('#posts data').value),
               emotions: {}, minutes: {}, names: [...document.querySelectorAll('#minutes thead th')].slice(2).map(cell => cell.textContent),
               subjects: {}, tally: {}, newest: [...document.querySelectorAll('#newest .text')].map(text => text.textContent),
               scores: [...document.querySelectorAll('#newest data')].map(score => Number(score.value)), lag: Number(document.querySelector('#lag data').value),
               rejects: {} }})",
            table("#emotions"),
            table("#minutes table"),
            table("#subjects"),
            table("#tally"),
            table("#rejects"),
        ),
    );
    let within = format!(
        "created_at >= '{}' AND created_at < '{}'",
        shown["range"][0].as_str().unwrap(),
        shown["range"][1].as_str().unwrap()
    );
    let emotions = harness
        .sql(&format!(
            "SELECT emotion, count(*) AS posts, avg(score) AS score FROM post WHERE {within} GROUP BY 1 ORDER BY 2 DESC, 1"
        ))
        .await;
    let emotions = emotions.as_array().unwrap();
    assert!(emotions.len() >= 4, "{emotions:?}");
    let all: i64 = emotions.iter().map(|row| row["posts"].as_i64().unwrap()).sum();
    assert_eq!(shown["posts"].as_i64(), Some(all));
    for (row, shown) in emotions.iter().zip(shown["emotions"].as_array().unwrap()) {
        assert_eq!((&row["emotion"], &row["posts"]), (&shown[0], &shown[1]));
        let share = row["posts"].as_f64().unwrap() / all as f64;
        assert!(
            (shown[2].as_f64().unwrap() - share).abs() < 1e-12,
            "{shown} against {row}"
        );
        assert!(
            (shown[3].as_f64().unwrap() - row["score"].as_f64().unwrap()).abs() < 1e-9,
            "{shown} against {row}"
        );
    }

    let minutes = harness
        .sql(&format!(
            "SELECT to_char(date_trunc('minute', created_at) AT TIME ZONE 'UTC', 'HH24:MI') AS minute, emotion, count(*) AS posts
             FROM post WHERE {within} GROUP BY 1, 2"
        ))
        .await;
    let names = shown["names"].as_array().unwrap();
    let mut cells = 0;
    for row in shown["minutes"].as_array().unwrap() {
        for (place, name) in names.iter().enumerate() {
            let counted = minutes
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["minute"] == row[0] && one["emotion"] == *name);
            assert_eq!(
                row[place + 2].as_i64(),
                counted.map_or(Some(0), |one| one["posts"].as_i64()),
                "{row} {name}"
            );
            cells += usize::from(counted.is_some());
        }
    }
    assert_eq!(
        cells,
        minutes.as_array().unwrap().len(),
        "the page lacks minutes that SQL returns"
    );

    let subjects = harness
        .sql(&format!(
            "SELECT subject, count(*) AS posts FROM post, unnest(subjects) AS subject WHERE {within} GROUP BY 1"
        ))
        .await;
    assert_eq!(
        (&subjects[0]["subject"], &subjects[0]["posts"]),
        (&shown["subjects"][0][0], &shown["subjects"][0][1])
    );
    assert_eq!(shown["subjects"][0][0], SUBJECT);

    let newest = harness
        .sql(&format!("SELECT left(text, 600) AS text, score FROM post WHERE {within} ORDER BY created_at DESC, source, post_id LIMIT 20"))
        .await;
    let of = |column: &str| {
        newest
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row[column].clone())
            .collect::<Value>()
    };
    assert_eq!(shown["newest"], of("text"));
    assert_eq!(shown["scores"], of("score"));

    let tally = harness
        .sql("SELECT inserted, duplicates, deletions, filtered, late, rejected, records AS \"all records\" FROM \
              (SELECT sum(inserted) inserted, sum(duplicates) duplicates, sum(deletions) deletions, sum(filtered) filtered, sum(late) late, \
               sum(rejected) rejected, sum(records) records FROM consumer_tally) AS sums")
        .await;
    for row in shown["tally"].as_array().unwrap() {
        assert_eq!(tally[0][row[0].as_str().unwrap()], row[1], "{row}");
    }
    assert!(tally[0]["duplicates"].as_i64() > Some(0) && tally[0]["deletions"].as_i64() > Some(0));
    assert_eq!(shown["lag"], 0);
    assert_eq!(shown["rejects"], json!([["not_json", tally[0]["rejected"]]]));
}

async fn hostile_posts_are_inert(browser: &mut Browser, tab: &Tab, harness: &Harness) {
    let stored = harness
        .sql("SELECT text FROM post WHERE post_id >= '1000' AND length(post_id) = 4")
        .await;
    let seen = browser.evaluate(
        tab,
        "({ harmed: window.harmed ?? null, texts: [...document.querySelectorAll('#newest .text')].map(text => text.textContent),
            children: document.querySelectorAll('#newest .text *, #subjects th bdi *').length,
            injected: document.querySelectorAll('main img, iframe, main script, main a[href^=javascript]').length,
            isolated: [...document.querySelectorAll('#newest .text')].every(text => getComputedStyle(text).unicodeBidi === 'isolate' && text.dir === 'auto') })",
    );
    assert_eq!(seen["harmed"], Value::Null);
    assert_eq!(
        (seen["children"].as_i64(), seen["injected"].as_i64()),
        (Some(0), Some(0)),
        "a post was rendered as markup"
    );
    assert_eq!(seen["isolated"], true);
    let texts = seen["texts"].as_array().unwrap();
    for hostile in HOSTILE.iter().filter(|text| !text.is_empty()) {
        let is_stored = stored.as_array().unwrap().iter().any(|row| row["text"] == *hostile);
        assert!(
            is_stored && texts.iter().any(|text| text == hostile),
            "{hostile:?} is not among {texts:?}"
        );
    }
}

fn the_live_region_stays_silent(browser: &mut Browser, tab: &Tab) {
    let changes = browser.evaluate(
        tab,
        "(async () => {
            let words = 0, frames = 0;
            new MutationObserver(() => words++).observe(document.querySelector('[role=status]'), { childList: true, characterData: true, subtree: true });
            await new Promise(done => new MutationObserver(() => ++frames === 3 && done()).observe(document.querySelector('#asof'), { childList: true, characterData: true, subtree: true }));
            return [words, document.querySelectorAll('[aria-live]').length, document.querySelector('[role=status]').textContent];
        })()",
    );
    assert_eq!(changes, json!([0, 0, "Live"]));
}

fn every_control_is_reachable_by_keyboard(browser: &mut Browser, tab: &Tab) {
    browser.evaluate(tab, "document.activeElement.blur()");
    let mut order = Vec::new();
    for _ in 0..7 {
        browser.press(tab, "Tab", 9);
        let focused = "document.activeElement.id || document.activeElement.getAttribute('href') || document.activeElement.className || document.activeElement.tagName";
        order.push(browser.evaluate(tab, focused).as_str().unwrap().to_owned());
        let ring = browser.evaluate(tab, "getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(ring, "solid", "the focus is not visible: {order:?}");
    }
    assert_eq!(
        order,
        [
            "#main",
            "pause",
            "SUMMARY",
            "scroll",
            "metrics",
            "ready",
            "licenses.txt"
        ]
    );

    browser.evaluate(tab, "document.querySelector('#pause').focus()");
    browser.press(tab, " ", 32);
    browser.wait(tab, "the page to pause", "document.querySelector('#state').textContent === 'Paused' && document.querySelector('#pause').textContent === 'Resume'");
    browser.press(tab, "Enter", 13);
    browser.wait(
        tab,
        "the page to resume",
        "document.querySelector('#state').textContent === 'Live'",
    );
    browser.evaluate(tab, "document.querySelector('.skip').focus()");
    browser.press(tab, "Enter", 13);
    browser.wait(
        tab,
        "the skip link to move the focus",
        "document.activeElement.id === 'main'",
    );
}

fn the_page_fits_every_width(browser: &mut Browser, tab: &Tab) {
    for width in [1_280, 768, 390, 320] {
        set_viewport(browser, tab, width, "dark");
        let fits = format!("innerWidth === {width} && document.documentElement.scrollWidth <= {width}");
        browser.wait(tab, &format!("the page to fit into {width} pixels"), &fits);
    }
    let features = json!({"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]});
    browser.call(tab, "Emulation.setEmulatedMedia", features);
    assert_eq!(browser.evaluate(tab, "document.getAnimations().length"), 0);
}

/// Every interactive element and plot has a name, and axe-core finds no violation: light and dark, wide and narrow.
fn axe_finds_no_violation(browser: &mut Browser, tab: &Tab) {
    let tree = browser.call(tab, "Accessibility.getFullAXTree", json!({}));
    let mut named = 0;
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if [
            "button",
            "link",
            "image",
            "img",
            "table",
            "region",
            "DisclosureTriangle",
        ]
        .contains(&role)
            && node["ignored"] == false
        {
            assert_ne!(
                node["name"]["value"].as_str().unwrap_or_default().trim(),
                "",
                "without a name: {node}"
            );
            named += 1;
        }
    }
    assert!(named > 12, "{named} named elements");

    let Some(axe) = installed("axe-core") else {
        return println!("skipped: no axe-core in .runtime/npm; `deploy/setup --tests` says why");
    };
    let axe = std::fs::read_to_string(axe.join("axe.min.js")).unwrap();
    browser.evaluate(tab, &format!("{axe}; true"));
    for (width, scheme) in [(1_280, "light"), (1_280, "dark"), (390, "light"), (390, "dark")] {
        set_viewport(browser, tab, width, scheme);
        let result = browser.evaluate(
            tab,
            "axe.run().then(result => [result.passes.length, result.violations.map(one => \
             [one.id, one.help, one.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary)])])",
        );
        let (rules, violations) = (&result[0], &result[1]);
        assert!(rules.as_u64() > Some(25), "only {rules} rules applied");
        assert_eq!(*violations, json!([]), "{width} {scheme}: {violations:#}");
    }
    // Discard the violations of the policy that axe-core itself causes.
    browser.take_activity();
}

fn every_member_shows_the_same_figures(browser: &mut Browser, tab: &Tab, harness: &Harness) {
    let other = harness.service.another_member();
    let mut child = other.command().args(["--page", "figures"]).spawn().unwrap();
    wait_for("the other member", || other.get("/live").is_some());
    let second = open(browser, &format!("http://{}/", other.address()), harness.records);
    let totals = format!("[{}, {}]", table("#tally"), table("#subjects"));
    assert_eq!(browser.evaluate(tab, &totals), browser.evaluate(&second, &totals));
    let about = browser.evaluate(&second, "[document.querySelector('#no-posts').textContent, document.querySelectorAll('#newest li').length, document.querySelector('#lag-note').textContent]");
    assert!(
        about[0].as_str().unwrap().starts_with("Posts are not shown here"),
        "{about}"
    );
    assert_eq!(about[1], 0);
    assert!(about[2].as_str().unwrap().contains("of this process"), "{about}");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn the_page_recovers_from_outages(browser: &mut Browser, tab: &Tab, harness: &mut Harness) {
    let name = harness.service.url.rsplit('/').next().unwrap().to_owned();
    let allow_connections = |word: &str| {
        harness
            .bench
            .postgres
            .execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {word}"))
            .unwrap();
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        harness.bench.postgres.execute(&end).unwrap();
    };
    let says = |words: &str| format!("document.querySelector('#state').textContent.startsWith('{words}')");
    allow_connections("false");
    browser.wait(tab, "the page to report the lost database", &says("No figures"));
    assert_eq!(browser.evaluate(tab, "document.querySelector('#banner').hidden"), false);
    assert_ne!(
        browser.evaluate(tab, "document.querySelector('#posts').textContent"),
        "–",
        "the last figures are no longer shown"
    );
    allow_connections("true");
    browser.wait(tab, "the page to recover", &says("Live"));
    assert_eq!(browser.evaluate(tab, "document.querySelector('#banner').hidden"), true);

    harness.stop();
    browser.wait(tab, "the page to report the lost connection", &says("No connection"));
    harness.run();
    browser.wait(tab, "the page to recover", &says("Live"));
}
