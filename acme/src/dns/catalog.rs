//! The providers that are our own, and the table of all providers in `docs/dns-providers.md`.

use tidegate_core::expression::nearest;

use super::Create;
use super::acme_dns::AcmeDns;
use super::cloudflare::Cloudflare;
use super::exec::Exec;
use super::httpreq::HttpReq;
use super::library::{Entry, Tested, Variable, entries};
use super::manual::Manual;
use super::rfc2136::Rfc2136;
use super::route53::Route53;
use crate::error::Error;

/// A provider that the library does not implement, or with less than we need.
pub(super) struct Own {
    /// Lego's names; the first is the one that we have had from the start.
    pub(super) names: &'static [&'static str],
    title: &'static str,
    /// Its variables, in words.
    variables: &'static str,
    /// Prefix of the variables with times, and their defaults: TTL, propagation, polling, requests.
    times: (&'static str, [u64; 4]),
    tested: &'static str,
    pub(super) create: Create,
}

pub(super) const OWN: &[Own] = &[
    Own {
        names: &["acme-dns", "acmedns"],
        title: "acme-dns",
        variables: "`ACME_DNS_API_BASE`, `ACME_DNS_STORAGE_PATH`; optional: `ACME_DNS_ALLOWLIST`",
        times: ("ACME_DNS", [0, 60, 2, 0]),
        tested: "Pebble and a stand-in of its API",
        create: |variables| Ok(Box::new(AcmeDns::new(variables)?)),
    },
    Own {
        names: &["cloudflare"],
        title: "Cloudflare",
        variables: "`CF_DNS_API_TOKEN`, or `CF_API_EMAIL` and `CF_API_KEY`; optional: `CF_ZONE_API_TOKEN`, \
                    `CF_BASE_URL`. Each may also start with `CLOUDFLARE_` (`CLOUDFLARE_EMAIL`)",
        times: ("CLOUDFLARE", [120, 120, 2, 30]),
        tested: "Pebble and a stand-in of its API",
        create: |variables| Ok(Box::new(Cloudflare::new(variables)?)),
    },
    Own {
        names: &["exec"],
        title: "A program",
        variables: "`EXEC_PATH`; optional: `EXEC_MODE` (`RAW`)",
        times: ("EXEC", [0, 60, 2, 0]),
        tested: "Pebble and a script",
        create: |variables| Ok(Box::new(Exec::new(variables)?)),
    },
    Own {
        names: &["httpreq"],
        title: "A service of your own",
        variables: "`HTTPREQ_ENDPOINT`; optional: `HTTPREQ_MODE` (`RAW`), `HTTPREQ_USERNAME`, `HTTPREQ_PASSWORD`",
        times: ("HTTPREQ", [0, 60, 2, 30]),
        tested: "Pebble and a service",
        create: |variables| Ok(Box::new(HttpReq::new(variables)?)),
    },
    Own {
        names: &["manual"],
        title: "You, by hand",
        variables: "none",
        times: ("MANUAL", [0, 3600, 10, 0]),
        tested: "–",
        create: |variables| Ok(Box::new(Manual::new(variables)?)),
    },
    Own {
        names: &["rfc2136"],
        title: "RFC 2136",
        variables: "`RFC2136_NAMESERVER`; optional: `RFC2136_TSIG_KEY`, `RFC2136_TSIG_SECRET`, \
                    `RFC2136_TSIG_ALGORITHM` (`hmac-sha1`), `RFC2136_TSIG_FILE`",
        times: ("RFC2136", [120, 60, 2, 0]),
        tested: "Pebble and BIND",
        create: |variables| Ok(Box::new(Rfc2136::new(variables)?)),
    },
    Own {
        names: &["route53"],
        title: "Amazon Route 53",
        variables: "`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`; optional: `AWS_SESSION_TOKEN`. Or `AWS_PROFILE` and \
                    `AWS_SHARED_CREDENTIALS_FILE`. Or a role: see below. Optional: `AWS_HOSTED_ZONE_ID`, \
                    `AWS_PRIVATE_ZONE`, `AWS_REGION`, `AWS_WAIT_FOR_RECORD_SETS_CHANGED`",
        times: ("AWS", [10, 120, 4, 0]),
        tested: "Pebble and a stand-in of its API",
        create: |variables| Ok(Box::new(Route53::new(variables)?)),
    },
];

