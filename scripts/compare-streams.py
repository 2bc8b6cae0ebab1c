#!/usr/bin/env python3
"""Sends the same TCP connections and UDP datagrams through Traefik and Tidegate, and prints what differs.

    compare-streams.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT]

A case has an entry point of its own, its routers and what they need, and probes. All cases are served at once. Compared are: what
the client gets, how its connection ends, what reaches the servers and how that ends, and how the API shows each object. Differences
that docs/differences.md names are counted as known where `KNOWN` says so.
"""
import atexit, hashlib, json, os, re, shutil, signal, socket, ssl, struct, subprocess, sys, tempfile, threading, time, urllib.request

import comparison

CASES = []
T, PASS = {"tls": {}}, {"tls": {"passthrough": True}}
ALL = "HostSNI(`*`)"


class Case:
    """Routers are `(rule, service, options)`, for HTTP and UDP too; their names are that of the case and a number."""

    def __init__(self, name, routers, *probes, http=(), services=None, transports=None, middlewares=None, entry=None, udp=False, at="127.0.0.1"):
        self.name, self.routers, self.probes, self.http, self.services, self.entry, self.udp, self.at = name, routers, probes, http, services or {}, entry or {}, udp, at
        self.transports, self.middlewares = transports or {}, middlewares or {}
        CASES.append(self)

    def objects(self, config):
        """Adds what this case needs to a configuration."""
        for section, routers in ("udp" if self.udp else "tcp", self.routers), ("http", self.http):
            for number, (rule, service, *more) in enumerate(routers):
                router = {"entryPoints": [self.name], "rule": rule, "service": service, **(more[0] if more else {})}
                config[section]["routers"][f"{self.name}-{number}"] = {key: value for key, value in router.items() if value is not None}
        config["udp" if self.udp else "tcp"]["services"].update(self.services)
        config["tcp"]["serversTransports"].update(self.transports)
        config["tcp"]["middlewares"].update(self.middlewares)


def ask(*steps, **options):
    """Steps on one or several (`2:…`) connections, and how those are opened: `sni` (None: no TLS), `alpn`, `cert`, `most` (TLS version),
    `proxy` (what is sent first), `pg` (a PostgreSQL client), `source` (address), `split` (where the ClientHello is cut)."""
    return steps, options


def tls(name="a.test", *steps, **options):
    return ask(*steps or (TEXT,), sni=name, **options)


def get(host="h.test", **options):
    return ask("GET " + host, **options)


# More bytes than HTTP/2 begins with: fewer tell Traefik nothing (see `short`).
TEXT = "hello you who has much to say"
HELLO = ask(TEXT)


def names(*hosts):
    return [tls(host) for host in hosts]


def servers(*given, **options):
    return {"loadBalancer": {"servers": [{"address": f"127.0.0.1:@{name}@"} if isinstance(name, str) else name for name in given], **options}}


def secure(name="tls", **more):
    return {"address": f"127.0.0.1:@{name}@", "tls": True, **more}


def weighted(**weights):
    return {"weighted": {"services": [{"name": name.replace("_", "-"), "weight": weight} for name, weight in weights.items()]}}


def header(version=2, source="10.1.2.3", target="10.9.9.9", command=1, family=0x11, more=b""):
    """A PROXY header."""
    if version == 1:
        return f"PROXY {'TCP6' if ':' in source else 'TCP4'} {source} {target} 1111 2222\r\n".encode()
    kind = socket.AF_INET6 if ":" in source else socket.AF_INET
    body = socket.inet_pton(kind, source) + socket.inet_pton(kind, target) + struct.pack("!HH", 1111, 2222) + more
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, 0x21 if ":" in source else family, len(body)) + body


SIGNATURE, SSL_REQUEST = b"\r\n\r\n\0\r\nQUIT\n", b"\0\0\0\x08\x04\xd2\x16\x2f"
TRUSTED, OPEN = {"proxyProtocol.trustedIPs": "127.0.0.1/32"}, {"proxyProtocol.insecure": "true"}
STARTUP = ">\0\0\0\x13\0\3\0\0user\0me\0\0"

Case("ready", [(ALL, "a")], HELLO)
Case("readyudp", [(None, "ua")], HELLO, udp=True)

# Who takes a connection ----------------------------------------------------------------------------------------------------------------
Case("sni-exact", [("HostSNI(`a.test`)", "a", T), ("HostSNI(`B.Test`)", "b", T), ("HostSNI(`c.test.`)", "c", T), ("HostSNI(`10.0.0.1`)", "d", T)],
     *names("a.test", "A.TEST", "a.Test", "b.test", "B.TEST", "c.test", "x.a.test", "a.test.", "a.tes", "atest", "other.test", "c.test."), tls(""), HELLO, get())
Case("sni-any", [(ALL, "a", T)], *names("a.test", "x.y.z", "localhost", "server.test", "x.example.org", "xn--bcher-kva.test"), tls(""), HELLO, get("a.test"))
Case("short", [("HostSNI(`a.test`)", "a", T)], *(ask("+" + words, "<") for words in ("", "x\n", "1234567\n", "hello you\n", "hello you who has much\n", "hello you who has much to say\n", "GET / ", "\0\0")), http=[("Host(`h.test`)", "web")])
Case("empty", [(ALL, "a"), ("HostSNI(`a.test`)", "b", {"tls": {"options": "t13"}}), ("HostSNI(`b.test`)", "b", {"tls": {"options": "mutual"}})], ask("=", "close"), tls(most="TLSv1_2"), tls("b.test"), tls(alpn=["acme-tls/1"]))
Case("sni-plain", [(ALL, "a")], HELLO, *names("a.test", ""), get(), ask("<"), ask("=", "close"), ask("=", "rst"), ask(">x", "close"), ask("fin", "<end"))
Case("sni-wild", [("HostSNI(`*.example.org`)", "a", T), ("HostSNI(`*.B.test`)", "b", T), ("HostSNI(`*.com`)", "c", T)],
     *names("x.example.org", "X.EXAMPLE.ORG", "example.org", "y.x.example.org", "x.b.test", "z.com", "com", "x-1.example.org", "_x.example.org", "x.example.org."), tls(""))
Case("sni-wildorder", [("HostSNI(`*.example.org`)", "a", T), ("HostSNI(`xx.example.org`)", "b", T), (ALL, "c", T), ("HostSNI(`y.example.org`)", "d", {**T, "priority": 1})],
     *names("xx.example.org", "y.example.org", "z.example.org", "z.test"))
Case("sni-regexp", [("HostSNIRegexp(`^[ab]\\.test$`)", "a", T), ("HostSNIRegexp(`^C\\.test$`)", "b", T), ("HostSNIRegexp(`sub`)", "c", T), ("HostSNIRegexp(`^$`)", "d", T)],
     *names("a.test", "A.test", "c.test", "C.TEST", "x.sub.y", "SUB", "d.test", ""), HELLO)
Case("sni-regexpany", [("HostSNIRegexp(`.*`)", "a", T), ("HostSNIRegexp(`^[a-z]+\\.[a-z]{1,3}$`)", "b", {**T, "priority": 100})], *names("a.test", "a.org", ""))
Case("sni-regexpplain", [("HostSNIRegexp(`.*`)", "a")], HELLO, tls("a.test"))
Case("alpn", [("ALPN(`foo`)", "a", T), ("ALPN(`bar`)", "b", T), ("ALPN(`h2`)", "c", T), (ALL, "d", T)], tls(), *(tls(alpn=offered) for offered in (
    ["foo"], ["bar"], ["foo", "bar"], ["bar", "foo"], ["FOO"], ["none"], ["none", "other"], ["h2"], ["http/1.1"], ["h2", "http/1.1"], ["none", "http/1.1"], ["foo", "h2"], ["acme-tls/1"])))
Case("alpn-not", [("!ALPN(`foo`)", "a", T), ("ALPN(`foo`) && HostSNI(`a.test`)", "b", T)], tls(), tls(alpn=["foo"]), tls("b.test", alpn=["foo"]), tls(alpn=["http/1.1"]))
Case("alpn-pass", [("ALPN(`foo`)", "tls", PASS), ("ALPN(`none`)", "a", T)], tls(alpn=["foo"]), tls(alpn=["x", "foo"]), tls(alpn=["none"]), tls())
Case("alpn-plain", [("ALPN(`foo`)", "a")], HELLO, tls(alpn=["foo"]))
from2 = [ask(TEXT, source="127.0.0.2"), HELLO, ask(TEXT, source="127.1.2.3")]
Case("client", [("ClientIP(`127.0.0.2`)", "a"), ("ClientIP(`127.1.0.0/16`)", "b"), ("ClientIP(`10.0.0.0/8`)", "c")], *from2, tls(source="127.0.0.2"))
Case("client-else", [("ClientIP(`127.0.0.2`)", "a"), (ALL, "b"), ("!ClientIP(`127.0.0.0/8`)", "c")], *from2)
Case("client-not", [("!ClientIP(`127.0.0.2`)", "a")], *from2)
Case("client-tls", [("ClientIP(`127.0.0.2`)", "a", T), ("HostSNI(`a.test`) && ClientIP(`127.1.0.0/16`)", "b", T), (ALL, "c", T)], *(tls(source=f"127.{end}") for end in ("0.0.1", "0.0.2", "1.0.1")))
Case("client-v6", [("ClientIP(`::1`)", "a"), ("ClientIP(`127.0.0.1/32`)", "b")], HELLO, ask(TEXT, to="::1"), at="")
told = [ask(TEXT, proxy=proxy) for proxy in (b"", header(1), header(2), header(1, "2001:db8::1", "2001:db8::2"), header(2, "2001:db8::1", "2001:db8::2"), header(2, command=0), b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ff 1 2 3\r\n",
        header(2, more=b"\x04\0\1x"), header(2, family=0x12), header(2, family=0x31), header(2, command=2), header(1, "10.1.2.999"), b"PROXY TCP4 10.1.2.3\r\n", b"PROXY TCP4 10.1.2.3 10.9.9.9 1111 70000\r\n", b"PROXY \r\n", b"PROXX x\r\n",
        header(1)[:-2] + b"\n", header(1) + header(1, "10.7.7.7"), SIGNATURE + b"\x31\x11\0\0", SIGNATURE + b"\x21\x11\0\4abcd", b"PROXY TCP4 " + b"1" * 100 + b"\r\n")] + [ask("<"), tls(proxy=header()), get(proxy=header(1)), ask("=", ">hello", "<", proxy=header(1))]
