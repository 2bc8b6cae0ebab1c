#!/usr/bin/env python3
"""Starts Traefik and Tidegate with the same static settings and compares what clients then see.

    scripts/compare-settings.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT]

Each case is a list of settings in dotted form. It is run as flags, and as one more of environment, YAML and TOML, in
turn (all of them with --all). What differs is printed; what differs on purpose stands in KNOWN with its reason, and in
docs/differences.md.
"""
import collections, difflib, http, json, os, re, shutil, signal, socket, ssl, struct, subprocess, sys, tempfile, threading, time

import comparison

ROUTES = """
http:
  routers:
    echo: {rule: 'PathPrefix(`/`)', service: echo}
    named: {rule: 'PathPrefix(`/named`)', service: echo, entryPoints: [web]}
    secure: {rule: 'PathPrefix(`/`)', service: echo, tls: {}}
    tls: {rule: 'PathPrefix(`/tls-server`)', service: tls}
  middlewares:
    prefix: {addPrefix: {prefix: /added}}
    mark: {headers: {customRequestHeaders: {X-Mark: 'yes'}}}
  services:
    echo: {loadBalancer: {servers: [{url: 'http://127.0.0.1:@BACKEND@'}]}}
    tls: {loadBalancer: {servers: [{url: 'https://127.0.0.1:@SECURE@'}]}}
"""

