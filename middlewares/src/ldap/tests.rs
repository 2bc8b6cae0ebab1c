//! The middleware with a directory in memory.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration as StdDuration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Request as Head;
use parking_lot::Mutex;
use tidegate_core::consumers::CredentialKind;
use tidegate_core::ldap::{LdapClient, LdapUnavailable, LdapUser};
use tidegate_core::values::Duration;
use tidegate_core::{
    AuthMethod, Body, BoxFuture, Build, BuildContext, ManualClock, Reason, Request, Response, Verdict,
};

use super::{ConnPool, Groups, Ldap};
use crate::testing::{self, Service, World, build_in, request};

/// A directory with Ann, whose password is `right`. Counts its checks.
#[derive(Default)]
struct Directory {
    checks: Mutex<Vec<String>>,
    is_down: Mutex<bool>,
}

impl LdapClient for Directory {
    fn verify<'a>(
        &'a self,
        user: &'a str,
        password: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<LdapUser>, LdapUnavailable>> {
        self.checks.lock().push(user.to_owned());
        Box::pin(async move {
            if *self.is_down.lock() {
                return Err(LdapUnavailable { reason: "down".into() });
            }
            Ok((user.eq_ignore_ascii_case("ann") && password == b"right").then(|| LdapUser {
                name: "ann".into(),
                dn: "cn=ann,dc=a".into(),
                groups: vec!["ops".into()],
            }))
        })
    }
}

fn options() -> Ldap {
    Ldap { url: "ldap://127.0.0.1".into(), base_dn: "dc=a".into(), ..Ldap::default() }
}

fn world() -> (World, Arc<Directory>, Arc<ManualClock>) {
    let directory = Arc::new(Directory::default());
    let (world, clock) = World::stopped();
    (World { ldap: Some(directory.clone()), ..world }, directory, clock)
}

fn with_password(user: &str, password: &str) -> Request {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    request(Head::get("http://h.test/").header("authorization", format!("Basic {encoded}")))
}

fn respond(options: Ldap, world: &World, request: Request) -> Response {
    let middleware = build_in(world, options).unwrap();
    let service = Service(|_| Response::new(Body::empty()));
    testing::block_on(testing::run(&middleware, request, &service))
}

#[test]
fn the_user_is_identified_with_groups_and_the_password_is_removed() {
    let (world, ..) = world();
    let middleware = build_in(&world, options()).unwrap();
    let seen = Arc::new(Mutex::new(None));
    let kept = seen.clone();
    let service = Service(move |request: Request| {
        *kept.lock() = Some(request.head.headers.clone());
        Response::new(Body::empty())
    });
    let mut request = with_password("Ann", "right");
    for name in ["username", "Username"] {
        request.head.headers.append(name, "root".parse().unwrap());
    }
    let exchange = request.context.exchange.clone();
    assert_eq!(testing::block_on(testing::run(&middleware, request, &service)).status(), 200);
    let headers = seen.lock().take().unwrap();
    assert_eq!(headers.get_all("username").iter().collect::<Vec<_>>(), ["ann"]);
    assert!(!headers.contains_key("authorization"));
    let identity = exchange.identity().unwrap();
    assert_eq!((&*identity.subject, identity.method, &*identity.by), ("ann", AuthMethod::Ldap, "m@file"));
    assert_eq!((&identity.groups[..], identity.label("dn")), (&["ops".to_owned()][..], Some("cn=ann,dc=a")));
    assert_eq!(exchange.user(), Some("ann"));
}

#[test]
fn a_broken_consumer_gets_503_with_the_right_password_only() {
    let (world, ..) = world();
    let middleware = build_in(&world, options()).unwrap();
    let service = Service(|_| Response::new(Body::empty()));
    let status = |password: &str| {
        let request = with_password("ann", password);
        testing::block_on(testing::run(&middleware, request, &service)).status().as_u16()
    };
    let ann = || CredentialKind::BasicUser("ann".into());
    world.store_consumer(ann(), true);
    // The second is remembered.
    assert_eq!((status("right"), status("right"), status("wrong")), (503, 503, 401));
    let prediction = middleware.predict(with_password("ann", "right"));
    assert!(matches!(prediction.verdict, Verdict::Responds(response) if response.status() == 503));
    world.store_consumer(ann(), false);
    assert_eq!(status("right"), 200);
}

#[test]
fn the_password_is_forwarded_only_if_asked_and_the_name_only_unless_not() {
    let (world, ..) = world();
    let options = Ldap { forward_authorization: true, forward_username: false, ..options() };
    let middleware = build_in(&world, options).unwrap();
    let service = Service(|request: Request| {
        assert!(request.head.headers.contains_key("authorization"));
        assert!(!request.head.headers.contains_key("username"));
        Response::new(Body::empty())
    });
    let request = with_password("ann", "right");
    assert_eq!(testing::block_on(testing::run(&middleware, request, &service)).status(), 200);
}