for name, entry in ("trusted", TRUSTED), ("untrusted", {"proxyProtocol.trustedIPs": "10.0.0.0/8"}), ("insecure", OPEN), ("off", {}):
    Case("proxyin-" + name, [("ClientIP(`10.1.2.3`)", "a"), ("ClientIP(`2001:db8::/32`)", "b"), ("ClientIP(`127.0.0.1`)", "c"), ("ClientIP(`10.0.0.0/8`)", "d"), (ALL, "a", T)], *told, entry=entry)
    Case("proxyin-other" + name, [(ALL, "a")], ask(TEXT, proxy=header(1), source="127.0.0.9"), ask(TEXT, source="127.0.0.9"), ask(TEXT, proxy=header(2), source="127.0.0.9"), ask("<"), entry=entry)
    Case("proxyin-greet" + name, [(ALL, "greet")], ask("<", "hello"), ask("<", "hello", proxy=header(1)), ask("<", proxy=header(2)), entry=entry)
Case("logic", [("HostSNI(`a.test`) || HostSNI(`b.test`) && ClientIP(`127.0.0.2`)", "a", T), ("(HostSNI(`c.test`) || HostSNI(`b.test`)) && !ClientIP(`127.0.0.2`)", "b", T), ("!(HostSNI(`a.test`) || HostSNI(`d.test`)) && HostSNIRegexp(`^[a-z]\\.test$`)", "c", {**T, "priority": 1}),
     ("!HostSNI(`e.test`)", "d", {**T, "priority": -5})], *(tls(f"{name}.test", source=source) for name in "abcdef" for source in ("127.0.0.1", "127.0.0.2")), tls(""), HELLO)
Case("case", [("hostsni(`a.test`)", "a", T), ("HOSTSNI(`b.test`)", "b", T), ("Hostsni(\"c.test\")", "c", T), ("HostSni(`d.test`)", "d", T)], *names("a.test", "b.test", "c.test", "d.test"))
Case("priority", [("HostSNI(`a.test`)", "a", {**T, "priority": 5}), ("HostSNI(`a.test`) && ClientIP(`127.0.0.1`)", "b", {**T, "priority": 4}), ("HostSNIRegexp(`.`)", "c", {**T, "priority": 3}), (ALL, "d", {**T, "priority": 2})], *names("a.test", "b.test", ""))
Case("priority-length", [("HostSNI(`a.test`)", "a", T), ("HostSNI(`a.test`) || HostSNI(`b.test`)", "b", T), ("HostSNIRegexp(`.*`)", "c", T), (ALL, "d", T)], *names("a.test", "b.test", "c.test", ""))
Case("priority-all", [(ALL, "a", {**T, "priority": 1000}), ("HostSNI(`a.test`)", "b", T)], *names("a.test", "b.test"))
Case("priority-zero", [("HostSNI(`a.test`)", "a", {**T, "priority": 0}), ("HostSNIRegexp(`a`)", "b", {**T, "priority": -1}), (ALL, "c", {**T, "priority": -2})], *names("a.test", "ba", "x"))
Case("priority-huge", [("HostSNI(`a.test`)", "a", {**T, "priority": 9223372036854775807}), (ALL, "b", {**T, "priority": 9223372036854774807})], *names("a.test", "b.test"))
Case("priority-notall", [("!" + ALL, "a"), ("ClientIP(`127.0.0.1`) || " + ALL, "b"), (ALL + " || " + ALL, "c")], HELLO)
Case("priority-plain", [(ALL, "a", {"priority": 3}), ("ClientIP(`127.0.0.1`)", "b", {"priority": 2})], HELLO)
Case("tie", [("HostSNI(`a.test`)", "a", T), ("HostSNI(`a.test`)", "b", T)], tls(mask=True))
Case("catchall-both", [(ALL, "a"), (ALL, "b", T)], HELLO, tls(), tls(""), get(), ask(">x", "<"), ask("quiet"), ask("=", "close"))
Case("catchall-greet", [(ALL, "greet"), (ALL, "b", T)], ask("quiet"), ask(TEXT, "<"), tls())
Case("split", [("HostSNI(`a.test`)", "a", T), (ALL, "b")], *(tls(split=at) for at in (1, 3, 5, 6, 20, 100)), ask("+\x16", "quiet", "close"), ask("+\x16\3\1\0\0", "<end"), ask("+\x16\3\1\0\2ab", "<end"), ask("+\x16\3\1\xff\xff" + "x" * 100, "quiet", "close"),
     ask(">\x16hello", "<"), ask(">\x15\3\1\0\2\2\x28", "<"), ask(">\x80\x2e\1\3\1", "<"))
Case("large", [("HostSNI(`a.test`)", "a", T)], tls(alpn=[f"{number:0200}" for number in range(60)]), tls(alpn=[f"{number:0200}" for number in range(100)]), tls("a" * 60 + ".test"))

# What is wrong with them ---------------------------------------------------------------------------------------------------------------
WRONG = ("HostSNI(`a.test`", "HostSNI(`a.test`) &&", "HostSNI()", "HostSNI(``)", "HostSNI(`a`, `b`)", "HostSNI(`a b`)", "HostSNI(`*a`)", "HostSNI(`*.*.a`)", "HostSNI(`a.*`)", "HostSNI(`é.test`)", "HostSNI('a')", "Host(`a`)", "Nope(`x`)", "HostSNI(`a`) HostSNI(`b`)",
         "HostSNIRegexp(`(`)", "HostSNIRegexp(`é`)", "HostSNIRegexp(``)", "HostSNIRegexp(`{x:.+}`)", "ClientIP(`x`)", "ClientIP(`10.0.0.0/40`)", "ClientIP()", "ClientIP(`10.0.0.1`, `10.0.0.2`)", "ALPN(`acme-tls/1`)", "ALPN(``)", "ALPN()", "", "HostSNI", "HostSNI(1)",
         "HostSNI(`a`) == 1", "(HostSNI(`a`)", "!", "Path(`/`)", "HostSNI(`a_b.test`)", "HostSNI(`a:1`)", "HostSNI(`*.`)", "HostSNI(`.`)", "HostSNI(`*`) && HostSNI(`a`)", "HostSNI(`a`) || ()", "HostSNI(`a`) & HostSNI(`b`)", "hostSNI(`a`)", "HostSNI(`**`)", "HostSNI(`-`)")
Case("badrule", [(rule, "a", T) for rule in WRONG])
Case("badrule-plain", [("HostSNI(`a.test`)", "a"), ("HostSNI(`*`) && HostSNI(`a.test`)", "a"), ("!HostSNI(`a.test`)", "a"), ("HostSNI(`*.a.test`)", "a"), ("HostSNI(`*`) || ClientIP(`10.0.0.0/8`)", "a"), (None, "a"), ("HostSNIRegexp(`a`)", "a"),
     ("HostSNI(`b.test`)", "a", {"tls": None, "priority": 3})])
Case("misc", [("HostSNI(`a`)", "a", {**T, "ruleSyntax": "v3"}), ("HostSNI(`b`)", "a", {**T, "ruleSyntax": "v9"}), ("HostSNI(`c`)", "a", {"tls": {"domains": [{"main": "a.test", "sans": ["b.test"]}]}}), ("HostSNI(`d`)", "a", {"tls": {"certResolver": "gone"}}),
     ("HostSNI(`e`)", "a", {"tls": {"passthrough": True, "options": "gone"}}), ("HostSNI(`f`)", "a@file", {**T, "middlewares": ["allow@file"]}), ("HostSNI(`g`)", "a", {**T, "middlewares": ["allow", "allow"]}), ("HostSNI(`h`)", None, T),
     ("HostSNI(`i`)", "", T), ("HostSNI(`j`)", "a@other", T), ("HostSNI(`k`)", "a", {"tls": {"options": "gone@file"}}), ("HostSNI(`l`)", "a", {"tls": {"options": "t13@file"}}), ("HostSNI(`m`)", "a", {**T, "priority": -7})], *names("a", "c", "d", "e", "f", "g", "k", "l", "m"))
Case("point-gone", [(ALL, "a", {"entryPoints": ["gone"]}), (ALL, "b", {"entryPoints": ["gone", "point-gone"]})], HELLO)
Case("point-wrong", [(ALL, "a", {"entryPoints": ["readyudp"]})])
Case("point-default", [(ALL, "a", {"entryPoints": None})], HELLO, entry={"asDefault": "true"})
for name, more in ("service", ("gone", {})), ("middleware", ("a", {"middlewares": ["gone"]})), ("badmiddleware", ("a", {"middlewares": ["badrange"]})), ("badservice", ("badservice", {})):
    Case("broken-" + name, [("ClientIP(`127.0.0.1`)", *more), (ALL, "b")], HELLO, tls())
    Case("brokentls-" + name, [("HostSNI(`a.test`)", more[0], {**T, **more[1]}), (ALL, "b", T)], tls(), tls("b.test"))
Case("brokentls-options", [("HostSNI(`a.test`)", "a", {"tls": {"options": "gone"}}), (ALL, "b", T)], tls(), tls("b.test"))
Case("brokentls-badoptions", [("HostSNI(`a.test`)", "a", {"tls": {"options": "bad"}}), (ALL, "b", T)], tls(), tls("b.test"))