ACME = "certificatesResolvers.le.acme"
WEB = "entryPoints.web.address=127.0.0.1:@P@"
OTHER = "entryPoints.other.address=127.0.0.1:@Q@"
# A request that is no part of what is compared.
PROBE = "/are-there-routes"
HELLO = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def get(path="/x", host="h", headers="", port="@P@", method="GET", **more):
    return dict(send=f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n", port=port, **more)


def api(path):
    return get(path, port="@Q@", api=True)


def log_case(name, *settings, **more):
    return (name, [WEB, "accessLog=true", "accessLog.filePath=@DIR@/access", *settings],
            [get("/x?a=b", headers="Referer: r\r\nUser-Agent: u\r\nX-A: 1\r\nAuthorization: Basic dTpw\r\n"),
             get("/status/404"), get("/status/500"), dict(file="access", stop=True, **more)])


def dashboard(name, *settings, paths=("/api/version", "/api/overview", "/dashboard/", "/ping", "/api/rawdata"), more=()):
    return (name, [WEB, "entryPoints.traefik.address=127.0.0.1:@Q@", *settings],
            [get(path, port="@Q@", status=True) for path in paths] + [get(path, status=True) for path in paths] + list(more))


CASES = [
    # addresses
    ("address any", ["entryPoints.web.address=:@P@"], [get(), get(at="::1")]),
    ("address v4", [WEB], [get(), get(at="::1")]),
    ("address v6", ["entryPoints.web.address=[::1]:@P@"], [get(), get(at="::1")]),
    ("address tcp", ["entryPoints.web.address=:@P@/tcp"], [get()]),
    ("address upper", ["entryPoints.web.address=:@P@/TCP"], [get()]),
    ("address name", ["entryPoints.web.address=localhost:@P@"], [get()]),
    ("address protocol", ["entryPoints.web.address=:@P@/sctp"], [get()]),
    ("address no port", ["entryPoints.web.address=127.0.0.1"], [get()]),
    ("address empty", ["entryPoints.web.address="], [get()]),
    ("address twice", [WEB, "entryPoints.other.address=127.0.0.1:@P@"], [get()]),
    ("address any v4", ["entryPoints.web.address=0.0.0.0:@P@"], [get()]),
    ("address service name", ["entryPoints.web.address=127.0.0.1:http-alt"], [get()]),
    ("upper case name", ["entryPoints.WEB.address=127.0.0.1:@P@"], [get("/named"), get()]),
    # redirections
    *[(f"redirect {name}", [WEB, OTHER, *settings], [get("/a%20b?c=d"), get("/x", "h:81"), get(method="POST"), get(port="@Q@")])
      for name, settings in [
          ("name", ["entryPoints.web.http.redirections.entryPoint.to=other"]),
          ("port", ["entryPoints.web.http.redirections.entryPoint.to=:8443"]),
          ("scheme", ["entryPoints.web.http.redirections.entryPoint.to=other", "entryPoints.web.http.redirections.entryPoint.scheme=http"]),
          ("temporary", ["entryPoints.web.http.redirections.entryPoint.to=other", "entryPoints.web.http.redirections.entryPoint.permanent=false"]),
          ("priority", ["entryPoints.web.http.redirections.entryPoint.to=other", "entryPoints.web.http.redirections.entryPoint.priority=1"]),
          ("negative", ["entryPoints.web.http.redirections.entryPoint.to=other", "entryPoints.web.http.redirections.entryPoint.priority=-5"]),
          ("unknown", ["entryPoints.web.http.redirections.entryPoint.to=nobody"]),
          ("itself", ["entryPoints.web.http.redirections.entryPoint.to=web"]),
          ("nowhere", ["entryPoints.web.http.redirections.entryPoint.scheme=https"]),
          ("443", ["entryPoints.web.http.redirections.entryPoint.to=:443"]),
          ("odd port", ["entryPoints.web.http.redirections.entryPoint.to=:http"]),
      ]],
    # what routers get
    ("asDefault", [WEB, OTHER, "entryPoints.other.asDefault=true"], [get(), get("/named"), get(port="@Q@")]),
    ("asDefault false", [WEB, OTHER, "entryPoints.other.asDefault=false"], [get(), get(port="@Q@")]),
    ("middlewares", [WEB, "entryPoints.web.http.middlewares=prefix@file,mark@file"], [get(), get("/named")]),
    ("middlewares missing", [WEB, "entryPoints.web.http.middlewares=nobody@file"], [get(status=True)]),
    ("middlewares bare", [WEB, "entryPoints.web.http.middlewares=prefix"], [get()]),
    ("tls", [WEB, "entryPoints.web.http.tls=true"], [get(), get(tls=True)]),
    ("tls domains", [WEB, "entryPoints.web.http.tls.domains[0].main=h.test", "entryPoints.web.http.tls.domains[0].sans=a.test,b.test"], [get(), get(tls=True)]),
    ("tls options missing", [WEB, "entryPoints.web.http.tls.options=nobody@file"], [get(tls=True, status=True)]),
    ("allowACMEByPass", [WEB, "entryPoints.web.allowACMEByPass=true"], [get("/.well-known/acme-challenge/x")]),
    # requests
    *[(f"encoded {key}", [WEB, f"entryPoints.web.http.encodedCharacters.{key}=false"],
       [get(f"/a{escape}b") for escape in ("%2F", "%5C", "%00", "%3B", "%25", "%3F", "%23", "%2f")])
      for key in ("allowEncodedSlash", "allowEncodedBackSlash", "allowEncodedNullCharacter", "allowEncodedSemicolon",
                  "allowEncodedPercent", "allowEncodedQuestionMark", "allowEncodedHash")],
    ("encoded default", [WEB], [get(f"/a{escape}b") for escape in ("%2F", "%5C", "%00", "%3B", "%25", "%3F", "%23")]),
    ("sanitizePath off", [WEB, "entryPoints.web.http.sanitizePath=false"], [get("/a/../b"), get("//a//b"), get("/a/%2e%2e/b")]),
    ("encodeQuerySemicolons", [WEB, "entryPoints.web.http.encodeQuerySemicolons=true"], [get("/?a;b=c;d")]),
    ("maxHeaderBytes", [WEB, "entryPoints.web.http.maxHeaderBytes=10000"],
     [get(headers=f"X-A: {'a' * size}\r\n") for size in (1000, 9000, 20000)]),
    ("keepAliveMaxRequests", [WEB, "entryPoints.web.transport.keepAliveMaxRequests=2"], [dict(keep=4)]),
    ("keepAliveMaxTime", [WEB, "entryPoints.web.transport.keepAliveMaxTime=1s"], [dict(keep=3, pause=0.7)]),
    ("idleTimeout", [WEB, "entryPoints.web.transport.respondingTimeouts.idleTimeout=1s"], [dict(idle=True)]),
    ("idleTimeout number", [WEB, "entryPoints.web.transport.respondingTimeouts.idleTimeout=1"], [dict(idle=True)]),
    ("readTimeout", [WEB, "entryPoints.web.transport.respondingTimeouts.readTimeout=1s"],
     [dict(send="GET /x HTTP/1.1\r\nHost: h\r\n", port="@P@", cut=True), get()]),
    ("timeout words", [WEB, "entryPoints.web.transport.respondingTimeouts.readTimeout=soon"], [get()]),
    ("timeout negative", [WEB, "entryPoints.web.transport.respondingTimeouts.readTimeout=-1s"], [get()]),
    ("forwarded none", [WEB], [get(headers="X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Real-Ip: 5.6.7.8\r\n")]),
    ("forwarded insecure", [WEB, "entryPoints.web.forwardedHeaders.insecure=true"],
     [get(headers="X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: o\r\nX-Real-Ip: 5.6.7.8\r\n")]),
    ("forwarded trusted", [WEB, "entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.0/8,10.1.1.1"],
     [get(headers="X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Port: 9\r\n")]),
    ("forwarded others", [WEB, "entryPoints.web.forwardedHeaders.trustedIPs=10.0.0.0/8"], [get(headers="X-Forwarded-For: 1.2.3.4\r\n")]),
    ("forwarded nonsense", [WEB, "entryPoints.web.forwardedHeaders.trustedIPs=10.0.0"], [get()]),
    ("forwarded connection", [WEB, "entryPoints.web.forwardedHeaders.connection=X-A"],
     [get(headers="Connection: X-A, X-B\r\nX-A: 1\r\nX-B: 2\r\n")]),
    ("forwarded not appended", [WEB, "entryPoints.web.forwardedHeaders.insecure=true", "entryPoints.web.forwardedHeaders.notAppendXForwardedFor=true"],
     [get(headers="X-Forwarded-For: 1.2.3.4\r\n")]),
    ("proxy protocol", [WEB, "entryPoints.web.proxyProtocol.trustedIPs=127.0.0.1"],
     [dict(send="PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222\r\n" + HELLO, port="@P@"), get()]),
    ("proxy protocol insecure", [WEB, "entryPoints.web.proxyProtocol.insecure=true"],
     [dict(send="PROXY TCP6 ::1 ::2 1111 2222\r\n" + HELLO, port="@P@"), dict(send="PROXY UNKNOWN\r\n" + HELLO, port="@P@")]),
    ("proxy protocol bare", [WEB, "entryPoints.web.proxyProtocol=true"],
     [dict(send="PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222\r\n" + HELLO, port="@P@", status=True), get()]),
    ("reusePort", [WEB, "entryPoints.web.reusePort=true"], [get()]),
    ("http2 streams", [WEB, "entryPoints.web.http2.maxConcurrentStreams=7"], [dict(h2settings=True)]),
    ("http2 streams 0", [WEB, "entryPoints.web.http2.maxConcurrentStreams=0"], [dict(h2settings=True)]),
    ("http2 streams -1", [WEB, "entryPoints.web.http2.maxConcurrentStreams=-1"], [get()]),
    # stopping
    ("grace", [WEB, "entryPoints.web.transport.lifeCycle.graceTimeOut=3s"], [dict(drain=1.0)]),
    ("grace short", [WEB, "entryPoints.web.transport.lifeCycle.graceTimeOut=500ms"], [dict(drain=3.0)]),
    ("grace accept", [WEB, "entryPoints.web.transport.lifeCycle.requestAcceptGraceTimeout=2s"], [dict(stopping=0.5)]),
    # access log
    log_case("log common"),
    log_case("log json", "accessLog.format=json"),
    log_case("log generic", "accessLog.format=genericCLF"),
    log_case("log unknown format", "accessLog.format=xml"),
    log_case("log statuses", "accessLog.filters.statusCodes=404,500-599"),
    log_case("log odd statuses", "accessLog.filters.statusCodes=x"),
    log_case("log retries", "accessLog.filters.retryAttempts=true"),
    log_case("log duration", "accessLog.filters.minDuration=10s"),
    log_case("log several filters", "accessLog.filters.minDuration=10s", "accessLog.filters.statusCodes=404"),
    log_case("log drop all", "accessLog.format=json", "accessLog.fields.defaultMode=drop"),
    log_case("log drop some", "accessLog.format=json", "accessLog.fields.defaultMode=drop", "accessLog.fields.names.RequestPath=keep", "accessLog.fields.names.RouterName=keep"),
    log_case("log names redact", "accessLog.format=json", "accessLog.fields.names.RequestPath=redact"),
    log_case("log keep headers", "accessLog.format=json", "accessLog.fields.headers.defaultMode=keep"),
    log_case("log redact headers", "accessLog.format=json", "accessLog.fields.headers.defaultMode=redact", "accessLog.fields.headers.names.User-Agent=keep", "accessLog.fields.headers.names.X-A=drop"),
    log_case("log drop common", "accessLog.fields.names.ClientUsername=drop", "accessLog.fields.names.RequestMethod=drop"),
    log_case("log redact query", "accessLog.format=json", "accessLog.fields.queryParameters.defaultMode=drop"),
    log_case("log buffered", "accessLog.bufferingSize=100"),
    log_case("log internals", "accessLog.addInternals=true", "ping=true", "ping.entryPoint=web"),
    log_case("log mode unknown", "accessLog.fields.defaultMode=maybe"),
    ("log otlp", [WEB, "accessLog.otlp=true"], [get()]),
    # log
    *[(f"process log {level}", [WEB, f"log.level={level}"], [get()]) for level in ("DEBUG", "info", "WARN", "ERROR", "FATAL", "PANIC", "TRACE", "loud")],
    ("process log json", [WEB, "log.format=json", "log.level=INFO"], [get(), dict(logs="json")]),
    ("process log xml", [WEB, "log.format=xml"], [get()]),
    ("process log file", [WEB, "log.filePath=@DIR@/process", "log.level=DEBUG"], [get(), dict(exists="process")]),
    ("process log nowhere", [WEB, "log.filePath=/proc/none/process"], [get()]),
    ("process log noColor", [WEB, "log.noColor=true", "log.level=DEBUG"], [get(), dict(logs="plain")]),
    ("process log size", [WEB, "log.filePath=@DIR@/process", "log.maxSize=1", "log.maxBackups=2", "log.maxAge=3", "log.compress=true"], [get()]),
    # API and ping
    dashboard("api insecure", "api.insecure=true"),
    dashboard("api no dashboard", "api.insecure=true", "api.dashboard=false"),
    dashboard("api bare", "api=true"),
    dashboard("api debug", "api.insecure=true", "api.debug=true", paths=("/debug/vars", "/api/version")),
    dashboard("api basePath", "api.insecure=true", "api.basePath=/base", paths=("/base/api/version", "/api/version", "/base/dashboard/", "/base", "/")),
    dashboard("api disableDashboardAd", "api.insecure=true", "api.disableDashboardAd=true"),
    dashboard("ping", "ping=true", paths=("/ping", "/ping/", "/pin")),
    dashboard("ping elsewhere", "ping=true", "ping.entryPoint=web", paths=("/ping",)),
    dashboard("ping manual", "ping=true", "ping.manualRouting=true", paths=("/ping",)),
    dashboard("ping unknown", "ping=true", "ping.entryPoint=nobody", paths=("/ping",)),
    ("ping terminating", [WEB, "ping=true", "ping.entryPoint=web", "ping.terminatingStatusCode=410",
                          "entryPoints.web.transport.lifeCycle.requestAcceptGraceTimeout=2s"], [dict(stopping=0.5, path="/ping")]),
    # the rest
    ("global", [WEB, "global.checkNewVersion=false", "global.sendAnonymousUsage=false"], [get()]),
    ("rule syntax v3", [WEB, "core.defaultRuleSyntax=v3"], [get()]),
    ("rule syntax v4", [WEB, "core.defaultRuleSyntax=v4"], [get()]),
    ("hostResolver off", [WEB, "hostResolver.cnameFlattening=false"], [get()]),
    ("transport verify", [WEB], [get("/tls-server", status=True)]),
    ("transport skip", [WEB, "serversTransport.insecureSkipVerify=true"], [get("/tls-server")]),
    ("transport roots", [WEB, "serversTransport.rootCAs=@CA@"], [get("/tls-server")]),
    ("transport roots missing", [WEB, "serversTransport.rootCAs=/nowhere.pem"], [get("/x", status=True), get("/tls-server", status=True)]),
    ("transport header timeout", [WEB, "serversTransport.forwardingTimeouts.responseHeaderTimeout=300ms"], [get("/delay/2")]),
    ("transport dial", [WEB, "serversTransport.forwardingTimeouts.dialTimeout=1s"], [get()]),
    ("transport idle", [WEB, "serversTransport.maxIdleConnsPerHost=1", "serversTransport.forwardingTimeouts.idleConnTimeout=1s"], [get(), get()]),
    ("transport idle -1", [WEB, "serversTransport.maxIdleConnsPerHost=-1"], [get(), get()]),
    ("throttle", [WEB, "providers.providersThrottleDuration=1s"], [get()]),
    ("unknown key", [WEB, "entryPoints.web.adress=x"], [get()]),
    ("bool words", [WEB, "entryPoints.web.asDefault=yes"], [get()]),
    ("bool T", [WEB, "entryPoints.web.asDefault=T"], [get()]),
    ("int words", [WEB, "entryPoints.web.http.maxHeaderBytes=many"], [get()]),
    ("no providers", [WEB], [get("/x")]),
    # settings that cannot be honoured keep nobody from starting
    *[(f"starts {name}", [WEB, *settings], [get()]) for name, settings in [
        ("docker off", ["providers.docker.exposedByDefault=false", "providers.docker=false"]),
        ("access log off", ["accessLog.format=json", "accessLog=false"]),
        ("HTTP/3 off", ["entryPoints.web.http3.advertisedPort=443", "entryPoints.web.http3=false"]),
        ("no challenge", [f"{ACME}.email=a@b.test"]),
        ("challenge off", [f"{ACME}.email=a@b.test", f"{ACME}.tlsChallenge=false"]),
        ("HTTP challenge nowhere", [f"{ACME}.httpChallenge.entryPoint=nobody"]),
        ("DNS credentials", [f"{ACME}.dnsChallenge.provider=cloudflare"]),
        ("DNS provider", [f"{ACME}.dnsChallenge.provider=nobody"]),
        ("DNS resolvers", [f"{ACME}.dnsChallenge.provider=manual", f"{ACME}.dnsChallenge.resolvers=ns.example.com"]),
        ("e-mail", [f"{ACME}.email=[EMAIL]", f"{ACME}.tlsChallenge=true"]),
        ("variable in a value", [f"{ACME}.email=${{ACME_EMAIL}}", f"{ACME}.tlsChallenge=true"]),
        ("variables", ["$TRAEFIK_ACCESS_LOG=true", "$TRAEFIK_VERSION=3", "$TRAEFIK_DOMAIN=a.test"]),
        ("variable below API", ["$TRAEFIK_API_PASSWORD=x"]),
        ("foreign key", ["x-common.a=b"]),
        ("nearly a key", ["serverTransport.insecureSkipVerify=true"]),
        ("settings file", ["configFile=/nowhere.yml"]),
        ("rule syntax", ["core.defaultRuleSyntax=v2"]),
        ("plugin", ["experimental.plugins.p.moduleName=github.com/x/p", "experimental.plugins.p.version=v1.0.0"]),
        ("local plugin", ["experimental.localPlugins.p.moduleName=github.com/x/p"]),
        ("metrics", ["metrics.prometheus.addServicesLabels=true"]),
        ("tracing", ["tracing.serviceName=x"]),
        ("host resolver", ["hostResolver.cnameFlattening=true"]),
        ("entry point without address", ["entryPoints.none.http.middlewares=prefix@file"]),
        ("resolver of an entry point", ["entryPoints.web.http.tls.certResolver=nobody"]),
        ("HTTP provider", ["providers.http.pollInterval=5s"]),
        ("misspelt", ["entryPoints.web.adress=x"]),
    ]],
]

# Differences on purpose, by case: see docs/differences.md.
KNOWN = {
    "api debug": "not there yet",
    "log otlp": "Traefik refuses it without its experimental option; not there yet, a problem",
    "unknown key": "in the environment: a problem, as stray variables are",
    "starts misspelt": "in the environment: a problem, as stray variables are",
    "starts tracing": "not there yet",
    "starts variable below API": "alone in the environment: a problem, as stray variables are",
    "middlewares missing": "the router answers 503",
    "tls options missing": "fails closed",
    "transport roots missing": "fails closed",
}


class Echo(threading.Thread):
    """A backend that says what it got. /status/N, /delay/SECONDS."""

    def __init__(self, context=None):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.context = self.listener.getsockname()[1], context

    def run(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        try:
            if self.context:
                peer = self.context.wrap_socket(peer, server_side=True)
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    more = peer.recv(65536)
                    if not more:
                        return
                    buffer += more
                head, buffer = buffer.split(b"\r\n\r\n", 1)
                path = head.split(b" ")[1].split(b"?")[0].decode().strip("/").split("/")
                status = int(path[path.index("status") + 1]) if "status" in path else 200
                if "delay" in path:
                    time.sleep(float(path[path.index("delay") + 1]))
                lines = head.decode("latin-1").split("\r\n")
                body = "\n".join([lines[0], *sorted(line for line in lines[1:] if not line.lower().startswith("accept-encoding"))]).encode("latin-1")
                peer.sendall(b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (status, http.HTTPStatus(status).phrase.encode(), len(body), body))
        except (OSError, ValueError):
            pass
        finally:
            peer.close()


def nested(settings):
    """Dotted settings as a tree."""
    tree = {}
    for setting in settings:
        key, value = setting.split("=", 1)
        parts, node = key.split("."), tree
        for at, part in enumerate(parts):
            index = re.fullmatch(r"(.*)\[(\d+)\]", part)
            name, last = (index[1] if index else part), at == len(parts) - 1
            if last:
                found = node.get(name)
                if not isinstance(found, dict):
                    node[name] = leaf(key, value)
            elif index:
                rows = node.setdefault(name, [])
                while len(rows) <= int(index[2]):
                    rows.append({})
                node = rows[int(index[2])]
            else:
                if not isinstance(node.get(name), dict):
                    node[name] = {}
                node = node[name]
    return tree


def leaf(key, value):
    if value in ("true", "false"):
        if key in ("api", "ping", "accessLog") or key.endswith((".tls", ".proxyProtocol", ".otlp")):
            return {}
        return value == "true"
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    if key.endswith(("middlewares", "trustedIPs", "statusCodes", "sans", "rootCAs", "connection")):
        return value.split(",")
    return value


def toml(tree, path=()):
    plain, tables = [], []
    for key, value in tree.items():
        name = key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)
        if isinstance(value, dict):
            tables.append("[" + ".".join((*path, name)) + "]\n" + toml(value, (*path, name)))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += ["[[" + ".".join((*path, name)) + "]]\n" + toml(row, (*path, name)) for row in value]
        else:
            plain.append(f"{name} = {json.dumps(value)}")
    return "\n".join(plain + tables) + "\n"


class Gateway:
    """One gateway with settings in one form."""

    def __init__(self, binary, form, settings, fill):
        self.folder = tempfile.mkdtemp(prefix="settings")
        fill = {**fill, "@DIR@": self.folder}
        self.fill = lambda text: re.sub("|".join(fill), lambda found: str(fill[found[0]]), text)
        routes = os.path.join(self.folder, "routes.yml")
        with open(routes, "w") as file:
            file.write(self.fill(ROUTES))
        settings = [self.fill(setting) for setting in [*settings, f"providers.file.filename={routes}"]]
        environment, arguments = dict(os.environ, GATEWAY_WORKERS="1"), [binary]
        # Those that begin with `$` are variables in every form.
        variables = [setting[1:] for setting in settings if setting.startswith("$")]
        environment.update(variable.split("=", 1) for variable in variables)
        settings = [setting for setting in settings if not setting.startswith("$")]
        if form == "flags":
            arguments += ["--" + setting for setting in settings]
        elif form == "env":
            for setting in settings:
                key, value = setting.split("=", 1)
                environment["TRAEFIK_" + key.upper().replace(".", "_").replace("[", "_").replace("]", "")] = value
        else:
            file = os.path.join(self.folder, "static." + form)
            tree = nested(settings)
            with open(file, "w") as out:
                out.write(json.dumps(tree) if form == "yml" else toml(tree))
            arguments.append("--configFile=" + file)
        self.output = os.path.join(self.folder, "output")
        with open(self.output, "w") as out:
            self.process = subprocess.Popen(arguments, stdout=out, stderr=out, env=environment, cwd=self.folder)

    def wait(self):
        """True once it listens; false when it has ended."""
        for _ in range(200):
            if self.process.poll() is not None:
                return False
            for host in ("127.0.0.1", "::1"):
                try:
                    socket.create_connection((host, int(self.fill("@P@"))), 0.3).close()
                    # Traefik listens before it has its routes.
                    for _ in range(40):
                        answer = everything(self.ask(host), 1)
                        if answer and answer[9:12] not in (b"404", b"301", b"302"):
                            break
                        time.sleep(0.1)
                    return self.process.poll() is None
                except OSError:
                    pass
            time.sleep(0.03)
        return True

    def ask(self, at):
        stream = self.connect(at=at)
        stream.sendall(HELLO.replace("/x", PROBE).encode())
        return stream

    def stop(self, wait=12):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def connect(self, port="@P@", at="127.0.0.1", tls=False, timeout=4):
        stream = socket.create_connection((at, int(self.fill(port))), timeout)
        if tls:
            context = ssl._create_unverified_context()
            stream = context.wrap_socket(stream, server_hostname="h.test")
        return stream

    def probe(self, probe):
        try:
            for kind in ("send", "keep", "idle", "file", "drain", "stopping", "h2settings", "logs", "exists"):
                if kind in probe:
                    return getattr(self, kind)(probe)
        except OSError as error:
            return f"no connection: {type(error).__name__}"

    def send(self, probe):
        stream = self.connect(probe["port"], probe.get("at", "127.0.0.1"), probe.get("tls", False))
        started = time.time()
        stream.sendall(self.fill(probe["send"]).encode("latin-1"))
        answer = everything(stream)
        if probe.get("cut"):
            return "cut in time" if time.time() - started < 3 else "not cut in time"
        return self.shown(answer, probe.get("status"))

    def shown(self, answer, status_only=False):
        head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
        lines = head.split("\r\n")
        if status_only:
            return lines[0]
        kept = [f"{name.lower()}: {value.strip()}" for name, _, value in (line.partition(":") for line in lines[1:])
                if name.lower() in ("location", "content-type", "connection", "www-authenticate")]
        return "\n".join([lines[0], *sorted(kept), "", body])

    def keep(self, probe):
        stream, seen = self.connect(), []
        for _ in range(probe["keep"]):
            stream.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            head = one(stream)
            seen.append("none" if not head else "close" if b"onnection: close" in head else "kept")
            if seen[-1] != "kept":
                break
            time.sleep(probe.get("pause", 0))
        return " ".join(seen)

    def idle(self, _):
        stream = self.connect(timeout=5)
        stream.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        one(stream)
        started = time.time()
        try:
            stream.recv(1)
        except OSError:
            pass
        return f"closed after {round(time.time() - started)} s"

    def file(self, probe):
        if probe.get("stop"):
            self.stop()
        try:
            with open(os.path.join(self.folder, probe["file"])) as file:
                text = file.read()
        except OSError:
            return "no file"
        lines = []
        for line in text.splitlines():
            if PROBE in line:
                continue
            if line.startswith("{"):
                entry = json.loads(line)
                # Traefik has no Origin and no Reason: docs/differences.md.
                for name in ("RequestCount", "Origin", "Reason"):
                    entry.pop(name, None)
                for name in ("Duration", "OriginDuration", "Overhead", "StartLocal", "StartUTC", "time", "ClientAddr", "ClientPort"):
                    if name in entry:
                        entry[name] = "*"
                entry = {name: value for name, value in entry.items() if not name.endswith("_Date")}
                line = json.dumps(entry, sort_keys=True)
            else:
                line = re.sub(r"\[[^]]*\]|\d+ms$|(?<=\" )\d+(?= \"[^\"]*\" \"[^\"]*\" \d+ms$)", "*", line)
            # Where everything is dropped, the lines of PROBE look like all others.
            if not lines or line != lines[-1]:
                lines.append(line)
        return "\n".join(lines)

    def drain(self, probe):
        stream = self.connect(timeout=8)
        stream.sendall(f"GET /delay/{probe['drain']} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        time.sleep(0.3)
        self.process.send_signal(signal.SIGTERM)
        return "answered" if everything(stream, 8).startswith(b"HTTP/1.1 200") else "cut"

    def stopping(self, probe):
        self.process.send_signal(signal.SIGTERM)
        time.sleep(probe["stopping"])
        return self.send(get(probe.get("path", "/x")))

    def h2settings(self, _):
        stream = self.connect()
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        head = stream.recv(9, socket.MSG_WAITALL)
        payload = stream.recv(int.from_bytes(head[:3], "big"), socket.MSG_WAITALL)
        pairs = {key: value for key, value in struct.iter_unpack(">HI", payload)}
        return f"streams {pairs.get(3)}"

    def logs(self, probe):
        with open(self.output) as output:
            lines = output.read().splitlines()
        if probe["logs"] == "plain":
            return "colours" if any("\x1b" in line for line in lines) else "no colours"
        for line in lines:
            if not {"level", "time", "message"} <= set(json.loads(line)):
                return f"no level, time or message: {line}"
        return f"json: {bool(lines)}"

    def exists(self, probe):
        return f"written: {os.path.getsize(os.path.join(self.folder, probe['exists'])) > 0}"


def everything(stream, timeout=4):
    stream.settimeout(timeout)
    answer = b""
    try:
        while True:
            more = stream.recv(65536)
            if not more:
                return answer
            answer += more
    except socket.timeout:
        return answer + b" (and stays open)"
    except OSError:
        return answer


def one(stream):
    """The head of one answer; its body is read."""
    answer = b""
    try:
        while b"\r\n\r\n" not in answer:
            more = stream.recv(65536)
            if not more:
                return b""
            answer += more
        head, body = answer.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"ontent-[Ll]ength: (\d+)", head)[1])
        while len(body) < length:
            body += stream.recv(65536)
        return head
    except OSError:
        return b""


