//! Reads the labels of one workload and adds servers to its services.

use tidegate_config::decode::decode_config;
use tidegate_config::formats::entries::{EntryError, Read};
use tidegate_config::formats::labels;
use tidegate_config::tree::{Conflict, Node, Value};
use tidegate_config::{Kind, ObjectRef, Origin, Problem, Provided};

use super::{Locate, LocateError, PREFIXES, Workload};

/// Maximum number of labels per workload.
const MAX_LABELS: usize = 5_000;
const MAX_LABEL_LEN: usize = 256 << 10;

/// Why a service has no server.
#[derive(Debug, thiserror::Error)]
enum ServerError {
    /// The URL already has a scheme and a port.
    #[error("`server.url` ({url}) excludes `server.port` and `server.scheme`")]
    UrlExcludes {
        /// The URL.
        url: String,
    },
    /// The workload has no address.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// `server` is given without an option.
    #[error("`server` needs an option, such as `server.port`")]
    NoOption,
    /// An option of `server` is a list or a table.
    #[error("`server.{option}`: expected a single value")]
    NotSingle {
        /// The option.
        option: String,
    },
    /// The port is not a number, or too large.
    #[error("`server.port`: invalid port `{port}`: expected 0 to 65535")]
    Port {
        /// The configured port.
        port: String,
    },
    /// The labels of the service conflict.
    #[error("{0}")]
    Conflict(Conflict),
}

/// The labels for the gateway.
#[derive(Clone, Debug)]
pub struct Labels {
    node: Node,
    problems: Vec<Problem>,
    /// An unreadable label whose object is unknown.
    unreadable: Option<Problem>,
    /// Whether no label has a known prefix.
    none: bool,
}

impl Labels {
    /// Reads the labels with known prefixes.
    pub fn read(workload: &Workload<'_>) -> Self {
        let origin = |label: &str| workload.origin(label);
        let problem = |label: &str, message: String| Problem {
            origin: origin(label),
            object: None,
            message,
            excerpt: None,
        };
        let ours = workload.labels.iter().filter(|(key, _)| is_ours(key));
        let pairs = ours.clone().take(MAX_LABELS).map(|(key, value)| {
            let value = match value.len() > MAX_LABEL_LEN {
                true => Err(EntryError::ValueTooLong { limit: MAX_LABEL_LEN }),
                false => Ok(value.as_str()),
            };
            (key.as_str(), value)
        });
        let Read { node, mut problems, astray: mut unreadable } = labels::read_all(pairs, &PREFIXES, origin);
        let count = ours.count();
        if count > MAX_LABELS {
            let problem = problem("", format!("more than {MAX_LABELS} labels: the others are ignored"));
            problems.push(problem.clone());
            unreadable.get_or_insert(problem);
        }
        Self { node, problems, unreadable, none: count == 0 }
    }

    /// Returns true if the workload has no labels for the gateway.
    pub(super) fn is_none(&self) -> bool {
        self.none
    }

    /// Removes a label about the workload itself from the tree.
    pub fn take(&mut self, path: &[&str]) -> Option<(Origin, String)> {
        let node = self.node.remove(path)?;
        for length in (1..path.len()).rev() {
            if self.node.get(&path[..length]).is_some_and(Node::is_empty) {
                self.node.remove(&path[..length]);
            }
        }
        let text = node.as_leaf()?.to_owned();
        Some((node.origin, text))
    }

    /// Removes a boolean label; an invalid value is reported and counts as `otherwise`.
    pub fn take_bool(&mut self, path: &[&str], otherwise: bool) -> bool {
        let Some((origin, text)) = self.take(path) else { return otherwise };
        boolean(text.trim()).unwrap_or_else(|| {
            self.problem(origin, format!("`{text}` is neither true nor false"));
            otherwise
        })
    }

    /// Removes `enable`, which defaults to `otherwise`. Returns `None` if it is invalid, which is reported:
    /// as in Traefik, the workload is then left out.
    pub fn take_enable(&mut self, otherwise: bool) -> Option<bool> {
        let Some(node) = self.node.remove(&["enable"]) else { return Some(otherwise) };
        let text = node.as_leaf().unwrap_or_default();
        let enabled = boolean(text);
        if enabled.is_none() {
            let message = format!("`{text}` is neither true nor false: it is not exposed");
            self.problem(node.origin, message);
        }
        enabled
    }

    /// Returns a state with only the reason why the workload is left out.
    pub fn refused(mut self, workload: &Workload<'_>, message: &str) -> Provided {
        self.problem(workload.origin(""), message.to_owned());
        self.left_out()
    }

