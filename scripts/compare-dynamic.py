#!/usr/bin/env python3
"""Sends the same requests through Traefik and Tidegate with every option of middlewares, services and routers, and prints what differs.

    compare-dynamic.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT]

A case is some routers, services and middlewares and the requests to them. All cases are served at once, each by its own host. Compared
are: status, headers and body that the client gets, what reaches the server, and how the API shows each object. Differences
that docs/differences.md names are counted as known where `KNOWN` says so.
"""
import base64, collections, gzip, hashlib, json, os, re, shutil, signal, socket, ssl, subprocess, sys, tempfile, threading, time, urllib.request

import comparison

CASES = []


class Case:
    def __init__(self, name, middlewares=None, requests=(), service=None, router=None, services=None, routers=None, extra=None):
        self.name, self.requests = name, requests
        self.middlewares = middlewares if isinstance(middlewares, list) else [middlewares] if middlewares else []
        self.service, self.router, self.services, self.routers = service, router or {}, services or {}, routers or {}
        self.extra = extra or {}
        CASES.append(self)

    def objects(self, config):
        """Adds what this case needs to a configuration."""
        named = [f"{self.name}-{number}" for number in range(len(self.middlewares))]
        http = config["http"]
        for name, options in zip(named, self.middlewares):
            http["middlewares"][name] = options
        router = {"rule": f"Host(`{self.name}.test`)", "service": "echo", "middlewares": named, **self.router}
        if self.service:
            http["services"][self.name] = self.service
            router["service"] = self.name
        if not router["middlewares"]:
            del router["middlewares"]
        http["routers"][self.name] = {key: value for key, value in router.items() if value is not None}
        for name, service in self.services.items():
            http["services"][name] = service
        for name, one in self.routers.items():
            http["routers"][name] = one
        for path, value in self.extra.items():
            section, kind, name = path.split("/")
            config.setdefault(section, {}).setdefault(kind, {})[name] = value


def ask(line, *headers, body=b"", n=1, ep="web", together=0, host=None, cert=False, wait=0, raw=None, cookie=False, h10=False):
    """One request: `METHOD /path`, `Name: value`… Several in turn (`n`) or at once (`together`)."""
    return dict(line=line, headers=headers, body=body, n=n, ep=ep, together=together, host=host, cert=cert, wait=wait, raw=raw, cookie=cookie, h10=h10)


GET = ask("GET /a/b?x=1")


