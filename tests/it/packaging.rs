//! What the gateway is installed with: the images, the units of systemd, the Debian package.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use tidegate::settings::Settings;

use crate::support::{Backend, Gateway, eventually, get, tls};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a command that must succeed, and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// The arguments of the lines that begin with a word: `COPY`, `ListenStream=`.
fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(word)).map(str::trim).collect()
}

#[test]
fn the_dockerfile_copies_all_that_the_build_needs() {
    let text = read("Dockerfile");
    let context = tempfile::tempdir().unwrap();
    let copies = lines(&text, "COPY ").into_iter().filter(|line| !line.starts_with("--from="));
    let mut copied = 0;
    for line in copies {
        let mut paths: Vec<&str> = line.split(' ').collect();
        let to = context.path().join(paths.pop().unwrap());
        for from in paths {
            let source = root().join(from);
            // The contents of a folder are copied, as Docker does.
            let (source, target) = match source.is_dir() {
                true => (source.join("."), to.clone()),
                false => (source, to.clone()),
            };
            fs::create_dir_all(&target).unwrap();
            run(Command::new("cp").arg("-r").arg(source).arg(target));
            copied += 1;
        }
    }
    assert!(copied >= 9, "only {copied} paths are copied");
    // Cargo reads every manifest and finds the sources that each names.
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--offline", "--locked", "--no-deps", "--format-version=1"]);
    let found = run(metadata.current_dir(context.path()));
    assert!(found.contains("/src/main.rs"), "{found}");
    assert!(context.path().join("scripts/static-binary.sh").is_file());
    assert!(text.contains("scripts/static-binary.sh /image/tidegate"), "{text}");
    let manifest = read("Cargo.toml");
    let rust = manifest.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(text.contains(&format!("ARG RUST=rust:{rust}-")), "Rust {rust}: {text}");
}

#[test]
fn the_image_of_a_binary_copies_what_its_script_makes() {
    let (text, script) = (read("packaging/binary.Dockerfile"), read("scripts/image.sh"));
    for line in lines(&text, "COPY ") {
        let from = line.split(' ').next().unwrap();
        assert!(script.contains(&format!("\"$context/{from}\"")), "{from}");
    }
}

/// The settings that the Debian package installs, as a file with these additions.
fn package_settings(flags: &[&str]) -> Settings {
    let file = format!("--configFile={}", root().join("packaging/etc/tidegate.yml").display());
    let flags: Vec<String> =
        std::iter::once(file).chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
    let loaded = tidegate::settings::load(&flags, &[]).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(loaded.settings.problems.is_empty(), "{:?}", loaded.settings.problems);
    loaded.settings
}

pub const SOCKETS: [&str; 2] = ["tidegate-web.socket", "tidegate-websecure.socket"];

#[test]
fn the_sockets_of_the_units_belong_to_entry_points_of_the_package() {
    let settings = package_settings(&[]);
    for unit in SOCKETS {
        let text = read(&format!("packaging/systemd/{unit}"));
        let names = lines(&text, "FileDescriptorName=");
        let [name] = names[..] else { panic!("{unit}: {names:?}") };
        let entry_point = settings.entry_points.get(name).unwrap_or_else(|| panic!("{unit}: no {name}"));
        let ports = lines(&text, "ListenStream=");
        let [port] = ports[..] else { panic!("{unit}: {ports:?}") };
        assert_eq!(format!(":{port}"), entry_point.address, "{unit}");
        assert_eq!(lines(&text, "Service="), ["tidegate.service"], "{unit}");
    }
}

#[test]
fn the_routes_of_the_package_decode() {
    let text = read("packaging/etc/routes/example.yml");
    let decode = |text: &str| {
        let node = tidegate_config::formats::read("example.yml", text.as_bytes()).unwrap();
        tidegate_config::decode_config(&node)
    };
    let (as_it_is, opened) = (decode(&text), text.lines().filter_map(|line| line.strip_prefix('#')));
    assert!(as_it_is.problems.is_empty() && as_it_is.config.http.routers.is_empty(), "{as_it_is:?}");
    let opened = decode(&opened.skip_while(|line| !line.starts_with("http:")).collect::<Vec<_>>().join("\n"));
    assert!(opened.problems.is_empty(), "{:?}", opened.problems);
    assert_eq!(opened.config.http.routers.len(), 1);
}

/// Two sockets in the other order than the settings have them, which only their names tell apart.
#[test]
fn the_settings_of_the_package_take_the_sockets_of_the_units_by_name() {
    let server = Backend::echo("s");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.yml"), Gateway::one_service(&server.url())).unwrap();
    let listeners = ["websecure", "web"].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [secure, plain] = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap());
    let [first, second] = listeners.map(|listener| Stdio::from(OwnedFd::from(listener)));
    let mut command = Command::new("sh");
    let shell = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=websecure:web exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >log 2>&1";
    command.args(["-c", shell, env!("CARGO_BIN_EXE_tidegate")]).args(package_flags(folder.path()));
    let mut child = command.current_dir(folder.path()).stdin(first).stdout(second).spawn().unwrap();
    let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    eventually("the gateway has its routes", || log().contains("configuration applied"));
    assert_eq!(get(plain, "h", "/").status, 200, "{}", log());
    let answer = tls::ask(secure, &tls_config(), "h", "h");
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(answer.unwrap().status(), 200, "{}", log());
    assert!(!log().contains("ignoring a socket"), "{}", log());
}

pub fn tls_config() -> std::sync::Arc<rustls::ClientConfig> {
    std::sync::Arc::new(tls::client_config(&["http/1.1"], None))
}

/// Flags that start the package's settings beside another gateway, with route files in this folder.
pub fn package_flags(routes: &Path) -> [String; 4] {
    [
        format!("--configFile={}", root().join("packaging/etc/tidegate.yml").display()),
        format!("--providers.file.directory={}", routes.display()),
        "--entryPoints.traefik.address=127.0.0.1:0".to_owned(),
        "--log.level=DEBUG".to_owned(),
    ]
}
