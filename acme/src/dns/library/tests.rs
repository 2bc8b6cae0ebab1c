//! What each provider needs, by its variables, and what becomes of mistakes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;

/// A plausible value of a variable.
fn sample(name: &str, folder: &std::path::Path) -> String {
    // Making it takes a second.
    static KEY: LazyLock<String> = LazyLock::new(|| {
        let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
        let body = BASE64_STANDARD.encode(der.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    });
    match name {
        "AUTODNS_CONTEXT" => "4".into(),
        "AZURE_ENVIRONMENT" => "china".into(),
        "GCE_SERVICE_ACCOUNT" => {
            r#"{"client_email": "a", "private_key": "s3cret", "token_uri": "https://t.test", "project_id": "p"}"#
                .into()
        }
        "HURRICANE_TOKENS" => "example.com:s3cret, example.org : other".into(),
        "OCI_PRIVKEY" => BASE64_STANDARD.encode(KEY.as_str()),
        "OVH_ENDPOINT" => "ovh-ca".into(),
        "OCI_PRIVATE_KEY_PATH" | "TRANSIP_PRIVATE_KEY_PATH" => {
            let path = folder.join("key.pem");
            std::fs::write(&path, KEY.as_str()).unwrap();
            path.display().to_string()
        }
        _ if name.contains("REGION") => "eu-west-1".into(),
        _ if name.contains("URL") || name == "AKAMAI_HOST" => "https://api.test".into(),
        _ => format!("s3cret-{}", name.to_lowercase()),
    }
}

fn names(entry: &Entry, wanted: impl Fn(&Variable) -> bool) -> Vec<&'static str> {
    let variables = entry.variables.iter().filter(|variable| wanted(variable));
    variables
        .map(|variable| match variable {
            Variable::Required(names) | Variable::Optional(names) => names[0],
            Variable::Instead(name) | Variable::Fixed(name, _) => name,
        })
        .collect()
}

fn required(entry: &Entry) -> Vec<&'static str> {
    names(entry, |variable| matches!(variable, Variable::Required(_)))
}

/// Creates a provider from variables. Those that are not given are empty, whatever the environment of the test has.
fn created(entry: &'static Entry, given: &BTreeMap<String, String>) -> Result<Library, Error> {
    let mut all = given.clone();
    for variable in entry.variables {
        let names = match variable {
            Variable::Required(names) | Variable::Optional(names) => names,
            Variable::Instead(name) | Variable::Fixed(name, _) => &[*name][..],
        };
        for name in names {
            all.entry((*name).to_owned()).or_default();
        }
    }
    Library::new(entry, &Variables::new(&all))
}

fn error(entry: &'static Entry, given: &BTreeMap<String, String>) -> String {
    created(entry, given).err().map(|error| error.message).unwrap_or_else(|| panic!("{}", entry.names[0]))
}

#[test]
fn every_provider_is_created_from_its_variables_and_names_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let given = |names: &[&str]| -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), sample(name, folder.path()))).collect()
    };
    assert_eq!(entries().count(), 70);
    for entry in entries() {
        let (required, optional) =
            (required(entry), names(entry, |variable| matches!(variable, Variable::Optional(_))));
        let all = given(&[&required[..], &optional].concat());
        let created = created(entry, &all).unwrap_or_else(|error| panic!("{}: {error}", entry.names[0]));
        assert_eq!(created.patience.timeout.as_secs(), entry.times.propagation, "{}", entry.names[0]);
        for missing in &required {
            let mut all = all.clone();
            all.remove(*missing);
            let message = error(entry, &all);
            let expected = format!("some credentials information are missing: {missing}");
            assert!(message.starts_with(&expected), "{}: {message}", entry.names[0]);
        }
        let message = error(entry, &BTreeMap::new());
        assert!(required.iter().all(|name| message.contains(name)), "{message}");
        // What is optional is, where something is required.
        if !["cloudns", "joker", "oraclecloud"].contains(&entry.names[0]) {
            self::created(entry, &given(&required))
                .unwrap_or_else(|error| panic!("{}: {error}", entry.names[0]));
        }
    }
}