/// Returns the error for a name that no provider has.
pub(super) fn unknown(name: &str) -> Error {
    let names = OWN.iter().flat_map(|own| own.names).chain(entries().flat_map(|entry| entry.names));
    let hint = match nearest(name, names.copied()) {
        Some(near) => format!("did you mean `{near}`? "),
        None => String::new(),
    };
    Error::local(format!(
        "unknown provider `{name}`: {hint}expected one of those in docs/dns-providers.md; `exec` and `httpreq` reach every other"
    ))
}

/// What the table says of a provider that is tested with a stand-in of its API.
const STAND_IN: &str = "Pebble and a stand-in of its API";

/// Returns the table of all providers in `docs/dns-providers.md`.
pub fn table() -> String {
    let mut rows: Vec<(&str, String)> = OWN.iter().map(|own| (own.names[0], own.row())).collect();
    rows.extend(entries().map(|entry| (entry.names[0], row(entry))));
    rows.sort();
    let mut table = String::from(
        "| provider | service | variables | refused | defaults | tested with |\n|---|---|---|---|---|---|\n",
    );
    table.extend(rows.into_iter().map(|(_, row)| row));
    table
}

impl Own {
    fn row(&self) -> String {
        let (prefix, [ttl, propagation, polling, http]) = self.times;
        let times =
            defaults(&[prefix], &[seconds(ttl), seconds(propagation), seconds(polling), seconds(http)]);
        let (names, title, tested) = (quoted(self.names, ", "), self.title, self.tested);
        format!("| {names} | {title} | {} | – | {times} | {tested} |\n", self.variables)
    }
}

fn row(entry: &Entry) -> String {
    let (mut required, mut optional, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for variable in entry.variables {
        match variable {
            Variable::Required(names) => required.push(quoted(names, " or ")),
            Variable::Optional(names) => optional.push(quoted(names, " or ")),
            Variable::Instead(name) | Variable::Fixed(name, []) => refused.push(format!("`{name}`")),
            Variable::Fixed(name, values) => refused.push(format!("`{name}` other than `{}`", values[0])),
        }
    }
    let optional = match optional.is_empty() {
        true => String::new(),
        false => format!("optional: {}", optional.join(", ")),
    };
    let variables =
        [required.join(", "), optional].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>();
    let refused = if refused.is_empty() { "–".to_owned() } else { refused.join(", ") };
    let times = entry.times;
    let ttl = match times.min_ttl {
        0 => seconds(times.ttl.into()),
        minimum => format!("{} (at least {minimum})", times.ttl),
    };
    let times = [ttl, seconds(times.propagation), seconds(times.interval), seconds(times.http)];
    format!(
        "| {} | {} | {} | {refused} | {} | {} |\n",
        quoted(entry.names, ", "),
        entry.title,
        variables.join("; "),
        defaults(entry.prefixes, &times),
        match entry.tested {
            Tested::Created => "its variables",
            Tested::StandIn => STAND_IN,
        }
    )
}

fn quoted(names: &[&str], between: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(between)
}

fn defaults(prefixes: &[&str], times: &[String]) -> String {
    let prefixes: Vec<String> = prefixes.iter().map(|prefix| format!("`{prefix}_…`")).collect();
    format!("{}: {}", prefixes.join(" or "), times.join(", "))
}

fn seconds(time: u64) -> String {
    if time == 0 { "–".to_owned() } else { time.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is around the table in the page.
    const MARKS: (&str, &str) = ("<!-- generated: begin -->\n", "<!-- generated: end -->");

    /// Set, it makes the test write the table.
    const WRITE: &str = "TIDEGATE_WRITE_DOCS";

    #[test]
    fn the_page_has_the_table_of_the_code() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/dns-providers.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(MARKS.0).unwrap();
        let (shown, after) = rest.split_once(MARKS.1).unwrap();
        let table = format!("\n{}\n", table());
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, [before, MARKS.0, &table, MARKS.1, after].concat()).unwrap();
            return;
        }
        assert!(shown == table, "{} is out of date: run this test with {WRITE}=1", path.display());
        assert!(
            after.contains(&format!("{} providers", OWN.len() + entries().count())),
            "the page counts them"
        );
    }

    #[test]
    fn a_misspelt_provider_gets_a_suggestion() {
        for (name, near) in
            [("cloudfare", "cloudflare"), ("digitalocaen", "digitalocean"), ("acmedn", "acmedns")]
        {
            let message = unknown(name).message;
            assert!(message.contains(&format!("`{name}`: did you mean `{near}`? ")), "{message}");
        }
        assert!(!unknown("something-else").message.contains("did you mean"));
    }
}