#[test]
fn wrong_and_missing_credentials_get_401() {
    let (world, directory, _) = world();
    let several = || {
        let mut request = with_password("ann", "right");
        let other = with_password("ann", "right").head.headers["authorization"].clone();
        request.head.headers.append("authorization", other);
        request
    };
    let binary = BASE64_STANDARD.encode(b"\xff\xfe:right");
    for request in [
        testing::get("http://h.test/"),
        with_password("ann", ""),
        with_password("", "right"),
        several(),
        request(Head::get("http://h.test/").header("authorization", "Bearer x")),
        request(Head::get("http://h.test/").header("authorization", format!("Basic {binary}"))),
    ] {
        let response = respond(options(), &world, request);
        assert_eq!((response.status().as_u16(), response.reason), (401, Some(Reason::Unauthenticated)));
        assert!(!response.headers().contains_key("www-authenticate"));
    }
    assert!(directory.checks.lock().is_empty(), "an empty password never reaches the directory");
    let asking =
        Ldap { www_authenticate_header: true, www_authenticate_header_realm: "staff".into(), ..options() };
    let response = respond(asking, &world, with_password("ann", "wrong"));
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"staff\", charset=\"UTF-8\"");
    assert_eq!(*directory.checks.lock(), ["ann"]);
}

#[test]
fn a_directory_that_is_down_gets_503() {
    let (world, directory, _) = world();
    *directory.is_down.lock() = true;
    let response = respond(options(), &world, with_password("ann", "right"));
    assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::AuthenticationUnavailable)));
    assert!(response.headers().contains_key("retry-after"));
}

#[test]
fn right_passwords_are_remembered_for_a_while_and_wrong_ones_are_not() {
    let (world, directory, clock) = world();
    let middleware = build_in(&world, options()).unwrap();
    let service = Service(|_| Response::new(Body::empty()));
    let run = |password: &str| {
        testing::block_on(testing::run(&middleware, with_password("ann", password), &service))
            .status()
            .as_u16()
    };
    let page = testing::block_on(async {
        let assets = (0..50).map(|_| testing::run(&middleware, with_password("ann", "right"), &service));
        futures_util::future::join_all(assets).await
    });
    assert!(page.iter().all(|response| response.status() == 200));
    assert_eq!(directory.checks.lock().len(), 1, "50 assets, one bind");
    assert_eq!((run("wrong"), run("wrong"), run("right")), (401, 401, 200));
    assert_eq!(directory.checks.lock().len(), 3);
    *directory.is_down.lock() = true;
    assert_eq!(run("right"), 200);
    clock.advance(StdDuration::from_secs(30));
    assert_eq!(run("right"), 503);
    *directory.is_down.lock() = false;
    let uncached = build_in(&world, Ldap { cache_ttl: Duration::default(), ..options() }).unwrap();
    directory.checks.lock().clear();
    for _ in 0..3 {
        let request = with_password("ann", "right");
        assert_eq!(testing::block_on(testing::run(&uncached, request, &service)).status(), 200);
    }
    assert_eq!(directory.checks.lock().len(), 3);
}

#[test]
fn predictions_ask_no_server() {
    let (world, directory, _) = world();
    let middleware = build_in(&world, options()).unwrap();
    let predict = |request| middleware.predict(request).verdict;
    assert!(
        matches!(predict(testing::get("http://h.test/")), Verdict::Responds(response) if response.status() == 401)
    );
    assert!(matches!(predict(with_password("ann", "right")), Verdict::Depends(_)));
    assert!(directory.checks.lock().is_empty());
    let service = Service(|_| Response::new(Body::empty()));
    testing::block_on(testing::run(&middleware, with_password("ann", "right"), &service));
    assert!(matches!(predict(with_password("ann", "right")), Verdict::Passes(_)), "it is remembered");
    assert!(matches!(predict(with_password("ann", "wrong")), Verdict::Depends(_)));
}

#[test]
fn options_reach_the_directory_and_mistakes_are_named() {
    let (mut world, ..) = world();
    world.files.insert("/ca.pem".into(), b"-----BEGIN CERTIFICATE-----".to_vec());
    let options = Ldap {
        certificate_authority: "/ca.pem".into(),
        groups: Some(Groups { search_filter: "(member=%s)".into(), ..Groups::default() }),
        ..options()
    };
    build_in(&world, options.clone()).unwrap();
    let given = world.ldap_options.lock().unwrap().clone().unwrap();
    assert_eq!(given.certificate_authority, "-----BEGIN CERTIFICATE-----");
    assert_eq!((&*given.groups.base_dn, &*given.groups.name_attribute), ("dc=a", "cn"));
    let error = |options: Ldap| build_in(&world, options).err().unwrap().to_string();
    assert_eq!(
        error(Ldap { url: String::new(), base_dn: String::new(), bind_dn: "cn=a".into(), ..options.clone() }),
        "url: required, such as `ldaps://ldap.example.org:636`; baseDN: required: the entry below which users are; \
         bindPassword: bindDN and bindPassword are required together"
    );
    let pool = ConnPool { size: 0, burst: 2000, ..ConnPool::default() };
    assert_eq!(
        error(Ldap {
            conn_pool: pool,
            attribute: "a=b".into(),
            groups: Some(Groups::default()),
            ..options.clone()
        }),
        "attribute: invalid name of an attribute; connPool.size: must be at least 1; connPool: the maximum of size and \
         burst together is 1000; groups: expected attribute, searchFilter or both"
    );
    let realm = Ldap { www_authenticate_header_realm: "a\"b".into(), ..options.clone() };
    assert!(error(realm).starts_with("wwwAuthenticateHeaderRealm: "));
    let header = Ldap { forward_username_header: "a b".into(), ..options };
    assert_eq!(error(header), "forwardUsernameHeader: invalid header name `a b`");
}

#[test]
fn any_of_removes_the_header_of_a_user_that_was_not_checked() {
    let (world, ..) = world();
    let access = options().access(&BuildContext::new("m@file", &world)).unwrap();
    assert!(access.vouches_for(&"username".parse().unwrap()));
    assert!(!access.vouches_for(&"authorization".parse().unwrap()));
}
