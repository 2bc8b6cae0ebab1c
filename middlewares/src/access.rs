//! Decides by identity who may pass: by consumer, group, label, plan, scope, subject or method.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::{Deserialize, Serialize};
use tidegate_core::expression::{Argument, Call, nearest};
use tidegate_core::{
    AuthMethod, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Identity, Middleware, Next,
    Prediction, Reason, Request, Response, reply,
};

use crate::condition::{self, Condition, ReturnType};

/// Not in Traefik. Clients without identity get 401, those who are not permitted 403.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Access {
    /// Who may pass: ``Group(`ops`) || Label(`team`, `core`)``. If empty, everyone with an identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub allow: String,
    /// Who may not, although `allow` permits it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deny: String,
}

impl Build for Access {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return Err(BuildError::new("access: expected `allow`, `deny` or both"));
        }
        let condition = |option: &str, text: &String| {
            let text = Some(text).filter(|text| !text.is_empty());
            let condition = text.map(|text| Permission::parse(text, context.provider())).transpose();
            condition.map_err(|error| error.map(|message| format!("{option}: {message}")))
        };
        let (allow, deny) =
            BuildErrors::both(condition("allow", &self.allow), condition("deny", &self.deny))?;
        Ok(Arc::new(Decider { allow, deny }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<tidegate_core::Access> {
        Some(tidegate_core::Access::by_head())
    }
}

/// Builds the decision of a router's option `access`.
///
/// # Errors
///
/// What is wrong with the expression.
pub fn of_router(allow: &str, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    if allow.is_empty() {
        return Err(BuildError::new("access: is empty: expected an expression such as Group(`ops`)"));
    }
    let allow = Permission::parse(allow, context.provider());
    let allow = allow.map_err(|error| error.map(|message| format!("access: {message}")))?;
    Ok(Arc::new(Decider { allow: Some(allow), deny: None }))
}

/// A condition on identities.
#[derive(Debug)]
struct Permission {
    condition: Condition<Test>,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Consumer(String),
    Group(String),
    Label(String, String),
    Method(AuthMethod),
    Plan(String),
    Scope(String),
    Subject(String),
}

/// Names of the functions. `User` is that of `when`, and means `Subject`.
const FUNCTIONS: &[&str] = &["AuthMethod", "Consumer", "Group", "Label", "Plan", "Scope", "Subject", "User"];

impl Permission {
    fn parse(text: &str, provider: &str) -> Result<Self, BuildError> {
        let test = |call: &Call| Test::from_call(call, provider).map(|test| (test, ReturnType::Bool));
        Ok(Self { condition: Condition::parse(text, &test)?, text: text.to_owned() })
    }

    fn holds(&self, identity: &Identity) -> bool {
        self.condition.holds(&|test| f64::from(u8::from(test.holds(identity))))
    }
}

impl Test {
    fn from_call(call: &Call, provider: &str) -> Result<Self, BuildError> {
        if !FUNCTIONS.contains(&call.name.as_str()) {
            return Err(condition::unknown(call, FUNCTIONS));
        }
        let texts: Option<Vec<&str>> = call
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Text(text) if !text.is_empty() => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let owned = str::to_owned;
        Ok(match (call.name.as_str(), texts.as_deref()) {
            ("Label", Some(&[name, value])) => Self::Label(owned(name), owned(value)),
            ("Label", _) => return Err(BuildError::new("Label takes a name and a value")),
            (function, Some(&[text])) => match function {
                "AuthMethod" => Self::Method(method(text)?),
                "Consumer" => Self::Consumer(qualified(text, provider)),
                "Group" => Self::Group(owned(text)),
                "Plan" => Self::Plan(qualified(text, provider)),
                "Scope" => Self::Scope(owned(text)),
                _ => Self::Subject(owned(text)),
            },
            (function, _) => return Err(BuildError::new(format!("{function} takes one text"))),
        })
    }

    fn holds(&self, identity: &Identity) -> bool {
        match self {
            Self::Consumer(name) => {
                identity.consumer.as_ref().is_some_and(|consumer| *consumer.name == **name)
            }
            Self::Group(name) => identity.is_in_group(name),
            Self::Label(name, value) => identity.label(name) == Some(value),
            Self::Method(method) => identity.method == *method,
            Self::Plan(name) => identity.plan() == name,
            Self::Scope(name) => identity.has_scope(name),
            Self::Subject(name) => identity.subject == *name,
        }
    }
}

/// As elsewhere, a plain name refers to an object of the same provider.
fn qualified(name: &str, provider: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@{provider}") }
}

fn method(text: &str) -> Result<AuthMethod, BuildError> {
    let found = AuthMethod::ALL.iter().find(|method| method.name() == text);
    found.copied().ok_or_else(|| {
        let names = AuthMethod::ALL.iter().map(|method| method.name());
        let hint = match nearest(text, names.clone()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("expected one of {}", names.collect::<Vec<_>>().join(", ")),
        };
        BuildError::new(format!("AuthMethod: unknown method `{text}`: {hint}"))
    })
}

/// Lets clients pass by their identity.
struct Decider {
    allow: Option<Permission>,
    deny: Option<Permission>,
}

/// Why a request does not pass.
enum Refusal<'a> {
    /// No one has said who the client is.
    Anonymous,
    /// `allow` does not hold.
    NotAllowed(&'a Permission),
    /// `deny` holds.
    Denied(&'a Permission),
}

impl Refusal<'_> {
    fn response(&self) -> Response {
        match self {
            Self::Anonymous => {
                let mut response = reply::status_text(StatusCode::UNAUTHORIZED, Reason::Unauthenticated);
                // Whoever could have said it has its own challenge. Browsers ignore this one.
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            Self::NotAllowed(_) | Self::Denied(_) => {
                reply::status_text(StatusCode::FORBIDDEN, Reason::Forbidden)
            }
        }
    }

    /// Does not name the client, whose name is a part of its credentials.
    fn description(&self) -> String {
        match self {
            Self::Anonymous => "the client has no identity".to_owned(),
            Self::NotAllowed(allow) => {
                format!("the client is not permitted: {} does not hold", allow.text)
            }
            Self::Denied(deny) => format!("the client is not permitted: {} holds", deny.text),
        }
    }
}

impl Decider {
    fn decide(&self, identity: Option<&Identity>) -> Result<(), Refusal<'_>> {
        let identity = identity.ok_or(Refusal::Anonymous)?;
        match (&self.deny, &self.allow) {
            (Some(deny), _) if deny.holds(identity) => Err(Refusal::Denied(deny)),
            (_, Some(allow)) if !allow.holds(identity) => Err(Refusal::NotAllowed(allow)),
            _ => Ok(()),
        }
    }
}

impl Middleware for Decider {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        match self.decide(request.context.identity.as_deref()) {
            Ok(()) => next.run(request),
            Err(refusal) => crate::ready(refusal.response()),
        }
    }

    fn predict(&self, request: Request) -> Prediction {
        let identity = request.context.identity.clone();
        let prediction = match self.decide(identity.as_deref()) {
            Ok(()) => Prediction::passes(request).note("the client is permitted"),
            Err(refusal) => Prediction::responds(refusal.response()).note(refusal.description()),
        };
        identity.iter().fold(prediction, |prediction, identity| prediction.note(who(identity)))
    }
}