# TLS -----------------------------------------------------------------------------------------------------------------------------------
Case("tls", [("HostSNI(`server.test`) || HostSNI(`other.test`)", "a", T), ("HostSNI(`*.example.org`)", "b", T)], *names("server.test", "SERVER.test", "other.test", "x.example.org"), *(tls("server.test", most=most) for most in ("TLSv1_2", "TLSv1_3", "TLSv1_1")),
     tls("server.test", "one", "two", "notify", "<end"), tls("server.test", "cut", "<end"), tls("server.test", "hello", "rst"), tls("server.test", "=", "rst"), tls("server.test", "end", "<end"), tls("server.test", "drop"), tls("server.test", "big 1000000", "take 1000000", "pipe 300000"),
     tls("server.test", alpn=["h2"]), tls("server.test", alpn=["http/1.1", "h2"]), tls("server.test", cert=True), tls("server.test", ">late 0.03", "notify", "<", "<end"))
for options, extra in ("t13", []), ("t12", []), ("strict", names("x.example.org", "other.test", "", "127.0.0.1")), ("protocols", [tls("server.test", alpn=offered) for offered in (["foo"], ["bar", "foo"], ["none"], ["h2"], ["x", "bar"])]), ("noprotocols", [tls("server.test", alpn=["h2"])]), ("mutual", []), ("anycert", []), ("given", []), ("wanted", []), ("ciphers", []), ("curves", []):
    Case("options-" + options, [(ALL, "a", {"tls": {"options": options}})], tls("server.test"), *(tls("server.test", most=most) for most in ("TLSv1_2", "TLSv1_3")), tls("server.test", cert=True), tls("server.test", cert="other"), *extra)
Case("options-two", [("HostSNI(`a.test`)", "a", {"tls": {"options": "t13"}}), ("HostSNI(`b.test`)", "b", {"tls": {"options": "t12"}}), ("HostSNI(`c.test`)", "c", {"tls": {"options": "mutual"}}), (ALL, "d", T)],
     *(tls(name, most=most) for name in ("a.test", "b.test", "c.test", "d.test") for most in ("TLSv1_2", "TLSv1_3")), tls("c.test", cert=True))
Case("options-conflict", [("HostSNI(`a.test`)", "a", {"tls": {"options": "t13"}}), ("HostSNI(`a.test`) && ClientIP(`127.0.0.2`)", "b", {"tls": {"options": "t12"}})], tls(), tls(source="127.0.0.2"))
Case("pass", [("HostSNI(`server.test`)", "tls", PASS), ("HostSNI(`plain.test`)", "a", PASS), ("HostSNI(`mutual.test`)", "mutual", PASS), ("HostSNI(`gone.test`)", "lb-gone", PASS)], *names("server.test", "other.test", "gone.test"), tls("server.test", alpn=["foo"]), tls("server.test", alpn=["none"]),
     tls("server.test", most="TLSv1_2"), tls("server.test", split=7), tls("mutual.test"), tls("mutual.test", cert=True), tls("server.test", "end", "<end"), tls("server.test", "drop"), tls("server.test", "notify", "<end"), tls("server.test", "big 1000000", "take 1000000", "pipe 300000"), HELLO)
Case("pass-any", [(ALL, "tls", PASS), ("HostSNI(`a.test`)", "b", T)], *names("server.test", "a.test", ""))

# Beside HTTP ---------------------------------------------------------------------------------------------------------------------------
Case("http-none", [("HostSNI(`a.test`)", "a", T)], get(), tls("b.test"), ask("GET b.test", sni="b.test"), HELLO, tls(""), ask("quiet"))
Case("http-all", [(ALL, "a")], get(), get("x.test"), HELLO, tls(), ask("GET h.test", sni="h.test"), http=[("Host(`h.test`)", "web")])
Case("http-greet", [(ALL, "greet")], ask("<", "hello"), ask("quiet"), ask("GET h.test", "<"), http=[("PathPrefix(`/`)", "web")])
Case("http-greettls", [(ALL, "greet")], ask("quiet"), ask(">hello", "<", "<"), get(), ask("GET h.test", sni="h.test"), tls("h.test"), http=[("Host(`h.test`)", "web", T)])
Case("http-client", [("ClientIP(`127.0.0.2`)", "a")], get(), get(source="127.0.0.2"), HELLO, ask("quiet"), ask("quiet", source="127.0.0.2"), ask(TEXT, source="127.0.0.2"), http=[("PathPrefix(`/`)", "web")])
https = [ask("GET " + host, sni=sni, **more) for host, sni, more in (("a.test", "a.test", {}), ("b.test", "b.test", {}), ("x.example.org", "x.example.org", {}), ("b.test", "a.test", {}), ("a.test", "b.test", {}), ("a.test", "", {}), ("b.test", "", {}), ("none.test", "none.test", {}), ("a.test", "none.test", {}), ("A.test", "A.TEST", {}))] + [
    tls("a.test", "=", alpn=["h2", "http/1.1"]), tls("b.test", "=", alpn=["h2"]), tls("none.test", "=", alpn=["foo"]), tls("a.test", "=", alpn=["foo"]), get("a.test"), get("b.test"), HELLO]
for name, tcp, http in (
        ("same", [("HostSNI(`a.test`)", "a", T)], [("Host(`a.test`)", "web", T)]), ("other", [("HostSNI(`b.test`)", "b", T)], [("Host(`a.test`)", "web", T)]), ("tcpall", [(ALL, "b", T)], [("Host(`a.test`)", "web", T)]),
        ("httpall", [("HostSNI(`b.test`)", "b", T)], [("PathPrefix(`/`)", "web", T)]), ("bothall", [(ALL, "b", T)], [("PathPrefix(`/`)", "web", T)]), ("plainall", [(ALL, "b")], [("PathPrefix(`/`)", "web", T)]), ("plainboth", [(ALL, "b")], [("PathPrefix(`/`)", "web"), ("PathPrefix(`/`)", "web", T)]),
        ("regexp", [("HostSNIRegexp(`^[a-z]\\.test$`)", "b", T)], [("HostRegexp(`^[ac]\\.test$`)", "web", T)]), ("wild", [("HostSNI(`*.example.org`)", "b", T)], [("Host(`x.example.org`)", "web", T), ("Host(`*.example.org`)", "web", T)]),
        ("pass", [("HostSNI(`b.test`)", "tls", PASS), ("HostSNI(`a.test`)", "tls", PASS)], [("Host(`a.test`)", "web", T)]), ("passall", [(ALL, "tls", PASS)], [("Host(`a.test`)", "web", T), ("Host(`b.test`)", "web")]),
        ("alpn", [("ALPN(`foo`)", "b", T)], [("Host(`a.test`)", "web", T), ("PathPrefix(`/`)", "web", {**T, "priority": 1})]), ("client", [("ClientIP(`127.0.0.1`)", "b", T)], [("Host(`a.test`)", "web", T)]), ("priority", [("HostSNI(`a.test`)", "b", {**T, "priority": 1000}), (ALL, "c", {**T, "priority": 999})], [("Host(`a.test`)", "web", T)]),
        ("mixed", [("HostSNI(`a.test`) || ClientIP(`127.0.0.1`)", "b", T)], [("Host(`a.test`) || Host(`b.test`)", "web", T), ("Host(`b.test`)", "web")]),
        ("broken", [("HostSNI(`b.test`)", "gone", T)], [("Host(`a.test`)", "gone", T), ("PathPrefix(`/`)", "web", T)]), ("nothost", [(ALL, "b", T)], [("!Host(`a.test`)", "web", T)]), ("sniplain", [("HostSNI(`b.test`)", "b", T), (ALL, "c")], [("Host(`a.test`)", "web"), ("Host(`a.test`)", "web", T)])):
    Case("https-" + name, tcp, *https, http=http)
Case("elsewhere", [("HostSNI(`o.test`) || ClientIP(`10.0.0.1`)", "b", {"tls": {"options": "t13"}})], ask("GET o.test", sni="o.test"), ask("GET p.test", sni="p.test"), http=[("Host(`o.test`)", "web", T), ("Host(`p.test`)", "web", {"tls": {"options": "t12"}})])
Case("elsewhere-2", [("HostSNI(`q.test`)", "b", {"tls": {"options": "t13"}})], ask("GET o.test", sni="o.test"), ask("GET p.test", sni="p.test"), tls("q.test"), http=[("Host(`o.test`)", "web", {"tls": {"options": "t12"}}), ("Host(`q.test`)", "web", {"tls": {"options": "t12"}})])
Case("acme", [(ALL, "a", T)], tls(alpn=["acme-tls/1"]), tls(alpn=["acme-tls/1", "http/1.1"]))
Case("acme-bypass", [(ALL, "tls", PASS)], tls(alpn=["acme-tls/1"]), tls(alpn=["foo"]), entry={"allowACMEByPass": "true"})

# PostgreSQL ----------------------------------------------------------------------------------------------------------------------------
pg = [tls("a.test", STARTUP, "<", pg=True), tls("b.test", STARTUP, "<", pg=True), tls("none.test", STARTUP, "<", pg=True), tls("", STARTUP, "<", pg=True), tls("a.test", "=", pg=True, alpn=["postgresql"]), tls("a.test", STARTUP, "<"), ask(STARTUP, "<"), ask("=", "close", pg=True), ask(STARTUP, "<", pg=True), ask("quiet", "close", pg=True),
      ask("+\0\0\0\x08\x04", "quiet", "close"), ask(">\0\0\0\x08\x04\xd2\x16\x30", "<"), ask(">" + SSL_REQUEST.decode("latin-1") + "more", "<")]
