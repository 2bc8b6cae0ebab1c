//! Converts the labels of workloads into configuration, for all providers with labels.
//!
//! Implements Traefik's rules for labels: `enable`, constraints, the default rule, the names of unnamed
//! routers and services, the server of a service, and merging of several workloads.

mod conflict;
mod join;
mod keep;
mod labels;
mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::Regex;
use tidegate_clients::OptionError;
use tidegate_config::router::Router;
use tidegate_config::{Kind, Origin, Problem, Provided};
use tidegate_core::expression::{self, Argument, Call, Expression, nearest};

use crate::Error;
use crate::template::{Dialect, Template, TemplateError, Value};

pub use conflict::Said;
pub use keep::{Keeper, Member};
pub use labels::Labels;
pub use merge::merge;

/// The prefixes of labels; the first takes precedence.
pub const PREFIXES: [&str; 2] = ["tidegate", "traefik"];
/// Maximum length of a rule rendered by a template, in bytes.
const MAX_RULE: usize = 64 << 10;

/// A workload with labels.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// Normalised name of the service, if labels name none.
    pub name: &'a str,
    /// `.Name` in the template of the default rule.
    pub title: &'a str,
    /// Its own name, as shown in errors and as `.ContainerName` in templates.
    pub owner: &'a Arc<str>,
    /// All its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// How labels are written at the source.
    pub carrier: Carrier<'a>,
}

/// The source of labels.
#[derive(Clone, Copy, Debug)]
pub enum Carrier<'a> {
    /// A container, with labels.
    Container,
    /// A registered service, with tags `prefix.key=value`; their labels begin with `traefik`.
    Service {
        /// The prefix as configured.
        prefix: &'a str,
    },
}

impl Workload<'_> {
    /// Returns the origin of a label, or of the workload itself if `label` is empty.
    pub fn origin(&self, label: &str) -> Origin {
        match self.carrier {
            Carrier::Container => Origin::Label { container: self.owner.clone(), label: label.into() },
            Carrier::Service { prefix } => {
                let tag = match label.strip_prefix("traefik.") {
                    Some(rest) => format!("{prefix}.{rest}").into(),
                    None => label.into(),
                };
                Origin::Tag { service: self.owner.clone(), tag }
            }
        }
    }
}

/// Why a workload has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The container has an address in none of its networks.
    #[error("unable to find the IP address: it has none in any network")]
    NoAddress,
    /// The network mode names a container that does not exist.
    #[error("the container whose network it shares cannot be found")]
    SharedNetworkMissing,
    /// Neither the container nor its labels name a port.
    #[error("port is missing: the container exposes none, and no label `server.port` names one")]
    NoPort,
    /// The labels of a service of a swarm name no port.
    #[error("port is missing: services of a swarm need the label `server.port`")]
    NoServicePort,
    /// A task has no address in any network of the swarm.
    #[error("it has no address in any network of the swarm")]
    NotInSwarm,
    /// The catalog has no address for an instance.
    #[error("address is missing: neither the service nor its node has one")]
    NoInstanceAddress,
}

/// Why a router gets no default rule.
#[derive(Debug, thiserror::Error)]
enum DefaultRuleError {
    /// The template fails for this workload.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The rendered template is empty for this workload.
    #[error("the default rule is empty")]
    Empty,
}

/// Why a router that names no service gets none.
#[derive(Debug, thiserror::Error)]
enum NoServiceError {
    /// The workload has no service.
    #[error("the router names no service, and there is none")]
    None,
    /// The workload has several services.
    #[error("the router names no service, and there are several: {}", names.join(", "))]
    Several {
        /// Their names.
        names: Vec<String>,
    },
}

/// Why constraints are invalid.
#[derive(Debug, thiserror::Error)]
enum ConstraintError {
    /// The constraints are not an expression.
    #[error("at {}", error.located(text))]
    Syntax {
        /// The constraints.
        text: String,
        /// The error with its position.
        #[source]
        error: expression::SyntaxError,
    },
    /// Functions of constraints return booleans and cannot be compared.
    #[error("`{function}` cannot be compared here")]
    Compare {
        /// Name of the function.
        function: String,
    },
    /// A function name without arguments.
    #[error("`{name}` must be called")]
    NotCalled {
        /// The name.
        name: String,
    },
    /// Wrong arguments of a function on labels.
    #[error("`{function}` expects two strings: a label and its value")]
    LabelArguments {
        /// Name of the function.
        function: String,
    },
    /// Wrong arguments of a function on tags.
    #[error("`{function}` expects one string: a tag")]
    TagArguments {
        /// Name of the function.
        function: String,
    },
    /// There is no function of this name.
    #[error("unknown function `{function}`: expected {expected}")]
    UnknownFunction {
        /// Name of the function.
        function: String,
        /// The valid functions.
        expected: &'static str,
    },
    /// A pattern is not a regular expression.
    #[error("invalid regular expression `{pattern}`: {}", last_line(source))]
    Regex {
        /// The pattern.
        pattern: String,
        /// The cause.
        source: regex::Error,
    },
}