#[test]
fn any_name_of_a_variable_serves() {
    let folder = tempfile::tempdir().unwrap();
    let mut alternatives = 0;
    for entry in entries() {
        let all: BTreeMap<String, String> = required(entry)
            .into_iter()
            .chain(names(entry, |variable| matches!(variable, Variable::Optional(_))))
            .map(|name| (name.to_owned(), sample(name, folder.path())))
            .collect();
        for variable in entry.variables {
            let Variable::Required(names) = variable else { continue };
            for other in &names[1..] {
                let mut all = all.clone();
                let value = all.remove(names[0]).unwrap();
                all.insert((*other).to_owned(), value);
                created(entry, &all).unwrap_or_else(|error| panic!("{other}: {error}"));
                alternatives += 1;
            }
        }
    }
    assert!(alternatives >= 6, "{alternatives}");
}

#[test]
fn what_the_library_lacks_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (mut instead, mut fixed) = (0, 0);
    for entry in entries() {
        let required = required(entry);
        let all: BTreeMap<String, String> =
            required.iter().map(|name| ((*name).to_owned(), sample(name, folder.path()))).collect();
        for variable in entry.variables {
            match variable {
                Variable::Instead(name) => {
                    let only = BTreeMap::from([((*name).to_owned(), "x".to_owned())]);
                    let message = error(entry, &only);
                    let expected = format!("{name}: not supported for {}: ", entry.names[0]);
                    assert!(message.starts_with(&expected), "{message}");
                    assert!(required.iter().all(|name| message.contains(name)), "{message}");
                    // It does no harm beside what is supported.
                    let both: BTreeMap<_, _> = all.clone().into_iter().chain(only).collect();
                    created(entry, &both).unwrap();
                    instead += 1;
                }
                Variable::Fixed(name, allowed) => {
                    let with = |value: &str| {
                        let one = ((*name).to_owned(), value.to_owned());
                        all.clone().into_iter().chain([one]).collect::<BTreeMap<_, _>>()
                    };
                    let message = error(entry, &with("something"));
                    assert!(message.contains(name) && message.contains("not supported"), "{message}");
                    if let Some(default) = allowed.first() {
                        assert!(message.contains(&format!("expected `{default}`")), "{message}");
                        let read = Given::read(entry, &Variables::new(&with(&format!("{default}/"))));
                        read.unwrap_or_else(|error| panic!("{name}: {error}"));
                    }
                    fixed += 1;
                }
                _ => {}
            }
        }
    }
    assert!(instead >= 15 && fixed >= 25, "{instead} {fixed}");
}