for name, routers, http in (("ends", [("HostSNI(`a.test`)", "a", T)], []), ("all", [(ALL, "a", T)], []), ("pass", [("HostSNI(`a.test`)", "pg", PASS), ("HostSNI(`b.test`)", "pgno", PASS)], []), ("passall", [(ALL, "pg", PASS)], []), ("tlsserver", [(ALL, "tls", PASS)], []), ("plain", [(ALL, "a")], []), ("both", [(ALL, "b"), ("HostSNI(`a.test`)", "a", T)], []),
        ("http", [("HostSNI(`a.test`)", "a", T)], [("PathPrefix(`/`)", "web"), ("Host(`b.test`)", "web", T)]), ("httponly", [("ClientIP(`10.0.0.1`)", "a")], [("Host(`a.test`)", "web", T)]), ("mutual", [(ALL, "a", {"tls": {"options": "mutual"}})], []), ("gone", [(ALL, "lb-gone", PASS)], [])):
    Case("pg-" + name, routers, *pg, http=http)

# Middlewares ---------------------------------------------------------------------------------------------------------------------------
for kind in "ipAllowList", "ipWhiteList":
    for name, ranges in ("one", ["127.0.0.1"]), ("net", ["127.0.0.0/24", "10.0.0.0/8"]), ("none", []), ("bad", ["x"]), ("v6", ["::1", "fe80::/10"]), ("wide", ["0.0.0.0/0"]):
        which = f"{kind.lower()}-{name}"
        Case(which, [(ALL, "a", {"middlewares": [which]}), (ALL, "b", {**T, "middlewares": [which]})], *from2, tls(), tls(source="127.9.9.9"), ask("<", source="127.9.9.9"), middlewares={which: {kind: {"sourceRange": ranges}}})
Case("allow-proxy", [(ALL, "a", {"middlewares": ["allow-proxy"]})], HELLO, ask(TEXT, proxy=header(1)), ask(TEXT, proxy=header(2, "10.2.2.2")), middlewares={"allow-proxy": {"ipAllowList": {"sourceRange": ["10.1.0.0/16"]}}}, entry=TRUSTED)
Case("flight", [(ALL, "a", {"middlewares": ["flight"]})], ask("1:one", "2:two", "3:three", "4=127.0.0.2:other", "1:again", "1:close", "5~five", "2:again", "6:six"), ask("1~one", "1:rst", "2~two", "2:end", "2:close", "3~three", "4~four", "5:five"), middlewares={"flight": {"inFlightConn": {"amount": 2}}})
Case("flight-tls", [(ALL, "a", {**T, "middlewares": ["flight-tls"]})], ask("1:one", "2:two", "1:close", "3~three", sni="a.test"), ask("=", "rst", sni="a.test"), ask("1~one", sni="a.test"), middlewares={"flight-tls": {"inFlightConn": {"amount": 1}}})
Case("flight-zero", [(ALL, "a", {"middlewares": ["flight-zero"]})], HELLO, middlewares={"flight-zero": {"inFlightConn": {"amount": 0}}})
Case("flight-negative", [(ALL, "a", {"middlewares": ["flight-negative"]})], HELLO, middlewares={"flight-negative": {"inFlightConn": {"amount": -1}}})
Case("flight-shared", [("ClientIP(`127.0.0.1`)", "a", {"middlewares": ["flight-shared"]}), (ALL, "b", {**T, "middlewares": ["flight-shared"]})], ask("1:one", "2:two"), tls(), middlewares={"flight-shared": {"inFlightConn": {"amount": 1}}})
Case("chain", [(ALL, "a", {"middlewares": ["chain-one", "allow"]})], *from2, ask("1:one", "2:two"), middlewares={"chain-one": {"inFlightConn": {"amount": 1}}})
Case("two-kinds", [(ALL, "a", {"middlewares": ["two-kinds"]})], HELLO, middlewares={"two-kinds": {"inFlightConn": {"amount": 1}, "ipAllowList": {"sourceRange": ["10.0.0.1"]}}})

# Services ------------------------------------------------------------------------------------------------------------------------------
def served(name, service, *probes, more=None, transports=None, entry=None, router=None):
    Case(name, [(ALL, name, router or {})], *probes, services={name: service, **(more or {})}, transports=transports, entry=entry)


def turns(count, how=True):
    """How many of so many connections go where: Traefik begins with a random server, and orders equal ones by chance."""
    return ask(*(f"{number}:{TEXT}" for number in range(1, count + 1)), count=how)


EACH = {f"only-{name}": servers(name) for name in "abcd"}
served("lb-three", servers("a", "b", "c"), ask(*(f"{n}:who" for n in range(1, 8)), mask=True))
served("lb-none", {"loadBalancer": {"servers": []}}, HELLO, tls())
served("lb-noport", servers({"address": "127.0.0.1"}), HELLO)
served("lb-badport", servers({"address": "127.0.0.1:x"}, "a"), turns(4))
served("lb-scheme", servers({"address": "tcp://127.0.0.1:@a@"}), HELLO)
served("lb-name", servers({"address": "localhost:@a@"}), HELLO)
served("lb-noname", servers({"address": "none.invalid:@a@"}), HELLO)
served("lb-noaddress", servers({"tls": False}), HELLO)
served("lb-gone", servers("gone"), HELLO, ask("<"))
served("lb-gonetwo", servers("gone", "a"), turns(4))
served("lb-gonetls", servers("gone"), tls(), router=T)
for kind in "cut", "rst", "greet", "bye":
    served("lb-" + kind, servers(kind), ask("<", "<end"), HELLO)
    if kind != "cut":  # Traefik sometimes leaves the client waiting.
        served(f"lb-{kind}tls", servers(kind), tls("a.test", "<", "<end"), router=T)
for name, router in ("", {}), ("tls", T):
    opened = {"sni": "a.test"} if router else {}
    for kind, service in ("", servers("a")), ("own", servers("a", serversTransport=f"own{name}")), ("forever", servers("a", serversTransport=f"forever{name}")), ("never", servers("a", serversTransport=f"never{name}")):
        transports = {f"own{name}": {"dialTimeout": "1s"}, f"forever{name}": {"terminationDelay": "-1s"}, f"never{name}": {"terminationDelay": "0s"}}
        served(f"flow{name}{kind}", service, *(ask(*steps, **opened) for steps in (
            ("one", "two", "fin", "<end"), (">sum", ">abc", "fin", "<end"), (">late 0.03", "fin", "<", "<end"), (">late 0.6", "fin", "<", "<end"), ("half", "<end", ">more", "wait 0.03", ">again", "wait 0.6", ">last", "close"), ("end", "<end"), ("end", ">more", "<end"), ("drop",), ("reset",), ("one", "rst"), ("one", "close"),
            ("one", ">two", "close"), (">big 5000000", "wait 0.2", "rst"), ("big 5000000",), ("take 5000000",), ("pipe 3000000",), ("fin", "<end"), ("=", "rst"), (">x" * 3, "fin", "<end"))
            if (not router or steps[:2] != ("end", ">more")) and (kind != "never" or ">late 0.6" in steps or "fin" not in steps and "half" not in steps)), transports=transports, router=router)
served("old-delay", servers("a", terminationDelay=200), ask(">late 0.03", "fin", "<", "<end"), ask(">late 0.6", "fin", "<", "<end"))
served("old-delayneg", servers("a", terminationDelay=-1), ask(">late 0.3", "fin", "<", "<end"))
served("old-delayzero", servers("a", terminationDelay=0), ask(">late 0.03", "fin", "<", "<end"))
served("old-both", servers("a", terminationDelay=500, serversTransport="old-both"), ask(">late 0.3", "fin", "<", "<end"), transports={"old-both": {"terminationDelay": "1ms"}})
for name, transport in (("dial", {"dialTimeout": "300ms"}), ("badkeep", {"dialKeepAlive": "-1s"})):
    served("transport-" + name, servers("full" if name == "dial" else "a", serversTransport="transport-" + name), HELLO, transports={"transport-" + name: transport})
served("transport-gone", servers("a", serversTransport="gone"), HELLO)
for name, options in (("none", None), ("insecure", {"insecureSkipVerify": True}), ("ca", {"rootCAs": ["@DIR@/ca.pem"]}), ("name", {"rootCAs": ["@DIR@/ca.pem"], "serverName": "server.test"}), ("wrongname", {"rootCAs": ["@DIR@/ca.pem"], "serverName": "b.test"}), ("otherca", {"rootCAs": ["@DIR@/otherca.pem"], "serverName": "server.test"}),
        ("insecurename", {"insecureSkipVerify": True, "serverName": "x.test"}), ("uri", {"rootCAs": ["@DIR@/ca.pem"], "serverName": "server.test", "peerCertURI": "spiffe://a/b"}), ("baduri", {"rootCAs": ["@DIR@/ca.pem"], "serverName": "server.test", "peerCertURI": "spiffe://x"}), ("insecureuri", {"insecureSkipVerify": True, "peerCertURI": "spiffe://x"}), ("goneca", {"rootCAs": ["@DIR@/gone.pem"]}),
        ("cert", {"insecureSkipVerify": True, "certificates": [{"certFile": "@DIR@/client.pem", "keyFile": "@DIR@/clientkey.pem"}]}), ("gonecert", {"insecureSkipVerify": True, "certificates": [{"certFile": "@DIR@/gone.pem", "keyFile": "@DIR@/gone.pem"}]}), ("empty", {"serverName": ""})):
    transports = {"up-" + name: {"tls": options} if options else {"dialTimeout": "2s"}}
    for kind in ("tls", "mutual") if name in ("insecure", "cert") else ("tls",):
        served(f"up-{name}-{kind}", servers(secure(kind), serversTransport="up-" + name), HELLO, tls("b.test"), ask("end", "<end"), ask("drop"), transports=transports)