    /// Returns a state with only the problems.
    pub fn left_out(self) -> Provided {
        let problems = self.problems.into_iter().map(|problem| Problem { object: None, ..problem });
        Provided { problems: problems.collect(), ..Provided::default() }
    }

    /// Adds a problem that does not break an object.
    pub fn problem(&mut self, origin: Origin, message: String) {
        self.problems.push(Problem { origin, object: None, message, excerpt: None });
    }
}

fn is_ours(key: &str) -> bool {
    PREFIXES.iter().any(|prefix| {
        let head = key.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        head && key[prefix.len()..].starts_with('.')
    })
}

/// Parses a boolean like Go.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Names of the services of a workload, broken ones included.
#[derive(Debug, Default)]
pub(super) struct ServiceNames {
    pub(super) http: Vec<String>,
    pub(super) tcp: Vec<String>,
    pub(super) udp: Vec<String>,
}

/// The protocols of services, each with a section of the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Http,
    Tcp,
    Udp,
}

impl Family {
    const ALL: [Self; 3] = [Self::Http, Self::Tcp, Self::Udp];

    /// The name of the section.
    fn section(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Http => Kind::Service,
            Self::Tcp => Kind::TcpService,
            Self::Udp => Kind::UdpService,
        }
    }
}

/// Kinds of services without servers.
const COMPOSITES: [&str; 5] = ["weighted", "highestRandomWeight", "mirroring", "failover", "static"];

pub(super) struct Builder<'a> {
    workload: &'a Workload<'a>,
    labels: Labels,
    broken: Vec<Problem>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(workload: &'a Workload<'a>, labels: Labels) -> Self {
        Self { workload, labels, broken: Vec::new() }
    }

    /// Adds a server to every service of the workload. A protocol without a service gets one with the
    /// workload's name.
    pub(super) fn add_servers(&mut self, place: &dyn Locate) {
        let has_objects = |family| self.has(family, &["routers", "services"]);
        let streams = has_objects(Family::Tcp) || has_objects(Family::Udp);
        for family in Family::ALL {
            let names = self.names(family);
            let wanted = match family {
                Family::Http => !streams || self.has(family, &["routers", "services", "middlewares"]),
                Family::Tcp | Family::Udp => self.has(family, &["routers", "services"]),
            };
            if !wanted {
                continue;
            }
            let names = if names.is_empty() { vec![self.workload.name.to_owned()] } else { names };
            for name in names {
                if let Err((origin, error)) = self.add_server(family, &name, place) {
                    let _ = self.labels.node.remove(&[family.section(), "services", &name]);
                    self.broken.push(Problem {
                        origin,
                        object: Some(ObjectRef { kind: family.kind(), name }),
                        message: error.to_string(),
                        excerpt: None,
                    });
                }
            }
        }
    }

    /// Returns the names of the services in order. Call this after [`Builder::add_servers`].
    pub(super) fn service_names(&self) -> ServiceNames {
        let with_broken = |family: Family| {
            let mut names = self.names(family);
            let broken = self.broken.iter().filter_map(|problem| problem.object.as_ref());
            names.extend(
                broken.filter(|object| object.kind == family.kind()).map(|object| object.name.clone()),
            );
            names
        };
        ServiceNames {
            http: with_broken(Family::Http),
            tcp: with_broken(Family::Tcp),
            udp: with_broken(Family::Udp),
        }
    }

    /// Decodes the labels. Also returns the problem of a label that may concern any router, if there is one.
    pub(super) fn decode(self) -> (Provided, Option<Problem>) {
        let unreadable = self.labels.unreadable.clone().or_else(|| self.unknown_section());
        let mut provided = decode_config(&self.labels.node);
        for problem in &self.broken {
            if let Some(object) = &problem.object {
                provided.origins.insert(object.clone(), problem.origin.clone().into());
            }
        }
        provided.problems.extend(self.broken);
        provided.add_problems(self.labels.problems);
        (provided, unreadable)
    }

    /// Returns a problem for a label below `http` or the like with an unknown kind of object: Traefik rejects
    /// the workload.
    fn unknown_section(&self) -> Option<Problem> {
        Family::ALL.iter().find_map(|family| {
            let parts = self.labels.node.get(&[family.section()])?.as_table()?;
            let (part, node) =
                parts.iter().find(|(part, _)| Kind::of_section(family.section(), part).is_none())?;
            let message = format!("unknown section `{}.{part}`", family.section());
            Some(Problem { origin: node.origin.clone(), object: None, message, excerpt: None })
        })
    }

    fn has(&self, family: Family, parts: &[&str]) -> bool {
        let section = family.section();
        parts.iter().any(|part| self.labels.node.get(&[section, part]).is_some_and(|node| !node.is_empty()))
    }

    fn names(&self, family: Family) -> Vec<String> {
        let services = self.labels.node.get(&[family.section(), "services"]).and_then(Node::as_table);
        services.map(|table| table.iter().map(|(name, _)| name.to_owned()).collect()).unwrap_or_default()
    }

    fn add_server(
        &mut self,
        family: Family,
        name: &str,
        place: &dyn Locate,
    ) -> Result<(), (Origin, ServerError)> {
        let path = |rest: &[&'static str]| -> Vec<String> {
            [family.section(), "services", name].iter().chain(rest).map(|step| (*step).to_owned()).collect()
        };
        let service = self.labels.node.get(&[family.section(), "services", name]);
        let origin = service.map_or_else(|| self.origin(), |node| node.origin.clone());
        if let Some(service) = service {
            let composite = COMPOSITES.iter().any(|kind| service.get(&[kind]).is_some());
            let listed = service.get(&["loadBalancer", "servers"]).is_some();
            if composite || listed {
                return Ok(());
            }
        }
        let server = self.labels.node.remove(&[family.section(), "services", name, "loadBalancer", "server"]);
        let mut server = Server::read(server, family)?;
        let port = server.port.as_ref().map(|(_, port)| port.as_str());
        let located = match server.url.take() {
            Some((origin, url)) if port.is_some() || server.scheme.is_some() => {
                return Err((origin, ServerError::UrlExcludes { url }));
            }
            Some(url) => Some(url),
            // No label is at fault, so use the origin of the workload.
            None => place.locate(port).map_err(|error| (self.origin(), error.into()))?.map(|(host, port)| {
                let address = join(&host, &port);
                let scheme = server.scheme.as_ref();
                let url = match family {
                    Family::Http => format!("{}://{address}", scheme.map_or("http", |(_, scheme)| scheme)),
                    Family::Tcp | Family::Udp => address,
                };
                (scheme.or(server.port.as_ref()).map_or(&origin, |(origin, _)| origin).clone(), url)
            }),
        };
        let leaf = if family == Family::Http { "url" } else { "address" };
        let mut leaves = Vec::new();
        if let Some((origin, located)) = located {
            leaves.push((path(&["loadBalancer", "servers", "0", leaf]), origin, located));
            for (key, origin, value) in server.rest {
                let mut steps = path(&["loadBalancer", "servers", "0"]);
                steps.push(key);
                leaves.push((steps, origin, value));
            }
        } else {
            leaves.push((path(&["loadBalancer"]), origin.clone(), "true".into()));
        }
        for (steps, origin, value) in leaves {
            let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
            self.labels
                .node
                .set(&steps, &origin, &value)
                .map_err(|conflict| (origin, ServerError::Conflict(conflict)))?;
        }
        Ok(())
    }

    fn origin(&self) -> Origin {
        self.workload.origin("")
    }
}

