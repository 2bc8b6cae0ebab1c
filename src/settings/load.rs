//! Loads the settings: flags override the environment, which overrides the file, key by key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use tidegate_config::decode::{DecodeError, decode};
use tidegate_config::formats::{self, env, excerpt, flags};
use tidegate_config::suggest;
use tidegate_config::tree::{Node, Step, Table, Value};
use tidegate_config::{Origin, Problem, plugins};

use super::{Settings, check, expand, traefik};
use crate::worker;

/// Names of settings files, in the order in which each folder is searched.
const FILE_NAMES: [&str; 6] =
    ["tidegate.toml", "tidegate.yaml", "tidegate.yml", "traefik.toml", "traefik.yaml", "traefik.yml"];
/// Parts of the dynamic configuration, which Traefik ignores in this file.
const DYNAMIC: [&str; 4] = ["http", "tcp", "udp", "tls"];
/// The option that names the settings file.
const CONFIG_FILE: &str = "configFile";
/// The option that makes all unsupported settings errors. Not in Traefik.
const STRICT: &str = "strict";
/// Numbers that Traefik does not accept as negative; it accepts all others.
const NEVER_NEGATIVE: [&str; 4] =
    ["maxConcurrentStreams", "maxDecoderHeaderTableSize", "maxEncoderHeaderTableSize", "advertisedPort"];

/// Maximum number of invalid keys reported at once.
const MAX_PROBLEMS: usize = 100;

/// Loaded settings.
#[derive(Debug)]
pub struct Loaded {
    /// The complete, validated settings. Those without effect are in [`Settings::problems`].
    pub settings: Settings,
    /// The settings file, if there is one.
    pub file: Option<PathBuf>,
}

/// Loads the settings from flags (without the names of the program and the command), environment variables
/// and a file.
///
/// The file is given by `configFile`, or else is the first `tidegate` or `traefik` with `.toml`, `.yaml` or
/// `.yml` in `/etc/tidegate`, `/etc/traefik`, `$XDG_CONFIG_HOME`, `$HOME/.config` and the working directory.
///
/// Settings that Traefik starts with are accepted: what has no effect is one of [`Settings::problems`], with
/// its place. What Traefik refuses, or what would be less safe than in Traefik, is an error; so is everything
/// with `strict`.
///
/// Plug-ins with a native equivalent are declared ([`plugins::declare`]), for the configurations that name them.
pub fn load(arguments: &[String], variables: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let home = |folder: String| (!folder.is_empty()).then(|| PathBuf::from(folder));
    let folders = ["/etc/tidegate", "/etc/traefik"]
        .into_iter()
        .map(PathBuf::from)
        .chain(variable("XDG_CONFIG_HOME").and_then(home))
        .chain(variable("HOME").and_then(home).map(|folder| folder.join(".config")))
        .chain([PathBuf::from(".")]);
    load_with(arguments, variables, folders)
}

fn load_with(
    arguments: &[String],
    variables: &[(String, String)],
    folders: impl Iterator<Item = PathBuf>,
) -> Result<Loaded, Vec<Problem>> {
    let mut loader = Loader::default();
    let flags = flags::read(arguments.iter().map(String::as_str), &traefik::is_switch);
    loader.refused.extend(flags.problems);
    loader.passed_over.extend(flags.warnings);
    let mut flags = flags.node;
    let mut env = loader.environment(variables);
    let named = [flags.remove(&[CONFIG_FILE]), env.remove(&[CONFIG_FILE])].into_iter().flatten().next();
    let mut node = loader.file(named, folders)?;
    // Traefik uses only the first source that has any settings.
    loader.env_is_idle = loader.source.is_some() || !flags.is_empty();
    // The root has no origin; each part has its own.
    node.overlay(env);
    node.overlay(flags);
    loader.strict(node.remove(&[STRICT]));
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expanded = expand::expand(&mut node, &variable);
    loader.refused.extend(expanded.problems);
    loader.passed_over.extend(expanded.warnings);
    loader.settings(node)
}

#[derive(Default)]
struct Loader {
    /// Errors that prevent the start.
    refused: Vec<Problem>,
    /// Settings without effect.
    passed_over: Vec<Problem>,
    /// The settings file and its text.
    source: Option<(PathBuf, String)>,
    /// Whether Traefik would ignore the environment.
    env_is_idle: bool,
    /// Whether settings without effect are errors.
    strict: bool,
    /// Certificate resolvers with an invalid value, and why.
    broken_resolvers: BTreeMap<String, String>,
}

impl Loader {
    fn environment(&mut self, variables: &[(String, String)]) -> Node {
        let near = RefCell::new(Vec::new());
        let pairs = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let read = env::read(
            pairs,
            |name, key| {
                let parts: Vec<&str> = key.split('.').collect();
                if roots().any(|root| root.eq_ignore_ascii_case(parts[0])) {
                    return true;
                }
                // Kubernetes and Docker set variables like TRAEFIK_SERVICE_HOST and TRAEFIK_PORT, and users
                // set those of their Compose files for other purposes.
                if !matches!(parts[0], "service" | "port")
                    && name != worker::COUNT
                    && let Some(root) = meant(&parts)
                {
                    near.borrow_mut().push(Problem {
                        origin: Origin::Environment(name.into()),
                        object: None,
                        message: format!(
                            "not used: no option begins with `{}`: did you mean `{root}`?",
                            parts[0]
                        ),
                        excerpt: None,
                    });
                }
                false
            },
            &traefik::is_switch,
        );
        self.passed_over.extend(read.problems);
        self.passed_over.extend(read.warnings);
        self.passed_over.extend(near.into_inner());
        read.node
    }