served("up-named", servers(secure(address="localhost:@tls@"), serversTransport="up-insecure"), HELLO)
served("up-plain", servers(secure("a"), serversTransport="up-insecure"), HELLO)
served("up-notls", servers("tls", serversTransport="up-insecure"), HELLO)
served("up-default", servers(secure()), HELLO)
served("up-two", servers(secure("cut"), secure("tls"), serversTransport="up-insecure"), turns(4))
served("up-terminated", servers(secure(), serversTransport="up-insecure"), tls("server.test", alpn=["h2"]), tls("server.test", "big 1000000", "take 1000000", "pipe 300000"), router=T)

# The PROXY protocol, outwards ----------------------------------------------------------------------------------------------------------
v6 = header(2, "2001:db8::1", "2001:db8::2")
for name, entry in (("", {}), ("-trusted", TRUSTED), ("-untrusted", {"proxyProtocol.trustedIPs": "10.0.0.0/8"}), ("-insecure", OPEN)):
    for version in (1, 2, 3, 0) if not name else (1, 2):
        more = [] if not name else [ask(TEXT, proxy=one) for one in (header(1), header(2), v6, header(1, "2001:db8::1", "2001:db8::2"), header(2, command=0), b"PROXY UNKNOWN\r\n", header(2, more=b"\x04\0\1x"), header(2, "::ffff:10.1.2.3", "2001:db8::2"))]
        served(f"proxyout{name}-{version}", servers("a", serversTransport=f"proxyout-{version}"), HELLO, ask(TEXT, source="127.0.0.7"), *more[:2 if name == "-untrusted" else 9], transports={f"proxyout-{version}": {"proxyProtocol": {"version": version}}}, entry=entry)
    served(f"proxyout{name}-old1", servers("a", proxyProtocol={"version": 1}), HELLO, *more[:2], entry=entry)
served("proxyout-old2", servers("a", proxyProtocol={"version": 2}), HELLO)
served("proxyout-old3", servers("a", proxyProtocol={"version": 3}), HELLO)
served("proxyout-oldempty", servers("a", proxyProtocol={}), HELLO)
served("proxyout-empty", servers("a", serversTransport="proxyout-empty"), HELLO, transports={"proxyout-empty": {"proxyProtocol": {}}})
served("proxyout-both", servers("a", serversTransport="proxyout-1", proxyProtocol={"version": 2}), HELLO)
served("proxyout-greet", servers("greet", serversTransport="proxyout-2"), ask("<", "hello"))
served("proxyout-ended", servers("a", serversTransport="proxyout-2"), tls(), router=T)
served("proxyout-pass", servers("tls", serversTransport="proxyout-2"), tls("server.test"), router=PASS)
served("proxyout-pg", servers("pg", serversTransport="proxyout-1"), tls("server.test", STARTUP, "<", pg=True), router=PASS)
served("proxyout-tls", servers(secure(), serversTransport="proxyout-tls"), HELLO, transports={"proxyout-tls": {"proxyProtocol": {"version": 2}, "tls": {"insecureSkipVerify": True}}})
Case("proxyout-v6", [(ALL, "proxyout-1", {})], HELLO, ask(TEXT, to="::1"), at="")
Case("proxyout-v62", [(ALL, "proxyout-2", {})], HELLO, ask(TEXT, to="::1"), at="")

# By weight, and by health --------------------------------------------------------------------------------------------------------------
served("weighted", weighted(only_a=3, only_b=1), turns(8), more=EACH)
served("weighted-three", weighted(only_a=5, only_b=2, only_c=1), turns(16))
served("weighted-even", weighted(only_a=2, only_b=2), turns(4))
served("weighted-zero", weighted(only_a=0, only_b=1), turns(3))
served("weighted-allzero", weighted(only_a=0, only_b=0), HELLO)
served("weighted-negative", weighted(only_a=-1, only_b=1), turns(3))
served("weighted-default", {"weighted": {"services": [{"name": "only-a"}, {"name": "only-b"}]}}, turns(4))
served("weighted-nested", weighted(weighted_inner=1, only_c=1), turns(12, "who"), more={"weighted-inner": weighted(only_a=2, only_b=1)})
served("weighted-gone", weighted(only_a=1, gone=1), turns(3))
served("weighted-none", {"weighted": {"services": []}}, HELLO)
served("weighted-empty", weighted(only_a=1, lb_none=1), turns(4))
served("weighted-down", weighted(only_a=1, lb_gone=1), turns(4))
# (A weighted service that is a part of itself ends Traefik: its stack overflows.)
served("weighted-lb", weighted(weighted_pair=1, only_c=1), turns(8), more={"weighted-pair": servers("a", "b")})
CHECK = {"interval": "200ms", "timeout": "200ms"}
for name, given, check in (("connect", ("well", "gone"), {}), ("expect", ("well", "sick"), {"send": "ping\n", "expect": "pong well\n"}), ("send", ("well", "sick"), {"send": "ping\n"}), ("prefix", ("well", "sick"), {"send": "ping\n", "expect": "pong"}), ("longer", ("well",), {"send": "ping\n", "expect": "pong well\nand more"}), ("mute", ("well",), {"expect": "never"}), ("cut", ("sickcut", "well"), {}),
        ("rst", ("well", "sickrst"), {"send": "ping\n", "expect": "pong well\n"}), ("portup", ("gone", "a"), {"port": "@well@"}), ("portdown", ("a",), {"port": "@gone@"}), ("all", ("gone",), {})):
    check = {**CHECK, **check}
    served("health-" + name, servers(*given, healthCheck=check), ask(f"status health-{name}", *(f"{n}:{TEXT}" for n in range(1, 5)), count=True))
for name, check in (("empty", {}), ("zero", {"interval": "0s"}), ("negative", {"timeout": "-1s"}), ("slow", {"interval": "1s", "timeout": "5s"}), ("unhealthy", {"interval": "100s", "unhealthyInterval": "200ms"}), ("long", {"send": "x" * 65536}), ("port0", {**CHECK, "port": -1})):
    served("check-" + name, servers("well", healthCheck=check), HELLO)
served("health-tls", servers(secure("welltls"), secure("sick"), healthCheck=CHECK, serversTransport="up-insecure"), ask("status health-tls", *(f"{n}:{TEXT}" for n in range(1, 5)), count=True))
served("health-proxy", servers("well", healthCheck=CHECK, serversTransport="proxyout-1"), ask("status health-proxy", TEXT))
served("health-weighted", {"weighted": {"healthCheck": {}, "services": [{"name": "health-all"}, {"name": "health-own"}]}}, ask("status health-all", *(f"{n}:{TEXT}" for n in range(1, 5)), count=True), more={"health-own": servers("fit", healthCheck=CHECK)})
served("health-weightedno", {"weighted": {"healthCheck": {}, "services": [{"name": "health-all"}, {"name": "only-a"}]}}, HELLO)
served("health-weightedoff", weighted(health_all=1, health_own=1), ask("status health-all", *(f"{n}:{TEXT}" for n in range(1, 5)), count=True))

# UDP -----------------------------------------------------------------------------------------------------------------------------------
def datagrams(name, service, *probes, more=None, entry=None):
    Case(name, [(None, name if isinstance(service, dict) else service)], *probes, services={**({name: service} if isinstance(service, dict) else {}), **(more or {})}, udp=True, entry=entry)


datagrams("udp", "ua", HELLO, ask("one", "two", "three"), ask("1:one", "2:two", "1:three", "2:four"), ask("empty"), ask("nothing"), ask("size 1", "size 1400", "size 9000", "size 60000", "size 65507"), ask("give 1400", "give 60000", "give 65507"), ask("twice", "<"), ask("mute", "hello"), ask(">later", "<"),
          ask(">1", ">2", ">3", ">4", "<", "<", "<", "<"), ask("source", source="127.0.0.5"), ask("other"))
datagrams("udp-two", servers("ua", "ub"), ask("1:one", "2:two", "3:three", "4:four", "1:again", "2:again", "3:again", mask=True))
datagrams("udp-weighted", weighted(udp_a=3, udp_b=1), turns(8), more={"udp-a": servers("ua"), "udp-b": servers("ub")})
datagrams("udp-zero", weighted(udp_a=0, udp_b=1), turns(3))
datagrams("udp-allzero", weighted(udp_a=0), HELLO)
datagrams("udp-nested", weighted(udp_weighted=1, udp_c=1), turns(8, "who"), more={"udp-c": servers("uc")})
datagrams("udp-wgone", weighted(udp_a=1, gone=1), turns(3))
datagrams("udp-wempty", weighted(udp_a=1, udp_none=1), turns(4), more={"udp-none": {"loadBalancer": {"servers": []}}})
datagrams("udp-timeout", "ua", ask("one", "wait 0.1", "two", "wait 0.7", "three"), ask("one", "wait 0.2", "two", "wait 0.2", "three", "wait 0.2", "four"), ask(">later", "wait 0.8", "<", "two"), entry={"udp.timeout": "300ms"})
datagrams("udp-turns", servers("ua", "ub"), ask("one", "wait 0.7", "two", "wait 0.7", "three", mask=True), entry={"udp.timeout": "300ms"})
datagrams("udp-gone", "gone", HELLO, ask("1:one", "2:two"))
datagrams("udp-none", "udp-none", HELLO)
datagrams("udp-dead", servers("udead"), ask("one", "two"))
datagrams("udp-deadtwo", servers("udead", "ub"), turns(2))
datagrams("udp-bad", servers({"address": "127.0.0.1"}), HELLO)
datagrams("udp-noaddress", servers({"address": ""}), HELLO)
datagrams("udp-name", servers({"address": "localhost:@ua@"}), HELLO)
Case("udp-several", [(None, "ua"), (None, "ub")], HELLO, udp=True)
Case("udp-noservice", [(None, None)], HELLO, udp=True)
Case("udp-emptyservice", [(None, "")], HELLO, udp=True)
Case("udp-nopoint", [(None, "ua", {"entryPoints": ["gone"]})], udp=True)
Case("udp-tcppoint", [(None, "ua", {"entryPoints": ["ready"]})], udp=True)