/// Describes a client, for explanations. Its name is left out, as it is part of credentials.
fn who(identity: &Identity) -> String {
    let mut text = format!("the client was authenticated by {}", identity.method);
    let of_consumer = identity.consumer.as_ref();
    if let Some(consumer) = of_consumer {
        text += &format!(", consumer {}", consumer.name);
    }
    let groups = of_consumer.iter().flat_map(|consumer| &consumer.groups).chain(&identity.groups);
    let groups: Vec<&str> = groups.map(String::as_str).collect();
    if !groups.is_empty() {
        text += &format!(", groups {}", groups.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_core::{Body, Consumer};

    use super::*;
    use crate::testing::{self, World, get};

    fn built(allow: &str, deny: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        let options = Access { allow: allow.into(), deny: deny.into() };
        options.build(&BuildContext::new("m@file", &World::default()))
    }

    fn ann() -> Identity {
        let labels = BTreeMap::from([("team".to_owned(), "core".to_owned())]);
        let consumer = Consumer {
            name: "acme@file".into(),
            groups: vec!["partners".into()],
            labels,
            plan: "gold@file".into(),
            ..Consumer::default()
        };
        Identity {
            groups: vec!["ops".into()],
            scopes: vec!["read".into()],
            ..Identity::new("ann", AuthMethod::Jwt, "jwt@file".into()).of_consumer(Some(Arc::new(consumer)))
        }
    }

    fn status(middleware: &Arc<dyn Middleware>, identity: Option<Identity>) -> u16 {
        let ask = || {
            let mut request = get("http://a.test/");
            identity.clone().into_iter().for_each(|identity| request.context.identify(identity));
            request
        };
        let service = testing::Service(|_| Response::new(Body::empty()));
        let response = testing::block_on(testing::run(middleware, ask(), &service));
        let predicted = match middleware.predict(ask()).verdict {
            tidegate_core::Verdict::Responds(response) => response.status(),
            _ => StatusCode::OK,
        };
        assert_eq!(predicted, response.status(), "the prediction");
        response.status().as_u16()
    }

    #[test]
    fn each_function_looks_at_its_part_of_the_identity() {
        for (allow, expected) in [
            ("Group(`ops`) || Label(`team`, `other`)", 200),
            ("Group(`partners`)", 200),
            ("Group(`op`)", 403),
            ("Label(`team`, `core`) && !Group(`guests`)", 200),
            ("Label(`team`, `cor`)", 403),
            ("Consumer(`acme`)", 200),
            ("Consumer(`acme@file`)", 200),
            ("Consumer(`acme@docker`)", 403),
            ("Subject(`ann`) && User(`ann`)", 200),
            ("Subject(`acme`)", 403),
            ("AuthMethod(`jwt`)", 200),
            ("AuthMethod(`apiKey`)", 403),
            ("Plan(`gold`)", 200),
            ("Plan(`free`)", 403),
            ("Plan(`gold@file`)", 200),
            ("Plan(`gold@docker`)", 403),
            ("Scope(`read`)", 200),
            ("Scope(`write`)", 403),
        ] {
            let middleware = built(allow, "").expect(allow);
            assert_eq!(status(&middleware, Some(ann())), expected, "{allow}");
            assert_eq!(status(&middleware, None), 401, "{allow}");
        }
    }

    #[test]
    fn who_is_denied_does_not_pass() {
        let both = built("Group(`ops`)", "Subject(`ann`)").unwrap();
        assert_eq!(status(&both, Some(ann())), 403);
        assert_eq!(status(&both, Some(Identity { subject: "bob".into(), ..ann() })), 200);
        let only = built("", "Group(`guests`)").unwrap();
        assert_eq!((status(&only, Some(ann())), status(&only, None)), (200, 401));
    }

    #[test]
    fn a_refusal_says_why() {
        let middleware = built("Group(`guests`)", "").unwrap();
        let note = |identity: Option<Identity>| {
            let mut request = get("http://a.test/");
            identity.into_iter().for_each(|identity| request.context.identify(identity));
            middleware.predict(request).notes.join("; ")
        };
        let expected = "the client is not permitted: Group(`guests`) does not hold";
        assert_eq!(
            note(Some(ann())),
            format!(
                "{expected}; the client was authenticated by jwt, consumer acme@file, groups partners, ops"
            )
        );
        assert_eq!(note(None), "the client has no identity");
    }

    #[test]
    fn mistakes_are_named() {
        for (allow, deny, expected) in [
            ("", "", "access: expected `allow`, `deny` or both"),
            ("Grup(`ops`)", "", "allow: unknown function `Grup`: did you mean `Group`?"),
            ("Group(`a`, `b`)", "", "allow: Group takes one text"),
            ("Group(``)", "", "allow: Group takes one text"),
            ("", "Label(`a`)", "deny: Label takes a name and a value"),
            ("AuthMethod(`jtw`)", "", "allow: AuthMethod: unknown method `jtw`: did you mean `jwt`?"),
            (
                "Group(`a`",
                "",
                "allow: invalid expression `Group(`a`` at column 1: the call of Group is never closed",
            ),
            ("Group(`a`) > 1", "", "allow: Group is true or false and cannot be compared"),
        ] {
            let error = built(allow, deny).err().expect(allow).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let empty = of_router("", &BuildContext::new("r@file", &World::default()));
        assert!(empty.err().unwrap().to_string().starts_with("access: is empty"));
    }
}
