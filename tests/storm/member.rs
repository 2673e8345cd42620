//! A member of the group: the service's binary in a separate process.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::service::moodstream;

pub struct Member {
    pub name: String,
    child: Child,
    listen: String,
    log: PathBuf,
}

impl Member {
    /// Starts a member; `environment` overrides the settings file.
    pub fn start(name: String, settings: &Path, environment: &[(&str, &str)]) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = socket.local_addr().unwrap().to_string();
        drop(socket);
        let log = settings.with_file_name(format!("{name}.log"));
        let output = fs::File::create(&log).unwrap();
        let mut command = moodstream();
        command
            .args(["run", "--config"])
            .arg(settings)
            .args(["--listen", &listen])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        Self {
            name,
            child: command.spawn().unwrap(),
            listen,
            log,
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // It may have exited just now.
        let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it got as far as reading from the broker.
    pub fn was_running(&self) -> bool {
        self.log().contains(" running ")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The response to a GET, from its status line on; `None` while it does not answer.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(&self.listen).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: moodstream\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut page = String::new();
        socket.read_to_string(&mut page).ok()?;
        Some(page)
    }

    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    }

    /// Whether it reports that it is not ready, with these words.
    pub fn complains_of(&self, words: &str) -> bool {
        self.get("/ready")
            .is_some_and(|page| page.starts_with("HTTP/1.1 503") && page.contains(words))
    }

    /// The sum of the metrics whose lines start with `name`.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.get("/metrics")?;
        let values = page
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Some(values.sum())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
