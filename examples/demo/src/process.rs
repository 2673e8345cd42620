//! Child processes that end with the demo, even if it is killed.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, Command};

/// The user for processes that refuse to run as root: `nobody` on every Linux.
const NOBODY: u32 = 65_534;

/// A temporary folder with the logs and data of everything that the demo starts. Removed when dropped.
pub(super) struct Scratch {
    dir: TempDir,
}

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        // As root, the database runs as another user, which must be able to traverse the folder.
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        let dir = tempfile::Builder::new()
            .prefix("moodstream-demo-")
            .permissions(Permissions::from_mode(mode))
            .tempdir()
            .with_context(|| format!("can't create a temporary folder in {}", std::env::temp_dir().display()))?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a folder that the user of [`Job::unprivileged`] owns.
    pub(super) fn unprivileged_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::create_dir(&path).with_context(|| format!("{} can't be created", path.display()))?;
        if geteuid().is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY))
                .with_context(|| format!("{} can't be given to user {NOBODY}", path.display()))?;
        }
        Ok(path)
    }

    /// Writes a file that only the user of [`Job::unprivileged`] can read.
    pub(super) fn unprivileged_secret(&self, name: &str, secret: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                if geteuid().is_root() {
                    fchown(&file, Some(NOBODY), Some(NOBODY))?;
                }
                file.write_all(secret.as_bytes())
            });
        written.with_context(|| format!("{} can't be written", path.display()))?;
        Ok(path)
    }

    pub(super) fn close(self) -> Result<()> {
        self.dir.close().context("the temporary folder can't be removed")
    }
}

/// A program to start, and the signal that stops it.
pub(super) struct Job {
    name: &'static str,
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(&'static str, OsString)>,
    stop: Signal,
    unprivileged: bool,
    piped: bool,
}

impl Job {
    pub(super) fn new(name: &'static str, program: impl Into<OsString>) -> Self {
        let (args, envs) = (Vec::new(), Vec::new());
        Self {
            name,
            program: program.into(),
            args,
            envs,
            stop: Signal::TERM,
            unprivileged: false,
            piped: false,
        }
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(super) fn arg_path(self, flag: &str, path: &Path) -> Self {
        self.args([OsStr::new(flag), path.as_os_str()])
    }

    pub(super) fn env(mut self, key: &'static str, value: impl Into<OsString>) -> Self {
        self.envs.push((key, value.into()));
        self
    }

    /// Stops by SIGINT, PostgreSQL's fast shutdown, which does not wait for clients.
    pub(super) fn stops_on_interrupt(mut self) -> Self {
        self.stop = Signal::INT;
        self
    }

    /// Runs as an unprivileged user if this process is root.
    pub(super) fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Takes its standard input from [`Running::stdin`].
    pub(super) fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    pub(super) fn start(self, scratch: &Scratch) -> Result<Running> {
        let log = scratch.path(&format!("{}.log", self.name));
        let out = File::create(&log).with_context(|| format!("{} can't be written", log.display()))?;
        // The kernel sends this signal when the demo dies, even by SIGKILL.
        let death_signal = if self.stop == Signal::INT { "INT" } else { "TERM" };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", death_signal, "--"])
            .arg(&self.program)
            .args(&self.args);
        // Neither this process's settings nor a moodstream.toml in its working folder may affect the children.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("MOODSTREAM_") {
                command.env_remove(key);
            }
        }
        if self.unprivileged && geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
            .envs(self.envs)
            .current_dir(scratch.dir.path())
            .stdin(if self.piped { Stdio::piped() } else { Stdio::null() })
            .stdout(out.try_clone().context("can't duplicate the handle of a log file")?)
            .stderr(out)
            // Its own process group: Ctrl-C reaches only the demo, which then stops all in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("{} can't be started through setpriv (part of util-linux)", self.name))?;
        Ok(Running {
            name: self.name,
            child,
            log,
            stop: self.stop,
        })
    }

    /// Starts the program and waits until it succeeds.
    pub(super) async fn run(self, scratch: &Scratch) -> Result<()> {
        let mut running = self.start(scratch)?;
        let status = running.child.wait().await.context("can't wait for a child process")?;
        if !status.success() {
            bail!(running.failure(status));
        }
        Ok(())
    }
}

/// A started process.
pub(super) struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
    stop: Signal,
}

impl Running {
    /// Fails if the process has ended, which it must not do by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("can't check a child process")? {
            None => Ok(()),
            Some(status) => bail!(self.failure(status)),
        }
    }

    pub(super) fn stdin(&mut self) -> Result<ChildStdin> {
        self.child
            .stdin
            .take()
            .with_context(|| format!("{} has no standard input to write to", self.name))
    }

    /// Asks the process to stop, and kills it after `patience`.
    pub(super) async fn stop(mut self, patience: Duration) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        // Without an id it has ended already, and the number may have been reused.
        let Some(pid) = pid else { return };
        let asked = kill_process(pid, self.stop).is_ok();
        if !asked || tokio::time::timeout(patience, self.child.wait()).await.is_err() {
            // This fails only if the process has ended.
            let _ = self.child.kill().await;
        }
    }

    /// Prints the last lines of the log to standard error, and returns the error message.
    fn failure(&self, status: ExitStatus) -> String {
        eprintln!("demo: the last output of {}:\n{}", self.name, tail(&self.log));
        format!("{} ended with {status}", self.name)
    }
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    const BYTES: u64 = 4_096;
    const LINES: usize = 12;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "  (no output)".to_owned();
    }
    lines[lines.len().saturating_sub(LINES)..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
