//! Services that serve the files of a directory.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use http::Request;

use crate::support::{Answer, Client, Gateway, eventually, get, get_with, raw};

/// Content that no response may have.
const SECRET: &str = "outside the root";
/// Size of a file that is sent in several pieces, in bytes.
const LARGE: usize = 300_000;

/// A directory with files, next to a secret, and a gateway that serves it.
struct Site {
    gateway: Gateway,
    folder: tempfile::TempDir,
}

impl Site {
    /// Serves the directory with further options.
    fn serve(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("dir/empty")).unwrap();
        fs::create_dir_all(root.join("a:b")).unwrap();
        for (name, content) in [
            ("secret", SECRET),
            ("root/index.html", "<p>start</p>"),
            ("root/app.js", "plain script"),
            ("root/dir/index.html", "<p>dir</p>"),
            ("root/a:b/index.html", "<p>colon</p>"),
            ("root/data.bin", "0123456789"),
            ("root/none", "no extension"),
            ("root/.hidden", SECRET),
            ("root/404.html", "<p>not here</p>"),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        fs::write(root.join("large.bin"), large()).unwrap();
        let routes = routes(&root, options);
        let site = Self { gateway: Gateway::serve(&routes), folder };
        assert_eq!(site.gateway.problems(), Vec::<String>::new());
        site
    }

    fn root(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn get(&self, path: &str) -> Answer {
        get(self.gateway.web(), "h", path)
    }

    fn with(&self, path: &str, headers: &str) -> Answer {
        get_with(self.gateway.web(), "h", path, headers)
    }

    fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut client = Client::connect(self.gateway.web());
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}Connection: close\r\n\r\n"));
        client.read_for(method).unwrap()
    }
}

fn routes(root: &Path, options: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: files}}
    behind: {{rule: 'PathPrefix(`/docs`)', service: files, middlewares: [strip]}}
  middlewares:
    strip: {{stripPrefix: {{prefixes: [/docs]}}}}
  services:
    files:
      static:
        root: {}
{options}",
        root.display()
    )
}

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at % 251) as u8).collect()
}

#[test]
fn files_are_served_with_their_type_and_validators() {
    let site = Site::serve(
        "        cacheControl: no-cache\n        cacheControlRules: [{paths: ['*.js'], value: 'max-age=60'}]\n",
    );
    let page = site.get("/");
    assert_eq!((page.status, page.text().as_str()), (200, "<p>start</p>"));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("content-length"), Some("12"));
    assert_eq!(page.header("vary"), None);
    assert_eq!(site.get("/app.js").header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(site.get("/app.js").header("cache-control"), Some("max-age=60"));
    assert_eq!(site.get("/none").header("content-type"), Some("application/octet-stream"));
    for path in ["/", "/large.bin"] {
        let whole = site.get(path);
        let (tag, date) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
        let head = site.ask("HEAD", path, "Range: bytes=0-1\r\n");
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in ["etag", "last-modified", "content-length", "content-type", "cache-control"] {
            assert_eq!(head.header(name), whole.header(name), "{name}");
        }
        for condition in [format!("If-None-Match: W/{tag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
            let same = site.with(path, &condition);
            assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(tag)));
            assert_eq!(same.header("cache-control"), Some("no-cache"));
        }
        assert_eq!(site.with(path, "If-Match: \"other\"\r\n").status, 412);
        assert_eq!(site.with(path, "If-None-Match: \"other\"\r\n").status, 200);
        assert_eq!(site.with(path, &format!("If-None-Match: {}\r\n", "\",".repeat(2000))).status, 200);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let refused = site.ask(method, "/", "Content-Length: 0\r\n");
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn a_changed_file_has_another_tag() {
    let site = Site::serve("");
    for (path, file) in [("/data.bin", "data.bin"), ("/large.bin", "large.bin")] {
        let before = site.get(path);
        let changed: Vec<u8> = before.body.iter().map(|byte| byte ^ 1).collect();
        fs::write(site.root("new"), &changed).unwrap();
        fs::rename(site.root("new"), site.root(file)).unwrap();
        let tag = before.header("etag").unwrap();
        let after = site.with(path, &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((after.status, after.body == changed), (200, true), "{path}");
        let part = site.with(path, &format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n"));
        assert_eq!((part.status, part.body == changed), (200, true), "{path}");
    }
    // The tag of a small file is made of its content alone.
    let before = site.get("/none");
    fs::write(site.root("none"), "no extension").unwrap();
    assert_eq!(site.get("/none").header("etag"), before.header("etag"));
}

#[test]
fn parts_of_files() {
    let site = Site::serve("");
    let content = large();
    let part = |range: &str| site.with("/large.bin", &format!("Range: {range}\r\n"));
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=65535-65537", 65535..65538),
        ("bytes=1000-200000", 1000..200_001),
        ("bytes=-5", LARGE - 5..LARGE),
        ("bytes=299999-99999999999999999999999999", LARGE - 1..LARGE),
    ] {
        let answer = part(range);
        assert_eq!((answer.status, answer.complete), (206, true), "{range}");
        assert!(answer.body == content[expected.clone()], "{range}");
        let shown = format!("bytes {}-{}/{LARGE}", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), Some(shown.as_str()));
    }
    for range in ["bytes=300000-", "bytes=99999999999999999999999999-", "bytes=-0"] {
        let answer = part(range);
        assert_eq!((answer.status, answer.body.len()), (416, 0), "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */300000"));
    }
    let many = format!("bytes={}", vec!["0-"; 3000].join(","));
    for range in [many.as_str(), "bytes=0-1,5-6", "bytes=5-1", "bytes=a-b", "items=0-1"] {
        let answer = part(range);
        assert_eq!((answer.status, answer.body == content), (200, true), "{}", &range[..10]);
    }
    let tag = part("bytes=0-0").header("etag").unwrap().to_owned();
    assert_eq!(
        site.with("/large.bin", &format!("Range: bytes=5-9\r\nIf-Range: {tag}\r\n")).body,
        content[5..10]
    );
}