    /// Reads the settings file: the given one, or the first that exists.
    fn file(
        &mut self,
        named: Option<Node>,
        folders: impl Iterator<Item = PathBuf>,
    ) -> Result<Node, Vec<Problem>> {
        let named = named.and_then(|node| Some((PathBuf::from(node.as_leaf()?), node.origin)));
        let (path, origin) = match named {
            Some((path, _)) if path.as_os_str().is_empty() => return Ok(Node::table(Origin::Internal)),
            Some((path, origin)) if path.exists() => (path, origin),
            missing => {
                let mut candidates = folders.flat_map(|folder| FILE_NAMES.map(|name| folder.join(name)));
                let found = candidates.find(|path| path.is_file());
                if let Some((path, origin)) = missing {
                    let instead = found.as_ref().map_or_else(
                        || "no file is read".to_owned(),
                        |found| format!("`{}` is read", found.display()),
                    );
                    let message = format!("there is no settings file `{}`: {instead}", path.display());
                    self.passed_over.push(Problem { origin, object: None, message, excerpt: None });
                }
                let Some(path) = found else { return Ok(Node::table(Origin::Internal)) };
                (path, Origin::Internal)
            }
        };
        let shown = path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|error| {
            let message = format!("the settings file `{shown}` cannot be read: {error}");
            vec![Problem { origin, object: None, message, excerpt: None }]
        })?;
        let mut node = formats::read(&shown, &bytes).map_err(|problem| vec![problem])?;
        self.source = Some((path, String::from_utf8_lossy(&bytes).into_owned()));
        if node.is_empty() {
            return Ok(Node::table(Origin::Internal));
        }
        self.without_foreign_keys(&mut node);
        Ok(node)
    }

    /// Removes top-level keys that are not options: Traefik ignores them.
    fn without_foreign_keys(&mut self, node: &mut Node) {
        let keys: Vec<String> =
            node.as_table().into_iter().flat_map(Table::iter).map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            let names_a_file = key.eq_ignore_ascii_case(CONFIG_FILE);
            let is_option = roots().any(|root| root.eq_ignore_ascii_case(&key)) || traefik::is_removed(&key);
            if is_option && !names_a_file {
                continue;
            }
            let message = match DYNAMIC.iter().any(|part| part.eq_ignore_ascii_case(&key)) {
                true => format!(
                    "`{key}` has no effect as a setting: it belongs into a file that `providers.file` names"
                ),
                false if names_a_file => {
                    format!("`{key}` has no effect in a settings file: expected a flag or a variable")
                }
                false => match suggest::nearest(&key, roots()) {
                    Some(near) => format!("`{key}` has no effect: unknown key: did you mean `{near}`?"),
                    None => format!("`{key}` has no effect: unknown key"),
                },
            };
            if let Some(found) = node.remove(&[&key]) {
                self.passed_over.push(Problem { origin: found.origin, object: None, message, excerpt: None });
            }
        }
    }

    fn strict(&mut self, given: Option<Node>) {
        let Some(node) = given else { return };
        match decode::<bool>(&node) {
            Ok(strict) => self.strict = strict,
            Err(_) if node.as_leaf() == Some("") => self.strict = true,
            Err(error) => {
                let message = format!("{STRICT}: {}", error.message());
                self.refused.push(Problem { origin: node.origin, object: None, message, excerpt: None });
            }
        }
    }

    fn settings(mut self, mut node: Node) -> Result<Loaded, Vec<Problem>> {
        let plugins = traefik::plugins(&node);
        self.unsupported(&mut node);
        let settings = self.decode(&mut node).map(|mut settings| {
            for (name, why) in std::mem::take(&mut self.broken_resolvers) {
                settings.certificates_resolvers.entry(name).or_default().take_out(why);
            }
            settings.complete();
            let findings = check::check(&mut settings, &node);
            self.refused.extend(findings.problems);
            self.passed_over.extend(findings.warnings);
            settings
        });
        let mut refused = std::mem::take(&mut self.refused);
        let passed_over = std::mem::take(&mut self.passed_over);
        match settings {
            Some(mut settings) if refused.is_empty() && (passed_over.is_empty() || !self.strict) => {
                settings.problems = self.shown(passed_over);
                plugins.iter().for_each(|(name, module)| plugins::declare(name, module));
                Ok(Loaded { settings, file: self.source.map(|(path, _)| path) })
            }
            _ => {
                if self.strict {
                    refused.extend(passed_over);
                }
                Err(self.shown(refused))
            }
        }
    }

    /// Removes known options that are unsupported or refused.
    fn unsupported(&mut self, node: &mut Node) {
        let (found, idle) = traefik::unsupported(node);
        let places = found.iter().map(|found| &found.path);
        let mut origins = Vec::new();
        for path in places.chain(&idle) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            origins.push(node.get(&path).map_or(Origin::Internal, |node| node.origin.clone()));
        }
        for found in &found {
            if let [root, name, ..] = found.path.as_slice()
                && root.eq_ignore_ascii_case("certificatesResolvers")
                && node.get(&[root, name, "acme"]).is_none()
            {
                self.broken_resolvers.insert(name.clone(), found.message.clone());
            }
        }
        for path in found.iter().filter(|found| !found.kept).map(|found| &found.path).chain(&idle) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            node.remove(&path);
        }
        for (found, origin) in found.into_iter().zip(origins) {
            let problem = Problem { origin, object: None, message: found.message, excerpt: None };
            if found.refused { self.refused.push(problem) } else { self.passed_over.push(problem) }
        }
    }

    /// Decodes as much as possible, so that all unknown keys are reported at once. Invalid keys are removed.
    fn decode(&mut self, node: &mut Node) -> Option<Settings> {
        let mut rest = node.clone();
        for _ in 0..MAX_PROBLEMS {
            match decode::<Settings>(&rest) {
                Ok(settings) => return Some(settings),
                Err(error) => {
                    let problem = problem(&error);
                    let refuse = self.refuses(&error, &rest);
                    let removed = error.remove_from(&mut rest);
                    if !refuse && removed {
                        let keys: Vec<&str> = error.steps().iter().map_while(key_of).collect();
                        prune(&mut rest, &keys);
                        // Do not report the rest of what was removed.
                        if matches!(problem.origin, Origin::Environment(_)) {
                            error.remove_from(node);
                            prune(node, &keys);
                        }
                        self.passed_over.push(problem);
                    } else {
                        self.refused.push(problem);
                    }
                    if !removed {
                        return None;
                    }
                }
            }
        }
        let message = format!("more than {MAX_PROBLEMS} settings cannot be read");
        self.refused.push(Problem { origin: Origin::Internal, object: None, message, excerpt: None });
        None
    }

    /// Returns true if Traefik would refuse to start too.
    fn refuses(&mut self, error: &DecodeError, node: &Node) -> bool {
        if matches!(error.origin(), Origin::Environment(_)) && (error.is_unknown_key() || self.env_is_idle) {
            return false;
        }
        if error.is_unknown_key() {
            return true;
        }
        let keys: Vec<&str> = error.steps().iter().map_while(key_of).collect();
        if let [resolvers, name, ..] = keys.as_slice()
            && resolvers.eq_ignore_ascii_case("certificatesResolvers")
        {
            let why = format!("{}: {}", error.path(), error.message());
            self.broken_resolvers.insert((*name).to_owned(), why);
            return false;
        }
        let Some(value) = node.get(&keys) else { return true };
        let last = keys.last().copied().unwrap_or_default();
        if last.eq_ignore_ascii_case("domains") && value.as_leaf().is_some() {
            // Traefik interprets it as a list without names.
            return false;
        }
        let never_negative = NEVER_NEGATIVE.iter().any(|key| key.eq_ignore_ascii_case(last));
        match (&value.value, value.as_leaf()) {
            // A number or duration, but not a valid one here.
            (_, Some(text)) if is_number(text) => never_negative && text.starts_with('-'),
            // Where a text is expected, Traefik interprets a list as a text, if an odd one.
            (Value::List(_), _) => !error.message().starts_with("a list is given: expected a string"),
            _ => true,
        }
    }

    /// Adds excerpts of the settings file.
    fn shown(&self, mut problems: Vec<Problem>) -> Vec<Problem> {
        if let Some((path, text)) = &self.source {
            excerpt::fill(&mut problems, &path.display().to_string(), text);
        }
        problems
    }
}