def servers(*names, **options):
    return {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:@{name}@"} if isinstance(name, str) else name for name in names], **options}}


def paths(*targets):
    return [ask(f"GET {target}") for target in targets]


# Paths ---------------------------------------------------------------------------------------------------------------------------------
Case("addprefix", {"addPrefix": {"prefix": "/x"}}, paths("/", "/a/b", "/a?b=c", "/a%2Fb", "/a%20b", "/%E4", "/a/../b", "//a", "/a;b", "/a'b"))
Case("addprefix-bare", {"addPrefix": {"prefix": "x"}}, paths("/", "/a"))
Case("addprefix-escape", {"addPrefix": {"prefix": "/a%20b"}}, paths("/", "/a%2Fb"))
Case("addprefix-slash", {"addPrefix": {"prefix": "/x/"}}, paths("/", "/a", "/a%2Fb"))
Case("addprefix-none", {"addPrefix": {"prefix": ""}}, paths("/"))
Case("stripprefix", {"stripPrefix": {"prefixes": ["/a", "/b/", "/long", "/lo"]}}, paths("/", "/a", "/a/", "/a/x", "/ab", "/a%2Fx", "/b", "/b/", "/b/x", "/c", "/long/x", "/longer", "/a/../a/x", "/a?x=1", "/a/%2e%2e/y", "/A/x", "/a/x%20y"))
Case("stripprefix-force", {"stripPrefix": {"prefixes": ["/a"], "forceSlash": True}}, paths("/a", "/a/x"))
Case("stripprefix-noforce", {"stripPrefix": {"prefixes": ["/a"], "forceSlash": False}}, paths("/a", "/a/x"))
Case("stripprefix-own", {"stripPrefix": {"prefixes": ["/a"]}}, [ask("GET /a/x", "X-Forwarded-Prefix: /mine"), ask("GET /a/x", "X-Forwarded-Prefix: /mine", ep="open"), ask("GET /x", "X-Forwarded-Prefix: /mine")])
Case("stripprefix-empty", {"stripPrefix": {"prefixes": ["", "/a"]}}, paths("/a/x", "/b"))
Case("stripprefix-escape", {"stripPrefix": {"prefixes": ["/a b", "/c%20d"]}}, paths("/a%20b/x", "/c%20d/x"))
Case("stripprefixregex", {"stripPrefixRegex": {"regex": ["/foo/[a-z0-9]+/[0-9]+/", "^/v(\\d+)", "/api"]}}, paths("/", "/foo/ab/12/x", "/foo/ab/12", "/v1/x", "/v12", "/x/api/y", "/api", "/apix", "/api/a%2Fb", "/api?x"))
Case("stripprefixregex-bad", {"stripPrefixRegex": {"regex": ["("]}}, paths("/"))
Case("replacepath", {"replacePath": {"path": "/new"}}, paths("/", "/a%2Fb?x=1", "/new"))
Case("replacepath-escape", {"replacePath": {"path": "/a%2Fb c"}}, paths("/"))
Case("replacepath-bad", {"replacePath": {"path": "/%zz"}}, paths("/"))
Case("replacepath-query", {"replacePath": {"path": "/n?y=2"}}, paths("/", "/?x=1"))
Case("replacepath-own", {"replacePath": {"path": "/n"}}, [ask("GET /a", "X-Replaced-Path: /mine")])
Case("replacepathregex", {"replacePathRegex": {"regex": "^/foo/(.*)", "replacement": "/bar/$1"}}, paths("/foo/x", "/foo/", "/foo", "/x", "/foo/a%2Fb", "/foo/x?y=1", "/foo/a%20b"))
Case("replacepathregex-any", {"replacePathRegex": {"regex": "o", "replacement": "0"}}, paths("/foo/oo", "/x"))
Case("replacepathregex-named", {"replacePathRegex": {"regex": "^/(?P<a>[a-z]+)/(?P<b>.*)$", "replacement": "/${b}/${a}"}}, paths("/x/y", "/x/y/z", "/X"))
Case("replacepathregex-query", {"replacePathRegex": {"regex": "^/p/(.*)$", "replacement": "/q?v=$1"}}, paths("/p/1", "/p/1?x=2"))
Case("replacepathregex-up", {"replacePathRegex": {"regex": "^/u/(.*)$", "replacement": "/../$1"}}, paths("/u/x"))
Case("replacepathregex-empty", {"replacePathRegex": {"regex": "^/e$", "replacement": ""}}, paths("/e"))
Case("replacepathregex-bad", {"replacePathRegex": {"regex": "(", "replacement": ""}}, paths("/e"))
Case("replacepathregex-space", {"replacePathRegex": {"regex": "  ^/a$ ", "replacement": " /b "}}, paths("/a"))
Case("chain", [{"addPrefix": {"prefix": "/1"}}, {"chain": {"middlewares": ["chain-0", "addprefix-0"]}}], paths("/z"))
Case("chain-empty", {"chain": {"middlewares": []}}, paths("/z"))
Case("chain-gone", {"chain": {"middlewares": ["gone"]}}, paths("/z"))
Case("encoded", {"encodedCharacters": {"allowEncodedSlash": True}}, paths("/a%2fb", "/a%5cb", "/a%00b", "/a%3bb", "/a%25b", "/a%3fb", "/a%23b", "/a%20b", "/?x=%2f%00"))
for letter, option in (("2f", "Slash"), ("5c", "BackSlash"), ("00", "NullCharacter"), ("3b", "Semicolon"), ("25", "Percent"), ("3f", "QuestionMark"), ("23", "Hash")):
    Case(f"encoded-{letter}", {"encodedCharacters": {f"allowEncoded{option}": True}}, paths(f"/a%{letter}b", f"/a%{letter.upper()}b", "/a%2fb", "/a%3bb"))

# Redirects -----------------------------------------------------------------------------------------------------------------------------
for permanent in (False, True):
    end = "-permanent" if permanent else ""
    Case("redirectscheme" + end, {"redirectScheme": {"scheme": "https", "permanent": permanent}}, [ask(f"{method} /a?x=1") for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")] + [
        ask("GET /a", host="redirectscheme.test:8080"), ask("GET /a", "X-Forwarded-Proto: https"), ask("GET /a", "X-Forwarded-Proto: https", ep="open"), ask("GET /a", "X-Forwarded-Proto: wss", ep="open"), ask("GET /a", ep="secure"), ask("GET /a%2Fb;c")])
    Case("redirectregex" + end, {"redirectRegex": {"regex": "^http://([^/]+)/old/(.*)", "replacement": "https://$1/new/${2}", "permanent": permanent}}, [ask(f"{method} /old/x?y=1") for method in ("GET", "HEAD", "POST", "PUT")] + paths("/x", "/old/a%2Fb", "/old/%20"))
Case("redirectscheme-port", {"redirectScheme": {"scheme": "https", "port": "8443"}}, [GET, ask("GET /", host="redirectscheme-port.test:80")])
Case("redirectscheme-443", {"redirectScheme": {"scheme": "https", "port": "443"}}, [GET])
Case("redirectscheme-http", {"redirectScheme": {"scheme": "http", "port": "80"}}, [GET, ask("GET /", "X-Forwarded-Proto: https", ep="open")])
Case("redirectscheme-odd", {"redirectScheme": {"scheme": "ftp"}}, [GET])
Case("redirectscheme-none", {"redirectScheme": {"port": "443"}}, [GET])
Case("redirectregex-same", {"redirectRegex": {"regex": "x", "replacement": "x"}}, paths("/x"))
Case("redirectregex-relative", {"redirectRegex": {"regex": "^.*$", "replacement": "/there"}}, paths("/x"))
Case("redirectregex-bad", {"redirectRegex": {"regex": "(", "replacement": "x"}}, paths("/x"))
Case("redirectregex-part", {"redirectRegex": {"regex": "/a/", "replacement": "/b/"}}, [*paths("/a/x", "/c"), ask("GET /a/x", "X-Forwarded-Proto: https", ep="open"), ask("GET /a/", host="redirectregex-part.test:99")])
Case("redirectregex-invalid", {"redirectRegex": {"regex": "^.*$", "replacement": "http://a b/%zz"}}, paths("/x"))

# Who may pass --------------------------------------------------------------------------------------------------------------------------
Case("ipallow", {"ipAllowList": {"sourceRange": ["127.0.0.1/32"]}}, [GET, ask("POST /", body=b"x")])
Case("ipallow-not", {"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}}, [GET, ask("HEAD /"), ask("POST /", body=b"x")])
Case("ipallow-one", {"ipAllowList": {"sourceRange": ["127.0.0.1"]}}, [GET])
Case("ipallow-v6", {"ipAllowList": {"sourceRange": ["::1", "fe80::/10"]}}, [GET])
Case("ipallow-none", {"ipAllowList": {"sourceRange": []}}, [GET])
Case("ipallow-bad", {"ipAllowList": {"sourceRange": ["x"]}}, [GET])
for code in (404, 418, 200, 99, 1000):
    Case(f"ipallow-{code}", {"ipAllowList": {"sourceRange": ["10.0.0.0/8"], "rejectStatusCode": code}}, [GET])
forwarded = [ask("GET /", f"X-Forwarded-For: {value}", ep="open") for value in ("10.0.0.1", "10.0.0.1, 192.168.0.1", "192.168.0.1,10.0.0.1", "1.1.1.1, 10.0.0.1, 192.168.0.1", "junk", "10.0.0.1:80", "")] + [ask("GET /", ep="open"), ask("GET /", "X-Forwarded-For: 10.0.0.1")]
for depth in (1, 2, 3):
    Case(f"ipallow-depth{depth}", {"ipAllowList": {"sourceRange": ["10.0.0.0/8"], "ipStrategy": {"depth": depth}}}, forwarded)
Case("ipallow-excluded", {"ipAllowList": {"sourceRange": ["10.0.0.0/8"], "ipStrategy": {"excludedIPs": ["192.168.0.0/16", "127.0.0.1"]}}}, forwarded)
Case("ipallow-subnet", {"ipAllowList": {"sourceRange": ["2001:db8::/64"], "ipStrategy": {"depth": 1, "ipv6Subnet": 64}}}, [ask("GET /", "X-Forwarded-For: 2001:db8::77", ep="open"), ask("GET /", "X-Forwarded-For: 2001:db8:1::77", ep="open")])
Case("ipallow-badsubnet", {"ipAllowList": {"sourceRange": ["10.0.0.0/8"], "ipStrategy": {"depth": 1, "ipv6Subnet": 200}}}, [GET])
Case("ipallow-both", {"ipAllowList": {"sourceRange": ["10.0.0.0/8"], "ipStrategy": {"depth": 1, "excludedIPs": ["127.0.0.1"]}}}, forwarded)
Case("ipwhite", {"ipWhiteList": {"sourceRange": ["127.0.0.1/32"]}}, [GET])
Case("ipwhite-not", {"ipWhiteList": {"sourceRange": ["10.0.0.0/8"]}}, [GET])
Case("ipwhite-depth", {"ipWhiteList": {"sourceRange": ["10.0.0.0/8"], "ipStrategy": {"depth": 1}}}, forwarded)


def basic(name, password):
    return "Authorization: Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


USERS = ["apr:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "sha:{SHA}" + base64.b64encode(hashlib.sha1(b"test").digest()).decode()]
logins = [GET, ask("GET /", basic("apr", "test")), ask("GET /", basic("apr", "wrong")), ask("GET /", basic("sha", "test")), ask("GET /", basic("none", "test")), ask("GET /", "Authorization: Bearer x"), ask("GET /", "Authorization: Basic !!"), ask("GET /", "Authorization: basic " + base64.b64encode(b"sha:test").decode()), ask("HEAD /")]
Case("basic", {"basicAuth": {"users": USERS}}, logins)
Case("basic-realm", {"basicAuth": {"users": USERS, "realm": 'my "own"'}}, logins[:3])
Case("basic-remove", {"basicAuth": {"users": USERS, "removeHeader": True}}, logins[:3])
Case("basic-field", {"basicAuth": {"users": USERS, "headerField": "X-webUser"}}, [*logins[:3], ask("GET /", basic("apr", "test"), "X-WebUser: mine", "x_webuser: mine")])
Case("basic-file", {"basicAuth": {"usersFile": "@DIR@/users"}}, [*logins, ask("GET /", basic("filed", "test"))])
Case("basic-filetoo", {"basicAuth": {"users": USERS[:1], "usersFile": "@DIR@/users"}}, [*logins, ask("GET /", basic("filed", "test"))])
Case("basic-gone", {"basicAuth": {"usersFile": "@DIR@/gone"}}, [GET])
Case("basic-none", {"basicAuth": {"users": []}}, [GET])
Case("basic-bad", {"basicAuth": {"users": ["nocolon"]}}, [GET])
DIGEST = ["test:traefik:a2688e031edb4be6a3797f3882655c05"]
Case("digest", {"digestAuth": {"users": DIGEST}}, [GET, ask("GET /", "Authorization: Digest x"), ask("GET /", basic("test", "test")), ask("DIGEST /x?y=1"), ask("DIGEST-WRONG /x")])
Case("digest-realm", {"digestAuth": {"users": DIGEST, "realm": "traefik"}}, [GET, ask("DIGEST /x")])
Case("digest-other", {"digestAuth": {"users": DIGEST, "realm": "other"}}, [GET])
Case("digest-remove", {"digestAuth": {"users": DIGEST, "removeHeader": True}}, [ask("DIGEST /x")])
Case("digest-field", {"digestAuth": {"users": DIGEST, "headerField": "X-User"}}, [ask("DIGEST /x")])
Case("digest-file", {"digestAuth": {"usersFile": "@DIR@/digests"}}, [GET, ask("DIGEST /x")])
Case("digest-none", {"digestAuth": {"users": []}}, [GET])

AUTH = "http://127.0.0.1:@auth@"


def auth(control="", **options):
    return {"forwardAuth": {"address": f"{AUTH}/auth{control}", "trustForwardHeader": False, **options}}


asked = [ask("GET /a%2Fb?x=1", "X-A: 1", "Cookie: c=1"), ask("POST /p", "Content-Type: text/plain", body=b"hello"), ask("HEAD /h")]
Case("auth", auth(), asked)
Case("auth-401", auth("?status=401&header=X-Deny:1&header=WWW-Authenticate:Basic&size=5"), asked)
Case("auth-403", auth("?status=403"), asked)
Case("auth-302", auth("?status=302&header=Location:http://127.0.0.1:@auth@/login"), asked[:1])
Case("auth-302r", auth("?status=302&header=Location:/login"), asked[:1])
Case("auth-302k", auth("?status=302&header=Location:/login", preserveLocationHeader=True), asked[:1])
Case("auth-204", auth("?status=204"), asked[:1])
Case("auth-500", auth("?status=500"), asked[:1])
Case("auth-drop", auth("?drop=1"), asked[:1])
Case("auth-down", {"forwardAuth": {"address": "http://127.0.0.1:1/", "trustForwardHeader": False}}, asked[:1])
Case("auth-headers", auth("?header=X-User:u&header=X-Other:o&header=X-A:new", authResponseHeaders=["X-User", "X-A", "X-None"]), [ask("GET /", "X-A: old", "X-User: mine", "X-None: mine")])
Case("auth-regex", auth("?header=X-User:u&header=X-Other:o&header=Y:1", authResponseHeadersRegex="^X-"), [ask("GET /", "X-Mine: old", "X-User: mine")])
Case("auth-request", auth(authRequestHeaders=["X-A", "Accept"]), [ask("GET /", "X-A: 1", "X-B: 2", "Accept: text/html")])
Case("auth-cookies", auth("?header=Set-Cookie:a=1;%20Path=/&header=Set-Cookie:b=2", addAuthCookiesToResponse=["a"]), [ask("GET /?header=Set-Cookie:a=0&header=Set-Cookie:z=9")])
Case("auth-field", auth("?header=X-User:u", headerField="X-User"), [ask("GET /", "X-User: mine")])
Case("auth-body", auth(forwardBody=True), [asked[1], asked[0]])
Case("auth-maxbody", auth(forwardBody=True, maxBodySize=4), [asked[1], ask("POST /", body=b"1234")])
Case("auth-maxanswer", auth("?size=100&status=401", maxResponseBodySize=50), asked[:1])
Case("auth-maxanswerok", auth("?size=10&status=401", maxResponseBodySize=50), asked[:1])
Case("auth-method", auth(preserveRequestMethod=True), asked)
Case("auth-signin", auth("?status=401", authSigninURL="https://login.test/?rd=x"), asked[:1])
Case("auth-signin403", auth("?status=403", authSigninURL="https://login.test/"), asked[:1])
Case("auth-trust", auth(trustForwardHeader=True), [ask("GET /", "X-Forwarded-Host: h", "X-Forwarded-Uri: /u", "X-Forwarded-Method: PUT", "X-Forwarded-Proto: https", ep="open"), GET])
Case("auth-notrust", auth(), [ask("GET /", "X-Forwarded-Host: h", "X-Forwarded-Uri: /u", "X-Forwarded-Method: PUT", "X-Forwarded-Proto: https", "X-Forwarded-For: 1.1.1.1", ep="open")])
Case("auth-legacy", {"forwardAuth": {"address": f"{AUTH}/auth"}}, [ask("GET /", "X-Forwarded-Host: h", "X-Forwarded-Uri: /u", ep="open")])
Case("auth-hop", auth("?status=401&header=Connection:X-Hop&header=X-Hop:1&header=Keep-Alive:1"), [ask("GET /", "Connection: X-Mine", "X-Mine: 1", "Upgrade: foo", "TE: trailers")])

# How much ------------------------------------------------------------------------------------------------------------------------------
Case("rate", {"rateLimit": {"average": 1, "period": "1h", "burst": 3}}, [ask("GET /", n=5)])
Case("rate-nobody", {"rateLimit": {"average": 1, "period": "10s", "burst": 1}}, [GET, GET])
Case("rate-off", {"rateLimit": {"average": 0, "burst": 1}}, [ask("GET /", n=5)])
Case("rate-noburst", {"rateLimit": {"average": 1, "burst": 0}}, [ask("GET /", n=3)])
Case("rate-header", {"rateLimit": {"average": 1, "period": "1h", "burst": 1, "sourceCriterion": {"requestHeaderName": "X-U"}}}, [ask("GET /", "X-U: 1", n=2), ask("GET /", "X-U: 2", n=2), ask("GET /", n=2)])
Case("rate-host", {"rateLimit": {"average": 1, "period": "1h", "burst": 1, "sourceCriterion": {"requestHost": True}}}, [ask("GET /", n=2), ask("GET /", host="RATE-host.test:81", n=2)])
Case("rate-depth", {"rateLimit": {"average": 1, "period": "1h", "burst": 1, "sourceCriterion": {"ipStrategy": {"depth": 1}}}}, [ask("GET /", f"X-Forwarded-For: {ip}", ep="open", n=2) for ip in ("10.0.0.1", "10.0.0.2", "1.1.1.1, 10.0.0.1")])
Case("rate-excluded", {"rateLimit": {"average": 1, "period": "1h", "burst": 1, "sourceCriterion": {"ipStrategy": {"excludedIPs": ["10.0.0.1"]}}}}, [ask("GET /", f"X-Forwarded-For: {ip}", ep="open", n=2) for ip in ("10.0.0.1", "10.0.0.2", "1.1.1.1, 10.0.0.1")])
Case("rate-two", {"rateLimit": {"average": 1, "sourceCriterion": {"requestHost": True, "requestHeaderName": "X"}}}, [GET])
Case("rate-negative", {"rateLimit": {"average": -1}}, [GET])
Case("rate-period", {"rateLimit": {"average": 1, "period": "-1s"}}, [GET])
Case("rate-default", {"rateLimit": {"average": 100}}, [GET])
Case("inflight", {"inFlightReq": {"amount": 2}}, [ask("GET /?delay=0.6", together=5), GET])
Case("inflight-one", {"inFlightReq": {"amount": 1}}, [GET, GET])
Case("inflight-zero", {"inFlightReq": {"amount": 0}}, [GET])
Case("inflight-header", {"inFlightReq": {"amount": 1, "sourceCriterion": {"requestHeaderName": "X-U"}}}, [ask("GET /?delay=0.6", "X-U: 1", together=3), GET])
Case("inflight-host", {"inFlightReq": {"amount": 1, "sourceCriterion": {"requestHost": True}}}, [ask("GET /?delay=0.6", together=3)])
Case("inflight-ip", {"inFlightReq": {"amount": 1, "sourceCriterion": {"ipStrategy": {"depth": 1}}}}, [ask("GET /?delay=0.6", "X-Forwarded-For: 10.0.0.1", ep="open", together=3)])
bodies = [ask("POST /", body=b"x" * size) for size in (0, 9, 10, 11, 5000)]
Case("buffer", {"buffering": {"maxRequestBodyBytes": 10}}, [*bodies, ask("POST /", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), ask("POST /", "Transfer-Encoding: chunked", body=b"c\r\nhello world!\r\n0\r\n\r\n")])
Case("buffer-memory", {"buffering": {"memRequestBodyBytes": 4, "memResponseBodyBytes": 4}}, bodies)
Case("buffer-answer", {"buffering": {"maxResponseBodyBytes": 10}}, [ask(f"GET /?size={size}") for size in (0, 9, 10, 11, 5000)] + [ask("GET /?size=20&chunked=1"), ask("HEAD /?size=20")])
Case("buffer-retry", {"buffering": {"retryExpression": "IsNetworkError() && Attempts() < 3"}}, paths("/?drop=1", "/?fail=2&key=a"))
Case("buffer-code", {"buffering": {"retryExpression": "ResponseCode() == 503 && Attempts() <= 2"}}, paths("/?status=503", "/?fail=1&key=b", "/?status=500"))
Case("buffer-or", {"buffering": {"retryExpression": "Attempts() < 2 || ResponseCode() >= 600"}}, paths("/?status=503", "/"))
for number, expression in enumerate(("Attempts() < 3", "ResponseCode() == 503", "ResponseCode() > 500", "IsNetworkError() || ResponseCode() == 503", "Attempts() < 3 && ResponseCode() == 503", "!IsNetworkError() && Attempts() < 2", "RequestMethod() == \"GET\" && Attempts() < 2")):
    Case(f"buffer-expression{number}", {"buffering": {"retryExpression": expression}}, paths("/?status=503&size=3", "/?status=504") + [ask("POST /?status=503", body=b"hello")])
Case("buffer-bad", {"buffering": {"retryExpression": "Nope() > 1"}}, paths("/"))
Case("buffer-empty", {"buffering": {"maxRequestBodyBytes": 0}}, [*paths("/", "/?chunked=1&size=100", "/?status=304", "/?status=204"), ask("HEAD /")])

# Failures ------------------------------------------------------------------------------------------------------------------------------
Case("retry", {"retry": {"attempts": 3}}, paths("/?drop=1", "/?status=500", "/") + [ask("POST /?drop=1", body=b"x")])
Case("retry-status", {"retry": {"attempts": 3, "status": ["500", "502-504"]}}, paths("/?status=500", "/?status=503", "/?status=501", "/?fail=1&key=c", "/?fail=2&key=d") + [ask("POST /?status=503", body=b"x"), ask("PUT /?status=503", body=b"x"), ask("DELETE /?status=503")])
Case("retry-post", {"retry": {"attempts": 3, "status": ["503"], "retryNonIdempotentMethod": True}}, [ask("POST /?status=503", body=b"hello"), ask("POST /?fail=1&key=e", body=b"hello")])
Case("retry-body", {"retry": {"attempts": 3, "status": ["503"], "maxRequestBodyBytes": 4}}, [ask("PUT /?fail=1&key=f", body=b"1234"), ask("PUT /?fail=1&key=g", body=b"12345")])
Case("retry-nonet", {"retry": {"attempts": 3, "disableRetryOnNetworkError": True, "status": ["503"]}}, paths("/?drop=1", "/?fail=1&key=h"))
Case("retry-interval", {"retry": {"attempts": 2, "initialInterval": "10ms", "status": ["503"]}}, paths("/?fail=1&key=i"))
Case("retry-timeout", {"retry": {"attempts": 3, "timeout": "300ms", "status": ["503"]}}, paths("/?status=503&delay=0.2"))
Case("retry-zero", {"retry": {"attempts": 0}}, paths("/"))
Case("retry-one", {"retry": {"attempts": 1, "status": ["503"]}}, paths("/?status=503"))
Case("retry-down", {"retry": {"attempts": 2}}, paths("/"), service=servers({"url": "http://127.0.0.1:1"}))
Case("retry-next", {"retry": {"attempts": 2}}, [ask("GET /", n=4)], service=servers({"url": "http://127.0.0.1:1"}, "a"))
Case("retry-badstatus", {"retry": {"attempts": 2, "status": ["x"]}}, paths("/"))
Case("retry-reverse", {"retry": {"attempts": 2, "status": ["504-502"]}}, paths("/?status=503"))
for expression in ("ResponseCodeRatio(500, 600, 0, 600) > 0.5", "NetworkErrorRatio() > 0.5"):
    name = "breaker-" + expression[:7].lower()
    Case(name, {"circuitBreaker": {"expression": expression, "checkPeriod": "50ms", "fallbackDuration": "2s"}}, [ask("GET /?" + ("drop=1" if "Net" in expression else "status=500"), n=6), ask("GET /", wait=0.2), ask("GET /")])
Case("breaker-latency", {"circuitBreaker": {"expression": "LatencyAtQuantileMS(50.0) > 100", "checkPeriod": "50ms"}}, [ask("GET /?delay=0.2", n=4), ask("GET /", wait=0.2)])
Case("breaker-code", {"circuitBreaker": {"expression": "ResponseCodeRatio(500, 600, 0, 600) > 0.1", "checkPeriod": "50ms", "responseCode": 418}}, [ask("GET /?status=500", n=4), ask("GET /", wait=0.2), ask("HEAD /")])
Case("breaker-and", {"circuitBreaker": {"expression": "ResponseCodeRatio(500, 600, 0, 600) > 0.1 && LatencyAtQuantileMS(50.0) > 10000", "checkPeriod": "50ms"}}, [ask("GET /?status=500", n=4), ask("GET /", wait=0.2)])
Case("breaker-bad", {"circuitBreaker": {"expression": "Nope() > 1"}}, [GET])
Case("breaker-none", {"circuitBreaker": {"checkPeriod": "1s"}}, [GET])
Case("breaker-shape", {"circuitBreaker": {"expression": "NetworkErrorRatio()"}}, [GET])
page = {"status": ["500-599", "404"], "service": "errorpage", "query": "/{status}.html?o={originalStatus}&u={url}"}
wrong = paths("/a%2Fb?status=500&x=1", "/?status=404&header=X-Own:1", "/?status=403", "/", "/?status=503&size=3") + [ask("POST /?status=500", "Content-Type: text/plain", "X-A: 1", "Cookie: c=1", "Authorization: x", body=b"hi"), ask("HEAD /?status=500")]
Case("errors", {"errors": {**page, "errorRequestHeaders": ["X-A", "Accept"]}}, wrong)
Case("errors-rewrite", {"errors": {**page, "status": ["400-599"], "statusRewrites": {"418": 404, "500-504": 503}, "errorRequestHeaders": ["X-A"]}}, wrong + paths("/?status=418", "/?status=505"))
Case("errors-noquery", {"errors": {"status": ["500"], "service": "errorpage", "errorRequestHeaders": ["X-A"]}}, wrong[:1])
Case("errors-failing", {"errors": {"status": ["500"], "service": "errorpage", "query": "/?status=404&size=3", "errorRequestHeaders": ["X-A"]}}, wrong[:1])
Case("errors-down", {"errors": {"status": ["500"], "service": "nobody", "query": "/", "errorRequestHeaders": ["X-A"]}}, wrong[:1])
Case("errors-502", {"errors": {"status": ["502", "503"], "service": "errorpage", "query": "/{status}", "errorRequestHeaders": ["X-A"]}}, [GET], service=servers({"url": "http://127.0.0.1:1"}))
Case("errors-503", {"errors": {"status": ["503"], "service": "errorpage", "query": "/{status}", "errorRequestHeaders": ["X-A"]}}, [GET], service={"loadBalancer": {"servers": []}})
Case("errors-gone", {"errors": {"status": ["500"], "service": "gone"}}, [GET])
Case("errors-bad", {"errors": {"status": ["x"], "service": "errorpage"}}, [GET])

# Headers and content -------------------------------------------------------------------------------------------------------------------
Case("headers-request", {"headers": {"customRequestHeaders": {"X-Set": "1", "X-Drop": "", "Host": "other.test", "x-lower": "2"}}}, [ask("GET /", "X-Drop: 1", "X-Set: old", "X-Set: old2")])
Case("headers-response", {"headers": {"customResponseHeaders": {"X-Set": "1", "X-Drop": "", "Server": "me", "Content-Type": "text/x"}}}, paths("/?header=X-Drop:1&header=X-Set:old&header=Server:own", "/?status=404"))
Case("headers-hop", {"headers": {"customRequestHeaders": {"Connection": "x", "Transfer-Encoding": "chunked", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}}}, [GET])
secure = {"frameDeny": True, "contentTypeNosniff": True, "browserXssFilter": True, "referrerPolicy": "same-origin", "permissionsPolicy": "camera=()", "contentSecurityPolicy": "default-src 'self'", "contentSecurityPolicyReportOnly": "x", "publicKey": 'pin-sha256="a"', "featurePolicy": "old"}
Case("headers-secure", {"headers": secure}, [GET, *paths("/?header=X-Frame-Options:own&header=Referrer-Policy:own", "/?status=404"), ask("GET /", ep="secure")])
Case("headers-own", {"headers": {"frameDeny": True, "customFrameOptionsValue": "SAMEORIGIN", "browserXssFilter": True, "customBrowserXSSValue": "0"}}, [GET])
Case("headers-development", {"headers": {**secure, "stsSeconds": 10, "forceSTSHeader": True, "isDevelopment": True, "allowedHosts": ["x"]}}, [GET])
for name, more in (("plain", {}), ("sub", {"stsIncludeSubdomains": True}), ("pre", {"stsPreload": True, "stsIncludeSubdomains": True}), ("force", {"forceSTSHeader": True})):
    Case(f"headers-sts-{name}", {"headers": {"stsSeconds": 31536000, **more}}, [GET, ask("GET /", ep="secure"), ask("GET /", "X-Forwarded-Proto: https", ep="open")])
Case("headers-sts-zero", {"headers": {"stsSeconds": 0, "forceSTSHeader": True}}, [ask("GET /", ep="secure")])
Case("headers-sts-proxy", {"headers": {"stsSeconds": 5, "sslProxyHeaders": {"X-Forwarded-Proto": "https", "X-Tls": "on"}}}, [GET, ask("GET /", "X-Tls: on"), ask("GET /", "X-Forwarded-Proto: https", ep="open")])
Case("headers-hosts", {"headers": {"allowedHosts": ["headers-hosts.test", "other.test"]}}, [GET, ask("GET /", "X-Forwarded-Host: bad.test", ep="open"), ask("GET /", host="headers-hosts.test:81")])
Case("headers-badhost", {"headers": {"allowedHosts": ["other.test"]}}, [GET, ask("HEAD /"), ask("POST /", body=b"x")])
Case("headers-proxyhost", {"headers": {"allowedHosts": ["other.test"], "hostsProxyHeaders": ["X-Host"]}}, [GET, ask("GET /", "X-Host: other.test"), ask("GET /", "X-Host: bad.test")])
Case("headers-ssl", {"headers": {"sslRedirect": True, "sslTemporaryRedirect": True, "sslHost": "x.test", "sslForceHost": True}}, [GET])
preflight = [ask("OPTIONS /", f"Origin: {origin}", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: X-A, X-B") for origin in ("https://a.test", "https://b.test", "null")]
cross = [*preflight, *(ask("GET /", f"Origin: {origin}") for origin in ("https://a.test", "https://b.test", "null")), GET, ask("OPTIONS /"), ask("OPTIONS /", "Origin: https://a.test"), ask("OPTIONS /", "Access-Control-Request-Method: PUT"), ask("GET /?header=Vary:Accept&header=Access-Control-Allow-Origin:own", "Origin: https://a.test"), ask("GET /?status=404", "Origin: https://a.test")]
Case("cors", {"headers": {"accessControlAllowOriginList": ["https://a.test"]}}, cross)
Case("cors-star", {"headers": {"accessControlAllowOriginList": ["*"]}}, cross)
Case("cors-two", {"headers": {"accessControlAllowOriginList": ["https://a.test", "https://b.test"], "accessControlAllowMethods": ["GET", "PUT"], "accessControlAllowHeaders": ["X-A", "X-B"], "accessControlExposeHeaders": ["X-C", "X-D"], "accessControlMaxAge": 60, "addVaryHeader": True}}, cross)
Case("cors-credentials", {"headers": {"accessControlAllowOriginList": ["*"], "accessControlAllowCredentials": True, "accessControlAllowMethods": ["*"], "accessControlAllowHeaders": ["*"], "accessControlExposeHeaders": ["*"]}}, cross)
Case("cors-credentials2", {"headers": {"accessControlAllowOriginList": ["https://a.test"], "accessControlAllowCredentials": True}}, cross)
Case("cors-regex", {"headers": {"accessControlAllowOriginListRegex": ["^https://[ab]\\.test$"], "accessControlAllowMethods": ["GET"]}}, cross)
Case("cors-badregex", {"headers": {"accessControlAllowOriginListRegex": ["("]}}, [GET])
Case("cors-vary", {"headers": {"addVaryHeader": True}}, cross)
Case("cors-age", {"headers": {"accessControlMaxAge": 0, "accessControlAllowMethods": ["GET"]}}, cross)
Case("cors-negative", {"headers": {"accessControlMaxAge": -1, "accessControlAllowMethods": ["GET"]}}, cross[:2])
Case("cors-methods", {"headers": {"accessControlAllowMethods": ["GET"]}}, cross)
Case("cors-headers", {"headers": {"accessControlAllowHeaders": ["X-A"]}}, cross)
Case("cors-expose", {"headers": {"accessControlExposeHeaders": ["X-A"]}}, cross)
Case("cors-custom", {"headers": {"accessControlAllowOriginList": ["https://a.test"], "customResponseHeaders": {"X-Set": "1"}, "frameDeny": True}}, cross)
accepts = ["gzip", "br", "zstd", "gzip, br", "br, gzip", "gzip;q=0.5, br", "gzip;q=0, *", "*", "identity", "", "deflate", "GZIP", "gzip;q=1.0, zstd;q=0.9", "*;q=0", "identity;q=1, *;q=0.1", "x-gzip", "br;q=0.001"]
compressed = [ask("GET /?size=3000&type=text/plain", f"Accept-Encoding: {value}") for value in accepts] + [ask("GET /?size=3000&type=text/plain")]
kinds = [ask(f"GET /?size={size}&type={kind}" + more, "Accept-Encoding: gzip") for size, kind, more in (
    (1023, "text/plain", ""), (1024, "text/plain", ""), (1025, "text/plain", ""), (3000, "application/grpc", ""), (3000, "image/png", ""), (3000, "text/event-stream", ""), (3000, "", ""), (3000, "text/plain", "&chunked=1"), (10, "text/plain", "&chunked=1"),
    (3000, "text/plain", "&gzip=1"), (3000, "text/plain", "&header=Content-Encoding:identity"), (3000, "text/plain", "&status=404"), (3000, "text/plain", "&status=206&header=Content-Range:bytes 0-9/10"), (3000, "text/plain", "&header=ETag:%22a%22"),
    (3000, "text/plain", "&header=Vary:Origin"), (3000, "text/plain;charset=utf-8", ""), (3000, "TEXT/PLAIN", ""), (3000, "text/plain", "&header=Cache-Control:no-transform"), (3000, "text/plain", "&nolength=1"), (0, "text/plain", ""), (0, "text/plain", "&status=204"), (0, "text/plain", "&status=304"))]
Case("compress", {"compress": {}}, [*compressed, *kinds, ask("HEAD /?size=3000&type=text/plain", "Accept-Encoding: gzip")])
Case("compress-excluded", {"compress": {"excludedContentTypes": ["text/plain", "text/event-stream"]}}, kinds)
Case("compress-included", {"compress": {"includedContentTypes": ["text/plain"]}}, kinds)
Case("compress-both", {"compress": {"includedContentTypes": ["text/plain"], "excludedContentTypes": ["text/css"]}}, [GET])
Case("compress-badtype", {"compress": {"includedContentTypes": ["/"]}}, [GET])
Case("compress-min", {"compress": {"minResponseBodyBytes": 10}}, [ask(f"GET /?size={size}&type=text/plain", "Accept-Encoding: gzip") for size in (9, 10, 11)])
Case("compress-minzero", {"compress": {"minResponseBodyBytes": 0}}, kinds)
Case("compress-minnegative", {"compress": {"minResponseBodyBytes": -1}}, kinds[:3])
Case("compress-encodings", {"compress": {"encodings": ["zstd", "br"]}}, compressed)
Case("compress-one", {"compress": {"encodings": ["gzip"]}}, compressed)
Case("compress-default", {"compress": {"defaultEncoding": "br"}}, compressed)
Case("compress-defaultout", {"compress": {"encodings": ["gzip"], "defaultEncoding": "br"}}, compressed)
Case("compress-unknown", {"compress": {"encodings": ["lzma"]}}, [GET])
Case("compress-baddefault", {"compress": {"defaultEncoding": "lzma"}}, [GET])
Case("contenttype", {"contentType": {}}, paths("/?type=&body=%3Chtml%3E", "/?type=&body=hello", "/?type=&size=0", "/?type=text/x", "/?type=&body=%89PNG%0d%0a%1a%0a"))
Case("contenttype-auto", {"contentType": {"autoDetect": True}}, paths("/?type=&body=%3Chtml%3E"))
Case("contenttype-off", {"contentType": {"autoDetect": False}}, paths("/?type=&body=%3Chtml%3E"))
Case("contenttype-absent", None, paths("/?type=&body=%3Chtml%3E", "/?type=&body=hello"))
frame = b"\0\0\0\0\2hi"
Case("grpcweb", {"grpcWeb": {"allowOrigins": ["https://a.test"]}}, [
    ask("POST /s/M", "Content-Type: application/grpc-web+proto", "Origin: https://a.test", body=frame), ask("POST /s/M", "Content-Type: application/grpc", body=frame),
    ask("OPTIONS /s/M", "Origin: https://a.test", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-grpc-web"), ask("OPTIONS /s/M", "Origin: https://b.test", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-grpc-web"), GET])
Case("grpcweb-star", {"grpcWeb": {"allowOrigins": ["*"]}}, [ask("OPTIONS /s/M", "Origin: https://a.test", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-grpc-web"), ask("POST /s/M", "Content-Type: application/grpc-web", "Origin: https://a.test", body=frame)])
names = {"country": True, "province": True, "locality": True, "organization": True, "commonName": True, "serialNumber": True, "domainComponent": True}
withcert = [ask("GET /", ep="secure", cert=True), ask("GET /", "X-Forwarded-Tls-Client-Cert: mine", "X-Forwarded-Tls-Client-Cert-Info: mine", ep="secure"), GET]
Case("cert-pem", {"passTLSClientCert": {"pem": True}}, withcert)
Case("cert-all", {"passTLSClientCert": {"pem": True, "info": {"notAfter": True, "notBefore": True, "sans": True, "serialNumber": True, "subject": {**names, "organizationalUnit": True}, "issuer": names}}}, withcert)
for option in ("notAfter", "notBefore", "sans", "serialNumber"):
    Case(f"cert-{option.lower()}", {"passTLSClientCert": {"info": {option: True}}}, withcert)
for option in [*names, "organizationalUnit"]:
    Case(f"cert-subject-{option.lower()}", {"passTLSClientCert": {"info": {"subject": {option: True}}}}, withcert[:1])
for option in names:
    Case(f"cert-issuer-{option.lower()}", {"passTLSClientCert": {"info": {"issuer": {option: True}}}}, withcert[:1])
Case("two-kinds", {"addPrefix": {"prefix": "/x"}, "stripPrefix": {"prefixes": ["/y"]}}, [GET])
Case("order", [{"addPrefix": {"prefix": "/1"}}, {"addPrefix": {"prefix": "/2"}}, {"stripPrefix": {"prefixes": ["/2"]}}], [GET])

# Services ------------------------------------------------------------------------------------------------------------------------------
Case("lb", None, [ask("GET /", n=9)], service=servers("a", "b", "c"))
Case("lb-weights", None, [ask("GET /", n=12)], service=servers({"url": "http://127.0.0.1:@a@", "weight": 3}, {"url": "http://127.0.0.1:@b@", "weight": 1}, {"url": "http://127.0.0.1:@c@", "weight": 0}))
Case("lb-negative", None, [ask("GET /", n=4)], service=servers({"url": "http://127.0.0.1:@a@", "weight": -1}, "b"))
Case("lb-preserve", None, paths("/", "/x?y=1", "/a%2Fb"), service=servers({"url": "http://127.0.0.1:@a@/base/", "preservePath": True}))
Case("lb-path", None, paths("/x"), service=servers({"url": "http://127.0.0.1:@a@/base?q=1"}))
Case("lb-slash", None, paths("/x"), service=servers({"url": "http://127.0.0.1:@a@/"}))
Case("lb-hosts", None, [GET, ask("GET /", host="lb-hosts.test:99")], service=servers("a", passHostHeader=False))
Case("lb-none", None, [GET, ask("HEAD /"), ask("POST /", body=b"x")], service={"loadBalancer": {"servers": []}})
Case("lb-badurl", None, [GET], service=servers({"url": "127.0.0.1:80"}))
Case("lb-badstrategy", None, [GET], service=servers("a", strategy="nope"))
for strategy in ("wrr", "p2c", "hrw", "leasttime"):
    Case(f"lb-{strategy}", None, [ask("GET /", n=4)] if strategy in ("wrr",) else [GET], service=servers(*("ab" if strategy in ("wrr",) else "a"), strategy=strategy))
Case("lb-hrwspread", None, [ask("GET /", n=4)], service=servers("a", "b", "c", strategy="hrw"))
Case("lb-flush", None, paths("/?chunked=1&size=100"), service=servers("a", responseForwarding={"flushInterval": "1s"}))
Case("lb-flushnow", None, paths("/?chunked=1&size=100"), service=servers("a", responseForwarding={"flushInterval": "-1"}))
cookies = [ask("GET /", cookie=True, n=4), ask("GET /", "Cookie: _x=1; nope=2", n=1), ask("GET /")]
for name, options in (("plain", {}), ("named", {"name": "sess"}), ("all", {"name": "sess", "secure": True, "httpOnly": True, "sameSite": "strict", "maxAge": 60, "path": "/p", "domain": "x.test"}), ("lax", {"sameSite": "lax"}), ("none", {"sameSite": "none"}), ("badsite", {"sameSite": "nope"}), ("negative", {"maxAge": -1}), ("nopath", {"path": ""}), ("badname", {"name": "a b"}), ("baddomain", {"domain": "a b"})):
    Case(f"sticky-{name}", None, [cookies[0]] if name != "plain" else cookies, service=servers("a", sticky={"cookie": options}))
Case("sticky-two", None, [ask("GET /", "Cookie: s=nope"), ask("GET /", cookie=True, n=4)], service=servers("a", sticky={"cookie": {"name": "s"}}))
Case("passive", None, [ask("GET /?status=500", n=2), GET], service=servers("a", passiveHealthCheck={"failureWindow": "5s", "maxFailedAttempts": 2}))
Case("passive-two", None, [ask("GET /?status=500"), ask("GET /", n=3)], service=servers("a", "b", passiveHealthCheck={"failureWindow": "30s"}))
for name, check in (("ok", {"path": "/"}), ("fail", {"path": "/?status=500", "interval": "100ms"}), ("status", {"path": "/?status=201", "status": 201, "interval": "100ms"}), ("wrongstatus", {"path": "/?status=201", "status": 202, "interval": "100ms"}), ("port", {"path": "/", "port": 1, "interval": "100ms"}), ("timeout", {"path": "/?delay=1", "timeout": "100ms", "interval": "100ms"}), ("redirect", {"path": "/?status=302&header=Location:/?status=500", "interval": "100ms"}), ("noredirect", {"path": "/?status=302&header=Location:/?status=500", "interval": "100ms", "followRedirects": False}),
                    ("method", {"path": "/", "method": "POST", "interval": "100ms"}), ("https", {"path": "/", "scheme": "https", "interval": "100ms"}), ("headers", {"path": "/", "headers": {"X-A": "1"}, "hostname": "h.test", "interval": "100ms"})):
    Case(f"health-{name}", None, [ask("GET /", wait=0.6)], service=servers("a", healthCheck=check))
both = {"weighted": {"services": [{"name": "only-a", "weight": 3}, {"name": "only-b", "weight": 1}]}}
Case("weighted", None, [ask("GET /", n=8)], service=both, services={"only-a": servers("a"), "only-b": servers("b"), "only-down": servers({"url": "http://127.0.0.1:1"}), "failing": {"loadBalancer": {"servers": []}}, "checked-a": servers("a", healthCheck={"path": "/"}), "checked-b": servers("b", healthCheck={"path": "/"}), "checked-down": servers("a", healthCheck={"path": "/?status=500", "interval": "100ms"})})
Case("weighted-zero", None, [ask("GET /", n=4)], service={"weighted": {"services": [{"name": "only-a", "weight": 0}, {"name": "only-b", "weight": 1}]}})
Case("weighted-default", None, [ask("GET /", n=4)], service={"weighted": {"services": [{"name": "only-a"}, {"name": "only-b"}]}})
Case("weighted-sticky", None, [ask("GET /", cookie=True, n=4)], service={"weighted": {"services": [{"name": "only-a"}], "sticky": {"cookie": {"name": "lvl"}}}})
Case("weighted-health", None, [ask("GET /", n=4, wait=0.5)], service={"weighted": {"services": [{"name": "checked-a"}, {"name": "checked-down"}], "healthCheck": {}}})
Case("weighted-unhealthy", None, [GET], service={"weighted": {"services": [{"name": "only-a"}], "healthCheck": {}}})
Case("weighted-gone", None, [GET], service={"weighted": {"services": [{"name": "gone"}]}})
Case("weighted-empty", None, [GET], service={"weighted": {"services": []}})
Case("weighted-nested", None, [ask("GET /", n=8)], service={"weighted": {"services": [{"name": "weighted"}, {"name": "only-b"}]}})
Case("weighted-loop", None, [GET], service={"weighted": {"services": [{"name": "weighted-loop"}]}})
Case("hrw", None, [ask("GET /", n=4)], service={"highestRandomWeight": {"services": [{"name": "only-a"}, {"name": "only-b"}]}})
Case("hrw-weights", None, [ask("GET /", n=4)], service={"highestRandomWeight": {"services": [{"name": "only-a", "weight": 100}, {"name": "only-b", "weight": 1}]}})
Case("mirror", None, [ask("POST /m?x=1", "X-A: 1", body=b"hello", n=4)], service={"mirroring": {"service": "only-a", "mirrors": [{"name": "only-b", "percent": 50}]}})
Case("mirror-all", None, [ask("POST /m", body=b"hello", n=2)], service={"mirroring": {"service": "only-a", "mirrors": [{"name": "only-b", "percent": 100}, {"name": "only-b", "percent": 0}]}})
Case("mirror-nobody", None, [ask("POST /m", body=b"hello", n=2)], service={"mirroring": {"service": "only-a", "mirrorBody": False, "mirrors": [{"name": "only-b", "percent": 100}]}})
Case("mirror-size", None, [ask("POST /m", body=b"hello", n=2), ask("POST /m", body=b"hell", n=2)], service={"mirroring": {"service": "only-a", "maxBodySize": 4, "mirrors": [{"name": "only-b", "percent": 100}]}})
Case("mirror-gone", None, [GET], service={"mirroring": {"service": "only-a", "mirrors": [{"name": "gone", "percent": 100}]}})
Case("mirror-percent", None, [GET], service={"mirroring": {"service": "only-a", "mirrors": [{"name": "only-b", "percent": 101}]}})
Case("mirror-maxzero", None, [ask("POST /m", body=b"hello", n=2), ask("POST /m", n=1)], service={"mirroring": {"service": "only-a", "maxBodySize": 0, "mirrors": [{"name": "only-b", "percent": 100}]}})
Case("failover", None, [ask("GET /", n=2, wait=0.5)], service={"failover": {"service": "checked-down", "fallback": "checked-b", "healthCheck": {}}})
Case("failover-up", None, [ask("GET /", n=2)], service={"failover": {"service": "checked-a", "fallback": "checked-b"}})
Case("failover-bothdown", None, [ask("GET /", wait=0.5)], service={"failover": {"service": "checked-down", "fallback": "checked-down"}})
Case("failover-status", None, [*paths("/?status=500", "/?status=502", "/"), ask("POST /?status=500", body=b"hello"), ask("POST /?status=500", body=b"hell")], service={"failover": {"service": "only-a", "fallback": "only-b", "errors": {"status": ["500", "503-504"], "maxRequestBodyBytes": 4}}})
Case("failover-any", None, [ask("POST /?status=500", body=b"hello")], service={"failover": {"service": "only-a", "fallback": "only-b", "errors": {"status": ["500"]}}})
Case("failover-nohealth", None, [GET], service={"failover": {"service": "only-a", "fallback": "only-b"}})
Case("failover-gone", None, [GET], service={"failover": {"service": "gone", "fallback": "only-b"}})
Case("service-middlewares", {"addPrefix": {"prefix": "/router"}}, [GET], service={"middlewares": ["addprefix-0"], **servers("a")})
Case("service-two", None, [GET], service={**servers("a"), **both})
Case("service-badmiddleware", None, [GET], service={"middlewares": ["gone"], **servers("a")})
Case("transport-name", None, [GET], service=servers("a", serversTransport="t-short"), extra={"http/serversTransports/t-short": {"forwardingTimeouts": {"responseHeaderTimeout": "200ms"}}})
Case("transport-timeout", None, [ask("GET /?delay=0.6")], service=servers("a", serversTransport="t-short"))
Case("transport-gone", None, [GET], service=servers("a", serversTransport="gone"))
Case("transport-tls", None, [GET], service=servers({"url": "https://127.0.0.1:@tls@"}, serversTransport="t-insecure"), extra={"http/serversTransports/t-insecure": {"insecureSkipVerify": True}})
Case("transport-untrusted", None, [GET], service=servers({"url": "https://127.0.0.1:@tls@"}))
Case("transport-ca", None, [GET], service=servers({"url": "https://127.0.0.1:@tls@"}, serversTransport="t-ca"), extra={"http/serversTransports/t-ca": {"rootCAs": ["@DIR@/ca.pem"], "serverName": "server.test"}})
Case("transport-wrongname", None, [GET], service=servers({"url": "https://127.0.0.1:@tls@"}, serversTransport="t-wrong"), extra={"http/serversTransports/t-wrong": {"rootCAs": ["@DIR@/ca.pem"], "serverName": "wrong.test"}})
Case("transport-uri", None, [GET], service=servers({"url": "https://127.0.0.1:@tls@"}, serversTransport="t-uri"), extra={"http/serversTransports/t-uri": {"rootCAs": ["@DIR@/ca.pem"], "serverName": "server.test", "peerCertURI": "spiffe://a/b"}})
Case("transport-baduri", None, [GET], service=servers({"url": "https://127.0.0.1:@tls@"}, serversTransport="t-baduri"), extra={"http/serversTransports/t-baduri": {"rootCAs": ["@DIR@/ca.pem"], "serverName": "server.test", "peerCertURI": "spiffe://a/c"}})
Case("transport-down", None, [GET, ask("POST /", body=b"x")], service=servers({"url": "http://127.0.0.1:1"}))
Case("transport-drop", None, [ask("POST /?drop=1", body=b"x"), ask("GET /?drop=1")], service=servers("a"))
Case("transport-h2c", None, [GET], service=servers({"url": "h2c://127.0.0.1:1"}))

# Routers -------------------------------------------------------------------------------------------------------------------------------
Case("router-priority", None, paths("/x", "/y"), router={"priority": 5}, routers={"router-weaker": {"rule": "Host(`router-priority.test`) && Path(`/x`)", "service": "only-b", "priority": 4}})
Case("router-huge", None, [GET], router={"priority": 9223372036854775807})
Case("router-negative", None, [GET], router={"priority": -7})
Case("router-entrypoint", None, [GET, ask("GET /", ep="open")], router={"entryPoints": ["open"]})
Case("router-noentrypoint", None, [GET], router={"entryPoints": ["gone"]})
Case("router-mixed", None, [GET, ask("GET /", ep="open")], router={"entryPoints": ["web", "gone"]})
Case("router-tls", None, [GET, ask("GET /", ep="secure")], router={"tls": {}})
Case("router-tlsoptions", None, [ask("GET /", ep="secure")], router={"tls": {"options": "gone"}})
Case("router-resolver", None, [ask("GET /", ep="secure")], router={"tls": {"certResolver": "gone"}})
Case("router-domains", None, [ask("GET /", ep="secure")], router={"tls": {"domains": [{"main": "a.test", "sans": ["b.test"]}]}})
Case("router-observability", None, [GET], router={"observability": {"accessLogs": False, "metrics": False, "tracing": False, "traceVerbosity": "detailed"}})
Case("router-verbosity", None, [GET], router={"observability": {"traceVerbosity": "nope"}})
Case("router-noservice", None, [GET], router={"service": None})
Case("router-goneservice", None, [GET], router={"service": "gone"})
Case("router-norule", None, [GET], router={"rule": None})
Case("router-v3", None, [GET], router={"ruleSyntax": "v3"})
Case("router-badsyntax", None, [GET], router={"ruleSyntax": "v9"})
Case("router-middleware", None, [GET], router={"middlewares": ["addprefix-0", "addprefix-0"]})
Case("router-gonemiddleware", None, [GET], router={"middlewares": ["gone"]})
Case("router-otherprovider", None, [GET], router={"middlewares": ["addprefix-0@file"], "service": "echo@file"})
Case("router-parent", None, paths("/one", "/two", "/three"), router={"service": None, "middlewares": ["addprefix-0"]}, routers={"router-child1": {"rule": "Path(`/x/one`)", "service": "only-a", "parentRefs": ["router-parent"]}, "router-child2": {"rule": "Path(`/two`)", "service": "only-b", "parentRefs": ["router-parent"], "middlewares": ["addprefix-0"]}})
Case("router-childservice", None, [GET], routers={"router-child3": {"rule": "Path(`/x`)", "service": "only-a", "parentRefs": ["router-childservice"]}})
Case("router-childtls", None, [GET], router={"service": None}, routers={"router-child4": {"rule": "PathPrefix(`/`)", "service": "only-a", "parentRefs": ["router-childtls"], "tls": {}}})
Case("router-childentry", None, [GET], router={"service": None}, routers={"router-child5": {"rule": "PathPrefix(`/`)", "service": "only-a", "parentRefs": ["router-childentry"], "entryPoints": ["web"]}})
Case("router-cycle", None, [GET], router={"service": None, "parentRefs": ["router-cycle2"]}, routers={"router-cycle2": {"rule": "PathPrefix(`/`)", "parentRefs": ["router-cycle"]}})
Case("router-orphan", None, [GET], router={"parentRefs": ["gone"]})
for number, rule in enumerate(("Path(`/p`)", "PathPrefix(`/p`)", "PathRegexp(`^/p[0-9]+$`)", "Method(`POST`)", "Header(`X-A`, `1`)", "HeaderRegexp(`X-A`, `^[0-9]+$`)", "Query(`k`, `v`)", "Query(`k`)", "QueryRegexp(`k`, `^v`)", "ClientIP(`127.0.0.0/8`)", "!ClientIP(`127.0.0.1`)", "HostRegexp(`^rule-[0-9]+\\.test$`)", "Path(`/p`) || Path(`/q`)", "!(Path(`/p`) && Method(`GET`))", "Path(\"/p\\x71\")", "host(`x`) || PATH(`/p`)")):
    Case(f"rule-{number}", None, paths("/p", "/p1", "/pq", "/q", "/P", "/p/", "/p%2F", "/?k=v", "/?k=", "/?k", "/?k=v2&k=v", "/?K=v") + [ask("POST /p"), ask("GET /", "X-A: 1"), ask("GET /", "x-a: 12", "X-A: 1"), ask("GET /", "X-A: a")], router={"rule": f"Host(`rule-{number}.test`) && ({rule})"})
for number, rule in enumerate(("Host(`x`) &&", "Host()", "Nope(`x`)", "Host(`x`, `y`)", "Path(`p`)", "PathRegexp(`(`)", "ClientIP(`x`)", "Host('x')", "Host(`x`) Host(`y`)", "Host(`é`)", "", "Query(`a`,`b`,`c`)", "Header(`a`)", "Method(``)", "HostRegexp(`{n:.*}`)")):
    Case(f"badrule-{number}", None, [], router={"rule": rule})


# What a run is made of -----------------------------------------------------------------------------------------------------------------
VOLATILE = {"date", "content-length", "transfer-encoding", "connection", "keep-alive"}
KNOWN = {
    "^basic-field 3|^auth-hop": "headers that only pretend to be another",
    "rate-negative|retry-reverse|rate-period|sticky-badsite|router-badsyntax": "options that make no sense are reported",
    "^buffer-|api .*buffer-expression": "retryExpression counts for requests without a body, and has no RequestMethod()",
    "^retry 0|^retry-timeout": "a kept connection that has closed is no attempt; time on a busy machine",
    "no-transform": "compress heeds no-transform",
    "^grpcweb": "Traefik's order is another every time",
    "weighted-unhealthy|failover-nohealth": "composites need no healthCheck",
    "^passive-two|^probes|api services/passive-two": "servers begin in the order of the configuration, checks at once; the API shows what a passive check took out",
    "badrule|router-norule": "errors in rules say what was expected; equal routers have a warning",
    "breaker-|buffer-bad|errors-bad|lb-badurl|retry-badstatus|basic-bad|compress-badtype": "errors say what was expected",
    "router-child|services/only-a": "a child with tls is shown with its error",
    "weighted-loop|service-badmiddleware": "told once; a broken service has no state of servers",
}
SECRET = re.compile('(nonce|opaque|response)="[^"]*"')


class Server:
    """Answers as the query says, and notes what it got."""

    def __init__(self, name, context=None):
        self.name, self.seen, self.probes, self.failed, self.context = name, [], set(), collections.Counter(), context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            peer = self.listener.accept()[0]
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        try:
            if self.context:
                peer = self.context.wrap_socket(peer, server_side=True)
            with peer:
                stream = peer.makefile("rb")
                while self.one(stream, peer):
                    pass
        except (OSError, ValueError):
            pass

    def one(self, stream, peer):
        line = stream.readline().decode("latin-1").strip()
        if not line:
            return False
        headers = []
        while (header := stream.readline().decode("latin-1").strip()):
            name, _, value = header.partition(":")
            headers.append((name.strip(), value.strip()))
        low = {name.lower(): value for name, value in headers}
        body = b""
        if "chunked" in low.get("transfer-encoding", ""):
            while (size := int(stream.readline().split(b";")[0], 16)):
                body += stream.read(size)
                stream.readline()
            while stream.readline() not in (b"\r\n", b""):
                pass
        else:
            body = stream.read(int(low.get("content-length", 0)))
        kept = sorted((name.lower(), SECRET.sub(r'\1="*"', value)) for name, value in headers if name.lower() not in VOLATILE and (name.lower(), value) != ("accept-encoding", "gzip"))
        if "x-forwarded-host" in low:
            self.seen.append([line, kept, body.decode("latin-1")[:200]])
        else:
            # A probe of a health check.
            self.probes.add(json.dumps([line, kept]))
        method, target, _ = line.split(" ", 2)
        raw = target.partition("?")[2]
        query = collections.defaultdict(list)
        for pair in raw.split("&"):
            name, _, value = pair.partition("=")
            query[name].append(re.sub("%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), value))
        first = lambda name, otherwise="": query[name][0] if query[name] else otherwise
        if first("delay"):
            time.sleep(float(first("delay")))
        if first("drop"):
            return False
        status = int(first("status", "200"))
        if first("fail"):
            self.failed[first("key")] += 1
            status = 503 if self.failed[first("key")] <= int(first("fail")) else 200
        answer = json.dumps({"server": self.name, "method": method}).encode()
        if query["size"]:
            answer = b"x" * int(first("size"))
        if query["body"]:
            answer = first("body").encode("latin-1")
        extra = [pair.replace(":", ": ", 1) for pair in query["header"]]
        if first("gzip"):
            answer, extra = gzip.compress(answer, mtime=0), [*extra, "Content-Encoding: gzip"]
        kind = first("type", "application/json") if query["type"] else "application/json"
        head = [f"HTTP/1.1 {status} {STATUS.get(status, 'S')}", "X-Server: " + self.name, *extra] + ([f"Content-Type: {kind}"] if kind else [])
        if status in (204, 304) or status < 200:
            answer = b""
        elif first("chunked"):
            head.append("Transfer-Encoding: chunked")
            answer = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [answer[at:at + 1000] for at in range(0, len(answer), 1000)]) + b"0\r\n\r\n"
        elif first("nolength"):
            head.append("Connection: close")
        else:
            head.append(f"Content-Length: {len(answer)}")
        peer.sendall(("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + (b"" if method == "HEAD" else answer))
        return not first("nolength")


STATUS = {200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content", 302: "Found", 304: "Not Modified", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 418: "I'm a teapot", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported"}


def exchange(port, raw, tls=None, head=False):
    """Status, headers and body of one answer."""
    try:
        stream = socket.create_connection(("127.0.0.1", port), 8)
        if tls:
            stream = tls.wrap_socket(stream, server_hostname=tls.host)
        stream.sendall(raw)
        file = stream.makefile("rb")
        line = file.readline().decode("latin-1").strip()
        if not line:
            return ["closed", [], b""]
        status, headers = int(line.split(" ")[1]), []
        while (header := file.readline().decode("latin-1").strip()):
            name, _, value = header.partition(":")
            headers.append((name.strip().lower(), value.strip()))
        low = dict(headers)
        body = b""
        if head or status in (204, 304):
            pass
        elif "chunked" in low.get("transfer-encoding", ""):
            while (size := int(file.readline().split(b";")[0], 16)):
                body += file.read(size)
                file.readline()
        elif "content-length" in low:
            body = file.read(int(low["content-length"]))
        else:
            body = file.read()
        stream.close()
        return [status, headers, body]
    except (OSError, ValueError) as error:
        return [type(error).__name__, [], b""]


class Run:
    """All cases through one gateway."""

    def __init__(self, which, binary, base, cases, shared):
        self.shared, self.which, self.servers = shared, which, shared.servers
        for server in self.servers.values():
            server.failed.clear()
            server.probes.clear()
        self.folder = tempfile.mkdtemp(prefix="dynamic")
        self.ports = {name: base + number for number, name in enumerate(("web", "open", "secure", "api"))}
        config = {"http": {"routers": {}, "services": {"echo": servers("echo"), "errorpage": servers("errorpage"), "nobody": servers({"url": "http://127.0.0.1:1"})}, "middlewares": {}}, "tls": {"options": {"default": {"clientAuth": {"clientAuthType": "RequestClientCert"}}}}}
        for case in cases:
            case.objects(config)
        for name, router in list(config["http"]["routers"].items()):
            if "tls" not in router and "parentRefs" not in router and name.split("-")[0] in ("cert", "headers", "redirectscheme"):
                config["http"]["routers"][name + "-tls"] = {**router, "tls": {}}
        self.fill = {"@DIR@": shared.folder, **{f"@{name}@": str(server.port) for name, server in self.servers.items()}}
        text = json.dumps(config)
        for mark, value in self.fill.items():
            text = text.replace(mark, value)
        routes = os.path.join(self.folder, "routes.yml")
        with open(routes, "w") as file:
            file.write(text)
        flags = [f"--entryPoints.{name}.address=127.0.0.1:{self.ports[name]}" for name in ("web", "open", "secure")]
        flags += [f"--entryPoints.traefik.address=127.0.0.1:{self.ports['api']}", "--entryPoints.open.forwardedHeaders.insecure=true", "--api.insecure=true", f"--providers.file.filename={routes}", "--global.checkNewVersion=false", "--log.level=WARN"]
        self.log = open(os.path.join(self.folder, "log"), "w+")
        self.process = subprocess.Popen([binary, *flags], stdout=self.log, stderr=self.log, cwd=self.folder)
        self.ready()

    def ready(self):
        for _ in range(300):
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"{self.which} ended: {self.log.read()[-2000:]}")
            try:
                if len(json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.ports['api']}/api/rawdata"))["routers"]) > 5:
                    time.sleep(0.5)
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.process.kill()
        self.log.seek(0)
        sys.exit(f"{self.which} is not ready: {self.log.read()[-2000:]}")

    def plain(self, value):
        """A text without ports and folders."""
        text = value if isinstance(value, str) else json.dumps(value)
        for mark, given in (*self.fill.items(), *((f"@{name}@", port) for name, port in self.ports.items())):
            text = text.replace(str(given), mark)
        return text

    def send(self, case, request):
        time.sleep(request["wait"])
        for server in self.servers.values():
            server.seen.clear()
        count = request["together"] or request["n"]
        if count == 1 and not request["cookie"]:
            shown = self.one(case, request, ())
        else:
            results, jar = [], ()
            if request["together"]:
                threads = [threading.Thread(target=lambda: results.append(self.one(case, request, ()))) for _ in range(count)]
                [thread.start() for thread in threads]
                [thread.join() for thread in threads]
            else:
                for _ in range(count):
                    results.append(self.one(case, request, jar))
                    given = [value.split(";")[0] for name, value in results[-1]["headers"] if name == "set-cookie"]
                    if request["cookie"] and given:
                        jar = (f"Cookie: {given[0]}",)
            shown = {"answers": sorted(json.dumps({"status": one["status"], "server": one["server"], "cookies": [value for name, value in one["headers"] if name == "set-cookie"]}) for one in results)}
        time.sleep(0.15 if case.name.startswith("mirror") else 0)
        shown["seen"] = {name: sorted(server.seen) if not name == "auth" else server.seen for name, server in self.servers.items() if server.seen}
        return shown

    def one(self, case, request, jar):
        method, target = request["line"].split(" ", 1)
        host = request["host"] or f"{case.name}.test"
        headers = list(request["headers"]) + list(jar)
        if method.startswith("DIGEST"):
            headers.append(self.digest(case, host, target, method == "DIGEST"))
            method = "GET"
        lines = [f"{method} {self.filled(target)} HTTP/1.1", f"Host: {host}", *headers]
        if request["body"] and not any(header.lower().startswith("transfer-encoding") for header in headers):
            lines.append(f"Content-Length: {len(request['body'])}")
        raw = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request["body"]
        tls = self.shared.client(host.split(":")[0], request["cert"]) if request["ep"] == "secure" else None
        status, headers, body = exchange(self.ports[request["ep"]], raw, tls, method == "HEAD")
        coding = dict(headers).get("content-encoding")
        size = len(body)
        if coding == "gzip":
            try:
                body = b"(gzip) " + gzip.decompress(body)
            except (OSError, EOFError):
                pass
        elif coding in ("br", "zstd"):
            body = f"({coding})".encode()
        shown = sorted((name, value) for name, value in headers if name not in VOLATILE)
        shown = [(name, re.sub("^[0-9.]+(m?s)$", r"*\1", value) if name == "x-retry-in" else SECRET.sub(r'\1="*"', value)) for name, value in shown]
        shown = [(name, "*" if name == "retry-after" else value) for name, value in shown]
        text = body.decode("latin-1")
        return {"status": status, "headers": shown, "length": size if not coding else "*", "body": text[:3000], "server": dict(headers).get("x-server")}

    def filled(self, text):
        for mark, value in self.fill.items():
            text = text.replace(mark, value)
        return text

    def digest(self, case, host, target, right):
        _, headers, _ = exchange(self.ports["web"], f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        offer = dict(headers).get("www-authenticate", "")
        field = lambda name: (re.search(f'{name}="?([^",]*)', offer) or ["", ""])[1]
        md5 = lambda text: hashlib.md5(text.encode()).hexdigest()
        secret = "a2688e031edb4be6a3797f3882655c05" if right else "0" * 32
        response = md5(f"{secret}:{field('nonce')}:00000001:abc:auth:{md5('GET:' + target)}")
        return f'Authorization: Digest username="test", realm="{field("realm")}", nonce="{field("nonce")}", uri="{target}", algorithm=MD5, response="{response}", qop=auth, nc=00000001, cnonce="abc", opaque="{field("opaque")}"'

    def api(self):
        raw = json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.ports['api']}/api/rawdata"))
        return {f"{section}/{name}": json.loads(self.plain(value)) for section, objects in raw.items() for name, value in objects.items() if not name.endswith("@internal")}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Shared:
    """Certificates and files for both gateways."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="dynamicfiles")
        at = lambda name: os.path.join(self.folder, name)
        run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True)
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        run("req", "-x509", *new, "-keyout", at("cakey.pem"), "-out", at("ca.pem"), "-subj", "/C=CH/ST=Zurich/L=Town/O=Authority/OU=Unit/CN=Root, Inc./serialNumber=99/DC=org/DC=example")
        for name, subject, extension in (("server", "/CN=server.test", "subjectAltName=DNS:server.test,URI:spiffe://a/b"), ("client", "/C=DE/ST=Bayern/L=Ort/O=Org + Co/OU=Abteilung/CN=Client \\\"quoted\\\"/serialNumber=42/DC=com/DC=example", "subjectAltName=DNS:client.test,email:a@b.test,IP:10.0.0.1,URI:https://x.test/")):
            run("req", *new, "-keyout", at(name + "key.pem"), "-out", at(name + ".csr"), "-subj", subject)
            with open(at("ext"), "w") as file:
                file.write(extension)
            run("x509", "-req", "-in", at(name + ".csr"), "-CA", at("ca.pem"), "-CAkey", at("cakey.pem"), "-set_serial", "0x1234567890abcdef", "-days", "30", "-out", at(name + ".pem"), "-extfile", at("ext"))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(at("server.pem"), at("serverkey.pem"))
        # The same for both: cookies and hashes are made of addresses.
        self.servers = {name: Server(name) for name in ("echo", "a", "b", "c", "auth", "errorpage")}
        self.servers["tls"] = Server("tls", self.context)
        with open(at("users"), "w") as file:
            file.write("# comment\n\nfiled:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\n")
        with open(at("digests"), "w") as file:
            file.write("test:traefik:a2688e031edb4be6a3797f3882655c05\n")

    def client(self, host, with_certificate):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode, context.host = False, ssl.CERT_NONE, host
        if with_certificate:
            context.load_cert_chain(os.path.join(self.folder, "client.pem"), os.path.join(self.folder, "clientkey.pem"))
        return context


def lists(one, other, path):
    """Headers differ by what one side has and the other has not; requests that a server has seen first by their number."""
    if path.endswith(("headers", "[1]")) and ".seen" in path or path.endswith(".headers"):
        return [f"{path} - {pair}" for pair in one if pair not in other] + [f"{path} + {pair}" for pair in other if pair not in one] or [f"{path}: order"]
    if ".seen." in path and len(one) != len(other):
        return [f"{path}: {len(one)} requests > {len(other)}"]
    return None


def broken(theirs, ours):
    """What becomes of a router that cannot be built is the best known difference."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.get("status") == 404 and ours.get("status") == 503 and ours.get("body") in ("Service Unavailable", ""):
        return "a broken router answers 503"
    return None


def known(name, theirs, ours):
    """Why a difference is wanted, if it is."""
    return broken(theirs, ours) or next((reason for pattern, reason in KNOWN.items() if re.search(pattern, name)), None)


def main():
    options = comparison.parser(__doc__, 26300).parse_args()
    wanted = [case for case in CASES if options.k in case.name]
    shared, observed = Shared(), []
    for which, binary in enumerate((options.traefik, options.tidegate)):
        run = Run(("Traefik", "Tidegate")[which], os.path.abspath(binary), options.base + 10 * which, CASES, shared)
        try:
            seen = {}
            for case in wanted:
                for number, request in enumerate(case.requests):
                    shown = run.send(case, request)
                    seen[f"{case.name} {number}: {request['line']} {' '.join(request['headers'])}"] = json.loads(run.plain(shown))
            api = run.api()
            seen.update({f"probes {name}": json.loads(run.plain(sorted(server.probes))) for name, server in run.servers.items()})
            seen.update({f"api {name}": value for name, value in api.items() if options.k in name})
            observed.append(seen)
        finally:
            run.stop()
    shutil.rmtree(shared.folder, ignore_errors=True)
    return comparison.report(observed, known, options.v, lists)


if __name__ == "__main__":
    sys.exit(main())
