//! A headless Chromium, driven over the DevTools protocol through a pair of pipes.
//!
//! <https://chromedevtools.github.io/devtools-protocol/>: requests and responses are JSON, each terminated by a NUL.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::installed;
use crate::support::service::wait_for;

/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running browser; killed when dropped.
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    messages: Receiver<Value>,
    /// Events of all tabs since the last call of [`Self::take_activity`].
    events: Vec<Value>,
    last_id: u64,
    _profile: tempfile::TempDir,
}

/// A tab of the browser.
#[derive(Clone)]
pub struct Tab(String);

impl Browser {
    /// Starts the browser that `deploy/setup` installed, or the system's. Without one, prints so and returns `None`.
    pub fn start() -> Option<Self> {
        let Some((program, library, fonts)) = find() else {
            println!("skipped: no Chromium in .runtime, $MOODSTREAM_CHROMIUM or PATH; `deploy/setup --tests` says why");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The protocol uses the file descriptors 3 and 4, which a shell sets up.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "chromium"])
            .arg(program)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--no-first-run",
                "--no-sandbox",
                "--disable-gpu",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-quic",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("TZ", "UTC")
            .env("LANG", "en_GB.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(library) = library {
            command.env("LD_LIBRARY_PATH", library);
        }
        if let Some(fonts) = fonts {
            let settings = profile.path().join("fonts.conf");
            fs::write(&settings, fonts_conf(&fonts, profile.path())).unwrap();
            command.env("FONTCONFIG_FILE", settings);
        }
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while stdout.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    return;
                };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        Some(Self {
            child,
            stdin,
            messages,
            events: Vec::new(),
            last_id: 0,
            _profile: profile,
        })
    }

    /// Opens a tab and enables its events.
    pub fn tab(&mut self) -> Tab {
        let target = self.send(None, "Target.createTarget", json!({"url": "about:blank"}));
        let attached = self.send(
            None,
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        let tab = Tab(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Network", "Log", "DOM", "Accessibility"] {
            self.call(&tab, &format!("{domain}.enable"), json!({}));
        }
        tab
    }

    /// Calls a method of the protocol in a tab.
    pub fn call(&mut self, tab: &Tab, method: &str, params: Value) -> Value {
        self.send(Some(&tab.0), method, params)
    }

    fn send(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut request = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.stdin.write_all(&bytes).unwrap();
        loop {
            let mut message = self
                .messages
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] != self.last_id {
                self.events.push(message);
                continue;
            }
            assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
            return message["result"].take();
        }
    }

    /// Opens a URL.
    pub fn open(&mut self, tab: &Tab, url: &str) {
        let opened = self.call(tab, "Page.navigate", json!({"url": url}));
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
    }

    /// Evaluates an expression in the page. Promises are awaited.
    pub fn evaluate(&mut self, tab: &Tab, expression: &str) -> Value {
        let mut answer = self.call(
            tab,
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true}),
        );
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, tab: &Tab, what: &str, expression: &str) {
        wait_for(what, || self.evaluate(tab, expression) == true);
    }

    /// Presses a key.
    pub fn press(&mut self, tab: &Tab, key: &str, code: u32) {
        let text = match key {
            "Enter" => "\r",
            " " => " ",
            _ => "",
        };
        let event = |kind: &str| json!({"type": kind, "key": key, "windowsVirtualKeyCode": code, "text": if kind == "keyDown" { text } else { "" }});
        self.call(tab, "Input.dispatchKeyEvent", event("keyDown"));
        self.call(tab, "Input.dispatchKeyEvent", event("keyUp"));
    }

    /// Returns the requests and errors of all tabs since the last call.
    pub fn take_activity(&mut self) -> Activity {
        while let Ok(message) = self.messages.try_recv() {
            self.events.push(message);
        }
        let mut activity = Activity::default();
        for event in self.events.drain(..) {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    activity
                        .requests
                        .push(params["request"]["url"].as_str().unwrap().to_owned());
                }
                "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" => activity.errors.push(params.to_string()),
                "Runtime.consoleAPICalled"
                    if ["error", "warning", "assert"].contains(&params["type"].as_str().unwrap()) =>
                {
                    activity.errors.push(params["args"].to_string());
                }
                // These include violations of the Content-Security-Policy.
                "Log.entryAdded" if ["error", "warning"].contains(&params["entry"]["level"].as_str().unwrap()) => {
                    activity.errors.push(params["entry"].to_string());
                }
                _ => {}
            }
        }
        activity
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the tabs did.
#[derive(Default)]
pub struct Activity {
    /// URLs that were requested.
    pub requests: Vec<String>,
    /// Errors and warnings on the console, exceptions and dialogs.
    pub errors: Vec<String>,
}

/// Returns the program, and the folders of its libraries and fonts if it comes with them.
fn find() -> Option<(PathBuf, Option<PathBuf>, Option<PathBuf>)> {
    if let Some(program) = std::env::var_os("MOODSTREAM_CHROMIUM") {
        return Some((program.into(), None, None));
    }
    if let Some(folder) = installed("chromium") {
        let ready = unpack(&folder);
        return Some((
            ready.join("chromium"),
            Some(ready.join("lib")),
            Some(ready.join("fonts")),
        ));
    }
    let names = [
        "chromium",
        "chromium-headless-shell",
        "google-chrome",
        "chromium-browser",
    ];
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|program| program.is_file())?;
    Some((found, None, None))
}

/// Unpacks the package's Brotli files, once and atomically.
fn unpack(package: &Path) -> PathBuf {
    let ready = package.join("unpacked");
    if ready.exists() {
        return ready;
    }
    let fresh = tempfile::Builder::new()
        .prefix("unpacking-")
        .tempdir_in(package)
        .unwrap()
        .keep();
    for (name, archive) in [
        ("chromium.br", false),
        ("al2023.tar.br", true),
        ("swiftshader.tar.br", true),
        ("fonts.tar.br", true),
    ] {
        let mut packed = BufReader::new(fs::File::open(package.join("bin").join(name)).unwrap());
        if archive {
            let mut tar = Command::new("tar")
                .arg("-xf-")
                .arg("-C")
                .arg(&fresh)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            brotli_decompressor::BrotliDecompress(&mut packed, &mut tar.stdin.take().unwrap()).unwrap();
            assert!(tar.wait().unwrap().success(), "{name}");
        } else {
            let program = fresh.join("chromium");
            brotli_decompressor::BrotliDecompress(&mut packed, &mut fs::File::create(&program).unwrap()).unwrap();
            let executable = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
            fs::set_permissions(&program, executable).unwrap();
        }
    }
    // Another test may have been faster.
    if fs::rename(&fresh, &ready).is_err() {
        fs::remove_dir_all(&fresh).unwrap();
    }
    ready
}

fn fonts_conf(fonts: &Path, cache: &Path) -> String {
    format!(
        "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\"><fontconfig><dir>{}</dir><cachedir>{}</cachedir></fontconfig>",
        fonts.display(),
        cache.join("fonts-cache").display(),
    )
}
