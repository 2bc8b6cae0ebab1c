//! docs/cluster.md, whose files and commands are used as they stand there, on the addresses of one machine.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::cluster_page::{PAGE, blocks, file_name};
use crate::support::outside::program;
use crate::support::{Backend, eventually, free_port, raw};

/// What stands here for the addresses of the page: all of 127.0.0.0/8 is this machine, and others may have its ports 80
/// and 8080.
struct Here {
    web: u16,
    api: u16,
}

impl Here {
    fn text(&self, text: &str) -> String {
        let mut text = text.replace("8080", &self.api.to_string());
        for end in ["\"", " ", "\n"] {
            text = text.replace(&format!(":80{end}"), &format!(":{}{end}", self.web));
        }
        for host in ["http://10.0.0.1", "http://10.0.0.10"] {
            text = text.replace(&format!("{host}/"), &format!("{host}:{}/", self.web));
        }
        text.replace("10.0.0.", "127.77.0.")
    }
}

/// Programs that run until they are told to end.
struct Programs {
    here: Here,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

impl Programs {
    fn new() -> Self {
        let here = Here { web: free_port(), api: free_port() };
        Self { here, folder: tempfile::tempdir().unwrap(), running: Vec::new() }
    }

    fn shell(&self, script: &str) -> Command {
        let gateway = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().to_owned();
        let mut folders: Vec<PathBuf> = vec![gateway, program("consul").parent().unwrap().to_owned()];
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-e", "-c", script]).env("PATH", std::env::join_paths(folders).unwrap());
        command.current_dir(self.folder.path()).env("GATEWAY_WORKERS", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Starts each line, or runs the whole until it succeeds.
    fn run(&mut self, script: &str) {
        let script = self.here.text(script);
        let lasting = ["consul agent", "redis-server", "haproxy", "tidegate --"];
        if script.lines().all(|line| lasting.iter().any(|start| line.contains(start))) {
            for line in script.lines() {
                // The shell becomes the program, so that it can be ended.
                let (variables, command) = match line.split_once(' ') {
                    Some((first, rest)) if first.contains('=') => (first, rest),
                    _ => ("", line),
                };
                let child = self.shell(&format!("{variables} exec {command}")).spawn().unwrap();
                self.running.push(child);
            }
            return;
        }
        eventually(&format!("this succeeds:\n{script}\n"), || {
            self.shell(&script).status().unwrap().success()
        });
    }

    fn end(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.running.clear();
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

#[test]
#[ignore = "needs consul, redis-server, HAProxy and curl"]
fn the_steps_of_the_page_lead_from_one_machine_to_three() {
    let listener = TcpListener::bind("127.77.0.1:9000").unwrap();
    let _shop = Backend::on(listener, |_, stream| {
        use std::io::Write;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nshop").is_ok()
    });
    let mut programs = Programs::new();
    let mut commands = 0;
    let (one, three) = PAGE.split_once("## Three machines").unwrap();
    for part in [one, three] {
        programs.end();
        for (language, body) in blocks(part) {
            if let Some(name) = file_name(body) {
                fs::write(programs.folder.path().join(name), programs.here.text(body)).unwrap();
            } else if language == "sh" {
                programs.run(body);
                commands += 1;
            }
        }
    }
    assert_eq!(commands, 8);
    // Three gateways and one limit: 20 at once, and 100 in a minute.
    let port = programs.here.web;
    let ask = || {
        let request = "GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
        raw(([127, 77, 0, 10], port).into(), request).unwrap().status
    };
    let (begun, mut admitted) = (Instant::now(), 0.0);
    eventually("the limit is reached", || {
        let status = ask();
        admitted += f64::from(u8::from(status == 200));
        status == 429
    });
    let most = 20.0 + begun.elapsed().as_secs_f64() * 100.0 / 60.0 + 1.0;
    eprintln!("{admitted} requests until the limit of all three was reached");
    assert!(admitted <= most, "{admitted}, at most {most}");
}