# What a run is made of -----------------------------------------------------------------------------------------------------------------
# By name, and perhaps by what was observed.
REPORTED = "misc-1|check-(zero|long|negative|port0)|transport-badkeep|transport-gone|badservice|up-gone(ca|cert)|two-kinds|proxyout-(0|3|old3)|lb-(noport|badport|scheme|noaddress)|udp-(bad|noaddress)"
KNOWN = [
    ('"alpn"', "a client that offers only protocols which are not named is served without one", lambda theirs, ours: any(said == "alert None" for _, said in theirs["client"][:2]) and any(re.match(r"TLS\S+ None", said) for _, said in ours["client"][:2])),
    (r"^(broken|ipallowlist-(none|bad)|ipwhitelist-(none|bad)|weighted-gone|https-broken|priority-huge|badservice|lb-noport)", "a broken router keeps its rule and closes", lambda theirs, ours: not ours["seen"]),
    (f"^({REPORTED})[ -]", "options that make no sense are reported, and the router closes", lambda theirs, ours: not ours["seen"]),
    (f"^api [^ ]* ({REPORTED})[-@]", "options that make no sense are reported"),
    ('^proxy(in|out)-(untrusted|othertrusted|other?untrusted|greetuntrusted).*"proxy"', "a PROXY header from a peer that is not trusted ends the connection", lambda theirs, ours: not ours["seen"]),
    (r"^flow(tls)? \d+: .*(sum|late|half|>x)|^tls 17:", "a half-closed connection goes on where no transport is named"),
    ("^old-delay 0", "loadBalancer.terminationDelay is in milliseconds"),
    ("^lb-gonetwo|^lb-badport 0|^weighted-down|^health-portup|^up-two", "a server that cannot be connected to is passed over for the next"),
    (r"^pg-httponly|^pg-\w+ 12:", "PostgreSQL's request for TLS is answered only where a TCP router has tls, and nothing may come with it"),
    (r"^api tcp/routers (badrule-\d|case)", "errors in rules say what was expected", lambda theirs, ours: theirs["status"] == ours["status"]),
    ("^api udp/routers udp-several", "several UDP routers of one entry point have a warning"),
    ("health-weighted(no|off)", "weighted works without healthCheck on each level"),
    ("^lb-rsttls", "a client whose server hangs up is told", lambda theirs, ours: all(said != "silence" for _, said in ours["client"])),
    (r"^(empty|lb-gonetls) ", "the handshake comes before the connection to the server", lambda theirs, ours: ours["seen"] in ({}, None) or not ours["seen"]),
    (r"^(tls 6|options-(strict|mutual|anycert|two) \d+|alpn 13|acme 0|large 1):", "alerts are those of the TLS library", lambda theirs, ours: not ours["seen"]),
    (r'^sni-(exact|wild) \d+: .*\."}$', "a dot at the end of a server name is no part of it"),
    ("^acme 1:", "acme-tls/1 beside other protocols is routed by these"),
    (r"^(split 12|short \d|pg-\w+ 11):", "what is no HTTP/2 is known at once"),
    (r"^flowtls\w* \d+: .*(reset|late)", "a broken connection ends without close_notify"),
    (r"^proxy(in|out)-\w+ (9|10)( |:)|^proxyout-\w+-\d 9", "PROXY headers of other families are passed over"),
    ("^(weighted-empty|udp-wempty) ", "a member without servers is passed over"),
    ("^udp [34]:", "empty datagrams are carried"),
    ("^up-named", "a server is told its name"),
    ("^proxyin-greetuntrusted 0:", "a stranger speaks first"),
    ("^probes well$", "health checks with the PROXY protocol say that they are none of a client's"),
]
LISTS = ("tcp/routers", "tcp/services", "tcp/middlewares", "udp/routers", "udp/services", "http/routers")
# The certificates on either side.
CERTIFICATES = {}


def fault(error):
    """How a connection went wrong."""
    if isinstance(error, ssl.SSLEOFError) or type(error) is OSError and not error.errno:
        return "cut"
    if isinstance(error, TimeoutError):
        return "silence"
    if isinstance(error, ssl.SSLError):
        return f"alert {error.reason}"
    return "reset" if isinstance(error, (ConnectionResetError, BrokenPipeError)) else type(error).__name__


def short(data):
    return data.decode("latin-1") if len(data) < 300 else f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:8]}"


