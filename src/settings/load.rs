//! Reads the settings: flags over environment over file, key by key.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use tidegate_config::decode::{DecodeError, decode};
use tidegate_config::formats::{self, env, excerpt, flags};
use tidegate_config::suggest;
use tidegate_config::tree::Node;
use tidegate_config::{Origin, Problem};

use super::{Settings, check, expand, traefik};

/// Names of settings files, in the order in which each folder is searched.
const FILE_NAMES: [&str; 6] =
    ["tidegate.toml", "tidegate.yaml", "tidegate.yml", "traefik.toml", "traefik.yaml", "traefik.yml"];
/// Parts of the dynamic configuration, which Traefik passes over in this file.
const DYNAMIC: [&str; 4] = ["http", "tcp", "udp", "tls"];
/// The option that names the settings file.
const CONFIG_FILE: &str = "configFile";

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
        let known = || traefik::ROOTS.iter().copied().chain([CONFIG_FILE]);
        let read = env::read(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())), |root| {
            // One that is near is taken, so that it is refused with a hint. Kubernetes and Docker set variables like
            // TRAEFIK_SERVICE_HOST and TRAEFIK_PORT for their own purposes.
            let wanted = suggest::nearest(root, known()).is_some();
            if !wanted && !matches!(root, "service" | "port") {
                passed_over.borrow_mut().push(root.to_owned());
            }
            wanted
        });
        self.problems.extend(read.problems);
        self.warnings.extend(read.warnings);
        self.warnings.extend(passed_over.into_inner().into_iter().map(|root| Problem {
            origin: Origin::Environment(format!("…_{}…", root.to_uppercase()).into()),
            object: None,
            message: format!("not used: no option begins with `{root}`"),
            excerpt: None,
        }));
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
        let settings = self.decode(&node);
        if let Some(mut settings) = settings {
            settings.complete();
            let findings = check::check(&mut settings, &node);
            self.problems.extend(findings.problems);
            self.warnings.extend(findings.warnings);
            if self.problems.is_empty() {
                let warnings = self.shown(&self.warnings);
                return Ok(Loaded { settings, file: self.source.map(|(path, _)| path), warnings });
            }
        }
        Err(self.shown(&self.problems))
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
        loop {
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
    }

    /// The problems with excerpts of the settings file.
    fn shown(&self, problems: &[Problem]) -> Vec<Problem> {
        let Some((path, text)) = &self.source else { return problems.to_vec() };
        let here = |origin: &Origin| matches!(origin, Origin::File { path: other, .. } if Path::new(&**other) == path);
        let excerpt = |problem: &Problem| {
            let own =
                || here(&problem.origin).then(|| excerpt::render(text, &problem.origin, &problem.message));
            problem.excerpt.clone().or_else(|| own().flatten())
        };
        problems.iter().map(|problem| Problem { excerpt: excerpt(problem), ..problem.clone() }).collect()
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