/// Locates a workload.
pub trait Locate {
    /// Returns host and port, given the port in the labels of a service, if any. `Ok(None)` means that the
    /// workload is currently not available, so its services have no server.
    fn locate(&self, port: Option<&str>) -> Result<Option<(String, String)>, LocateError>;
}

/// Options of label providers that apply to workloads.
#[derive(Clone, Debug)]
pub struct Rules {
    default_rule: Template,
    constraints: Option<Constraint>,
}

impl Rules {
    /// Parses `defaultRule` and `constraints` on labels.
    pub fn new(default_rule: &str, constraints: &str) -> Result<Self, Error> {
        Self::with(default_rule, constraints, On::Labels)
    }

    /// Parses `defaultRule` and `constraints` on tags.
    pub fn for_tags(default_rule: &str, constraints: &str) -> Result<Self, Error> {
        Self::with(default_rule, constraints, On::Tags)
    }

    fn with(default_rule: &str, constraints: &str, on: On) -> Result<Self, Error> {
        let default_rule = Template::parse(default_rule, Dialect::Rule)
            .map_err(|error| OptionError::new("defaultRule", error.to_string()))?;
        let constraints = match constraints.trim() {
            "" => None,
            text => Some(
                Constraint::parse(text, on)
                    .map_err(|error| OptionError::new("constraints", error.to_string()))?,
            ),
        };
        Ok(Self { default_rule, constraints })
    }

    /// Returns true if labels satisfy the constraints.
    pub fn admit(&self, labels: &BTreeMap<String, String>) -> bool {
        let facts = Facts { labels, tags: &[] };
        self.constraints.as_ref().is_none_or(|constraint| constraint.matches(facts))
    }

    /// Returns true if tags satisfy the constraints.
    pub fn admit_tags(&self, tags: &[String]) -> bool {
        let facts = Facts { labels: &BTreeMap::new(), tags };
        self.constraints.as_ref().is_none_or(|constraint| constraint.matches(facts))
    }

    /// Returns the default rule.
    fn default_rule(&self, workload: &Workload<'_>) -> Result<String, DefaultRuleError> {
        let labels = workload.labels.iter().map(|(key, value)| (key.clone(), Value::Text(value.clone())));
        let data = Value::Map(BTreeMap::from([
            ("Name".to_owned(), workload.title.into()),
            ("ContainerName".to_owned(), (&**workload.owner).into()),
            ("Labels".to_owned(), Value::Map(labels.collect())),
        ]));
        let rule = self.default_rule.render(&data, MAX_RULE)?;
        if rule.is_empty() { Err(DefaultRuleError::Empty) } else { Ok(rule) }
    }
}

/// Builds the configuration of one workload.
///
/// Errors affect only their object: a broken router keeps its rule and answers 503, and a broken service is
/// left out, each with a problem that names the label. A workload without labels that has no address is left
/// out silently, as it is only exposed by default.
pub fn build(workload: &Workload<'_>, labels: Labels, rules: &Rules, place: &dyn Locate) -> Provided {
    if labels.is_none()
        && let Err(reason) = place.locate(None)
    {
        tracing::debug!("{} is not exposed: {reason}", workload.origin(""));
        return Provided::default();
    }
    let mut builder = labels::Builder::new(workload, labels);
    builder.add_servers(place);
    let names = builder.service_names();
    let (mut provided, astray) = builder.decode();
    let origin = workload.origin("");
    let only_streams = provided.has_streams() && !provided.has_http();
    if !only_streams {
        let mut routers = std::mem::take(&mut provided.config.http.routers);
        if routers.is_empty() && names.http.len() <= 1 {
            routers.insert(workload.name.to_owned(), Arc::default());
            provided.note_origin(Kind::Router, workload.name, &origin);
        }
        let parents: BTreeSet<String> =
            routers.values().flat_map(|router| router.parent_refs.clone()).collect();
        hint_misspelt_routers(&routers, &mut provided);
        // Rendered once, as its data does not depend on the router.
        let default_rule = std::cell::OnceCell::new();
        for (name, router) in &mut routers {
            if router.rule.is_empty() {
                match default_rule.get_or_init(|| rules.default_rule(workload)) {
                    Ok(rule) => Arc::make_mut(router).rule.clone_from(rule),
                    Err(error) => provided.break_object(Kind::Router, name, &origin, error.to_string()),
                }
            }
            // Child routers may have children themselves, and parents must not have a service.
            let is_layer = !router.parent_refs.is_empty() || parents.contains(name);
            if router.service.is_empty() && !is_layer {
                match only(&names.http) {
                    Ok(service) => Arc::make_mut(router).service = service.into(),
                    Err(error) => provided.break_object(Kind::Router, name, &origin, error.to_string()),
                }
            }
        }
        routers.retain(|_, router| !router.rule.is_empty());
        provided.config.http.routers = routers;
    }
    complete_streams(&mut provided, &names, &origin);
    if let Some(problem) = astray {
        provided.break_routers(&problem);
    }
    provided
}

