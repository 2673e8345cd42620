//! A service for the tests of the page, fed with recent posts, some of them hostile.

use std::process::Child;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::service::{Bench, Service, end_of, terminate};

/// Texts that would do harm if they were interpreted as anything but text.
pub const HOSTILE: [&str; 6] = [
    "<img src=x onerror=\"window.harmed=1\"><script>window.harmed=2</script>",
    "</p></li><iframe src=\"https://evil.example/\"></iframe><a href=\"javascript:alert(1)\">joy</a>",
    "\u{202e}dlrow eht fo dne eht \u{2066}isolated\u{2069}\u{202c} \u{200f}and back",
    "{{constructor.constructor('window.harmed=3')()}} ${window.harmed=4} &lt;b&gt;",
    "Z̸̢̛̫̖̯̤͔̙͎̰̹̍̊̃͋̈́́a̷̡̢̛̛̲͔̯͉̫̱̓̈́͊l̵̨̛̛̙̮̳̩̙͓̐̈́̽g̶̢̛̫̳̺̝͖̈́̽͝o̵̧̢̪̠̦͎̾́̕ wide\u{feff}\u{2028}lines",
    "",
];
pub const SUBJECT: &str = "<b onclick='window.harmed=5'>\"tracked\" & more</b>";

/// Posts of the last minutes, duplicates, deletions and damaged records. The hostile posts are the newest.
fn stream(now: OffsetDateTime) -> Vec<Vec<u8>> {
    let moods = [
        "i am so happy today",
        "this makes me furious",
        "i miss her so much",
        "what a surprise!",
        "scared of the dark",
        "nothing to see",
    ];
    let post = |n: usize, text: &str, age: i64| {
        let at = (now - Duration::seconds(age)).format(&Rfc3339).unwrap();
        json!({"id": n.to_string(), "text": text, "lang": (["en", "es", "ar"][n % 3]), "created_at": at, "author_id": "a"})
            .to_string()
            .into_bytes()
    };
    let mut out = Vec::new();
    for n in 0..360 {
        let text = format!(
            "{} number {n}{}",
            moods[n % moods.len()],
            if n % 4 == 0 { " #tracked" } else { "" }
        );
        // From 20 to 2 minutes ago, so that no minute leaves the page's range during the test.
        let record = post(n, &text, 1_200 - 3 * i64::try_from(n).unwrap());
        if n % 20 == 0 {
            out.push(record.clone());
        }
        out.push(record);
        if n % 30 == 7 {
            let id = (n - 1).to_string();
            out.push(
                json!({"delete": {"status": {"id": n - 1, "id_str": id, "user_id": 1, "user_id_str": "1"}}})
                    .to_string()
                    .into_bytes(),
            );
        }
        if n % 40 == 3 {
            out.push(format!("{{\"id\":\"{n}\", broken").into_bytes());
        }
    }
    let endless = format!("{}#tracked", "w".repeat(3_000));
    for (n, text) in HOSTILE
        .iter()
        .copied()
        .filter(|text| !text.is_empty())
        .chain([endless.as_str()])
        .enumerate()
    {
        out.push(post(1_000 + n, text, 60 - i64::try_from(n).unwrap()));
    }
    out
}

/// A running service and the number of records that it was fed.
pub struct Harness {
    pub bench: Bench,
    pub service: Service,
    child: Option<Child>,
    pub records: usize,
}

impl Harness {
    pub fn start() -> Self {
        let bench = Bench::start();
        let stream = stream(OffsetDateTime::now_utc());
        bench.feed(&stream, "seen", 2);
        let subjects = format!("[[subjects]]\nname = '''{SUBJECT}'''\nhashtags = [\"tracked\"]\n");
        let service = bench.service("seen").with_config(&bench.write("page.toml", subjects));
        let mut harness = Self {
            bench,
            service,
            child: None,
            records: stream.len(),
        };
        harness.run();
        harness
    }

    pub fn run(&mut self) {
        self.child = Some(self.service.command().args(["--page", "posts"]).spawn().unwrap());
    }

    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        terminate(&child);
        end_of(&mut child);
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.service.address())
    }

    pub async fn sql(&self, sql: &str) -> Value {
        let mut connection = PgConnection::connect(&self.service.url).await.unwrap();
        let sql = format!("SELECT coalesce(jsonb_agg(to_jsonb(rows)), '[]') FROM ({sql}) AS rows");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
