//! Which certificates the current configuration asks a resolver for.

use tidegate_acme::{Wanted, canonical};
use tidegate_config::Config;
use tidegate_config::router::Router;
use tidegate_config::tls::Domain;
use tidegate_core::expression::{self, Argument, Expression};

use crate::router::Rule;

/// Returns what a configuration asks a resolver for: names in their canonical form, each set once, the largest first.
pub(super) fn wanted(config: &Config, resolver: &str) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut add = |wanted: Wanted| {
        let mut names: Vec<String> = Vec::with_capacity(wanted.names.len());
        for name in wanted.names.iter().map(|name| canonical(name)) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() && !all.iter().any(|one| one.names == names && one.default == wanted.default) {
            all.push(Wanted { names, ..wanted });
        }
    };
    let by = |names: Vec<String>, name: &str| Wanted {
        names,
        by: name.to_owned(),
        default: false,
        reported: false,
    };
    for (name, router) in &config.http.routers {
        if router.tls.as_ref().is_some_and(|tls| tls.cert_resolver == resolver) {
            // The report of the snapshot names the router's wrong names, with their place.
            of_router(router).into_iter().for_each(|names| add(Wanted { reported: true, ..by(names, name) }));
        }
    }
    for (name, router) in &config.tcp.routers {
        let Some(tls) = router.tls.as_ref().filter(|tls| tls.cert_resolver == resolver) else { continue };
        if tls.domains.is_empty() {
            add(by(server_names(&router.rule), name));
        }
        tls.domains.iter().for_each(|domain| add(by(names_of(domain), name)));
    }
    for (name, store) in &config.tls.stores {
        if let Some(generated) = store.default_generated_cert.as_ref().filter(|one| one.resolver == resolver)
            && let Some(domain) = &generated.domain
        {
            add(Wanted { default: true, ..by(names_of(domain), name) });
        }
    }
    all.sort_by_key(|wanted| std::cmp::Reverse(wanted.names.len()));
    all
}

/// Returns the names of each certificate that an HTTP router asks for.
pub(super) fn of_router(router: &Router) -> Vec<Vec<String>> {
    let domains = router.tls.as_ref().map(|tls| &tls.domains[..]).unwrap_or_default();
    if !domains.is_empty() {
        return domains.iter().map(names_of).collect();
    }
    let mut hosts = Rule::parse(&router.rule).map(|rule| rule.hosts()).unwrap_or_default();
    hosts.retain(|host| host != "*");
    vec![hosts]
}

/// Returns the main name and the others.
fn names_of(domain: &Domain) -> Vec<String> {
    std::iter::once(&domain.main).chain(&domain.sans).filter(|name| !name.is_empty()).cloned().collect()
}

/// Returns the values of the `HostSNI` matchers of a TCP rule that are not negated.
fn server_names(rule: &str) -> Vec<String> {
    fn collect(expression: &Expression, negated: bool, names: &mut Vec<String>) {
        match expression {
            Expression::And(left, right) | Expression::Or(left, right) => {
                collect(left, negated, names);
                collect(right, negated, names);
            }
            Expression::Not(inner) => collect(inner, !negated, names),
            Expression::Call(call) if !negated && call.name.eq_ignore_ascii_case("HostSNI") => {
                names.extend(call.arguments.iter().filter_map(|argument| match argument {
                    Argument::Text(name) if name != "*" => Some(name.clone()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    let mut names = Vec::new();
    if let Ok(expression) = expression::parse(rule) {
        collect(&expression, false, &mut names);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(json: &str) -> Vec<Vec<String>> {
        let config: Config = serde_json::from_str(json).unwrap();
        wanted(&config, "le").into_iter().map(|wanted| wanted.names).collect()
    }

    #[test]
    fn only_names_of_http_routers_are_in_the_report() {
        let config: Config = serde_json::from_str(
            r#"{"http":{"routers":{"r":{"rule":"Host(`a.test`)","tls":{"certResolver":"le"}}}},
            "tcp":{"routers":{"r":{"rule":"HostSNI(`b.test`)","tls":{"certResolver":"le"}}}}}"#,
        )
        .unwrap();
        let found = wanted(&config, "le").into_iter().map(|one| (one.names.concat(), one.reported));
        assert_eq!(found.collect::<Vec<_>>(), [("a.test".to_owned(), true), ("b.test".to_owned(), false)]);
    }

    #[test]
    fn names_come_from_domains_or_else_from_the_rule() {
        let found = sets(
            r#"{"http":{"routers":{
            "a@f":{"rule":"Host(`A.test`) && (Path(`/x`) || Host(`b.test.`)) && !Host(`no.test`)","tls":{"certResolver":"le"}},
            "b@f":{"rule":"Host(`x.test`)","tls":{"certResolver":"le","domains":[{"main":"m.test","sans":["*.m.test","n.test"]},{"main":"z.test"}]}},
            "c@f":{"rule":"Host(`other.test`)","tls":{"certResolver":"else"}},
            "d@f":{"rule":"HostRegexp(`.*`) || Host(`*`)","tls":{"certResolver":"le"}},
            "e@f":{"rule":"Host(`z.test`)","tls":{"certResolver":"le"}},
            "f@f":{"rule":"Host(`plain.test`)"},
            "g@f":{"rule":"Host(`","tls":{"certResolver":"le"}}}},
            "tcp":{"routers":{"t@f":{"rule":"HostSNI(`tcp.test`) || !HostSNI(`not.test`) || HostSNI(`*`)","tls":{"certResolver":"le"}}}},
            "tls":{"stores":{"default":{"defaultGeneratedCert":{"resolver":"le","domain":{"main":"d.test"}}}}}}"#,
        );
        let expected: Vec<Vec<&str>> = vec![
            vec!["m.test", "*.m.test", "n.test"],
            vec!["a.test", "b.test"],
            vec!["z.test"],
            vec!["tcp.test"],
            vec!["d.test"],
        ];
        assert_eq!(found, expected);
    }
}
