//! Configurations and requests whose explanations are compared with what happens.

use std::path::Path;

/// A request of the table.
#[derive(Clone, Copy)]
pub struct Case {
    pub entry_point: &'static str,
    pub method: &'static str,
    pub host: &'static str,
    pub path: &'static str,
    pub headers: &'static [(&'static str, &'static str)],
    pub from: &'static str,
    /// The server name if it is sent over TLS.
    pub tls: Option<&'static str>,
}

pub const GET: Case = Case {
    entry_point: "web",
    method: "GET",
    host: "a.test",
    path: "/",
    headers: &[],
    from: "127.0.0.1",
    tls: None,
};

pub const fn get(host: &'static str, path: &'static str) -> Case {
    Case { host, path, ..GET }
}

pub const fn with(headers: &'static [(&'static str, &'static str)], case: Case) -> Case {
    Case { headers, ..case }
}

pub const fn tls(name: &'static str, host: &'static str, path: &'static str) -> Case {
    Case { tls: Some(name), host, path, ..GET }
}

/// Routers for the whole rule language.
pub fn rules(a: &str, b: &str) -> String {
    format!(
        "http:
  routers:
    exact: {{rule: 'Host(`a.test`)', service: a}}
    below: {{rule: 'Host(`*.a.test`)', service: a}}
    pattern: {{rule: 'HostRegexp(`^[a-z]+\\.b\\.test$`)', service: b}}
    path: {{rule: 'Host(`p.test`) && Path(`/exact`)', service: a}}
    prefix: {{rule: 'Host(`p.test`) && PathPrefix(`/api`)', service: b}}
    paths: {{rule: 'Host(`p.test`) && PathRegexp(`^/n/[0-9]+$`)', service: b}}
    method: {{rule: 'Host(`m.test`) && (Method(`POST`) || Method(`PUT`))', service: a}}
    header: {{rule: 'Host(`h.test`) && Header(`X-Kind`, `one`)', service: a}}
    headers: {{rule: 'Host(`h.test`) && HeaderRegexp(`X-Kind`, `^t`)', service: b}}
    query: {{rule: 'Host(`q.test`) && Query(`mode`, `fast`)', service: a}}
    queries: {{rule: 'Host(`q.test`) && QueryRegexp(`mode`, `^s`)', service: b}}
    client: {{rule: 'Host(`c.test`) && ClientIP(`127.0.0.2/32`)', service: a}}
    others: {{rule: 'Host(`c.test`) && !ClientIP(`127.0.0.2/32`)', service: b}}
    low: {{rule: 'Host(`o.test`) && PathPrefix(`/long/prefix`)', service: a, priority: 1}}
    high: {{rule: 'Host(`o.test`)', service: b, priority: 2}}
    tie1: {{rule: 'Host(`t.test`)', service: b}}
    tie0: {{rule: 'Host(`t.test`)', service: a}}
    negative: {{rule: 'PathPrefix(`/`)', service: b, priority: -1}}
    broken: {{rule: 'Host(`broken.test`)', service: missing}}
    invalid: {{rule: 'Host(`a.test`) &&', service: a}}
    nested: {{rule: '(Host(`x.test`) && Path(`/1`)) || (Host(`y.test`) && !(Path(`/2`) || Path(`/3`)))', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{a}'}}]}}}}
    b: {{loadBalancer: {{servers: [{{url: '{b}'}}]}}}}
"
    )
}

pub const RULES: &[Case] = &[
    get("a.test", "/"),
    get("A.Test:8080", "/x"),
    get("a.test.", "/"),
    get("w.a.test", "/"),
    get("v.w.a.test", "/"),
    get("x.b.test", "/"),
    get("x1.b.test", "/"),
    get("p.test", "/exact"),
    get("p.test", "/exact/"),
    get("p.test", "/%65xact"),
    get("p.test", "/api/../exact"),
    get("p.test", "/api/x%2Fy?q=1"),
    get("p.test", "//api//x"),
    get("p.test", "/n/12"),
    get("p.test", "/n/a"),
    get("p.test", "/%zz"),
    Case { method: "POST", ..get("m.test", "/") },
    Case { method: "PUT", ..get("m.test", "/") },
    Case { method: "DELETE", ..get("m.test", "/") },
    Case { method: "OPTIONS", ..get("m.test", "/") },
    with(&[("X-Kind", "one")], get("h.test", "/")),
    with(&[("X-Kind", "two"), ("X-Kind", "one")], get("h.test", "/")),
    with(&[("X-Kind", "two")], get("h.test", "/")),
    with(&[("x-kind", "none")], get("h.test", "/")),
    get("h.test", "/"),
    get("q.test", "/?mode=fast"),
    get("q.test", "/?mode=slow&x=1"),
    get("q.test", "/?a=1;mode=fast"),
    get("q.test", "/?mode=f%61st"),
    get("q.test", "/"),
    Case { from: "127.0.0.2", ..get("c.test", "/") },
    get("c.test", "/"),
    get("o.test", "/long/prefix"),
    get("t.test", "/"),
    get("broken.test", "/"),
    get("x.test", "/1"),
    get("y.test", "/2"),
    get("y.test", "/4"),
    get("nobody.test", "/"),
    with(&[("Expect", "much")], get("a.test", "/")),
    get("a b", "/"),
    get("[::1]", "/"),
];

/// Routers with one middleware each, and a few with more.
pub fn middlewares(a: &str, b: &str) -> String {
    format!(
        "http:
  routers:
    strip: {{rule: 'PathPrefix(`/strip`)', service: a, middlewares: [strip]}}
    stripRegex: {{rule: 'PathPrefix(`/stripr`)', service: a, middlewares: [stripRegex], priority: 100}}
    add: {{rule: 'PathPrefix(`/add`)', service: a, middlewares: [add]}}
    replace: {{rule: 'PathPrefix(`/replace`)', service: a, middlewares: [replace]}}
    replaceRegex: {{rule: 'PathPrefix(`/rregex`)', service: a, middlewares: [replaceRegex]}}
    both: {{rule: 'PathPrefix(`/both`)', service: a, middlewares: [stripBoth, add, header]}}
    scheme: {{rule: 'PathPrefix(`/scheme`)', service: a, middlewares: [scheme]}}
    regex: {{rule: 'PathPrefix(`/regex`)', service: a, middlewares: [regex]}}
    allow: {{rule: 'PathPrefix(`/allow`)', service: a, middlewares: [allow, late]}}
    reject: {{rule: 'PathPrefix(`/reject`)', service: a, middlewares: [reject]}}
    basic: {{rule: 'PathPrefix(`/basic`)', service: a, middlewares: [basic, late]}}
    digest: {{rule: 'PathPrefix(`/digest`)', service: a, middlewares: [digest]}}
    any: {{rule: 'PathPrefix(`/any`)', service: a, middlewares: [any]}}
    chain: {{rule: 'PathPrefix(`/chain`)', service: a, middlewares: [first, chain]}}
    when: {{rule: 'PathPrefix(`/when`)', service: a, middlewares: [when]}}
    cors: {{rule: 'PathPrefix(`/cors`)', service: a, middlewares: [cors]}}
    hosts: {{rule: 'PathPrefix(`/hosts`)', service: a, middlewares: [hosts]}}
    newHost: {{rule: 'PathPrefix(`/newhost`)', service: a, middlewares: [newHost]}}
    encoded: {{rule: 'PathPrefix(`/encoded`)', service: a, middlewares: [encoded]}}
    small: {{rule: 'PathPrefix(`/small`)', service: a, middlewares: [small]}}
    buffer: {{rule: 'PathPrefix(`/buffer`)', service: a, middlewares: [buffer]}}
    limit: {{rule: 'PathPrefix(`/limit`)', service: a, middlewares: [limit]}}
    busy: {{rule: 'PathPrefix(`/busy`)', service: a, middlewares: [busy]}}
    pages: {{rule: 'PathPrefix(`/pages`)', service: a, middlewares: [pages, deny]}}
    compress: {{rule: 'PathPrefix(`/compress`)', service: a, middlewares: [compress, retry, id, type, web]}}
    asks: {{rule: 'PathPrefix(`/asks`)', service: a, middlewares: [asks, strip]}}
    missing: {{rule: 'PathPrefix(`/missing`)', service: a, middlewares: [nothing]}}
  middlewares:
    strip: {{stripPrefix: {{prefixes: [/strip, /asks]}}}}
    stripBoth: {{stripPrefix: {{prefixes: [/both]}}}}
    stripRegex: {{stripPrefixRegex: {{regex: ['/stripr/[a-z]+/']}}}}
    add: {{addPrefix: {{prefix: /added}}}}
    replace: {{replacePath: {{path: '/new path'}}}}
    replaceRegex: {{replacePathRegex: {{regex: '^/rregex/(.*)', replacement: '/v2/$1'}}}}
    header: {{headers: {{customRequestHeaders: {{X-A: secret-a, X-B: ''}}}}}}
    late: {{headers: {{customRequestHeaders: {{X-Late: '1'}}}}}}
    first: {{headers: {{customRequestHeaders: {{X-First: '1'}}}}}}
    scheme: {{redirectScheme: {{scheme: https, port: '8443', permanent: true}}}}
    regex: {{redirectRegex: {{regex: '^http://([^/]+)/regex/(.*)', replacement: 'https://$1/new/$2'}}}}
    allow: {{ipAllowList: {{sourceRange: [127.0.0.2]}}}}
    deny: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    reject: {{ipAllowList: {{sourceRange: [192.0.2.1], rejectStatusCode: 404}}}}
    basic: {{basicAuth: {{users: ['bob:{{SHA}}VBPuJHI7uixaa6LQGWx4s+5GKNE='], removeHeader: true}}}}
    digest: {{digestAuth: {{users: ['ann:traefik:0']}}}}
    any: {{anyOf: {{middlewares: [allow, basic]}}}}
    chain: {{chain: {{middlewares: [inner, add]}}}}
    inner: {{chain: {{middlewares: [late, allow]}}}}
    when: {{when: 'Method(`POST`)', ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    cors: {{headers: {{accessControlAllowMethods: [GET], accessControlAllowOriginList: ['http://c.test']}}}}
    hosts: {{headers: {{allowedHosts: [good.test]}}}}
    newHost: {{headers: {{customRequestHeaders: {{Host: other.test}}}}}}
    encoded: {{encodedCharacters: {{allowEncodedSlash: true}}}}
    small: {{bodyLimit: {{maxRequestBodyBytes: 3}}}}
    buffer: {{buffering: {{maxRequestBodyBytes: 3}}}}
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 2}}}}
    busy: {{inFlightReq: {{amount: 0}}}}
    pages: {{errors: {{status: ['403'], service: b, query: '/page/{{status}}', statusRewrites: {{'403': 418}}}}}}
    compress: {{compress: {{}}}}
    retry: {{retry: {{attempts: 2}}}}
    id: {{requestId: {{}}}}
    type: {{contentType: {{}}}}
    web: {{grpcWeb: {{}}}}
    asks: {{forwardAuth: {{address: '{b}/verify?key=secret-b'}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{a}'}}]}}}}
    b: {{loadBalancer: {{servers: [{{url: '{b}'}}]}}}}
"
    )
}

pub const BOB: &[(&str, &str)] = &[("Authorization", "Basic Ym9iOm15UGFzc3dvcmQ=")];
pub const MIDDLEWARES: &[Case] = &[
    get("a.test", "/strip/x?q=1"),
    get("a.test", "/strip"),
    get("a.test", "/strip%2Fx"),
    get("a.test", "/strip/..%2Fx"),
    get("a.test", "/stripr/abc/def"),
    get("a.test", "/stripr/1/def"),
    get("a.test", "/add/x"),
    get("a.test", "/replace/x?q=1"),
    get("a.test", "/rregex/x/y"),
    get("a.test", "/rregex"),
    with(&[("X-B", "1"), ("X-C", "2")], get("a.test", "/both/x")),
    get("a.test", "/scheme/x?q=1;r=2"),
    Case { method: "POST", ..get("a.test:81", "/scheme") },
    get("a.test", "/regex/page?q=1"),
    get("a.test", "/regexp"),
    get("a.test", "/allow"),
    Case { from: "127.0.0.2", ..get("a.test", "/allow") },
    get("a.test", "/reject"),
    get("a.test", "/basic"),
    with(BOB, get("a.test", "/basic")),
    with(&[("Authorization", "Basic Ym9iOndyb25n")], get("a.test", "/basic")),
    get("a.test", "/digest"),
    with(&[("Authorization", "Digest username=\"ann\", response=\"0\"")], get("a.test", "/digest")),
    get("a.test", "/any"),
    with(BOB, get("a.test", "/any")),
    Case { from: "127.0.0.2", ..get("a.test", "/any") },
    get("a.test", "/chain"),
    Case { from: "127.0.0.2", ..get("a.test", "/chain/x") },
    get("a.test", "/when"),
    Case { method: "POST", ..get("a.test", "/when") },
    with(&[("Origin", "http://c.test")], get("a.test", "/cors")),
    Case {
        method: "OPTIONS",
        headers: &[("Origin", "http://c.test"), ("Access-Control-Request-Method", "GET")],
        ..get("a.test", "/cors")
    },
    get("a.test", "/hosts"),
    get("good.test", "/hosts"),
    get("a.test", "/newhost"),
    get("a.test", "/encoded/x%2Fy"),
    get("a.test", "/encoded/x%3By"),
    Case { method: "POST", headers: &[("Content-Length", "3")], ..get("a.test", "/small") },
    Case { method: "POST", headers: &[("Content-Length", "4")], ..get("a.test", "/small") },
    Case { method: "POST", headers: &[("Content-Length", "4")], ..get("a.test", "/buffer") },
    Case { method: "POST", headers: &[("Content-Length", "2")], ..get("a.test", "/buffer") },
    get("a.test", "/limit"),
    get("a.test", "/limit"),
    get("a.test", "/limit"),
    get("a.test", "/busy"),
    get("a.test", "/pages"),
    with(&[("Accept-Encoding", "gzip")], get("a.test", "/compress")),
    get("a.test", "/asks/x"),
    get("a.test", "/missing"),
];

/// Services of every kind, nested routers, and settings of entry points.
pub fn services(a: &str, b: &str) -> String {
    format!(
        "http:
  routers:
    turns: {{rule: 'PathPrefix(`/turns`)', service: turns}}
    hashed: {{rule: 'PathPrefix(`/hashed`)', service: hashed}}
    least: {{rule: 'PathPrefix(`/least`)', service: least}}
    weighted: {{rule: 'PathPrefix(`/weighted`)', service: weighted}}
    failover: {{rule: 'PathPrefix(`/failover`)', service: failover}}
    mirrored: {{rule: 'PathPrefix(`/mirrored`)', service: mirrored}}
    sticky: {{rule: 'PathPrefix(`/sticky`)', service: sticky}}
    empty: {{rule: 'PathPrefix(`/empty`)', service: empty}}
    own: {{rule: 'PathPrefix(`/own`)', service: own}}
    below: {{rule: 'PathPrefix(`/below`)', service: below}}
    noop: {{rule: 'PathPrefix(`/noop`)', service: noop@internal}}
    other: {{rule: 'PathPrefix(`/`)', service: a, entryPoints: [other], priority: 1}}
    parent: {{rule: 'PathPrefix(`/parent`)', middlewares: [strip, login]}}
    child1: {{rule: 'Path(`/x`)', service: a, parentRefs: [parent]}}
    child2: {{rule: 'PathPrefix(`/y`)', service: b, parentRefs: [parent], middlewares: [add]}}
    child3: {{rule: 'User(`bob`)', service: a, parentRefs: [parent]}}
  middlewares:
    strip: {{stripPrefix: {{prefixes: [/parent]}}}}
    add: {{addPrefix: {{prefix: /added}}}}
    login: {{when: 'HeaderRegexp(`Authorization`, `.`)', basicAuth: {{users: ['bob:{{SHA}}VBPuJHI7uixaa6LQGWx4s+5GKNE=']}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{a}'}}]}}}}
    b: {{loadBalancer: {{servers: [{{url: '{b}'}}]}}}}
    turns: {{loadBalancer: {{servers: [{{url: '{a}', weight: 2}}, {{url: '{b}', weight: 1}}]}}}}
    hashed: {{loadBalancer: {{strategy: hrw, servers: [{{url: '{a}'}}, {{url: '{b}'}}]}}}}
    least: {{loadBalancer: {{strategy: p2c, servers: [{{url: '{a}'}}, {{url: '{b}'}}]}}}}
    weighted: {{weighted: {{services: [{{name: a, weight: 1}}, {{name: b, weight: 3}}, {{name: empty, weight: 0}}]}}}}
    failover: {{failover: {{service: b, fallback: a}}}}
    mirrored: {{mirroring: {{service: a}}}}
    sticky: {{loadBalancer: {{sticky: {{cookie: {{name: s}}}}, servers: [{{url: '{a}'}}, {{url: '{b}'}}]}}}}
    empty: {{loadBalancer: {{servers: []}}}}
    own: {{middlewares: [add], loadBalancer: {{servers: [{{url: '{a}'}}]}}}}
    below: {{loadBalancer: {{passHostHeader: false, servers: [{{url: '{a}/base', preservePath: true}}]}}}}
"
    )
}

pub const SERVICES: &[Case] = &[
    get("a.test", "/turns"),
    get("a.test", "/turns"),
    get("a.test", "/turns"),
    get("a.test", "/turns"),
    get("a.test", "/hashed"),
    Case { from: "127.0.0.3", ..get("a.test", "/hashed") },
    Case { from: "127.0.0.9", ..get("a.test", "/hashed") },
    get("a.test", "/least"),
    get("a.test", "/weighted"),
    get("a.test", "/weighted"),
    get("a.test", "/weighted"),
    get("a.test", "/weighted"),
    get("a.test", "/failover"),
    get("a.test", "/mirrored"),
    get("a.test", "/sticky"),
    with(&[("Cookie", "s=secret-c")], get("a.test", "/sticky")),
    get("a.test", "/empty"),
    get("a.test", "/own/x"),
    get("a.test", "/below/x?q=1"),
    get("a.test", "/noop"),
    get("a.test", "/parent/x"),
    get("a.test", "/parent/y/z"),
    get("a.test", "/parent/z"),
    with(BOB, get("a.test", "/parent/z")),
    with(BOB, get("a.test", "/parent/x")),
    with(&[("Authorization", "Basic Ym9iOndyb25n")], get("a.test", "/parent/x")),
    Case { entry_point: "other", ..get("a.test", "/x?q=1") },
    Case { entry_point: "other", ..get("a.test", "/x%2Fy") },
    Case { entry_point: "other", headers: &[("X_Y", "1")], ..get("a.test", "/x") },
    Case { entry_point: "other", headers: &[("X-Forwarded-Proto", "https")], ..get("a.test", "/x") },
    Case { entry_point: "moved", ..get("a.test", "/x?q=1") },
    Case { entry_point: "moved", method: "POST", ..get("a.test", "/x") },
];

/// Hosts with TLS options of their own.
pub fn secure(a: &str, cert: &Path, key: &Path) -> String {
    format!(
        "http:
  routers:
    plain: {{rule: 'Host(`a.test`)', service: a}}
    a: {{rule: 'Host(`a.test`)', service: a, tls: {{}}}}
    strict: {{rule: 'Host(`strict.test`)', service: a, tls: {{options: strict}}}}
    unknown: {{rule: 'Host(`unknown.test`)', service: a, tls: {{options: strict}}}}
    broken: {{rule: 'Host(`broken.test`)', service: a, tls: {{options: nothing}}}}
    mutual: {{rule: 'Host(`mutual.test`)', service: a, tls: {{options: mutual}}}}
    moved: {{rule: 'Host(`moved.test`)', service: a, middlewares: [scheme], tls: {{}}}}
  middlewares:
    scheme: {{redirectScheme: {{scheme: https}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{a}'}}]}}}}
tls:
  certificates:
    - {{certFile: '{cert}', keyFile: '{key}'}}
  options:
    strict: {{sniStrict: true}}
    mutual: {{clientAuth: {{clientAuthType: RequireAnyClientCert}}}}
",
        cert = cert.display(),
        key = key.display()
    )
}

pub const SECURE: &[Case] = &[
    tls("a.test", "a.test", "/x?q=1"),
    tls("A.test", "a.test:443", "/"),
    tls("strict.test", "strict.test", "/"),
    tls("unknown.test", "unknown.test", "/"),
    tls("broken.test", "broken.test", "/"),
    tls("mutual.test", "mutual.test", "/"),
    tls("a.test", "strict.test", "/"),
    tls("strict.test", "a.test", "/"),
    tls("moved.test", "moved.test", "/x"),
    tls("nobody.test", "nobody.test", "/"),
    get("a.test", "/"),
];