def pattern(size):
    return (b"0123456789abcdefghijklmnopqrstuvwxyz!" * (size // 37 + 1))[:size]


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


class Server:
    """Answers lines as they say, and notes what it got."""

    def __init__(self, name, gauge, context=None):
        self.name, self.gauge, self.context, self.seen, self.probes = name, gauge, context, [], set()
        self.checked = name.startswith(("well", "sick", "fit"))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            peer = self.listener.accept()[0]
            note = {"got": b"", "end": "open"}
            if not self.checked:
                self.seen.append(note)
                self.count(1)
            threading.Thread(target=self.serve, args=(peer, note), daemon=True).start()

    def count(self, more):
        with self.gauge:
            self.gauge.open += more
            self.gauge.notify_all()

    def serve(self, peer, note):
        peer.settimeout(20)
        try:
            with peer:
                note["end"] = self.talk(peer, note)
        except (OSError, ValueError) as error:
            # (Go and Rust name different reasons.)
            note["end"] = fault(error) if note["got"] else "no handshake"
        finally:
            if not self.checked:
                self.count(-1)
            elif not note["got"] or note["got"].startswith(b"ping"):
                self.probes.add(json.dumps([note.get("proxy"), short(note["got"])]))

    def talk(self, peer, note):
        if self.name.endswith("cut"):
            return "own"
        if self.name.endswith("rst"):
            reset(peer)
            return "own"
        if self.name in ("greet", "bye"):
            peer.sendall(f"220 {self.name}\r\n".encode())
        if self.name == "bye":
            return "own"
        first = peer.recv(300, socket.MSG_PEEK)
        if first.startswith((b"PROXY ", SIGNATURE)):
            size = first.index(b"\n") + 1 if first[0] == 80 else 16 + int.from_bytes(first[14:16], "big")
            note["proxy"] = self.told(peer.recv(size))
            first = peer.recv(300, socket.MSG_PEEK)
        if first.startswith(SSL_REQUEST) and self.name.startswith("pg"):
            note["asked"] = True
            peer.recv(8)
            peer.sendall(b"N" if self.name == "pgno" else b"S")
        if self.context and self.name != "pgno":
            context = self.context()
            context.sni_callback = lambda stream, name, _: note.update(sni=name)
            peer = context.wrap_socket(peer, server_side=True, suppress_ragged_eofs=False)
            note["tls"] = [peer.version(), peer.selected_alpn_protocol(), CERTIFICATES.get(peer.getpeercert(True))]
        end = self.lines(peer, note)
        if isinstance(peer, ssl.SSLSocket) and end != "drop":
            peer.settimeout(0.05)
            try:
                peer.unwrap()
            except OSError:
                pass
        return end

    def told(self, data):
        """A PROXY header as text."""
        if data[0] == 80:
            return data.decode("latin-1")
        size = 4 if data[13] >> 4 == 1 else 16 if data[13] >> 4 == 2 else 0
        kind, body = socket.AF_INET if size == 4 else socket.AF_INET6, data[16:]
        hosts = [socket.inet_ntop(kind, body[at:at + size]) for at in (0, size)] if len(body) >= 2 * size + 4 and size else []
        return f"v2 {data[12]:x} {data[13]:x} {hosts} {struct.unpack('!HH', body[2 * size:2 * size + 4]) if hosts else ''} {body[2 * size + 4:] if hosts else body}"

    def lines(self, peer, note):
        rest = b""
        while True:
            while b"\n" not in rest:
                data = peer.recv(65536)
                if not data:
                    return "eof"
                note["got"] += data
                rest += data
                if rest.startswith(b"\x16\3"):
                    note["got"] = b"ClientHello"
                    while peer.recv(65536):
                        pass
                    return "eof"
            line, _, rest = rest.partition(b"\n")
            text = line.decode("latin-1").rstrip("\r")
            command, _, size = text.partition(" ")
            size = int(size) if size.isdigit() else 0
            if text.endswith(" HTTP/1.1"):
                while b"\r\n\r\n" not in note["got"]:
                    note["got"] += peer.recv(65536)
                head = note["got"]
                via = " by HTTP" if b"x-forwarded-host" in head.lower() else ""
                note["got"] = b"HTTP" if via else head
                body = f"{self.name} {text.split(' ')[1]}{via}".encode()
                peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                return "own"
            if command == "end":
                peer.sendall(b"bye\n")
            if command in ("end", "drop"):
                return "own"
            if command == "reset":
                reset(peer)
                return "own"
            if command == "big":
                peer.sendall(pattern(size))
            elif command in ("take", "pipe"):
                while len(rest) < size:
                    if command == "pipe":
                        peer.sendall(rest)
                        size, rest = size - len(rest), b""
                    data = peer.recv(65536)
                    if not data:
                        return "eof"
                    note["got"] += data
                    rest += data
                peer.sendall(rest[:size] if command == "pipe" else (short(rest[:size]) + "\n").encode())
                rest = rest[size:]
            elif command in ("late", "sum"):
                while (data := peer.recv(65536)):
                    note["got"] += data
                time.sleep(float(text.split(" ")[1]) if command == "late" else 0)
                peer.sendall(b"late\n" if command == "late" else (short(note["got"]) + "\n").encode())
                return "eof"
            elif command == "half":
                peer.sendall(b"half\n")
                peer.shutdown(socket.SHUT_WR)
                while (data := peer.recv(65536)):
                    note["got"] += data
                return "eof"
            elif text == "ping":
                peer.sendall(f"{'pong' if self.name.startswith('well') else 'sick'} {self.name}\n".encode())
            else:
                peer.sendall(f"{self.name} {text}\n".encode("latin-1"))


class Datagrams:
    """Answers datagrams, and says by a number from which session they came."""

    def __init__(self, name):
        self.name, self.seen, self.probes, self.peers = name, [], set(), []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            data, peer = self.socket.recvfrom(65536)
            if peer not in self.peers:
                self.peers.append(peer)
            head = f"{self.name} #{self.peers.index(peer)} "
            text = data[:20].decode("latin-1")
            self.seen.append(f"#{self.peers.index(peer)} {short(data)}")
            command, _, size = text.partition(" ")
            answers = [(head + (f"{len(data)} bytes" if command == "size" else text)).encode()]
            if command == "give":
                answers = [pattern(int(size))]
            answers = {"twice": answers * 2, "mute": [], "nothing": [b""]}.get(command, answers)
            if command == "later":
                threading.Timer(0.5, self.socket.sendto, (answers[0], peer)).start()
                continue
            for answer in answers:
                self.socket.sendto(answer, peer)


class Wire:
    """A client's connection."""

    def __init__(self, to, source, given, shared):
        self.sock = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        self.sock.settimeout(1)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(to)
        self.port, self.rest, self.tls, self.over, self.about = self.sock.getsockname()[1], b"", None, False, []
        self.sock.sendall(given.get("proxy", b""))
        if given.get("pg"):
            self.sock.sendall(SSL_REQUEST)
            self.about.append("asked: " + self.guarded(lambda: self.sock.recv(1).decode() or "closed"))
        if given.get("sni") is None or self.about not in ([], ["asked: S"]):
            return
        context = shared.client(given)
        self.split, self.into, self.out = given.get("split", 0), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname=given["sni"] or None)
        shook = self.guarded(lambda: self.pump(self.tls.do_handshake) or "")
        self.about.append(shook or f"{self.tls.version()} {self.tls.selected_alpn_protocol()} {CERTIFICATES.get(self.tls.getpeercert(True), 'generated')}")

    def guarded(self, work):
        try:
            return work()
        except (OSError, ValueError) as error:
            return fault(error)

    def pump(self, call, *words):
        while True:
            try:
                return call(*words)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                self.into.write(data) if data else self.into.write_eof()
            finally:
                self.flush()

    def flush(self):
        data = self.out.read()
        if self.split and data:
            self.sock.sendall(data[:self.split])
            time.sleep(0.02)
            data, self.split = data[self.split:], 0
        if data:
            self.sock.sendall(data)

    def send(self, data):
        self.pump(self.tls.write, data) if self.tls else self.sock.sendall(data)

    def receive(self):
        try:
            return b"" if self.over else self.pump(self.tls.read, 65536) if self.tls else self.sock.recv(65536)
        except ssl.SSLZeroReturnError:
            return b""

    def goodbye(self):
        """Closes TLS in this direction."""
        try:
            while (data := self.tls.read(65536)):
                self.rest += data
            self.over = True
        except ssl.SSLError:
            pass
        try:
            self.tls.unwrap()
            self.over = True
        except ssl.SSLError:
            pass
        self.flush()

    def until(self, enough):
        """Reads until there is enough; the end comes as an error."""
        while (size := enough(self.rest)) is None:
            data = self.receive()
            if not data:
                raise EOFError
            self.rest += data
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def line(self):
        """One line, or a whole answer of HTTP in short."""
        data = self.until(lambda rest: rest.index(b"\n") + 1 if b"\n" in rest else None)
        if not data.startswith(b"HTTP/1."):
            return data.decode("latin-1").rstrip("\r\n")
        head = self.until(lambda rest: rest.index(b"\r\n\r\n") + 4 if b"\r\n\r\n" in rest else None)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = self.until(lambda rest: int(length[1]) if len(rest) >= int(length[1]) else None) if length else b""
        status = data.split()[1].decode()
        return f"HTTP {status} {short(body)}" if status == "200" else f"HTTP {status}"

    def step(self, step):
        """Takes one step; says what came of it."""
        try:
            return self.do(step) or "done"
        except EOFError:
            return f"{short(self.rest)!r} closed" if self.rest else "closed"
        except (OSError, ValueError) as error:
            return f"{short(self.rest)!r} {fault(error)}" if self.rest else fault(error)

    def do(self, step):
        command, _, size = step.partition(" ")
        if step[0] in ">+":
            return self.send(step[1:].encode("latin-1") + (b"\n" if step[0] == ">" else b""))
        if step == "<":
            return self.line()
        if step == "<end":
            return self.until(lambda rest: None)
        if step in ("fin", "notify", "close") and self.tls:
            self.goodbye()
        if step in ("fin", "cut"):
            return self.sock.shutdown(socket.SHUT_WR)
        if step in ("close", "rst"):
            self.sock.close() if step == "close" else reset(self.sock)
            return None
        if step in ("=", "notify"):
            return None
        if step == "quiet":
            self.sock.settimeout(0.3)
            try:
                return f"got {short(self.rest + self.receive())!r}"
            finally:
                self.sock.settimeout(1)
        if command == "GET":
            self.send(f"GET / HTTP/1.1\r\nHost: {size}\r\nConnection: close\r\n\r\n".encode())
            return self.line()
        self.send(step.encode("latin-1") + b"\n")
        if command in ("take", "pipe"):
            data = pattern(int(size))
            if command == "take":
                self.send(data)
                return self.line()
            for at in range(0, len(data), 50000):
                self.send(data[at:at + 50000])
                if self.until(lambda rest: len(rest) if len(rest) >= len(data[at:at + 50000]) else None) != data[at:at + 50000]:
                    return "garbled"
            return "as sent"
        if command == "big":
            return short(self.until(lambda rest: int(size) if len(rest) >= int(size) else None))
        return self.line()


class Client:
    """A client that sends datagrams."""

    def __init__(self, to, source, *_):
        self.sock, self.about = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
        self.sock.bind((source or "127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.sock.connect(to)
        self.sock.settimeout(0.9)

    def step(self, step):
        data = b"" if step == "empty" else step.lstrip(">").encode()
        if step.startswith("size"):
            data = b"size ".ljust(int(step[5:]), b"x")[:int(step[5:])]
        try:
            if step != "<":
                self.sock.send(data)
            return "done" if step[0] == ">" else repr(short(self.sock.recv(65536)))
        except OSError as error:
            return fault(error)


class Run:
    """All cases through one gateway."""

    def __init__(self, which, binary, base, shared):
        self.which, self.shared, self.servers = which, shared, shared.servers
        self.folder = tempfile.mkdtemp(prefix="streams")
        self.ports = {case.name: base + 1 + number for number, case in enumerate(CASES)}
        self.base = f"http://127.0.0.1:{base}/api/"
        tcp = {name: servers(name) for name, server in self.servers.items() if isinstance(server, Server)}
        udp = {name: servers(name) for name in ("ua", "ub", "uc")}
        config = {"tcp": {"routers": {}, "services": {**tcp, "badservice": servers("a", serversTransport="gone")}, "serversTransports": {}, "middlewares": {
            "allow": {"ipAllowList": {"sourceRange": ["127.0.0.1/32"]}}, "badrange": {"ipAllowList": {"sourceRange": ["x"]}}}},
            "udp": {"routers": {}, "services": udp}, "http": {"routers": {}, "services": {"web": {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:@web@"}]}}}},
            "tls": {"options": OPTIONS, "certificates": [{"certFile": f"@DIR@/{name}.pem", "keyFile": f"@DIR@/{name}key.pem"} for name in ("server", "star")]}}
        for case in CASES:
            case.objects(config)
        for router in config["udp"]["routers"].values():
            router.pop("rule", None)
        text = re.sub(r'"@(\w+)@"', lambda found: str(shared.port(found[1])), json.dumps(config))
        routes = os.path.join(self.folder, "routes.yml")
        with open(routes, "w") as file:
            file.write(re.sub(r"@(\w+)@", lambda found: shared.folder if found[1] == "DIR" else str(shared.port(found[1])), text))
        flags = [f"--entryPoints.{case.name}.address={case.at}:{self.ports[case.name]}{'/udp' if case.udp else ''}" for case in CASES]
        flags += [f"--entryPoints.{case.name}.{key}={value}" for case in CASES for key, value in case.entry.items()]
        flags += [f"--entryPoints.traefik.address=127.0.0.1:{base}", "--api.insecure=true", f"--providers.file.filename={routes}", "--global.checkNewVersion=false", "--log.level=WARN"]
        self.log = open(os.path.join(self.folder, "log"), "w+")
        self.process = subprocess.Popen([binary, *flags], stdout=self.log, stderr=self.log, cwd=self.folder)
        atexit.register(self.process.kill)
        for case in CASES[:2]:
            self.wait(lambda: " ready" in self.send(case, ask("ready"))["client"][0][1])

    def wait(self, what):
        for _ in range(150):
            self.alive()
            if what():
                return
            time.sleep(0.1)
        self.process.kill()
        self.process.wait()
        self.alive()

    def alive(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            raise RuntimeError(f"{self.which} is not ready, or has ended: " + "".join([line for line in self.log if "WRN" not in line][:30]))

    def api(self, path):
        return json.load(urllib.request.urlopen(self.base + path))

    def plain(self, text):
        """A text (of JSON) without ports and folders."""
        for name in (*self.servers, *self.shared.held):
            port = self.shared.port(name)
            text = re.sub(f": {port}(?=[,}}])", f': "@{name}@"', text).replace(str(port), f"@{name}@")
        return text.replace(self.shared.folder, "@DIR@")

    def status(self, service):
        for _ in range(30):
            found = self.api(f"tcp/services/{service}@file").get("serverStatus", {})
            if "DOWN" in found.values():
                break
            time.sleep(0.1)
        return json.dumps(json.loads(self.plain(json.dumps(found))), sort_keys=True)

    def send(self, case, probe):
        steps, given = probe
        for server in self.servers.values():
            server.seen.clear()
            server.peers = []
        wires, client, shook = {}, [], []
        host = given.get("to", "127.0.0.1")

        def take(number, step, source):
            if number not in wires:
                try:
                    wires[number] = (Client if case.udp else Wire)((host, self.ports[case.name]), source or given.get("source"), given, self.shared)
                except OSError as error:
                    return fault(error)
                shook.extend([f"{number} opens", about] for about in wires[number].about)
            return wires[number].step(step)

        for whole in steps:
            _, number, source, kind, step = re.match(r"((\d)(?:=([\d.]+))?([:~]))?(.*)", whole, re.S).groups()
            number, command = number or "1", step.partition(" ")
            if command[0] == "wait":
                time.sleep(float(command[2]))
            elif command[0] == "status":
                client.append([step, self.status(command[2])])
            else:
                # `~`: until there is an answer.
                for attempt in range(30 if kind == "~" else 1):
                    shook.clear()
                    said = take(number, step, source)
                    if kind != "~" or said.endswith(step):
                        break
                    if number in wires:
                        wires.pop(number).sock.close()
                    time.sleep(0.1)
                client += [*shook, [whole, said]]
        if not case.udp:
            for number, wire in wires.items():
                if wire.sock.fileno() >= 0 and not any(said in ("closed", "reset", "cut", "silence") or "HTTP" in said or "alert" in said for _, said in client[-1:]):
                    wire.step("fin")
                    client.append([f"{number} ends", "silence" if "silence" in wire.step("<end") else "ended"])
                wire.sock.close()
            # What comes too late counts for the next probe.
            time.sleep(0.2 if all(said == "done" for _, said in client) else 0.02)
            # Who closes with bytes unread resets, which is a matter of moments.
            given_tls = given.get("sni") is not None
            client = [[step, re.sub("reset$", "cut" if given_tls else "closed", said) if steps != ("reset",) else said] for step, said in client]
            gauge = self.shared.gauge
            with gauge:
                gauge.wait_for(lambda: not gauge.open, 3)
        seen = {name: json.loads(json.dumps(kept, default=short)) for name, server in self.servers.items()
                if (kept := [{**note, "end": "ended"} if "rst" in steps else note for note in server.seen if case.udp or case.name == "empty" or note != {"got": b"", "end": "eof"}])}
        text = json.dumps({"client": client, "seen": seen})
        for number, wire in wires.items():
            text = text.replace(str(wire.port), f"@client{number}@")
        shown = json.loads(text.replace(str(self.ports[case.name]), "@entry@"))
        if given.get("count"):
            shown = {"client": sorted(said if "status" in step else said.split()[0].strip("'") for step, said in shown["client"] if not step.endswith("ends")), "seen": bool(shown["seen"])}
        if given.get("count") == "who":
            shown["client"] = sorted(set(shown["client"]))
        if given.get("mask"):
            met = [said.split()[0].strip("'") for _, said in shown["client"]]
            order = {name: f"server{number}" for number, name in enumerate(dict.fromkeys(name for name in met if name in self.servers))}
            shown["client"] = [[step, re.sub(r"^('?)(\w+)", lambda found: found[1] + order.get(found[2], found[2]), said)] for step, said in shown["client"]]
            shown["seen"] = {order.get(name, name): seen for name, seen in shown["seen"].items()}
        return shown

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(12)
        except subprocess.TimeoutExpired:
            print(f"== {self.which} does not end in 12 s")
            self.process.kill()
            self.process.wait()
        self.log.seek(0)
        self.said = self.log.read()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def demand(kind, **more):
    return {"clientAuth": {"clientAuthType": kind, **more}}


CA = {"caFiles": ["@DIR@/ca.pem"]}
OPTIONS = {
    "t13": {"minVersion": "VersionTLS13"}, "t12": {"maxVersion": "VersionTLS12"}, "strict": {"sniStrict": True}, "protocols": {"alpnProtocols": ["foo", "bar"]}, "noprotocols": {"alpnProtocols": []},
    "mutual": demand("RequireAndVerifyClientCert", **CA), "given": demand("VerifyClientCertIfGiven", **CA), "anycert": demand("RequireAnyClientCert"), "wanted": demand("RequestClientCert"),
    "ciphers": {"cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], "maxVersion": "VersionTLS12"}, "curves": {"curvePreferences": ["CurveP384"]}, "bad": demand("RequireAndVerifyClientCert", caFiles=["@DIR@/gone.pem"])}


class Shared:
    """Servers, certificates and files for both gateways."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="streamsfiles")
        run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        for name in ("ca", "otherca"):
            run("req", "-x509", *new, "-keyout", name + "key.pem", "-out", name + ".pem", "-subj", f"/CN={name}")
        for name, ca, alternative in (("server", "ca", "DNS:server.test,URI:spiffe://a/b"), ("star", "ca", "DNS:*.example.org"), ("client", "ca", "DNS:client.test"), ("other", "otherca", "DNS:other.test")):
            run("req", *new, "-keyout", name + "key.pem", "-out", name + ".csr", "-subj", f"/CN={name}")
            with open(self.file("ext"), "w") as file:
                file.write("subjectAltName=" + alternative)
            run("x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + "key.pem", "-CAcreateserial", "-days", "30", "-out", name + ".pem", "-extfile", "ext")
            with open(self.file(name + ".pem")) as file:
                CERTIFICATES[ssl.PEM_cert_to_DER_cert(file.read())] = name
        plain = ("a", "b", "c", "d", "web", "greet", "bye", "cut", "rst", "well", "sick", "sickcut", "sickrst", "fit")
        self.gauge = threading.Condition()
        self.gauge.open = 0
        self.servers = {name: Server(name, self.gauge) for name in plain}
        self.servers.update({name: Server(name, self.gauge, self.context) for name in ("tls", "pg", "pgno", "welltls")}, mutual=Server("mutual", self.gauge, lambda: self.context(True)))
        self.servers.update({name: Datagrams(name) for name in ("ua", "ub", "uc")})
        # Ports at which nobody listens, and one that takes no connection more.
        self.held = {name: socket.socket(type=socket.SOCK_DGRAM if name == "udead" else socket.SOCK_STREAM) for name in ("gone", "udead", "full")}
        for name, held in self.held.items():
            held.bind(("127.0.0.9" if name == "udead" else "127.0.0.1", 0))
        self.held["full"].listen(0)
        self.filling = [socket.socket() for _ in range(3)]
        for one in self.filling:
            one.setblocking(False)
            one.connect_ex(self.held["full"].getsockname())

    def file(self, name):
        return os.path.join(self.folder, name)

    def port(self, name):
        return self.servers[name].port if name in self.servers else self.held[name].getsockname()[1]

    def context(self, demanding=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file("server.pem"), self.file("serverkey.pem"))
        context.set_alpn_protocols(["foo", "bar", "postgresql", "h2"])
        context.load_verify_locations(self.file("ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED if demanding else ssl.CERT_NONE
        return context

    def client(self, given):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if given.get("alpn"):
            context.set_alpn_protocols(given["alpn"])
        if given.get("most"):
            context.maximum_version = ssl.TLSVersion[given["most"]]
            if given["most"] == "TLSv1_1":
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.set_ciphers("ALL:@SECLEVEL=0")
        if given.get("cert"):
            name = "client" if given["cert"] is True else given["cert"]
            context.load_cert_chain(self.file(name + ".pem"), self.file(name + "key.pem"))
        return context


def known(name, theirs, ours):
    """Why a difference is wanted, if it is."""
    return next((reason for pattern, reason, *fits in KNOWN if re.search(pattern, name) and all(fit(theirs, ours) for fit in fits)), None)


def main():
    options = comparison.parser(__doc__, 27300).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    observed = [{}, {}]

    def observe(which, binary, shared, seen):
        run = Run(("Traefik", "Tidegate")[which], os.path.abspath(binary), options.base + 500 * which, shared)
        try:
            for case in CASES:
                for number, probe in enumerate(case.probes if options.k in case.name else ()):
                    about = {key: short(value) if isinstance(value, bytes) else value for key, value in probe[1].items()}
                    name = f"{case.name} {number}: {json.dumps(' | '.join(probe[0]))[1:-1][:150]} {json.dumps(about)[:150] if about else ''}"
                    seen[name] = run.send(case, probe)
                    run.alive()
            for path in LISTS:
                for one in json.loads(run.plain(json.dumps(run.api(path + "?per_page=5000")))):
                    if options.k in one["name"] and not one["name"].endswith("@internal"):
                        seen[f"api {path} {one['name']}"] = one
            if not options.k:
                seen["overview"] = {f"{kind} {part}": count.get("total") for kind in ("tcp", "udp") for part, count in run.api("overview")[kind].items()}
            seen.update({f"probes {name}": json.loads(run.plain(json.dumps(sorted(server.probes)))) for name, server in run.servers.items() if server.probes})
            seen["whole"] = True
        finally:
            run.stop()
            shutil.rmtree(shared.folder, ignore_errors=True)

    threads = [threading.Thread(target=observe, args=(which, binary, Shared(), observed[which]), daemon=True) for which, binary in enumerate((options.traefik, options.tidegate))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if not all(seen.pop("whole", False) for seen in observed):
        sys.exit("one of them did not come to its end")
    return comparison.report(observed, known, options.v)


if __name__ == "__main__":
    sys.exit(main())