/// Returns the first parts of all options.
fn roots() -> impl Iterator<Item = &'static str> {
    traefik::ROOTS.iter().copied().chain([CONFIG_FILE, STRICT, "cluster", "identity"])
}

/// Returns the option that a variable probably meant: its first parts are (`ACCESS_LOG`), or resemble, one.
fn meant(parts: &[&str]) -> Option<&'static str> {
    let joined = |count: usize| roots().find(|root| root.eq_ignore_ascii_case(&parts[..count].concat()));
    let near = suggest::nearest(parts[0], roots());
    (2..=parts.len()).find_map(joined).or_else(|| roots().find(|root| Some(*root) == near))
}

fn key_of(step: &Step) -> Option<&str> {
    match step {
        Step::Key(key) => Some(key),
        Step::Index(_) => None,
    }
}

/// Returns true for an integer or a duration, with or without a sign.
fn is_number(text: &str) -> bool {
    let bare = text.trim().trim_start_matches('-');
    bare.parse::<i64>().is_ok() || bare.parse::<tidegate_core::values::Duration>().is_ok()
}

/// Removes tables of environment variables that are empty after the value at `keys` is gone: an unknown
/// variable must not enable anything.
fn prune(node: &mut Node, keys: &[&str]) {
    for depth in (1..keys.len()).rev() {
        let from_environment = |node: &Node| matches!(node.origin, Origin::Environment(_)) && node.is_empty();
        if !node.get(&keys[..depth]).is_some_and(from_environment) {
            return;
        }
        node.remove(&keys[..depth]);
    }
}