/// Warns about a router without a rule whose name is similar to that of a router with one. Due to a typo, its
/// options may be missing from the other router. It is only a warning, as it may be intentional.
fn hint_misspelt_routers(routers: &BTreeMap<String, Arc<Router>>, provided: &mut Provided) {
    fn is_bare(router: &Router) -> bool {
        *router == Router { rule: router.rule.clone(), ..Router::default() }
    }
    let digits = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
    let (ruled, ruleless): (Vec<_>, Vec<_>) = routers.iter().partition(|(_, router)| !router.rule.is_empty());
    for (name, router) in ruleless {
        // Names that differ in digits (`web1`, `web2`) count only if the other router has no options.
        let similar = ruled.iter().filter(|(other, ruled)| is_bare(ruled) || digits(other) != digits(name));
        let near = nearest(name, similar.map(|(other, _)| other.as_str()));
        let (Some(near), false) = (near, is_bare(router)) else { continue };
        let message = format!(
            "router `{name}` has no rule and takes the default one, beside router `{near}` with a rule: did you mean `{near}`?"
        );
        let known = provided.origins.get(&object(Kind::Router, name));
        let origin = known.map_or(Origin::Internal, |known| known.origin.clone());
        provided.problems.push(Problem { origin, object: None, message, excerpt: None });
    }
}

/// Links TCP and UDP routers to the only service, and removes TCP routers without a rule.
fn complete_streams(provided: &mut Provided, names: &labels::ServiceNames, origin: &Origin) {
    let mut tcp = std::mem::take(&mut provided.config.tcp.routers);
    let ruled = tcp.iter().filter(|(_, router)| !router.rule.is_empty()).map(|(name, _)| name.clone());
    let ruled: Vec<String> = ruled.collect();
    for (name, router) in &mut tcp {
        if router.rule.is_empty() {
            let near = nearest(name, ruled.iter().map(String::as_str));
            let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
            provided.break_object(Kind::TcpRouter, name, origin, format!("a TCP router needs a rule{hint}"));
        } else if router.service.is_empty() {
            match only(&names.tcp) {
                Ok(service) => Arc::make_mut(router).service = service.into(),
                Err(error) => provided.break_object(Kind::TcpRouter, name, origin, error.to_string()),
            }
        }
    }
    tcp.retain(|_, router| !router.rule.is_empty());
    provided.config.tcp.routers = tcp;
    let mut udp = std::mem::take(&mut provided.config.udp.routers);
    for (name, router) in &mut udp {
        if router.service.is_empty() {
            match only(&names.udp) {
                Ok(service) => Arc::make_mut(router).service = service.into(),
                Err(error) => provided.break_object(Kind::UdpRouter, name, origin, error.to_string()),
            }
        }
    }
    provided.config.udp.routers = udp;
}

fn only(names: &[String]) -> Result<String, NoServiceError> {
    match names {
        [name] => Ok(name.clone()),
        [] => Err(NoServiceError::None),
        many => Err(NoServiceError::Several { names: many.to_vec() }),
    }
}

/// Helpers for configuration being built.
trait Building {
    fn has_streams(&self) -> bool;
    fn has_http(&self) -> bool;
    fn note_origin(&mut self, kind: Kind, name: &str, origin: &Origin);
    fn break_object(&mut self, kind: Kind, name: &str, origin: &Origin, message: String);
    fn break_routers(&mut self, reason: &Problem);
}

