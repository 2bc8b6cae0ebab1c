//! The gateway as a separate process, to measure its memory and time, and to read its log.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::eventually;

/// A running gateway. Killed when dropped.
pub struct Process {
    child: Child,
    folder: tempfile::TempDir,
}

impl Process {
    /// Starts it with the entry point `web` and these routes.
    pub fn start(flags: &[&str], routes: &str) -> Self {
        Self::start_by("exec \"$0\" \"$@\"", flags, routes)
    }

    /// Starts it with a shell command in which `"$0" "$@"` is the gateway.
    pub fn start_by(shell: &str, flags: &[&str], routes: &str) -> Self {
        Self::start_with(shell, Stdio::null(), flags, routes)
    }

    /// Starts it with this standard input.
    pub fn start_with(shell: &str, stdin: Stdio, flags: &[&str], routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routes.yml");
        std::fs::write(&file, routes).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            shell,
            env!("CARGO_BIN_EXE_tidegate"),
            "--entryPoints.web.address=127.0.0.1:0",
            "--log.level=DEBUG",
        ]);
        command.arg(format!("--providers.file.filename={}", file.display())).args(flags);
        command.env("GATEWAY_WORKERS", "2").stdin(stdin).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Self { child: command.spawn().unwrap(), folder };
        eventually("the gateway has its routes and listens", || {
            let log = process.log();
            log.contains("configuration applied") && log.contains("entry_point=web")
        });
        process
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Returns the address of the entry point `web`.
    pub fn web(&self) -> SocketAddr {
        self.address("web")
    }

    /// Returns the address of an entry point.
    pub fn address(&self, entry_point: &str) -> SocketAddr {
        let wanted = format!("entry_point={entry_point} ");
        eventually("the entry point listens", || self.log().lines().any(|line| line.contains(&wanted)));
        let log = self.log();
        let line = log.lines().find(|line| line.contains(&wanted)).unwrap();
        line.split("address=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
    }

    /// Stops it with a signal, `TERM` or `KILL`, and waits until it has exited.
    pub fn end(&mut self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Returns its resident memory in KiB.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Returns its CPU time in hundredths of a second.
    pub fn time(&self) -> usize {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
        fields[11].parse::<usize>().unwrap() + fields[12].parse::<usize>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