fn problem(error: &DecodeError) -> Problem {
    let path = error.path();
    let message = match traefik::unsupported_of_provider(&path) {
        Some(message) if error.is_unknown_key() => message,
        _ if path.is_empty() => error.message().to_owned(),
        _ => format!("{path}: {}", error.message()),
    };
    Problem { origin: error.origin(), object: None, message, excerpt: None }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::settings::{EntryPoint, INTERNAL_ENTRY_POINT, OtlpMetrics, Prometheus};

    fn try_load(
        arguments: &[&str],
        variables: &[(&str, &str)],
        folders: &[&Path],
    ) -> Result<Loaded, Vec<String>> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load_with(&arguments, &variables, folders.iter().map(|folder| folder.to_path_buf()))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    fn loaded(arguments: &[&str]) -> Loaded {
        try_load(arguments, &[], &[]).unwrap_or_else(|problems| panic!("{arguments:?}: {problems:?}"))
    }

    fn refused(arguments: &[&str]) -> Vec<String> {
        try_load(arguments, &[], &[]).expect_err("refused")
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        (folder, path.display().to_string())
    }

    #[test]
    fn without_settings_there_is_an_entry_point_on_port_80() {
        let loaded = loaded(&[]);
        assert_eq!(loaded.settings.entry_points.len(), 1);
        assert_eq!(
            loaded.settings.entry_points["http"],
            EntryPoint { address: ":80".into(), ..EntryPoint::default() }
        );
        assert_eq!((loaded.file, loaded.settings.problems), (None, vec![]));
        assert_eq!(loaded.settings.log.level.as_str(), "ERROR");
    }

    #[test]
    fn api_and_ping_bring_their_entry_point() {
        for (arguments, address) in [
            (&["--api.insecure=true"][..], Some(":8080")),
            (&["--ping"], Some(":8080")),
            (&["--ping=true", "--entryPoints.traefik.address=127.0.0.1:1"], Some("127.0.0.1:1")),
            (&["--api"], None),
            (&["--ping.manualRouting"], None),
            (&["--ping.entryPoint=http"], None),
        ] {
            let settings = loaded(arguments).settings;
            let found = settings.entry_points.get("traefik").map(|point| point.address.as_str());
            assert_eq!(found, address, "{arguments:?}");
        }
    }

    #[test]
    fn settings_of_a_usual_file_are_taken() {
        let (_folder, path) = file(
            "traefik.yml",
            "global: {checkNewVersion: false, sendAnonymousUsage: false}\nlog: {level: ERROR}\nentryPoints:\n  \
             web: {address: \"127.0.0.1:8000\"}\n  websecure: {address: \"127.0.0.1:8443\"}\nproviders:\n  \
             file: {filename: \"/etc/dyn/dynamic.yml\", watch: true}\n",
        );
        let loaded = loaded(&[&format!("--configFile={path}")]);
        assert_eq!(loaded.settings.problems, []);
        assert_eq!(loaded.settings.default_entry_points(), ["web", "websecure"]);
        assert_eq!(
            loaded.settings.providers.file.map(|file| file.filename).as_deref(),
            Some("/etc/dyn/dynamic.yml")
        );
    }

    #[test]
    fn settings_of_usual_flags_are_taken() {
        let settings = loaded(&[
            "--providers.file.filename=/d.yml",
            "--providers.docker",
            "--api.insecure=true",
            "--ping=true",
            "--log.level=info",
            "--global.checkNewVersion=false",
            "--global.sendAnonymousUsage=false",
            "--entryPoints.traefik.address=127.0.0.1:8001",
            "--entryPoints.web.address=127.0.0.1:8002",
            "--entryPoints.other.address=127.0.0.1:8003",
            "--entryPoints.web.http.redirections.entryPoint.to=other",
            "--entryPoints.web.http.redirections.entryPoint.scheme=http",
            "--entryPoints.web.forwardedHeaders.trustedIPs=10.0.0.0/8,127.0.0.1",
            "--entrypoints.web.transport.respondingTimeouts.readTimeout=90",
            "--accesslog",
        ])
        .settings;
        let web = &settings.entry_points["web"];
        assert_eq!(web.forwarded_headers.trusted_ips, ["10.0.0.0/8", "127.0.0.1"]);
        assert_eq!(web.transport.responding_timeouts.read_timeout.to_string(), "1m30s");
        assert_eq!(settings.log.level.as_str(), "INFO");
        assert!(settings.access_log.is_some() && settings.providers.docker.is_some());
    }

    #[test]
    fn flags_win_over_variables_and_those_over_the_file() {
        let (_folder, path) = file(
            "tidegate.toml",
            "[log]\nlevel = \"INFO\"\nformat = \"json\"\n[entryPoints.web]\naddress = \":1\"\n[api]\ndashboard = false\n",
        );
        let variables = [
            ("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", ":2"),
            ("TRAEFIK_LOG_LEVEL", "WARN"),
            ("TIDEGATE_LOG_LEVEL", "DEBUG"),
            ("TRAEFIK_CONFIGFILE", "/no/such/file"),
            ("TRAEFIK_SERVICE_HOST", "10.0.0.1"),
            ("TRAEFIK_BOGUS", "1"),
        ];
        let arguments = ["--configfile", &path, "--entrypoints.WEB.address=:3", "--api"];
        let loaded = try_load(&arguments, &variables, &[]).expect("loaded");
        let settings = &loaded.settings;
        assert_eq!(settings.entry_points.keys().collect::<Vec<_>>(), ["web"]);
        assert_eq!(settings.entry_points["web"].address, ":3");
        assert_eq!((settings.log.level.as_str(), settings.log.format.as_str()), ("DEBUG", "json"));
        assert!(settings.api.as_ref().is_some_and(|api| !api.dashboard), "the file's options stay");
        assert_eq!(loaded.file, Some(PathBuf::from(&path)));
        assert_eq!(
            loaded.settings.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["environment variable TRAEFIK_LOG_LEVEL: not used: `TIDEGATE_LOG_LEVEL` sets the same option"]
        );
    }

    #[test]
    fn tidegates_file_takes_precedence() {
        let (first, second) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let folders = [first.path(), second.path()];
        let write = |folder: &tempfile::TempDir, name: &str, level: &str| {
            fs::write(folder.path().join(name), format!("log: {{level: {level}}}\n")).expect("written");
        };
        let level = || try_load(&[], &[], &folders).expect("loaded").settings.log.level;
        assert_eq!(level().as_str(), "ERROR");
        write(&second, "tidegate.yml", "PANIC");
        assert_eq!(level().as_str(), "PANIC");
        write(&first, "traefik.yml", "WARN");
        assert_eq!(level().as_str(), "WARN");
        write(&first, "tidegate.yaml", "INFO");
        assert_eq!(level().as_str(), "INFO");
    }

    #[test]
    fn unknown_keys_are_refused_all_at_once_with_their_places() {
        let (_folder, path) =
            file("t.yml", "entryPoints:\n  web:\n    adress: \":80\"\n    address: \":80\"\nlogs: {}\n");
        let option = format!("--configFile={path}");
        let variables = [("TRAEFIK_ENTRYPOINT_WEB_ADDRESS", ":80")];
        let problems = try_load(&[&option, "--log.leve=x", "--bogus", "--strict"], &variables, &[])
            .expect_err("refused");
        let mut expected = vec![
            format!("{path}:3: entryPoints.web.adress: unknown key: did you mean `address`?"),
            format!("{path}:5: `logs` has no effect: unknown key: did you mean `log`?"),
            "environment variable TRAEFIK_ENTRYPOINT_WEB_ADDRESS: not used: no option begins with `entrypoint`: did you \
             mean `entryPoints`?"
                .into(),
            "flag --log.leve: log.leve: unknown key: did you mean `level`?".into(),
        ];
        expected.retain(|line| !problems.contains(line));
        assert!(expected.is_empty(), "missing: {expected:?} in {problems:?}");
        assert!(
            problems
                .iter()
                .any(|problem| problem.starts_with("flag --bogus: bogus: unknown key: expected `global`"))
        );
    }

    #[test]
    fn problems_of_the_file_have_excerpts() {
        let (_folder, path) = file("t.toml", "[log]\nlevel = \"INFO\"\nformt = \"json\"\n");
        let problems =
            load_with(&[format!("--configFile={path}")], &[], std::iter::empty()).expect_err("refused");
        let excerpt = problems[0].excerpt.as_deref().expect("an excerpt");
        assert!(excerpt.contains("3 | formt = \"json\"") && excerpt.contains("t.toml:3:1"), "{excerpt}");
    }

    #[test]
    fn a_given_file_is_read_or_reported() {
        let option = "--configFile=/no/such/file.yml";
        let told = loaded(&[option]).settings.problems[0].to_string();
        assert_eq!(told, "flag --configFile: there is no settings file `/no/such/file.yml`: no file is read");
        assert_eq!(refused(&[option, "--strict"]).len(), 1);
        let (_folder, path) = file("t.yml", "log: {level: [}\n");
        assert!(refused(&[&format!("--configFile={path}")])[0].contains("t.yml:1: invalid YAML"));
    }

    #[test]
    fn templates_sampling_and_rotation_of_logs_are_read_and_checked() {
        let entry = "--entryPoints.web.address=:80";
        let settings = loaded(&[
            entry,
            "--log.maxSize=5",
            "--log.compress=true",
            "--accesslog.format=template",
            "--accesslog.template={RequestHost} {DownstreamStatus}",
            "--accesslog.maxBackups=3",
            "--accesslog.sampling.rate=0.1",
            "--accesslog.sampling.rules[0].expression=DownstreamStatus >= 500",
            "--accesslog.sampling.rules[0].rate=0.5",
        ]);
        assert!(settings.settings.problems.is_empty(), "{:?}", settings.settings.problems);
        let (log, access) = (settings.settings.log, settings.settings.access_log.unwrap());
        assert_eq!((log.max_size, log.compress, access.max_backups), (5, true, 3));
        let sampling = access.sampling.unwrap();
        assert_eq!((sampling.rate, sampling.rules[0].rate), (0.1, 0.5));
        for (arguments, expected) in [
            (&["--accesslog.format=template"][..], "is empty: expected a line"),
            (
                &["--accesslog.format=template", "--accesslog.template={RequestHots}"],
                "column 2: RequestHots is not a field of the access log; did you mean RequestHost?",
            ),
            (&["--accesslog.sampling.rate=2"], "rate: `2` is not a rate: expected a number from 0 to 1"),
        ] {
            let problems = refused(&[&[entry], arguments].concat()).join("\n");
            assert!(problems.contains(expected), "{problems}");
        }
    }

    #[test]
    fn traefik_options_without_support_are_reported_by_name() {
        for (argument, name) in [
            ("--certificatesResolvers.le.tailscale=true", "certificatesResolvers.le.tailscale"),
            ("--hostResolver.cnameFlattening=true", "hostResolver"),
            ("--experimental.plugins.p.moduleName=m", "experimental"),
            ("--providers.nomad", "providers.nomad"),
            ("--providers.kubernetescrd", "providers.kubernetesCRD"),
            ("--tcpServersTransport.tls.spiffe=true", "tcpServersTransport.tls.spiffe"),
        ] {
            let expected = match name.contains("spiffe") {
                true => format!("{name} is a Traefik option that Tidegate does not support yet: without it"),
                false => {
                    format!("{name} is a Traefik option that Tidegate does not support yet: it has no effect")
                }
            };
            let problems = refused(&["--entryPoints.web.address=:80", argument, "--strict"]);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(&expected), "{problems:?}");
            let starts = try_load(&["--entryPoints.web.address=:80", argument], &[], &[]);
            assert!(starts.is_ok(), "{argument}");
        }
        // `false` is accepted for them, and options below them are not: those enable them in Traefik.
        loaded(&[
            "--experimental.otlpLogs=false",
            "--log.otlp=false",
            "--metrics.prometheus=false",
            "--tracing=false",
        ]);
        assert_eq!(loaded(&["--providers.nomad.watch=false"]).settings.problems.len(), 1);
        // This one only permits what is supported anyway.
        for flag in ["--experimental.otlpLogs=true", "--experimental.otlplogs"] {
            let settings = loaded(&[flag, "--log.otlp=true", "--strict"]).settings;
            assert!(settings.problems.is_empty() && settings.log.otlp.is_some(), "{flag}");
        }
        let others = ["--experimental.otlpLogs=true", "--experimental.fastProxy=true"];
        for flags in [&["--experimental.otlpLogs=perhaps"][..], &others] {
            assert_eq!(loaded(flags).settings.problems.len(), 1, "{flags:?}");
        }
    }

    #[test]
    fn metrics_are_off_or_served_where_the_options_say() {
        assert!(loaded(&["--metrics.prometheus=false"]).settings.prometheus().is_none());
        let settings = loaded(&["--metrics.prometheus=true"]).settings;
        assert_eq!(settings.prometheus(), Some(&Prometheus::default()));
        assert_eq!(settings.entry_points[INTERNAL_ENTRY_POINT].address, ":8080");
        let arguments = [
            "--entryPoints.web.address=:80",
            "--metrics.prometheus.entryPoint=web",
            "--metrics.prometheus.buckets=0.1,2.5",
            "--metrics.prometheus.headerLabels.agent=User-Agent",
            "--metrics.prometheus.headerLabels.odd=a b",
            "--metrics.prometheus.headerLabels.a-b=X",
        ];
        let Settings { metrics, entry_points, problems, .. } = loaded(&arguments).settings;
        let options = metrics.unwrap().prometheus.unwrap();
        assert_eq!(options.buckets, [0.1, 2.5]);
        assert_eq!(options.header_labels.keys().collect::<Vec<_>>(), ["agent", "odd"]);
        assert!(!entry_points.contains_key(INTERNAL_ENTRY_POINT));
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(
            told.len() == 2 && told[0].contains("letters, digits") && told[1].contains("`a b`"),
            "{told:?}"
        );
        let descending = refused(&["--metrics.prometheus.buckets=2,1"]);
        assert!(descending[0].contains("metrics.prometheus.buckets") && descending[0].contains("ascending"));
    }

    #[test]
    fn metrics_over_otlp_have_the_defaults_of_traefik() {
        let options = |arguments: &[&str]| {
            let Settings { metrics, problems, .. } = loaded(arguments).settings;
            let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            (metrics.and_then(|metrics| metrics.otlp), told)
        };
        let (enabled, told) = options(&["--metrics.otlp=true"]);
        let enabled = enabled.unwrap();
        assert_eq!((&enabled, told.as_str()), (&OtlpMetrics::default(), ""));
        assert_eq!((enabled.explicit_boundaries.len(), enabled.service_name.as_str()), (14, "traefik"));
        let (grpc, _) = options(&["--metrics.otlp.grpc=true"]);
        assert_eq!(grpc.unwrap().grpc.unwrap().endpoint, "localhost:4317");
        assert_eq!(options(&["--metrics.otlp=false"]).0, None);
        let wrong = ["--metrics.otlp.explicitBoundaries=2,1", "--metrics.otlp.pushInterval=0"];
        let (replaced, told) = options(&wrong);
        assert_eq!(replaced.unwrap(), OtlpMetrics::default());
        assert!(told.contains("explicitBoundaries") && told.contains("pushInterval"), "{told}");
        let (disabled, told) = options(&["--metrics.otlp.http.endpoint=ftp://h"]);
        assert!(disabled.is_none() && told.contains("no metrics are pushed"), "{told}");
    }

    #[test]
    fn named_providers_work_in_every_format() {
        let (_folder, path) = file(
            "t.yml",
            "providers:\n  docker: {}\n  instances:\n    east: {docker: {endpoint: 'tcp://10.0.0.5:2375'}}\n    \
             more: {file: {directory: /routes}}\n",
        );
        let variables =
            [("TIDEGATE_PROVIDERS_INSTANCES_WEST_CONSULCATALOG_ENDPOINT_ADDRESS", "10.0.0.6:8500")];
        let option = format!("--configFile={path}");
        let arguments =
            [&option, "--providers.instances.east.docker.network=front", "--providers.instances.kv.redis"];
        let settings = try_load(&arguments, &variables, &[]).expect("loaded").settings;
        let paths: Vec<String> = settings.providers.chosen().iter().map(|chosen| chosen.path()).collect();
        let named = ["east.docker", "kv.redis", "more.file", "west.consulCatalog"];
        assert_eq!(paths[0], "providers.docker");
        assert_eq!(paths[1..], named.map(|path| format!("providers.instances.{path}")));
        let tidegate_providers::Options::Docker(east) = &settings.providers.instances["east"] else {
            panic!()
        };
        assert_eq!((east.endpoint.as_str(), east.network.as_str()), ("tcp://10.0.0.5:2375", "front"));
    }

    #[test]
    fn a_named_provider_has_exactly_one_kind() {
        for (arguments, expected) in [
            (
                &["east.docker=true", "east.file.filename=x"][..],
                "expected one kind of provider, and not several",
            ),
            (&["east.dockr.endpoint=x"], "`dockr` is not a kind of provider: did you mean `docker`?"),
            (&["east.docker.swarmMode=true"], "use the provider `swarm` instead"),
            (
                &["east.docker.endpint=x"],
                "providers.instances.east.docker.endpint: unknown key: did you mean",
            ),
            (&["docker.file.filename=x"], "`docker` is the name of a kind of provider"),
        ] {
            let arguments: Vec<String> =
                arguments.iter().map(|rest| format!("--providers.instances.{rest}")).collect();
            let problems = refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(problems.len() == 1 && problems[0].contains(expected), "{arguments:?}: {problems:?}");
        }
    }

    #[test]
    fn removed_options_come_with_a_hint() {
        for (argument, hint) in [
            ("--pilot.token=x", "pilot was removed in Traefik v3: Pilot is gone"),
            ("--providers.docker.swarmMode=true", "use the provider `swarm` instead"),
            ("--tracing.jaeger=true", "use `tracing.otlp` instead"),
            ("--experimental.http3=true", "set `http3` on the entry point"),
        ] {
            let problems = refused(&[argument]);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(hint), "{problems:?}");
        }
    }

    #[test]
    fn dynamic_configuration_is_ignored_with_a_warning() {
        let (_folder, path) = file("t.yml", "http: {routers: {}}\nlog: {}\n");
        let loaded = loaded(&[&format!("--configFile={path}")]);
        assert_eq!(loaded.settings.problems.len(), 1);
        assert!(
            loaded.settings.problems[0].to_string().contains("t.yml:1: `http` has no effect as a setting")
        );
    }

    #[test]
    fn values_may_come_from_variables_and_files() {
        let (_folder, path) = file("level", "DEBUG\n");
        let arguments = [&format!("--log.level=file:{path}"), "--entryPoints.web.address=:${PORT}"];
        let loaded = try_load(&arguments, &[("PORT", "81")], &[]).expect("loaded");
        assert_eq!(loaded.settings.log.level.as_str(), "DEBUG");
        assert_eq!(loaded.settings.entry_points["web"].address, ":81");
        let problems = try_load(&arguments, &[], &[]).expect_err("refused");
        assert!(problems[0].contains("`:${PORT}` is not an address"), "{problems:?}");
    }

    #[test]
    fn wrong_values_are_refused() {
        for (argument, expected) in [
            (
                "--entryPoints.a.address=foo",
                "flag --entryPoints.a.address: entryPoints.a.address: `foo` is not an address: the port is missing",
            ),
            ("--entryPoints.web.udp.timeout=0s", "udp.timeout: expected a time longer than zero"),
            ("--log.filter=h2", "log.filter: invalid filter `h2`"),
            ("--entryPoints.web.forwardedHeaders.trustedIPs=10.0.0.0/99", "forwardedHeaders.trustedIPs: "),
            ("--entryPoints.web.proxyProtocol=true", "proxyProtocol: nobody is trusted"),
            ("--entryPoints.web.http.aliasHeadersStrategy=x", "expected `keep`, `delete` or `reject`"),
            ("--entryPoints.web.http.requiredMiddlewares=auth", "there is no `auth` in `http.middlewares`"),
            ("--entryPoints.web.http2.maxConcurrentStreams=-1", "invalid value `-1`: expected"),
            (
                "--entryPoints.other.address=0.0.0.0:80",
                "entry points `other` and `web` have the same address",
            ),
            ("--api.basePath=x", "`x` is not a path"),
            ("--api.basePath=/a b", "`/a b` is not a path"),
            ("--core.defaultRuleSyntax=v4", "`v4` is unknown: expected `v3`"),
            ("--providers.precedence=docker,dockr", "provider \"dockr\" is not a valid provider name"),
            ("--log.noColor=maybe", "log.noColor: invalid value `maybe`: expected `true` or `false`"),
            ("--cluster.name=${NOT_SET}", "the environment variable `NOT_SET` is not set"),
        ] {
            let problems = refused(&["--entryPoints.web.address=:80", argument]);
            assert!(!problems.is_empty() && problems[0].contains(expected), "{argument}: {problems:?}");
        }
    }

    /// Traefik 3.7.15 starts with each of them.
    #[test]
    fn settings_that_traefik_accepts_are_accepted_and_reported() {
        let le = "--certificatesResolvers.le.acme";
        for (arguments, expected) in [
            (vec!["--providers.nomad=true"], "providers.nomad is a Traefik option"),
            (vec!["--entryPoints.a.asDefault=true"], "entryPoints.a.address: is missing"),
            (vec!["--entryPoints.web.http.tls.domains=x"], "entryPoints.web.http.tls.domains: `x` is given"),
            (vec!["--entryPoints.web.http.redirections.entryPoint.to=zz"], "there is no entry point `zz`"),
            (vec!["--entryPoints.web.http.redirections.entryPoint.scheme=http"], "it does not say where to"),
            (vec!["--entryPoints.web.http.tls.certResolver=le"], "no certificate resolver `le`"),
            (vec!["--core.defaultRuleSyntax=v2"], "rules are read as `v3`"),
            (vec!["--accessLog.filters.statusCodes=200,5xx"], "`5xx` (number 2) is not a status"),
            (vec!["--ping.terminatingStatusCode=99"], "`99` is not a status"),
            (vec!["--log.filePath=/proc/none/x"], "the log goes to standard output"),
            (vec!["--accesslog.filePath=/proc/none/x"], "no access log is written"),
            (vec!["--providers.http=true"], "providers.http: the provider is not started"),
            (vec!["--providers.docker.defaultRule={{"], "providers.docker: the provider is not started"),
            (vec!["--experimental.plugins.p.moduleName=m"], "experimental is a Traefik option"),
            (vec!["--experimental.localPlugins.p.moduleName=m"], "experimental is a Traefik option"),
            (vec!["--hostResolver.cnameFlattening=true"], "hostResolver is a Traefik option"),
        ] {
            let arguments = [&["--entryPoints.web.address=:80"], arguments.as_slice()].concat();
            let problems = loaded(&arguments).settings.problems;
            assert!(
                problems.len() == 1 && problems[0].to_string().contains(expected),
                "{arguments:?}: {problems:?}"
            );
            assert_eq!(refused(&[&arguments[..], &["--strict"]].concat()).len(), 1, "{arguments:?}");
        }
        for (options, expected) in [
            (vec![".email=a@b.c"], "no way to prove names"),
            (vec![".tlsChallenge=false", ".email=a@b.c"], "no way to prove names"),
            (vec![".httpChallenge=true"], "httpChallenge.entryPoint: is required"),
            (vec![".httpChallenge.entryPoint=zz"], "there is no entry point `zz`"),
            (vec![".dnsChallenge.provider=zz"], "unknown provider `zz`"),
            (vec![".dnsChallenge.provider=cloudflare"], "CF_DNS_API_TOKEN"),
            (vec![".email=[EMAIL]", ".tlsChallenge=true"], "`[EMAIL]` is not an e-mail address"),
        ] {
            let options: Vec<String> = options.into_iter().map(|option| format!("{le}{option}")).collect();
            let settings = loaded(&options.iter().map(String::as_str).collect::<Vec<_>>()).settings;
            let problems = &settings.problems;
            assert!(
                problems.len() == 1 && problems[0].to_string().contains(expected),
                "{options:?}: {problems:?}"
            );
            let resolver = &settings.certificates_resolvers["le"];
            assert!(resolver.acme.is_none() && resolver.out.contains(expected), "{resolver:?}");
        }
        let named = [".dnsChallenge.provider=manual", ".dnsChallenge.resolvers=ns.example.com"];
        let named = named.map(|option| format!("{le}{option}"));
        assert_eq!(loaded(&named.each_ref().map(String::as_str)).settings.problems, []);
    }

    #[test]
    fn a_disabled_block_is_disabled_in_every_format() {
        let is_off = |loaded: Loaded| {
            let settings = loaded.settings;
            let http3 = settings.entry_points["web"].http3.is_some();
            settings.problems.is_empty()
                && !http3
                && settings.access_log.is_none()
                && settings.providers.docker.is_none()
        };
        let options = [
            ("entryPoints.web.address", ":80"),
            ("entryPoints.web.http3.advertisedPort", "443"),
            ("entryPoints.web.http3", "false"),
            ("accesslog", "false"),
            ("accesslog.format", "json"),
            ("providers.docker", "false"),
            ("providers.docker.exposedbydefault", "false"),
        ];
        let flags = options.map(|(key, value)| format!("--{key}={value}"));
        assert!(is_off(loaded(&flags.each_ref().map(String::as_str))));
        let variables =
            options.map(|(key, value)| (format!("TRAEFIK_{}", key.to_uppercase().replace('.', "_")), value));
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        assert!(is_off(try_load(&[], &variables, &[]).expect("loaded")));
        for (name, text) in [
            (
                "t.yml",
                "entryPoints: {web: {address: ':80', http3: false}}\naccessLog: false\nproviders: {docker: false}\n",
            ),
            (
                "t.toml",
                "accessLog = false\n[entryPoints.web]\naddress = ':80'\nhttp3 = false\n[providers]\ndocker = false\n",
            ),
        ] {
            let (_folder, path) = file(name, text);
            assert!(is_off(loaded(&[&format!("--configFile={path}")])), "{name}");
        }
    }

    #[test]
    fn unrelated_variables_are_ignored() {
        let variables = [
            ("TRAEFIK_ACCESS_LOG", "true"),
            ("TRAEFIK_API_PASSWORD", "x"),
            ("TRAEFIK_PING_TOKEN", "x"),
            ("TRAEFIK_VERSION", "3"),
            ("TRAEFIK_DOMAIN", "a.test"),
        ];
        let settings =
            try_load(&["--entryPoints.web.address=:80"], &variables, &[]).expect("loaded").settings;
        assert!(settings.api.is_none() && settings.ping.is_none() && settings.access_log.is_none());
        let told: Vec<String> = settings.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].contains("TRAEFIK_ACCESS_LOG: not used") && told[0].contains("did you mean `accessLog`?")
        );
        assert!(
            told[1].contains("TRAEFIK_API_PASSWORD") && told[2].contains("TRAEFIK_PING_TOKEN"),
            "{told:?}"
        );
        let wrong = [("TRAEFIK_LOG_NOCOLOR", "maybe")];
        let ignored = try_load(&["--entryPoints.web.address=:80"], &wrong, &[]).expect("loaded");
        assert_eq!(ignored.settings.problems.len(), 1);
        assert!(try_load(&[], &wrong, &[]).is_err(), "Traefik reads it, too, and refuses it");
    }

    #[test]
    fn unknown_keys_in_a_file_are_reported() {
        for (name, text) in [
            (
                "t.yml",
                "x-common: &c {a: b}\nserverTransport: {x: 1}\nlog: {}\ncertificatesResolvers: {le: {acme: {email: [EMAIL], tlsChallenge: {}}}}\n",
            ),
            (
                "t.toml",
                "[x-common]\na = 'b'\n[serverTransport]\nx = 1\n[certificatesResolvers.le.acme]\nemail = ['EMAIL']\ntlsChallenge = {}\n",
            ),
        ] {
            let (_folder, path) = file(name, text);
            let settings = loaded(&[&format!("--configFile={path}")]).settings;
            let told: Vec<String> = settings.problems.iter().map(ToString::to_string).collect();
            for expected in [
                "`x-common` has no effect: unknown key",
                "did you mean `serversTransport`?",
                "certificatesResolvers.le.acme.email: a list is given",
            ] {
                assert!(told.len() == 3 && told.iter().any(|told| told.contains(expected)), "{told:?}");
            }
            assert!(settings.certificates_resolvers["le"].acme.is_none());
        }
        let (_folder, path) = file("t.toml", "configFile = '/x.yml'\n");
        let told = loaded(&[&format!("--configFile={path}")]).settings.problems[0].to_string();
        assert!(told.contains("`configFile` has no effect in a settings file"), "{told}");
        let (_folder, path) = file("t.yml", "providers: {docker: {network: '${NOT_SET}'}}\n");
        let told = loaded(&[&format!("--configFile={path}")]).settings.problems[0].to_string();
        assert!(
            told.ends_with("the environment variable `NOT_SET` is not set: the value stays as it is written"),
            "{told}"
        );
    }

    #[test]
    fn resolvers_of_a_usual_file_are_taken() {
        let (_folder, path) = file(
            "traefik.yml",
            "entryPoints: {web: {address: ':80'}}\ncertificatesResolvers:\n  le:\n    acme:\n      email: a@b.c\n      \
             storage: /acme.json\n      keyType: EC256\n      profile: shortlived\n      certificatesDuration: 144\n      \
             eab: {kid: k, hmacEncoded: aGk}\n      httpChallenge: {entryPoint: web, delay: 2s}\n  dns:\n    acme:\n      \
             clientTimeout: 10\n      dnsChallenge:\n        provider: exec\n        delayBeforeCheck: 5\n        \
             resolvers: ['1.1.1.1:53']\n        propagation: {disableANSChecks: true, requireAllRNS: true}\n        \
             credentials: {EXEC_PATH: /bin/true}\n  tls: {acme: {tlsChallenge: {}, caServer: 'https://ca.test/dir'}}\n",
        );
        let settings = loaded(&[&format!("--configFile={path}")]).settings;
        let acme = |name: &str| settings.certificates_resolvers[name].acme.clone().expect("acme");
        assert_eq!((acme("le").key_type.as_str(), acme("le").certificates_duration), ("EC256", 144));
        let dns = acme("dns").dns_challenge.expect("dns");
        assert_eq!((dns.delay().as_secs(), dns.checks(), dns.credentials.len()), (5, true, 1));
        assert_eq!(acme("dns").client_timeout.to_string(), "10s");
        assert!(acme("tls").tls_challenge.is_some() && acme("tls").key_type.as_str() == "RSA4096");
    }

    #[test]
    fn odd_values_are_replaced_with_a_warning() {
        let loaded = loaded(&[
            "--log.level=loud",
            "--accessLog.format=bogus",
            "--ping.entryPoint=zz",
            "--api.insecure",
            "--api.basePath=/x",
        ]);
        assert_eq!(loaded.settings.log.level.as_str(), "ERROR");
        assert_eq!(loaded.settings.access_log.unwrap().format.as_str(), "common");
        assert_eq!(loaded.settings.problems.len(), 4, "{:?}", loaded.settings.problems);
    }
}