impl Building for Provided {
    fn has_streams(&self) -> bool {
        self.origins.keys().any(|object| {
            matches!(object.kind, Kind::TcpRouter | Kind::TcpService | Kind::UdpRouter | Kind::UdpService)
        })
    }

    fn has_http(&self) -> bool {
        self.origins
            .keys()
            .any(|object| matches!(object.kind, Kind::Router | Kind::Service | Kind::Middleware))
    }

    fn note_origin(&mut self, kind: Kind, name: &str, origin: &Origin) {
        self.origins.insert(object(kind, name), origin.clone().into());
    }

    fn break_object(&mut self, kind: Kind, name: &str, origin: &Origin, message: String) {
        let (origin, object) = (origin.clone(), Some(object(kind, name)));
        self.problems.push(Problem { origin, object, message, excerpt: None });
    }

    /// Breaks all routers, as an unreadable label may have been meant for any of them.
    fn break_routers(&mut self, reason: &Problem) {
        let config = &self.config;
        let routers = config.http.routers.keys().map(|name| (Kind::Router, name));
        let routers = routers.chain(config.tcp.routers.keys().map(|name| (Kind::TcpRouter, name)));
        let routers = routers.chain(config.udp.routers.keys().map(|name| (Kind::UdpRouter, name)));
        self.problems.extend(routers.map(|(kind, name)| Problem {
            object: Some(object(kind, name)),
            message: format!("a label that may be about it cannot be read: {}", reason.message),
            ..reason.clone()
        }));
    }
}

fn object(kind: Kind, name: &str) -> tidegate_config::ObjectRef {
    tidegate_config::ObjectRef { kind, name: name.to_owned() }
}

/// The subject of constraints.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Labels,
    Tags,
}

#[derive(Clone, Copy)]
struct Facts<'a> {
    labels: &'a BTreeMap<String, String>,
    tags: &'a [String],
}

/// A condition: ``Label(`k`, `v`)`` and ``LabelRegex(`k`, `re`)``, or ``Tag(`t`)`` and ``TagRegex(`re`)``, with
/// `&&`, `||`, `!`.
#[derive(Clone, Debug)]
enum Constraint {
    And(Box<Constraint>, Box<Constraint>),
    Or(Box<Constraint>, Box<Constraint>),
    Not(Box<Constraint>),
    Label(String, String),
    LabelRegex(String, Regex),
    Tag(String),
    TagRegex(Regex),
}

impl Constraint {
    fn parse(text: &str, on: On) -> Result<Self, ConstraintError> {
        expression::parse(text)
            .map_err(|error| ConstraintError::Syntax { text: text.to_owned(), error })
            .and_then(|tree| Self::from_tree(&tree, on))
    }

    fn from_tree(tree: &Expression, on: On) -> Result<Self, ConstraintError> {
        let both = |a: &Expression, b: &Expression| {
            Ok::<_, ConstraintError>((Box::new(Self::from_tree(a, on)?), Box::new(Self::from_tree(b, on)?)))
        };
        Ok(match tree {
            Expression::And(a, b) => both(a, b).map(|(a, b)| Self::And(a, b))?,
            Expression::Or(a, b) => both(a, b).map(|(a, b)| Self::Or(a, b))?,
            Expression::Not(inner) => Self::Not(Box::new(Self::from_tree(inner, on)?)),
            Expression::Call(call) if on == On::Labels => Self::on_labels(call)?,
            Expression::Call(call) => Self::on_tags(call)?,
            Expression::Compare { call, .. } => {
                return Err(ConstraintError::Compare { function: call.name.clone() });
            }
            Expression::Field(field) => {
                return Err(ConstraintError::NotCalled { name: field.name.clone() });
            }
        })
    }

    fn on_labels(call: &Call) -> Result<Self, ConstraintError> {
        let [Argument::Text(key), Argument::Text(value)] = call.arguments.as_slice() else {
            return Err(ConstraintError::LabelArguments { function: call.name.clone() });
        };
        match call.name.to_ascii_lowercase().as_str() {
            "label" => Ok(Self::Label(key.clone(), value.clone())),
            "labelregex" => Ok(Self::LabelRegex(key.clone(), regex(value)?)),
            _ => Err(ConstraintError::UnknownFunction {
                function: call.name.clone(),
                expected: "`Label` or `LabelRegex`",
            }),
        }
    }

