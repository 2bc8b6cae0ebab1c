//! `tidegate keys` on files: created, listed, rotated and revoked keys, and a gateway that follows.

use std::path::Path;
use std::process::{Command, Output};

use tidegate_middlewares::api_key::key::ApiKey;

use crate::api_key::{reason, routes};
use crate::support::keys::Key;
use crate::support::{Backend, Gateway, eventually, get_with};

/// Runs `tidegate keys` in a folder. Returns the code, standard output and standard error.
pub fn keys(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("keys").args(arguments).env_clear().current_dir(folder);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Runs a command that must succeed, and returns standard output.
#[track_caller]
pub fn done(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = keys(folder, arguments);
    assert_eq!(code, 0, "{err}");
    out.trim_end().to_owned()
}

pub fn id(key: &str) -> String {
    ApiKey::parse(key).unwrap().id().to_owned()
}

#[test]
fn a_key_lives_from_creation_to_revocation() {
    let service = Backend::echo("a");
    let gateway = Gateway::with(&[], "");
    gateway.write("service.yml", &routes("", "    {}\n", &service.url()));
    let folder = gateway.folder();
    let ask = |key: &str| {
        let answer = get_with(gateway.web(), "h", "/", &format!("X-API-Key: {key}\r\n"));
        let why = if answer.status == 200 { String::new() } else { reason(&gateway) };
        (answer.status, why, answer.header("x-api-key-sunset").is_some())
    };
    let (code, out, err) =
        keys(folder, &["new", "ann", "--file", "keys.yml", "--label", "laptop", "--scope", "read"]);
    assert_eq!(code, 0, "{err}");
    let first = out.trim_end();
    // Standard output is the key alone, for scripts; it is shown once.
    assert!(
        err.contains(&format!("key {} of consumer ann, is stored in", id(first))) && !err.contains(first),
        "{err}"
    );
    eventually("the key counts", || ask(first).0 == 200);
    assert!(!ask(first).2);
    let second = done(folder, &["rotate", &id(first), "--grace", "7d", "--file", "keys.yml"]);
    eventually("both keys count", || ask(&second).0 == 200);
    eventually("the first is in grace", || ask(first) == (200, String::new(), true));
    let list = done(folder, &["list", "--file", "keys.yml"]);
    assert!(
        list.contains("grace") && list.contains("active") && list.matches("laptop").count() == 2,
        "{list}"
    );
    // The whole key is also an answer to which one.
    done(folder, &["revoke", first, "--file", "keys.yml"]);
    eventually("the first is revoked", || ask(first).1 == "api_key_revoked");
    assert_eq!(ask(&second).0, 200);
    let stored = std::fs::read_to_string(folder.join("keys.yml")).unwrap();
    for text in [&stored, &list, &done(folder, &["list", "--file", "keys.yml", "--consumer", "ann"])] {
        for key in [first, &second] {
            assert!(!text.contains(ApiKey::parse(key).unwrap().secret()), "{text}");
        }
    }
    assert_eq!(done(folder, &["list", "--file", "keys.yml", "--consumer", "bob"]), "no keys");
    assert_eq!(gateway.problems(), Vec::<String>::new());
}

#[test]
fn the_file_of_consumers_is_the_usual_place() {
    let service = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    for name in ["c.yml", "c.toml"] {
        let path = folder.path().join(name);
        let setting = format!("--providers.consumers.filename={}", path.display());
        let first = done(folder.path(), &["new", "ann", "--", &setting, "--providers.redis=true"]);
        let gateway = Gateway::with(&[&setting], &routes("", "    {}\n", &service.url()));
        let ask = |key: &str| get_with(gateway.web(), "h", "/", &format!("X-API-Key: {key}\r\n")).status;
        assert_eq!(ask(&first), 200);
        let next = done(folder.path(), &["rotate", &id(&first), "--grace", "0", "--", &setting]);
        eventually("the successor counts alone", || (ask(&first), ask(&next)) == (401, 200));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("http"), "{text}");
        assert_eq!(gateway.problems(), Vec::<String>::new());
    }
}