#[test]
fn no_path_leads_out_of_the_root() {
    let site = Site::serve("        fallback: index.html\n");
    symlink("../secret", site.root("link.txt")).unwrap();
    symlink("..", site.root("up")).unwrap();
    symlink(site.folder.path().join("secret"), site.root("absolute.txt")).unwrap();
    symlink("/", site.root("machine")).unwrap();
    let mut attacks = vec!["/link.txt".to_owned(), "/absolute.txt".into(), "/up/secret.txt".into()];
    attacks.extend(["/.hidden", "/%2ehidden", "/%2Ehidden", "/dir/../.hidden"].map(str::to_owned));
    let up = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "..%2f",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "%252e%252e",
        "..%00",
        "..;",
        "....",
        "%c0%ae%c0%ae",
        "%uff0e%uff0e",
        "..%c0%af",
        ".%00.",
        "..%09",
    ];
    for up in up {
        for depth in 1..4 {
            let climb = vec![up; depth].join("/");
            attacks.push(format!("/{climb}/secret"));
            attacks.push(format!("/dir/{climb}/secret"));
            attacks.push(format!("//{climb}/secret"));
            attacks.push(format!("/docs/{climb}/secret"));
        }
    }
    for path in
        ["/up/secret", "/machine/etc/hostname", "/secret", "//secret", "/%2f/etc/passwd", "/%00", "/\\secret"]
    {
        attacks.push(path.to_owned());
    }
    attacks.push(format!("{}/secret", site.folder.path().display()));
    attacks.push(format!("/{}", "a".repeat(5000)));
    attacks.push(format!("/{}", "a/".repeat(3000)));
    attacks.push("/%".into());
    attacks.push("/%zz".into());
    for path in attacks {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = raw(site.gateway.web(), request).unwrap();
        assert!(!answer.text().contains(SECRET), "{path}");
        let harmless = answer.text() == "<p>start</p>" || answer.status >= 300;
        assert!(harmless, "{path}: {} {}", answer.status, answer.text());
    }
    assert_eq!(site.get("/link.txt").status, 404);
    assert_eq!(site.get("/.hidden").status, 404);
}