    fn on_tags(call: &Call) -> Result<Self, ConstraintError> {
        let of = |make: fn(&str) -> Result<Self, ConstraintError>| match call.arguments.as_slice() {
            [Argument::Text(tag)] => make(tag),
            _ => Err(ConstraintError::TagArguments { function: call.name.clone() }),
        };
        match call.name.to_ascii_lowercase().as_str() {
            "tag" => of(|tag| Ok(Self::Tag(tag.to_owned()))),
            "tagregex" => of(|tag| Ok(Self::TagRegex(regex(tag)?))),
            _ => Err(ConstraintError::UnknownFunction {
                function: call.name.clone(),
                expected: "`Tag` or `TagRegex`",
            }),
        }
    }

    fn matches(&self, facts: Facts<'_>) -> bool {
        match self {
            Self::And(a, b) => a.matches(facts) && b.matches(facts),
            Self::Or(a, b) => a.matches(facts) || b.matches(facts),
            Self::Not(inner) => !inner.matches(facts),
            Self::Label(key, value) => facts.labels.get(key) == Some(value),
            Self::LabelRegex(key, regex) => facts.labels.get(key).is_some_and(|value| regex.is_match(value)),
            Self::Tag(tag) => facts.tags.contains(tag),
            Self::TagRegex(regex) => facts.tags.iter().any(|tag| regex.is_match(tag)),
        }
    }
}

fn regex(text: &str) -> Result<Regex, ConstraintError> {
    Regex::new(text).map_err(|source| ConstraintError::Regex { pattern: text.to_owned(), source })
}

