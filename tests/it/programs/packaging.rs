//! The image, the units of systemd and the Debian package, made and checked by the programs they are for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::packaging::{SOCKETS, package_flags, read, root, run, tls_config};
use crate::support::backend::unused_address;
use crate::support::outside::{Running, program};
use crate::support::{Backend, Gateway, eventually, get, tls};

/// The lines of the Dockerfile on a real engine, with an image in place of Rust's that has a shell and a Cargo which only
/// says what it was asked for.
#[test]
#[ignore = "needs a Docker Engine and a static busybox"]
fn the_dockerfile_builds_an_image_of_the_binary() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    fs::copy("/bin/busybox", folder.path().join("busybox")).unwrap();
    write("rustc", "#!/bin/sh\necho 'host: some-host'\n");
    // The binary that it makes is a busybox.
    write(
        "cargo",
        "#!/bin/sh\nset -e\ntest \"$*\" = \"build --locked --profile demo --target some-host --target-dir target/static --bin tidegate\"\n\
         mkdir -p target/static/some-host/demo\ncp /bin/busybox target/static/some-host/demo/tidegate\n",
    );
    write("ca-certificates.crt", "authorities\n");
    write(
        "Dockerfile",
        "FROM scratch\nCOPY busybox rustc cargo /bin/\nCOPY ca-certificates.crt /etc/ssl/certs/\n\
         RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n",
    );
    let rust = format!("tidegate-test-rust-{}", std::process::id());
    let image = format!("tidegate-test-source-{}", std::process::id());
    struct Images<'a>([&'a str; 2]);
    impl Drop for Images<'_> {
        fn drop(&mut self) {
            // The container has the name of its image.
            let _ = Command::new("docker").args(["rm", "--force", self.0[1]]).output();
            let _ = Command::new("docker").args(["rmi", "--force"]).args(self.0).output();
        }
    }
    let _images = Images([&rust, &image]);
    run(Command::new("docker").args(["build", "--quiet", "--tag", &rust]).arg(folder.path()));
    let mut build = Command::new("docker");
    build.args([
        "build",
        "--build-arg",
        &format!("RUST={rust}"),
        "--build-arg",
        "PROFILE=demo",
        "--tag",
        &image,
    ]);
    run(build.arg(root()));
    run(Command::new("docker").args(["create", "--name", &image, &image]));
    let found = run(Command::new("sh").args(["-c", "docker export \"$0\" | tar --list", &image]));
    for path in ["tidegate", "etc/ssl/certs/ca-certificates.crt", "tmp/"] {
        assert!(found.lines().any(|line| line == path), "{path}: {found}");
    }
    // The build's own files stay behind.
    assert!(!found.contains("src/") && !found.contains("busybox"), "{found}");
}

#[test]
#[ignore = "needs systemd's programs"]
fn systemd_passes_its_sockets_by_name() {
    let server = Backend::echo("s");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.yml"), Gateway::one_service(&server.url())).unwrap();
    let [secure, plain] = [unused_address(), unused_address()];
    let mut command = Command::new(program("systemd-socket-activate"));
    command.args(["--fdname=websecure:web", "--listen", &secure.to_string(), "--listen", &plain.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_tidegate")).args(package_flags(folder.path()));
    let _running = Running::start(&mut command, folder.path());
    eventually("systemd listens", || std::net::TcpStream::connect(plain).is_ok());
    assert_eq!(get(plain, "h", "/").status, 200);
    assert_eq!(tls::ask(secure, &tls_config(), "h", "h").unwrap().status(), 200);
}

#[test]
#[ignore = "needs systemd's programs"]
fn the_units_are_valid_and_hardened() {
    let folder = tempfile::tempdir().unwrap();
    let mut verify = Command::new(program("systemd-analyze"));
    verify.arg("verify");
    for unit in SOCKETS.into_iter().chain(["tidegate.service"]) {
        // It must be there.
        let text = read(&format!("packaging/systemd/{unit}"));
        fs::write(
            folder.path().join(unit),
            text.replace("/usr/bin/tidegate", env!("CARGO_BIN_EXE_tidegate")),
        )
        .unwrap();
        verify.arg(folder.path().join(unit));
    }
    let said = run(&mut verify);
    assert!(!said.contains("tidegate"), "{said}");
    // Exposure as systemd counts it, in tenths: from 0 to 100.
    let mut security = Command::new(program("systemd-analyze"));
    security.args(["--offline=true", "--threshold=20", "security"]);
    run(security.arg(folder.path().join("tidegate.service")));
}

#[test]
#[ignore = "needs cargo-deb"]
fn the_debian_package_holds_binary_units_settings_and_pages() {
    let folder = tempfile::tempdir().unwrap();
    // A binary that is not packed for long, where that of the profile is looked for.
    let binary = folder.path().join("target/demo/tidegate");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    fs::copy("/bin/true", &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let package = folder.path().join("tidegate.deb");
    let mut build = Command::new(program("cargo-deb"));
    build
        .args(["--locked", "--offline", "--no-build", "--no-strip", "--profile=demo", "--output"])
        .arg(&package);
    build.env("CARGO_TARGET_DIR", folder.path().join("target")).current_dir(root());
    let said = run(&mut build);
    assert!(!said.contains("warning"), "{said}");
    let ask = |what: &[&str]| run(Command::new("dpkg-deb").args(what).arg(&package));
    let contents = ask(&["--contents"]);
    for path in [
        "./usr/bin/tidegate",
        "./etc/tidegate/tidegate.yml",
        "./etc/tidegate/routes/example.yml",
        "./usr/lib/systemd/system/tidegate.service",
        "./usr/lib/systemd/system/tidegate-web.socket",
        "./usr/lib/systemd/system/tidegate-websecure.socket",
        "./usr/lib/sysusers.d/tidegate.conf",
        "./usr/share/doc/tidegate/copyright",
        "./usr/share/doc/tidegate/README.md",
        "./usr/share/doc/tidegate/docs/installation.md",
        "./usr/share/doc/tidegate/docs/middlewares/rate-limit.md",
    ] {
        assert!(contents.lines().any(|line| line.ends_with(&format!(" {path}"))), "{path}: {contents}");
    }
    let version = read("Cargo.toml");
    let version = version.split("version = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert_eq!(
        ask(&["--field"]).lines().find_map(|line| line.strip_prefix("Version: ")),
        Some(&*format!("{version}-1"))
    );
    run(Command::new("dpkg-deb").arg("--control").arg(&package).arg(folder.path().join("control")));
    let control = |name: &str| fs::read_to_string(folder.path().join("control").join(name)).unwrap();
    let settings = control("conffiles");
    assert_eq!(
        settings.split_ascii_whitespace().collect::<std::collections::BTreeSet<_>>().len(),
        2,
        "{settings}"
    );
    assert!(control("postinst").contains("systemd-sysusers"), "{}", control("postinst"));
    assert!(control("postinst").contains("try-restart tidegate.service"), "{}", control("postinst"));
    assert!(!control("postinst").contains("start tidegate-web"), "{}", control("postinst"));
    assert!(control("prerm").contains("disable --now tidegate-web.socket"), "{}", control("prerm"));
}
