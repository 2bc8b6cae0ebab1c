//! A disk that hangs (`static.maxReads`), and a directory on one. Programs hold up whoever opens a file or looks for a
//! directory, for which they need to be root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::{Gateway, eventually, get};

/// Holds up whoever opens a file, or looks for something in a directory.
struct Hung {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Hung {
    fn new(script: &str, path: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs").join(script);
        let mut command = Command::new("python3");
        command.arg(script).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut hung = Self { child, input, output };
        hung.expect("ready");
        hung
    }

    fn expect(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), expected);
    }

    /// Lets everybody go on.
    fn release(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs Python and root"]
fn a_disk_that_hangs_holds_up_few_threads_and_one_service() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["hung", "fine"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("index.html"), name).unwrap();
    }
    let root = folder.path().display();
    let routes = format!(
        "http:
  routers:
    hung: {{rule: 'Host(`hung`)', service: hung}}
    fine: {{rule: 'Host(`fine`)', service: fine}}
  services:
    hung: {{static: {{root: '{root}/hung', maxReads: 3}}}}
    fine: {{static: {{root: '{root}/fine'}}}}
"
    );
    let log = folder.path().join("access.log");
    let flags = [format!("--accessLog.filePath={}", log.display()), "--accessLog.format=json".into()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes);
    let web = gateway.web();
    let mut disk = Hung::new("hung_disk.py", &folder.path().join("hung/index.html"));
    let waiting: Vec<_> = (0..3).map(|_| std::thread::spawn(move || get(web, "hung", "/"))).collect();
    for _ in 0..3 {
        disk.expect("hangs");
    }
    // A file that could be read has to wait for its turn, too.
    let refused: Vec<_> = (0..20).map(|_| std::thread::spawn(move || get(web, "hung", "/other"))).collect();
    assert_eq!(get(web, "fine", "/").text(), "fine");
    for refused in refused {
        assert_eq!(refused.join().unwrap().status, 503);
    }
    eventually("the reason is logged", || {
        std::fs::read_to_string(&log).unwrap_or_default().matches("files_busy").count() == 20
    });
    disk.release();
    for answer in waiting {
        assert_eq!(answer.join().unwrap().text(), "hung");
    }
    assert_eq!(get(web, "hung", "/").text(), "hung");
    assert_eq!(get(web, "hung", "/other").status, 404);
}

#[test]
#[ignore = "needs Python and root"]
fn a_root_that_hangs_delays_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (mount, fine) = (folder.path().join("mount"), folder.path().join("fine"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::create_dir(&fine).unwrap();
    std::fs::write(fine.join("index.html"), "fine").unwrap();
    let mut disk = Hung::new("hung_mount.py", &mount);
    let routes = |host: &str| {
        format!(
            "http:
  routers:
    hung: {{rule: 'Host(`hung`)', service: hung}}
    fine: {{rule: 'Host(`{host}`)', service: fine}}
  services:
    hung: {{static: {{root: '{}/sub'}}}}
    fine: {{static: {{root: '{}'}}}}
",
            mount.display(),
            fine.display()
        )
    };
    let gateway = Gateway::serve(&routes("one"));
    assert_eq!(get(gateway.web(), "one", "/").text(), "fine");
    let is_reported = || gateway.problems().iter().any(|one| one.contains("did not respond within 500ms"));
    assert!(is_reported(), "{:?}", gateway.problems());
    gateway.write("routes.yml", &routes("two"));
    eventually("the next configuration is served", || get(gateway.web(), "two", "/").status == 200);
    assert!(is_reported());
    disk.release();
    disk.expect("gone");
}