#[test]
fn special_files_are_not_opened_for_reading() {
    let site = Site::serve("        followSymlinks: always\n        hidden: true\n");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = site.root("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let _socket = UnixListener::bind(site.root("socket")).unwrap();
    symlink("/dev/zero", site.root("zero")).unwrap();
    symlink("/dev/tty", site.root("tty")).unwrap();
    symlink("../secret", site.root("link")).unwrap();
    for path in ["/fifo", "/socket", "/zero", "/tty", "/dir/empty/"] {
        assert_eq!(site.get(path).status, 404, "{path}");
    }
    // What is allowed explicitly is served.
    assert_eq!(site.get("/link").text(), SECRET);
    assert_eq!(site.get("/.hidden").text(), SECRET);
}

#[test]
fn redirects_to_directories_stay_on_the_host() {
    let site = Site::serve("");
    for (path, location) in [
        ("/dir", Some("./dir/")),
        ("/dir?a=b&c", Some("./dir/?a=b&c")),
        ("/docs/dir", Some("./dir/")),
        ("/a:b", Some("./a:b/")),
        ("/%64ir", Some("./dir/")),
        ("/dir/", None),
        ("/docs/dir/", None),
        ("/dir/empty", None),
        ("/data.bin/", None),
    ] {
        let answer = site.get(path);
        assert_eq!(answer.status == 301, location.is_some(), "{path}: {}", answer.status);
        if location != Some("./dir/") {
            assert_eq!(answer.header("location"), location, "{path}");
        }
    }
    for path in
        ["//evil.example/%2e%2e", "//evil.example", "/\\evil.example/..", "///dir", "//dir", "/%0d%0aX:y"]
    {
        let answer = site.get(path);
        let location = answer.header("location").unwrap_or("./");
        assert!(location.starts_with("./"), "{path}: {location}");
        assert_eq!(answer.header("x"), None);
    }
}

#[test]
fn compressed_siblings_are_chosen_by_the_client() {
    let site = Site::serve("        precompressed: [br, zstd, gzip]\n");
    fs::write(site.root("app.js.gz"), "as gzip").unwrap();
    fs::write(site.root("app.js.br"), "as br").unwrap();
    fs::create_dir(site.root("data.bin.gz")).unwrap();
    let with = |path, accepted: &str| site.with(path, &format!("Accept-Encoding: {accepted}\r\n"));
    for (accepted, coding, content) in [
        ("gzip, br, zstd", Some("br"), "as br"),
        ("gzip;q=1, br;q=0.9", Some("gzip"), "as gzip"),
        ("zstd", None, "plain script"),
        ("br;q=0, *", Some("gzip"), "as gzip"),
        ("identity", None, "plain script"),
        ("br;q=0.1, identity", None, "plain script"),
        ("", None, "plain script"),
    ] {
        let answer = with("/app.js", accepted);
        assert_eq!(
            (answer.header("content-encoding"), answer.text().as_str()),
            (coding, content),
            "{accepted}"
        );
        assert_eq!(answer.header("content-type"), Some("text/javascript; charset=utf-8"));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
    }
    assert_eq!(with("/data.bin", "gzip").header("content-encoding"), None, "a directory is no sibling");
    let (plain, coded) = (site.get("/app.js"), with("/app.js", "br"));
    assert_ne!(plain.header("etag"), coded.header("etag"));
    let condition = format!("Accept-Encoding: br\r\nIf-None-Match: {}\r\n", coded.header("etag").unwrap());
    let same = site.with("/app.js", &condition);
    assert_eq!((same.status, same.header("vary")), (304, Some("accept-encoding")));
}

#[test]
fn missing_paths_get_the_fallback_or_the_page() {
    let site = Site::serve("        fallback: /index.html\n        notFound: 404.html\n");
    for path in ["/users/7", "/users/", "/dir/empty/"] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (200, "<p>start</p>"), "{path}");
    }
    for path in ["/assets/app.123.js", "/.hidden", "/dir/%0ax"] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (404, "<p>not here</p>"), "{path}");
        assert_eq!(answer.header("etag"), None);
    }
    let head = site.ask("HEAD", "/x.js", "If-None-Match: *\r\n");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (404, Some("15"), 0));
    let plain = Site::serve("");
    assert_eq!((plain.get("/x").status, plain.get("/x").text().as_str()), (404, "404 page not found\n"));
}

