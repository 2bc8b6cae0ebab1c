//! Uploads that are answered before they are complete, by curl.

use std::process::Command;

use crate::support::Gateway;
use crate::uploads::{REFUSALS, UPLOAD, routes};

#[test]
#[ignore = "needs curl"]
fn early_answers_reach_curl_over_each_version_of_http() {
    let gateway = Gateway::serve(&routes());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, vec![b'x'; UPLOAD]).unwrap();
    for (scheme, version) in [("http", "--http1.1"), ("https", "--http1.1"), ("https", "--http2")] {
        for (path, status) in REFUSALS {
            for _ in 0..10 {
                let done = Command::new("curl")
                    .args(["-sSk", "-m", "60", "-X", "POST", "-H", "Expect:", "-o", "/dev/null", version])
                    .args(["-w", "%{http_code}", "--data-binary", &format!("@{}", file.display())])
                    .arg(format!("{scheme}://{}{path}", gateway.web()))
                    .output()
                    .unwrap();
                let error = String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "{scheme} {version} {path}: {error}");
                assert_eq!(String::from_utf8_lossy(&done.stdout), status.to_string(), "{scheme} {path}");
            }
        }
    }
}