/// Returns the last line of an error, which has the reason; the others quote the pattern.
fn last_line(error: &regex::Error) -> String {
    let whole = error.to_string();
    whole.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place;

    impl Locate for Place {
        fn locate(&self, port: Option<&str>) -> Result<Option<(String, String)>, LocateError> {
            Ok(Some(("10.0.0.1".into(), port.unwrap_or("80").into())))
        }
    }

    fn built(pairs: &[(&str, &str)]) -> Provided {
        let labels: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let workload = Workload {
            name: "web",
            title: "web",
            owner: &"web".into(),
            labels: &labels,
            carrier: Carrier::Container,
        };
        let rules = Rules::new("Host(`{{ normalize .Name }}`)", "").expect("valid");
        build(&workload, Labels::read(&workload), &rules, &Place)
    }

    fn urls(provided: &Provided, service: &str) -> Vec<String> {
        let balancer = provided.config.http.services[service].load_balancer.as_ref().expect("a balancer");
        balancer.servers.iter().map(|server| server.url.clone()).collect()
    }

    #[test]
    fn a_workload_without_labels_gets_a_router_and_a_service() {
        let provided = built(&[]);
        let router = &provided.config.http.routers["web"];
        assert_eq!((router.rule.as_str(), router.service.as_str()), ("Host(`web`)", "web"));
        assert_eq!(urls(&provided, "web"), ["http://10.0.0.1:80"]);
        assert_eq!(provided.problems, []);
    }

    #[test]
    fn servers_have_the_port_scheme_url_and_weight_in_labels() {
        let provided = built(&[
            ("traefik.http.services.a.loadbalancer.server.port", "8080"),
            ("traefik.http.services.a.loadbalancer.server.scheme", "https"),
            ("traefik.http.services.a.loadbalancer.server.weight", "5"),
        ]);
        assert_eq!(urls(&provided, "a"), ["https://10.0.0.1:8080"]);
        let balancer = provided.config.http.services["a"].load_balancer.as_ref().expect("a balancer");
        assert_eq!(balancer.servers[0].weight, Some(5));
        assert_eq!(provided.config.http.routers["web"].service, "a");
        let provided = built(&[("traefik.http.services.a.loadbalancer.server.url", "http://1.2.3.4:5")]);
        assert_eq!(urls(&provided, "a"), ["http://1.2.3.4:5"]);
        let provided = built(&[
            ("traefik.http.services.a.loadbalancer.server.url", "http://1.2.3.4:5"),
            ("traefik.http.services.a.loadbalancer.server.port", "80"),
        ]);
        assert!(!provided.config.http.services.contains_key("a"), "url and port exclude each other");
        assert!(provided.problems[0].to_string().contains("service a"), "{:?}", provided.problems);
        assert!(provided.config.http.routers.contains_key("web"), "the router is kept and answers 503");
    }

    #[test]
    fn an_invalid_label_breaks_only_its_object() {
        let provided = built(&[
            ("traefik.http.routers.r.rule", "Host(`x`)"),
            ("traefik.http.routers.r.priority", "abc"),
            ("traefik.http.routers.ok.rule", "Host(`y`)"),
            ("traefik.http.middlewares.m.nosuch.x", "1"),
        ]);
        assert_eq!(provided.config.http.routers["r"].rule, "Host(`x`)");
        assert_eq!(provided.config.http.routers["ok"].service, "web");
        let shown: Vec<String> = provided.problems.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert!(shown.iter().any(|line| line.contains("label traefik.http.routers.r.priority")), "{shown:?}");
    }

    #[test]
    fn a_misspelt_router_is_reported_with_the_intended_name() {
        for (labels, hint) in [
            (&["shop.rule", "shpo.middlewares"][..], Some("shop")),
            (&["shop.rule", "shop.entrypoints", "shopp.tls"], Some("shop")),
            (&["web1.rule", "web2.tls"], Some("web1")),
            (&["web1.rule", "web1.entrypoints", "web2.entrypoints"], None),
            (&["shop.rule", "admin.middlewares"], None),
            (&["shpo.middlewares"], None),
            (&["shop.rule", "shpo.rule", "shpo.tls"], None),
        ] {
            let pairs: Vec<(String, &str)> = labels
                .iter()
                .map(|label| {
                    let value = if label.ends_with("rule") { "Host(`x`)" } else { "true" };
                    (format!("traefik.http.routers.{label}"), value)
                })
                .collect();
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), *value)).collect();
            let problems = built(&pairs).problems;
            let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let expected = hint.map(|near| format!("did you mean `{near}`?"));
            assert_eq!(found.len(), usize::from(hint.is_some()), "{labels:?}: {found:?}");
            if let Some(expected) = expected {
                assert!(found[0].contains(&expected), "{found:?}");
                assert!(found[0].contains(labels.last().expect("labels")), "its label: {found:?}");
                assert_eq!(problems[0].object, None, "nothing is broken by it");
            }
        }
        let streams = built(&[
            ("traefik.tcp.routers.mail.rule", "HostSNI(`*`)"),
            ("traefik.tcp.routers.mial.tls", "true"),
        ]);
        assert!(streams.problems[0].message.ends_with("did you mean `mail`?"), "{:?}", streams.problems);
    }

    #[test]
    fn the_prefix_tidegate_wins_with_a_warning() {
        let provided = built(&[
            ("traefik.http.routers.r.rule", "Host(`theirs`)"),
            ("tidegate.http.routers.r.rule", "Host(`ours`)"),
        ]);
        assert_eq!(provided.config.http.routers["r"].rule, "Host(`ours`)");
        assert_eq!(provided.problems.len(), 1);
        assert_eq!(provided.problems[0].object, None, "nothing is broken by it");
    }

    #[test]
    fn an_unreadable_label_leaves_no_router_open() {
        let rule = ("traefik.http.routers.x.rule", "Host(`x`)");
        let other = ("traefik.http.routers.y.rule", "Host(`y`)");
        for (lost, broken) in [
            (&[("traefik.http.routers.x..middlewares", "au")][..], &["x"][..]),
            (&[("traefik.http.routers.x.middlewares.", "au")], &["x"]),
            (&[("traefik.http..routers.x.middlewares", "au")], &["x"]),
            (&[("traefik.http.routers.x.middlewares[a]", "au")], &["x"]),
            (
                &[
                    ("traefik.http.routers.x.middlewares", "au"),
                    ("traefik.http.routers.x.Middlewares", "nop"),
                ],
                &["x"],
            ),
            (
                &[
                    ("traefik.http.routers.x.middlewares", "au"),
                    ("tidegate.http.routers.x.middlewares[0]", "nop"),
                ],
                &["x"],
            ),
            (&[("traefik.http..routers", "au")], &["x", "y"]),
            (&[("traefik.http.router.x.middlewares", "au")], &["x", "y"]),
            (&[("traefik.", "au")], &[]),
        ] {
            let pairs: Vec<_> = lost.iter().copied().chain([rule, other]).collect();
            let provided = built(&pairs);
            let routers = ["x", "y"].map(|name| (name, object(Kind::Router, name)));
            let named = routers.iter().filter(|(_, object)| {
                provided.problems.iter().any(|problem| problem.object.as_ref() == Some(object))
            });
            assert_eq!(named.map(|(name, _)| *name).collect::<Vec<_>>(), broken, "{lost:?}");
            assert_eq!(provided.config.http.routers["x"].rule, "Host(`x`)");
        }
        // Nothing else is known of the router: it holds what the default rule takes.
        let provided = built(&[("traefik.http.routers.x..middlewares", "au")]);
        assert_eq!(provided.config.http.routers.keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!(provided.problems[0].object, Some(object(Kind::Router, "x")));
    }

    #[test]
    fn an_invalid_enable_label_does_not_expose_the_workload() {
        for text in ["no", "off", "yes", "", "true ", "2"] {
            let labels = BTreeMap::from([("traefik.enable".to_owned(), text.to_owned())]);
            let carrier = Carrier::Container;
            let workload = Workload { name: "w", title: "w", owner: &"w".into(), labels: &labels, carrier };
            let mut read = Labels::read(&workload);
            assert_eq!(read.take_enable(true), None, "{text}");
            let shown = read.left_out().problems[0].to_string();
            assert!(shown.starts_with("container w, label traefik.enable: "), "{shown}");
        }
    }

    #[test]
    fn tcp_and_udp_labels_create_no_http_router() {
        let provided = built(&[
            ("traefik.udp.routers.u.entrypoints", "dns"),
            ("traefik.udp.services.u.loadbalancer.server.port", "53"),
            ("traefik.tcp.routers.t.rule", "HostSNI(`*`)"),
        ]);
        assert_eq!(provided.config.http, tidegate_config::Http::default());
        let udp = provided.config.udp.services["u"].load_balancer.as_ref().expect("a balancer");
        assert_eq!(udp.servers[0].address, "10.0.0.1:53");
        assert_eq!(provided.config.udp.routers["u"].service, "u");
        assert_eq!(provided.config.tcp.routers["t"].service, "web");
        let tcp = provided.config.tcp.services["web"].load_balancer.as_ref().expect("a balancer");
        assert_eq!(tcp.servers[0].address, "10.0.0.1:80");
    }

    #[test]
    fn routers_must_name_one_of_several_services() {
        let provided = built(&[
            ("traefik.http.routers.r.rule", "Host(`x`)"),
            ("traefik.http.services.a.loadbalancer.server.port", "1"),
            ("traefik.http.services.b.loadbalancer.server.port", "2"),
            ("traefik.http.services.w.weighted.services[0].name", "a"),
            ("traefik.http.services.w.weighted.services[0].weight", "3"),
        ]);
        assert!(provided.problems[0].message.contains("there are several"), "{:?}", provided.problems);
        assert!(provided.config.http.services["w"].weighted.is_some());
        assert_eq!(urls(&provided, "b"), ["http://10.0.0.1:2"]);
    }

    #[test]
    fn every_composite_can_be_set_by_labels() {
        let provided = built(&[
            ("traefik.http.routers.r.rule", "Host(`x`)"),
            ("traefik.http.routers.r.service", "all"),
            ("traefik.http.services.own.loadbalancer.server.port", "81"),
            ("traefik.http.services.files.static.root", "/srv"),
            ("traefik.http.services.all.failover.service", "shared"),
            ("traefik.http.services.all.failover.fallback", "copied"),
            ("traefik.http.services.all.failover.healthcheck", "true"),
            ("traefik.http.services.all.failover.errors.status", "500-599,404"),
            ("traefik.http.services.all.failover.errors.maxrequestbodybytes", "1000"),
            ("traefik.http.services.shared.weighted.services[0].name", "own"),
            ("traefik.http.services.shared.weighted.services[0].weight", "3"),
            ("traefik.http.services.shared.weighted.services[1].name", "old@file"),
            ("traefik.http.services.shared.weighted.sticky.cookie.name", "st"),
            ("traefik.http.services.shared.weighted.healthcheck", "true"),
            ("traefik.http.services.copied.mirroring.service", "hashed"),
            ("traefik.http.services.copied.mirroring.mirrorbody", "false"),
            ("traefik.http.services.copied.mirroring.maxbodysize", "10"),
            ("traefik.http.services.copied.mirroring.mirrors[0].name", "own"),
            ("traefik.http.services.copied.mirroring.mirrors[0].percent", "5"),
            ("traefik.http.services.hashed.highestrandomweight.services[0].name", "own"),
        ]);
        assert_eq!(provided.problems, []);
        let services = &provided.config.http.services;
        assert_eq!(services.len(), 6, "no server is added to a composite");
        assert_eq!(urls(&provided, "own"), ["http://10.0.0.1:81"]);
        let files = &services["files"];
        assert_eq!(files.static_files.as_ref().expect("files").root, "/srv");
        assert!(files.load_balancer.is_none(), "it has no server");
        let failover = services["all"].failover.as_ref().expect("a failover");
        let errors = failover.errors.as_ref().expect("errors");
        assert_eq!(
            (errors.status.as_slice(), errors.max_request_body_bytes),
            (&["500-599".into(), "404".into()][..], 1000)
        );
        assert!(failover.health_check.is_some());
        let weighted = services["shared"].weighted.as_ref().expect("a weighted service");
        let weights: Vec<_> =
            weighted.services.iter().map(|child| (child.name.as_str(), child.weight)).collect();
        assert_eq!(weights, [("own", Some(3)), ("old@file", Some(1))]);
        let cookie = weighted.sticky.as_ref().and_then(|sticky| sticky.cookie.as_ref());
        assert_eq!(cookie.expect("a cookie").name, "st");
        let mirroring = services["copied"].mirroring.as_ref().expect("mirroring");
        assert_eq!(
            (mirroring.mirror_body, mirroring.max_body_size, mirroring.mirrors[0].percent),
            (false, 10, 5)
        );
        assert_eq!(
            services["hashed"].highest_random_weight.as_ref().expect("hashing").services[0].name,
            "own"
        );
    }

    #[test]
    fn constraints_select_workloads() {
        let labels =
            BTreeMap::from([("env".to_owned(), "prod".to_owned()), ("x".to_owned(), "1".to_owned())]);
        for (text, admitted) in [
            ("", true),
            ("Label(`env`,`prod`)", true),
            ("Label(`env`,`dev`)", false),
            ("LabelRegex(`env`,`p.*`) && !Label(`x`,`1`)", false),
            ("Label(`a`,`b`) || (Label(`x`,`1`) && Label(`env`,`prod`))", true),
        ] {
            assert_eq!(Rules::new("x", text).expect(text).admit(&labels), admitted, "{text}");
        }
        let tags = ["blue".to_owned(), "v=2".to_owned()];
        for (text, admitted) in [
            ("", true),
            ("Tag(`blue`)", true),
            ("Tag(`blu`)", false),
            ("TagRegex(`^v=\\d$`) && !Tag(`green`)", true),
            ("Tag(`green`) || TagRegex(`u$`)", false),
        ] {
            assert_eq!(Rules::for_tags("x", text).expect(text).admit_tags(&tags), admitted, "{text}");
        }
        assert!(
            Rules::for_tags("x", "Label(`a`,`b`)").is_err() && Rules::for_tags("x", "Tag(`a`,`b`)").is_err()
        );
        for text in ["Label(`a`)", "Tag(`a`)", "Label(`a`,`b`", "LabelRegex(`a`,`(`)"] {
            assert!(Rules::new("x", text).is_err(), "{text}");
        }
        let unknown = Rules::new("Host(`{{ nosuch .Name }}`)", "").err().map(|error| error.to_string());
        assert!(
            unknown.is_some_and(|text| text.contains("`defaultRule`") && text.contains("nosuch: no such"))
        );
    }

    #[test]
    fn merging_joins_servers_and_reports_conflicts() {
        let at = |ip: &'static str, pairs: &[(&str, &str)]| {
            struct At(&'static str);
            impl Locate for At {
                fn locate(&self, _: Option<&str>) -> Result<Option<(String, String)>, LocateError> {
                    Ok(Some((self.0.into(), "80".into())))
                }
            }
            let labels: BTreeMap<String, String> =
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let owner: Arc<str> = ip.into();
            let workload = Workload {
                name: "s",
                title: "s",
                owner: &owner,
                labels: &labels,
                carrier: Carrier::Container,
            };
            let rules = Rules::new("Host(`{{ .Name }}`)", "").expect("valid");
            (owner.clone(), build(&workload, Labels::read(&workload), &rules, &At(ip)))
        };
        let merge = |parts: &[(Arc<str>, Provided)]| {
            merge(parts.iter().map(|(_, part)| Said { part, serves: true }), &Provided::default())
        };
        let merged = merge(&[at("10.0.0.1", &[]), at("10.0.0.2", &[]), at("10.0.0.2", &[])]);
        assert_eq!(urls(&merged, "s"), ["http://10.0.0.1:80", "http://10.0.0.2:80"]);
        assert_eq!(merged.problems, []);
        let rule = |text: &'static str| [("traefik.http.routers.r.rule", text)];
        let merged = merge(&[at("10.0.0.1", &rule("Host(`a`)")), at("10.0.0.2", &rule("Host(`b`)"))]);
        assert_eq!(merged.config.http.routers.len(), 2);
        let mut shown = merged.problems.iter().map(ToString::to_string);
        assert!(
            shown.any(|one| one.contains("10.0.0.1") && one.contains("10.0.0.2")),
            "{:?}",
            merged.problems
        );
    }
}
