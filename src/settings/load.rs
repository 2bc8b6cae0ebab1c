//! Reads the settings: flags over environment over file, key by key.

use std::cell::RefCell;
use std::path::PathBuf;

use tidegate_config::decode::{DecodeError, decode};
use tidegate_config::formats::{self, env, excerpt, flags};
use tidegate_config::suggest;
use tidegate_config::tree::Node;
use tidegate_config::{Origin, Problem};

use super::{Settings, check, expand, traefik};
use crate::worker;

/// Names of settings files, in the order in which each folder is searched.
const FILE_NAMES: [&str; 6] =
    ["tidegate.toml", "tidegate.yaml", "tidegate.yml", "traefik.toml", "traefik.yaml", "traefik.yml"];
/// Parts of the dynamic configuration, which Traefik passes over in this file.
const DYNAMIC: [&str; 4] = ["http", "tcp", "udp", "tls"];
/// The option that names the settings file.
const CONFIG_FILE: &str = "configFile";

/// Most keys that are found wrong at once.
const MOST_PROBLEMS: usize = 100;

/// Settings that were read.
#[derive(Debug)]
pub struct Loaded {
    /// The settings, complete and checked.
    pub settings: Settings,
    /// The settings file, when there is one.
    pub file: Option<PathBuf>,
    /// What is odd, but does no harm.
    pub warnings: Vec<Problem>,
}

/// Reads the settings from flags (without the name of the program and of a command), environment variables and a
/// file.
///
/// The file is named by `configFile`, or else is the first `tidegate` or `traefik` with `.toml`, `.yaml` or `.yml` in
/// `/etc/tidegate`, `/etc/traefik`, `$XDG_CONFIG_HOME`, `$HOME/.config` and the working folder. Nothing is started
/// with settings that are not understood: every unknown or unsupported option is a problem with its place.
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
    let mut loader = Loader { problems: Vec::new(), warnings: Vec::new(), source: None };
    let (mut flags, problems) = flags::read(arguments.iter().map(String::as_str));
    loader.problems.extend(problems);
    let mut env = loader.environment(variables);
    let named = [flags.remove(&[CONFIG_FILE]), env.remove(&[CONFIG_FILE])].into_iter().flatten().next();
    let mut node = loader.file(named, folders)?;
    // The origin of the whole is nowhere; each part has its own.
    node.overlay(env);
    node.overlay(flags);
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    expand::expand(&mut node, &variable, &mut loader.problems);
    loader.settings(node)
}

struct Loader {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// The settings file and its text.
    source: Option<(PathBuf, String)>,
}

impl Loader {
    fn environment(&mut self, variables: &[(String, String)]) -> Node {
        let passed_over = RefCell::new(Vec::new());
        let known = || traefik::ROOTS.iter().copied().chain([CONFIG_FILE, "cluster"]);
        let pairs = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let read = env::read(pairs, |name, root| {
            // One that is near is taken, so that it is refused with a hint. Kubernetes and Docker set variables like
            // TRAEFIK_SERVICE_HOST and TRAEFIK_PORT for purposes of their own.
            let wanted = suggest::nearest(root, known()).is_some();
            if !wanted && !matches!(root, "service" | "port") && name != worker::COUNT {
                passed_over.borrow_mut().push(Problem {
                    origin: Origin::Environment(name.into()),
                    object: None,
                    message: format!("not used: no option begins with `{root}`"),
                    excerpt: None,
                });
            }
            wanted
        });
        self.problems.extend(read.problems);
        self.warnings.extend(read.warnings);
        self.warnings.extend(passed_over.into_inner());
        read.node
    }