/// The `server` labels of a service, which stand for the list of servers in the model.
#[derive(Default)]
struct Server {
    port: Option<(Origin, String)>,
    scheme: Option<(Origin, String)>,
    url: Option<(Origin, String)>,
    /// Other options of the server: weight, preservePath, tls, and unknown keys, which the decoder reports.
    rest: Vec<(String, Origin, String)>,
}

impl Server {
    fn read(node: Option<Node>, family: Family) -> Result<Self, (Origin, ServerError)> {
        let mut server = Self::default();
        let Some(node) = node else { return Ok(server) };
        let Value::Table(table) = &node.value else {
            return Err((node.origin, ServerError::NoOption));
        };
        for (key, node) in table.iter() {
            let Some(value) = node.as_leaf() else {
                return Err((node.origin.clone(), ServerError::NotSingle { option: key.to_owned() }));
            };
            let slot = match key.to_ascii_lowercase().as_str() {
                "port" => &mut server.port,
                "scheme" if family == Family::Http => &mut server.scheme,
                "url" if family == Family::Http => &mut server.url,
                _ => {
                    server.rest.push((key.to_owned(), node.origin.clone(), value.to_owned()));
                    continue;
                }
            };
            if !value.is_empty() {
                *slot = Some((node.origin.clone(), value.to_owned()));
            }
        }
        match &server.port {
            Some((origin, port)) if port.parse::<u16>().is_err() => {
                Err((origin.clone(), ServerError::Port { port: port.clone() }))
            }
            _ => Ok(server),
        }
    }
}

/// Formats `host:port`, with an IPv6 address in brackets.
pub(super) fn join(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