#[test]
fn a_response_never_mixes_two_versions() {
    let site = Site::serve("");
    let size = 48 << 20;
    let version = |byte: u8| vec![byte; size];
    let begin = || {
        let mut client = Client::connect(site.gateway.web());
        client.send("GET /big.bin HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
        client
    };
    fs::write(site.root("big.bin"), version(1)).unwrap();
    let mut client = begin();
    fs::write(site.root("new"), version(2)).unwrap();
    fs::rename(site.root("new"), site.root("big.bin")).unwrap();
    assert!(client.take(size).unwrap() == version(1), "the file that was replaced is sent to its end");
    // A file that is written in place ends the response.
    let mut client = begin();
    let mut file = fs::OpenOptions::new().write(true).open(site.root("big.bin")).unwrap();
    file.write_all(&vec![3; size]).unwrap();
    let rest = client.rest();
    assert!(rest.len() < size && rest.iter().all(|byte| *byte == 2), "{} bytes", rest.len());
    let mut client = begin();
    file.set_len(1000).unwrap();
    assert!(client.rest().len() < size);
}

#[test]
fn a_client_that_leaves_ends_the_reading() {
    let site = Site::serve("");
    let path = site.root("huge.bin");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        links.filter(|link| fs::read_link(link.path()).is_ok_and(|target| target == path)).count()
    };
    let mut client = Client::connect(site.gateway.web());
    client.send("GET /huge.bin HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.head().unwrap().contains("1099511627776"));
    client.take(1 << 20).unwrap();
    assert!(open() > 0);
    drop(client);
    eventually("the file is closed", || open() == 0);
}

#[test]
fn a_missing_root_is_a_problem_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("later");
    let gateway = Gateway::serve(&routes(&root, ""));
    let problems = gateway.problems();
    assert!(problems.iter().any(|one| one.contains("static.root") && one.contains("later")), "{problems:?}");
    let answer = get(gateway.web(), "h", "/");
    assert_eq!((answer.status, answer.text().trim()), (503, "no available server"));
    fs::create_dir(&root).unwrap();
    fs::write(root.join("index.html"), "here").unwrap();
    assert_eq!(get(gateway.web(), "h", "/").text(), "here");
    // A deployment replaces the root by a link.
    fs::rename(&root, folder.path().join("old")).unwrap();
    assert_eq!(get(gateway.web(), "h", "/").status, 503);
    symlink("old", &root).unwrap();
    assert_eq!(get(gateway.web(), "h", "/").text(), "here");
}

#[test]
fn mistakes_are_reported_and_break_the_service() {
    for (options, message) in [
        ("root: relative", "static.root: invalid directory `relative`"),
        ("root: /tmp, index: [../x]", "static.index: invalid file `../x`"),
        ("root: /tmp, fallback: a//b", "static.fallback: invalid file `a//b`"),
        ("root: /tmp, precompressed: [lzma]", "static.precompressed: "),
        ("root: /tmp, followSymlinks: some", "static.followSymlinks: "),
        ("root: /tmp, maxReads: 0", "static.maxReads: 0: expected 1 to 256"),
        ("root: /tmp, maxReads: 257", "static.maxReads: 257: expected 1 to 256"),
        ("root: /tmp, listing: true", "listing"),
    ] {
        let gateway = Gateway::serve(&format!(
            "http:\n  routers: {{all: {{rule: 'PathPrefix(`/`)', service: files}}}}\n  services: {{files: {{static: {{{options}}}}}}}\n"
        ));
        let problems = gateway.problems();
        assert!(problems.iter().any(|one| one.contains(message)), "{options}: {problems:?}");
        assert_eq!(get(gateway.web(), "h", "/").status, 503, "{options}");
    }
}