def observe(binary, form, settings, probes, fill):
    gateway = Gateway(binary, form, settings, fill)
    try:
        if not gateway.wait():
            with open(gateway.output) as output:
                return ["refused"], output.read()
        ports = {str(port): name for name, port in fill.items() if name.startswith("@") and str(port).isdigit()}
        seen = [str(gateway.probe(probe)) for probe in probes]
        seen = [re.sub("|".join(ports), lambda found: ports[found[0]], text) for text in seen]
        gateway.stop()
        with open(gateway.output) as output:
            return [text.replace(gateway.folder, "@DIR@") for text in seen], output.read()
    finally:
        gateway.stop()
        shutil.rmtree(gateway.folder, ignore_errors=True)


def certificate(folder):
    key, chain = os.path.join(folder, "key.pem"), os.path.join(folder, "ca.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key,
                    "-out", chain, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return chain, context


def main():
    parser = comparison.parser(__doc__, 24200)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    options.traefik, options.tidegate = os.path.abspath(options.traefik), os.path.abspath(options.tidegate)
    folder = tempfile.mkdtemp(prefix="settings")
    chain, context = certificate(folder)
    plain, secure = Echo(), Echo(context)
    plain.start()
    secure.start()
    counts = collections.Counter()
    for number, (name, settings, probes) in enumerate(case for case in CASES if options.k in case[0]):
        forms = ["flags", ("env", "yml", "toml")[number % 3]] if not options.all else ["flags", "env", "yml", "toml"]
        for form in forms:
            seen = []
            for which, binary in enumerate((options.traefik, options.tidegate)):
                port = options.base + 2 * which
                fill = {"@P@": port, "@Q@": port + 1, "@BACKEND@": plain.port, "@SECURE@": secure.port, "@CA@": chain}
                seen.append(observe(binary, form, settings, probes, fill))
            (theirs, their_log), (ours, our_log) = seen
            outcome = "same" if theirs == ours else "known" if name in KNOWN else "different"
            counts[outcome] += 1
            if outcome == "different" or options.v:
                print(f"== {name} ({form}): {outcome}")
                if "refused" in (theirs[0], ours[0]):
                    who, log = ("Traefik", their_log) if theirs[0] == "refused" else ("Tidegate", our_log)
                    print(f"  {who} refuses: {log.strip()[-300:]}")
                    continue
                for at, (one_seen, other_seen) in enumerate(zip([*theirs, *[""] * 9], [*ours, *[""] * 9])):
                    if one_seen != other_seen:
                        print(f"  probe {at} (- Traefik, + Tidegate)")
                        lines = list(difflib.unified_diff(one_seen.split("\n"), other_seen.split("\n"), lineterm="", n=0))[2:12]
                        print("\n".join("    " + line for line in lines if not line.startswith("@@")))
                    elif options.v and one_seen:
                        print(f"  probe {at}\n    both: {one_seen!r}")
    shutil.rmtree(folder, ignore_errors=True)
    print(dict(counts))
    return counts["different"] > 0


if __name__ == "__main__":
    sys.exit(main())