#[test]
fn names_and_prefixes_are_unique_and_well_formed() {
    let mut seen = std::collections::HashSet::new();
    for entry in entries() {
        for name in entry.names {
            assert!(seen.insert(*name) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            assert_eq!(find(name).unwrap().names, entry.names);
        }
    }
    for alias in ["linodev4", "fastdns", "domainnameshop", "azure"] {
        assert!(find(alias).is_some(), "{alias}");
    }
    for own in super::super::catalog::OWN {
        assert!(own.names.iter().all(|name| seen.insert(name)), "{:?}", own.names);
    }
}

#[test]
fn times_are_lego_s_and_can_be_set() {
    let entry = find("godaddy").unwrap();
    let with = |more: &[(&str, &str)]| {
        let pairs = [("GODADDY_API_KEY", "key1"), ("GODADDY_API_SECRET", "secret1")];
        let all = pairs.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        created(entry, &all.collect())
    };
    let library = with(&[]).unwrap();
    assert_eq!(
        (library.ttl, library.patience.timeout.as_secs(), library.patience.interval.as_secs()),
        (600, 120, 2)
    );
    let library = with(&[
        ("GODADDY_TTL", "700"),
        ("GODADDY_PROPAGATION_TIMEOUT", "5"),
        ("GODADDY_POLLING_INTERVAL", "1"),
        ("GODADDY_HTTP_TIMEOUT", "7"),
    ])
    .unwrap();
    assert_eq!(
        (library.ttl, library.patience.timeout.as_secs(), library.patience.interval.as_secs()),
        (700, 5, 1)
    );
    assert_eq!(library.given.timeout(), Some(Duration::from_secs(7)));
    let message = with(&[("GODADDY_TTL", "60")]).err().unwrap().message;
    assert_eq!(message, "GODADDY_TTL: 60 is too short: expected at least 600");
    let message = with(&[("GODADDY_HTTP_TIMEOUT", "soon")]).err().unwrap().message;
    assert!(message.contains("GODADDY_HTTP_TIMEOUT"), "{message}");
}

#[test]
fn values_that_cannot_be_sent_are_refused() {
    let entry = find("bunny").unwrap();
    let given = BTreeMap::from([("BUNNY_API_KEY".to_owned(), "secret\nmore".to_owned())]);
    let message = error(entry, &given);
    assert!(message.starts_with("BUNNY_API_KEY: ") && !message.contains("secret"), "{message}");
    for (name, variable, value) in [
        ("ovh", "OVH_ENDPOINT", "ovh-moon"),
        ("azuredns", "AZURE_ENVIRONMENT", "moon"),
        ("autodns", "AUTODNS_CONTEXT", "moon"),
        ("gcloud", "GCE_SERVICE_ACCOUNT", "{}"),
        ("hurricane", "HURRICANE_TOKENS", "moon"),
        ("oraclecloud", "OCI_PRIVKEY", "moon"),
        ("transip", "TRANSIP_PRIVATE_KEY_PATH", "/nowhere/key.pem"),
    ] {
        let entry = find(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut all: BTreeMap<String, String> =
            required(entry).into_iter().map(|name| (name.to_owned(), sample(name, folder.path()))).collect();
        all.insert(variable.to_owned(), value.to_owned());
        let message = error(entry, &all);
        assert!(message.starts_with(&format!("{variable}: ")), "{message}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let entry = find("hurricane").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tokens = sample("HURRICANE_TOKENS", folder.path());
    let given = created(entry, &BTreeMap::from([("HURRICANE_TOKENS".to_owned(), tokens)])).unwrap();
    let shown = hidden(Error::dns("https://dns.test/?password=s3cret failed"), &given.secrets);
    assert_eq!(shown.message, "https://dns.test/?password=xxxx failed");
    let entry = find("duckdns").unwrap();
    let given = BTreeMap::from([("DUCKDNS_TOKEN".to_owned(), "a b&c/d+é".to_owned())]);
    let library = created(entry, &given).unwrap();
    let query =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("token", "a b&c/d+é").finish();
    let shown = hidden(Error::dns(format!("?{query}&txt=v: a b&c/d+é")), &library.secrets);
    assert_eq!(shown.message, "?token=xxxx&txt=v: xxxx");
}

#[tokio::test]
async fn zones_are_found_as_in_lego() {
    let resolvers = Resolvers::new(&["127.0.0.1:1".to_owned()]).unwrap();
    let record = |name: &str| Record {
        domain: "x".into(),
        token: String::new(),
        key_authorization: String::new(),
        name: name.into(),
        value: "v".into(),
    };
    let folder = tempfile::tempdir().unwrap();
    for (provider, variable, name, expected) in [
        ("hurricane", "", "_acme-challenge.a.example.com", "a.example.com"),
        ("ipv64", "", "_acme-challenge.sub.home.ipv64.net", "home.ipv64.net"),
        ("ipv64", "", "home.ipv64.net", "home.ipv64.net"),
        ("dynu", "", "_acme-challenge.example.com", ""),
        ("hostingde", "HOSTINGDE_ZONE_NAME", "_acme-challenge.a.example.com", "example.com"),
        ("lightsail", "DNS_ZONE", "_acme-challenge.a.example.com", "example.com"),
    ] {
        let entry = find(provider).unwrap();
        let mut all: BTreeMap<String, String> =
            required(entry).into_iter().map(|name| (name.to_owned(), sample(name, folder.path()))).collect();
        if !variable.is_empty() {
            all.insert(variable.to_owned(), "example.com.".to_owned());
        }
        let library = created(entry, &all).unwrap();
        assert_eq!(library.origin(&record(name), &resolvers).await.unwrap(), expected, "{provider}");
    }
    let library =
        created(find("duckdns").unwrap(), &BTreeMap::from([("DUCKDNS_TOKEN".into(), "s3cret".into())]))
            .unwrap();
    for name in ["_acme-challenge.home.duckdns.org", "_acme-challenge.a.home.duckdns.org"] {
        assert_eq!(library.slot(&record(name)), "duckdns home.duckdns.org");
    }
}