#[test]
fn roots_limit_what_providers_may_serve() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("site")).unwrap();
    fs::write(folder.path().join("site/index.html"), "site").unwrap();
    let site = folder.path().join("site").display().to_string();
    let sent = |gateway: &Gateway, root: &str| {
        let body = format!(
            r#"{{"http":{{"routers":{{"r":{{"rule":"Host(`rest`)","priority":99,"service":"s"}}}},"services":{{"s":{{"static":{{"root":"{root}"}}}}}}}}}}"#
        );
        let head = format!(
            "PUT /api/providers/rest HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        assert_eq!(raw(gateway.address("traefik"), format!("{head}{body}")).unwrap().status, 200);
    };
    let rest = "--providers.rest.insecure=true";
    let problem = |gateway: &Gateway| gateway.problems().iter().any(|one| one.contains("staticFiles.roots"));
    let gateway = Gateway::with(&[rest], &routes(Path::new(&site), ""));
    assert_eq!(get(gateway.web(), "h", "/").text(), "site", "files of configuration may serve any directory");
    sent(&gateway, &site);
    eventually("others may serve none", || problem(&gateway));
    assert_eq!(get(gateway.web(), "rest", "/").status, 503);
    let roots = format!("--staticFiles.roots={}", folder.path().display());
    let gateway = Gateway::with(&[rest, &roots], &routes(Path::new("/etc"), ""));
    assert!(problem(&gateway), "the setting is for all providers");
    assert_eq!(get(gateway.web(), "h", "/").status, 503);
    sent(&gateway, &format!("{site}/../.."));
    eventually("a path upwards is refused", || get(gateway.web(), "rest", "/").status == 503);
    sent(&gateway, &site);
    eventually("a root below is served", || get(gateway.web(), "rest", "/").text() == "site");
}

#[test]
fn http2_gets_the_same() {
    let site = Site::serve("        precompressed: [gzip]\n");
    fs::write(site.root("app.js.gz"), "as gzip").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(format!("http://h{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let address = site.gateway.web();
        runtime.block_on(async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let (head, mut body) = send.send_request(request, true).unwrap().0.await.unwrap().into_parts();
            let mut content = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                let _ = body.flow_control().release_capacity(piece.len());
                content.extend_from_slice(&piece);
            }
            (head.status.as_u16(), head.headers, content)
        })
    };
    let (status, headers, content) = ask("GET", "/large.bin", &[]);
    assert_eq!((status, content == large()), (200, true));
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let (status, headers, content) = ask("HEAD", "/large.bin", &[]);
    assert_eq!((status, &headers["content-length"], content.len()), (200, &"300000".parse().unwrap(), 0));
    assert_eq!(ask("GET", "/large.bin", &[("if-none-match", &tag)]).0, 304);
    let (status, _, content) = ask("GET", "/large.bin", &[("range", "bytes=70000-70001")]);
    assert_eq!((status, content == large()[70000..70002]), (206, true));
    assert_eq!(ask("GET", "/large.bin", &[("range", "bytes=300000-")]).0, 416);
    assert_eq!(ask("GET", "/app.js", &[("accept-encoding", "gzip")]).2, b"as gzip");
    for path in ["/%2e%2e/secret", "/..%2fsecret", "/../secret", "/.hidden"] {
        let (status, _, content) = ask("GET", path, &[]);
        assert!(status >= 400 && !String::from_utf8_lossy(&content).contains(SECRET), "{path}");
    }
}

#[test]
fn the_access_log_and_the_api_show_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    fs::write(folder.path().join("index.html"), "x").unwrap();
    let flags = [format!("--accessLog.filePath={}", log.display()), "--accessLog.format=json".into()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes(folder.path(), ""));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    eventually("the line is written", || {
        let line = fs::read_to_string(&log).unwrap_or_default();
        line.contains("\"ServiceName\":\"files@file\"") && line.contains("own_service")
    });
    let shown: serde_json::Value =
        serde_json::from_str(&gateway.api("/api/http/services/files@file")).unwrap();
    assert_eq!((&shown["type"], &shown["status"]), (&"static".into(), &"enabled".into()), "{shown}");
}