    /// The tree of the settings file: the named one, or the first that is found.
    fn file(
        &mut self,
        named: Option<Node>,
        folders: impl Iterator<Item = PathBuf>,
    ) -> Result<Node, Vec<Problem>> {
        let (path, origin) = match named {
            Some(node) => (node.as_leaf().map(PathBuf::from), node.origin),
            None => {
                let mut candidates = folders.flat_map(|folder| FILE_NAMES.map(|name| folder.join(name)));
                (candidates.find(|path| path.is_file()), Origin::Internal)
            }
        };
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Node::table(Origin::Internal));
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
        for part in DYNAMIC {
            if let Some(found) = node.remove(&[part]) {
                let message = format!(
                    "`{part}` has no effect as a setting: it belongs into a file that `providers.file` names"
                );
                self.warnings.push(Problem { origin: found.origin, object: None, message, excerpt: None });
            }
        }
        Ok(node)
    }

    fn settings(mut self, mut node: Node) -> Result<Loaded, Vec<Problem>> {
        self.refuse(&mut node);
        let settings = self.decode(&node).map(|mut settings| {
            settings.complete();
            let findings = check::check(&mut settings, &node);
            self.problems.extend(findings.problems);
            self.warnings.extend(findings.warnings);
            settings
        });
        let problems = std::mem::take(&mut self.problems);
        match settings {
            Some(settings) if problems.is_empty() => {
                let warnings = std::mem::take(&mut self.warnings);
                Ok(Loaded {
                    settings,
                    warnings: self.shown(warnings),
                    file: self.source.map(|(path, _)| path),
                })
            }
            _ => Err(self.shown(problems)),
        }
    }

    /// Takes out what is refused by name.
    fn refuse(&mut self, node: &mut Node) {
        let (refused, idle) = traefik::refusals(node);
        let places = refused.iter().map(|refusal| &refusal.path);
        let mut origins = Vec::new();
        for path in places.chain(&idle) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            origins.push(node.get(&path).map_or(Origin::Internal, |node| node.origin.clone()));
        }
        for path in refused.iter().map(|refusal| &refusal.path).chain(&idle) {
            node.remove(&path.iter().map(String::as_str).collect::<Vec<_>>());
        }
        for (refusal, origin) in refused.into_iter().zip(origins) {
            self.problems.push(Problem { origin, object: None, message: refusal.message, excerpt: None });
        }
    }

    /// Decodes all that can be decoded, so that every unknown key is told at once.
    fn decode(&mut self, node: &Node) -> Option<Settings> {
        let mut rest = node.clone();
        for _ in 0..MOST_PROBLEMS {
            match decode::<Settings>(&rest) {
                Ok(settings) => return Some(settings),
                Err(error) => {
                    self.problems.push(problem(&error));
                    if !error.remove_from(&mut rest) {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Adds excerpts of the settings file.
    fn shown(&self, mut problems: Vec<Problem>) -> Vec<Problem> {
        if let Some((path, text)) = &self.source {
            excerpt::fill(&mut problems, &path.display().to_string(), text);
        }
        problems
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
    use crate::settings::EntryPoint;

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
    fn nothing_given_is_a_gateway_on_port_80() {
        let loaded = loaded(&[]);
        assert_eq!(loaded.settings.entry_points.len(), 1);
        assert_eq!(
            loaded.settings.entry_points["http"],
            EntryPoint { address: ":80".into(), ..EntryPoint::default() }
        );
        assert_eq!((loaded.file, loaded.warnings), (None, vec![]));
        assert_eq!(loaded.settings.log.level, "ERROR");
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
        assert_eq!(loaded.warnings, []);
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
        assert_eq!(settings.log.level, "INFO");
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
            loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "environment variable TRAEFIK_LOG_LEVEL: not used: `TIDEGATE_LOG_LEVEL` gives the same option",
                "environment variable TRAEFIK_BOGUS: not used: no option begins with `bogus`",
            ]
        );
    }

    #[test]
    fn our_file_is_found_first() {
        let (first, second) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let folders = [first.path(), second.path()];
        let write = |folder: &tempfile::TempDir, name: &str, level: &str| {
            fs::write(folder.path().join(name), format!("log: {{level: {level}}}\n")).expect("written");
        };
        let level = || try_load(&[], &[], &folders).expect("loaded").settings.log.level;
        assert_eq!(level(), "ERROR");
        write(&second, "tidegate.yml", "PANIC");
        assert_eq!(level(), "PANIC");
        write(&first, "traefik.yml", "WARN");
        assert_eq!(level(), "WARN");
        write(&first, "tidegate.yaml", "INFO");
        assert_eq!(level(), "INFO");
    }

    #[test]
    fn unknown_keys_are_refused_all_at_once_with_their_places() {
        let (_folder, path) =
            file("t.yml", "entryPoints:\n  web:\n    adress: \":80\"\n    address: \":80\"\nlogs: {}\n");
        let option = format!("--configFile={path}");
        let variables = [("TRAEFIK_ENTRYPOINT_WEB_ADDRESS", ":80")];
        let problems = try_load(&[&option, "--log.leve=x", "--bogus"], &variables, &[]).expect_err("refused");
        let mut expected = vec![
            format!("{path}:3: entryPoints.web.adress: unknown key: did you mean `address`?"),
            format!("{path}:5: logs: unknown key: did you mean `log`?"),
            "environment variable TRAEFIK_ENTRYPOINT_WEB_ADDRESS: entrypoint: unknown key: did you mean `entryPoints`?"
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
    fn a_file_that_is_named_must_be_there_and_readable() {
        assert!(
            refused(&["--configFile=/no/such/file.yml"])[0].contains("`/no/such/file.yml` cannot be read")
        );
        let (_folder, path) = file("t.yml", "log: {level: [}\n");
        assert!(refused(&[&format!("--configFile={path}")])[0].contains("t.yml:1: invalid YAML"));
    }

    #[test]
    fn traefik_options_without_support_are_refused_by_name() {
        for (argument, name) in [
            ("--certificatesResolvers.le.tailscale=true", "certificatesResolvers.le.tailscale"),
            ("--metrics.prometheus=true", "metrics"),
            ("--tracing=true", "tracing"),
            ("--experimental.plugins.p.moduleName=m", "experimental"),
            ("--providers.nomad", "providers.nomad"),
            ("--providers.kubernetescrd", "providers.kubernetesCRD"),
            ("--accesslog.otlp", "accessLog.otlp"),
            ("--log.maxSize=5", "log.maxSize"),
            ("--tcpServersTransport.tls.spiffe=true", "tcpServersTransport.tls.spiffe"),
        ] {
            let expected =
                format!("{name} is a Traefik option that Tidegate does not support yet: remove it");
            let problems = refused(&["--entryPoints.web.address=:80", argument]);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].ends_with(&expected), "{problems:?}");
        }
        // Saying no to them is fine, and saying something about them is not: it switches them on in Traefik.
        loaded(&[
            "--experimental.otlpLogs=false",
            "--log.compress=false",
            "--metrics.prometheus=false",
            "--tracing=false",
        ]);
        assert_eq!(refused(&["--providers.nomad.watch=false"]).len(), 1);
    }

    #[test]
    fn providers_may_have_names_in_every_form() {
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
    fn a_named_provider_is_of_exactly_one_kind() {
        for (arguments, expected) in [
            (
                &["east.docker=true", "east.file.filename=x"][..],
                "expected one kind of provider, and not several",
            ),
            (&["east.dockr.endpoint=x"], "`dockr` is no kind of provider: did you mean `docker`?"),
            (
                &["east.nomad=true"],
                "providers.instances.east.nomad is a Traefik option that Tidegate does not",
            ),
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
    fn parts_of_the_dynamic_configuration_are_passed_over_with_a_warning() {
        let (_folder, path) = file("t.yml", "http: {routers: {}}\nlog: {}\n");
        let loaded = loaded(&[&format!("--configFile={path}")]);
        assert_eq!(loaded.warnings.len(), 1);
        assert!(loaded.warnings[0].to_string().contains("t.yml:1: `http` has no effect as a setting"));
    }

    #[test]
    fn values_may_come_from_variables_and_files() {
        let (_folder, path) = file("level", "DEBUG\n");
        let arguments = [&format!("--log.level=file:{path}"), "--entryPoints.web.address=:${PORT}"];
        let loaded = try_load(&arguments, &[("PORT", "81")], &[]).expect("loaded");
        assert_eq!(loaded.settings.log.level, "DEBUG");
        assert_eq!(loaded.settings.entry_points["web"].address, ":81");
        let problems = try_load(&arguments, &[], &[]).expect_err("refused");
        assert!(
            problems[0]
                .starts_with("flag --entryPoints.web.address: the environment variable `PORT` is not set")
        );
    }

    #[test]
    fn wrong_values_are_refused() {
        for (argument, expected) in [
            (
                "--entryPoints.a.address=foo",
                "flag --entryPoints.a.address: entryPoints.a.address: `foo` is no address: the port is missing",
            ),
            ("--entryPoints.web.udp.timeout=0s", "udp.timeout: expected a time longer than zero"),
            ("--entryPoints.a.asDefault=true", "entryPoints.a.address: `` is no address"),
            ("--entryPoints.web.http.redirections.entryPoint.to=zz", "there is no entry point `zz`"),
            ("--entryPoints.web.http.redirections.entryPoint.scheme=https", "entryPoint.to: is required"),
            ("--entryPoints.web.forwardedHeaders.trustedIPs=10.0.0.0/99", "forwardedHeaders.trustedIPs: "),
            ("--entryPoints.web.http.aliasHeadersStrategy=x", "expected `keep`, `delete` or `reject`"),
            ("--entryPoints.web.http.requiredMiddlewares=auth", "there is no `auth` in `http.middlewares`"),
            (
                "--entryPoints.other.address=0.0.0.0:80",
                "entry points `other` and `web` have the same address",
            ),
            ("--entryPoints.web.http.tls.certResolver=le", "no certificate resolver `le`"),
            ("--certificatesResolvers.le.acme.email=a@b.c", "no way to prove names"),
            ("--certificatesResolvers.le.acme.httpChallenge=true", "httpChallenge.entryPoint: is required"),
            ("--certificatesResolvers.le.acme.httpChallenge.entryPoint=zz", "there is no entry point `zz`"),
            ("--certificatesResolvers.le.acme.dnsChallenge.provider=zz", "provider `zz` is not supported"),
            ("--api.basePath=x", "`x` is no path"),
            ("--api.basePath=/a b", "`/a b` is no path"),
            ("--core.defaultRuleSyntax=v2", "rules have the syntax `v3`"),
            ("--accessLog.filters.statusCodes=200,5xx", "`5xx` (number 2) is no status"),
            ("--ping.terminatingStatusCode=99", "`99` is no status"),
            ("--providers.precedence=docker,dockr", "provider \"dockr\" is not a valid provider name"),
            ("--log.noColor=maybe", "log.noColor: `maybe` is neither `true` nor `false`"),
        ] {
            let problems = refused(&["--entryPoints.web.address=:80", argument]);
            assert!(problems.len() == 1 && problems[0].contains(expected), "{argument}: {problems:?}");
        }
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
        assert!(acme("tls").tls_challenge.is_some() && acme("tls").key_type == "RSA4096");
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
        assert_eq!(loaded.settings.log.level, "ERROR");
        assert_eq!(loaded.settings.access_log.map(|log| log.format).as_deref(), Some("common"));
        assert_eq!(loaded.warnings.len(), 4, "{:?}", loaded.warnings);
    }
}