#[test]
fn comments_and_everything_else_stay() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::new();
    let yaml = format!(
        "# Who may come in. Ask Ann before you change this.\nhttp:\n  consumers:\n    ann: # the boss\n      credentials:\n        apiKeys:\n          # laptop\n          - {{{key}}}\n\n    # partners\n    bob:\n      plan: 'free'   # for now\n"
    );
    let toml = format!(
        "# Who may come in.\n[[http.consumers.ann.credentials.apiKeys]] # laptop\nid = \"{}\"\nsha256 = \"{}\"\n\n# partners\n[http.consumers.bob]\nplan = 'free' # for now\n",
        key.id, key.sha256
    );
    for (name, text) in [("c.yml", &yaml), ("c.toml", &toml)] {
        std::fs::write(folder.path().join(name), text).unwrap();
        for consumer in ["ann", "bob", "eve"] {
            done(
                folder.path(),
                &["new", consumer, "--file", name, "--expires", "2099-01-01", "--allow", "10.0.0.0/8"],
            );
        }
        done(folder.path(), &["rotate", &key.id, "--file", name, "--grace", "0"]);
        let edited = std::fs::read_to_string(folder.path().join(name)).unwrap();
        for line in text.lines().filter(|line| !line.contains(&key.id)) {
            assert!(edited.lines().any(|one| one == line), "{line}\n{edited}");
        }
        let list = done(folder.path(), &["list", "--file", name]);
        assert_eq!(list.lines().count(), 6, "{list}");
        assert!(list.contains("revoked") && list.matches("2099-01-01T00:00:00Z").count() == 3, "{list}");
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    }
}

#[test]
fn mistakes_name_file_and_line_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::new();
    for (text, arguments, expected) in [
        (
            "http:\n  consumers:\n    ann: {groups: [a]}\n",
            &["new", "ann"][..],
            "c.yml:line 3: `ann` is written in braces",
        ),
        ("http:\n  - [\n", &["new", "ann"], "c.yml:"),
        ("http:\n  consumers:\n    ann:\n      group: [a]\n", &["new", "ann"], "c.yml:4: consumer ann: "),
        ("http:\n  consumers: {{ range }}\n", &["new", "ann"], "c.yml: the file is a template"),
        (
            &format!(
                "http:\n  consumers:\n    ann: {{credentials: {{apiKeys: [{{{key}, state: revoked}}]}}}}\n"
            ),
            &["rotate", &key.id],
            "is revoked: create another",
        ),
        (
            &format!(
                "http:\n  consumers:\n    ann: {{credentials: {{apiKeys: [{{{key}, expires: 2020-01-01}}]}}}}\n"
            ),
            &["rotate", &key.id],
            "is expired, and so would be its successor",
        ),
        ("", &["revoke", "nobody"], "no key `nobody` in "),
        ("", &["new", "a/b"], "invalid name of a consumer `a/b`"),
        ("", &["new", "ann", "--expires", "soon"], "invalid value `soon` of --expires"),
        ("", &["new", "ann", "--allow", "10.0.0.0/40"], "invalid value `10.0.0.0/40` of --allow"),
        ("", &["new", "ann", "--prefix", "a-b"], "invalid prefix"),
    ] {
        let path = folder.path().join("c.yml");
        std::fs::write(&path, text).unwrap();
        let (code, out, err) = keys(folder.path(), &[arguments, &["--file", "c.yml"]].concat());
        assert_eq!((code, &*out), (1, ""), "{text}");
        assert!(err.contains(expected), "{expected}: {err}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    for (arguments, expected) in [
        (&["list"][..], "no place for keys: use --file"),
        (&["list", "--file", "c.txt"], "c.txt: unknown kind of file"),
        (
            &["list", "--provider", "docker", "--", "--providers.docker=true"],
            "provider `docker` cannot store keys",
        ),
        (
            &["list", "--", "--providers.consul=true", "--providers.redis=true"],
            "choose with --provider: redis, consul",
        ),
        (&["list", "--", "--providers.consul.endpoint=x"], "did you mean `endpoints`?"),
    ] {
        let (code, _, err) = keys(folder.path(), arguments);
        assert!(code == 1 && err.contains(expected), "{expected}: {err}");
    }
    std::fs::create_dir(folder.path().join("d.yml")).unwrap();
    let (code, _, err) = keys(folder.path(), &["new", "ann", "--file", "d.yml"]);
    assert!(code == 1 && err.contains("d.yml: Is a directory"), "{err}");
}
