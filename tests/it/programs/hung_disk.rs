//! A disk that hangs (`static.maxReads`). A program holds up whoever opens a file, for which it needs to be root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::{Gateway, eventually, get};

/// Holds up whoever opens a file.
struct Hung {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Hung {
    fn new(file: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/programs/hung_disk.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
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

    /// Lets everybody open the file.
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
    let mut disk = Hung::new(&folder.path().join("hung/index.html"));
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
