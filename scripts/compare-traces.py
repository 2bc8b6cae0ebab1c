#!/usr/bin/env python3
"""Sends the same requests through Traefik and Tidegate, and prints which of their spans differ.

    compare-traces.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT]

Needs the Python package `opentelemetry-proto`. Each request has a trace of its own. Compared are the names, kinds, parents, statuses and
attributes of its spans, and which headers of the context the server received; for W3C and for B3.
"""
import gzip, http.server, os, re, shutil, socket, subprocess, sys, tempfile, threading, time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

import comparison

SETTINGS = """
entryPoints:
  web: {{address: "127.0.0.1:{web}"}}
  detail: {{address: "127.0.0.1:{detail}", observability: {{traceVerbosity: detailed}}}}
tracing:
  safeQueryParams: [safe]
  capturedRequestHeaders: [X-Asked]
  capturedResponseHeaders: [X-Answered]
  otlp: {{http: {{endpoint: "http://127.0.0.1:{collector}/v1/traces"}}}}
providers: {{file: {{directory: "{folder}"}}}}
"""

ROUTES = """
http:
  routers:
    plain: {{rule: "PathPrefix(`/`)", priority: 1, service: plain}}
    three: {{rule: "PathPrefix(`/three`)", service: plain, middlewares: [strip, head, rate]}}
    kinds: {{rule: "Path(`/kinds`)", service: plain, middlewares: [allow, buffer, flight, breaker, squeeze, guess, page]}}
    retried: {{rule: "Path(`/retried`)", service: dead, middlewares: [retry]}}
    denied: {{rule: "Path(`/denied`)", service: plain, middlewares: [deny]}}
    asked: {{rule: "Path(`/asked`)", service: plain, middlewares: [ask]}}
    rest: {{rule: "PathPrefix(`/rest`)", service: plain, middlewares: [digest, login, white, web, cert, prefix, stripped, replaced, replacing, encoded, several]}}
    moved: {{rule: "Path(`/moved`)", service: plain, middlewares: [elsewhere]}}
    secure: {{rule: "Path(`/secure`)", service: plain, middlewares: [https]}}
    refused: {{rule: "Path(`/refused`)", service: plain, middlewares: [login]}}
    off: {{rule: "Path(`/off`)", service: plain, observability: {{tracing: false}}}}
  middlewares:
    strip: {{stripPrefix: {{prefixes: ["/three"]}}}}
    head: {{headers: {{customRequestHeaders: {{X-Own: "1"}}}}}}
    rate: {{rateLimit: {{average: 1000, burst: 1000}}}}
    allow: {{ipAllowList: {{sourceRange: ["127.0.0.1"]}}}}
    buffer: {{buffering: {{maxRequestBodyBytes: 100000}}}}
    flight: {{inFlightReq: {{amount: 10}}}}
    breaker: {{circuitBreaker: {{expression: "NetworkErrorRatio() > 0.9"}}}}
    squeeze: {{compress: {{}}}}
    guess: {{contentType: {{}}}}
    page: {{errors: {{status: ["599"], service: plain, query: /page}}}}
    deny: {{ipAllowList: {{sourceRange: ["10.9.9.9"]}}}}
    digest: {{headers: {{customRequestHeaders: {{Authorization: "Basic dXNlcjpwYXNz"}}}}}}
    login: {{basicAuth: {{users: ["user:{{SHA}}nU4eI71bcnBGqeO0t9tXvY1u5oQ="]}}}}
    white: {{ipWhiteList: {{sourceRange: ["127.0.0.1"]}}}}
    web: {{grpcWeb: {{allowOrigins: ["*"]}}}}
    cert: {{passTLSClientCert: {{pem: true}}}}
    prefix: {{addPrefix: {{prefix: /x}}}}
    stripped: {{stripPrefixRegex: {{regex: ["/x"]}}}}
    replaced: {{replacePath: {{path: /y}}}}
    replacing: {{replacePathRegex: {{regex: "^/y(.*)", replacement: "/z$1"}}}}
    encoded: {{encodedCharacters: {{allowEncodedSlash: true}}}}
    several: {{chain: {{middlewares: [prefix, head]}}}}
    elsewhere: {{redirectRegex: {{regex: ".*", replacement: "http://elsewhere.test/"}}}}
    https: {{redirectScheme: {{scheme: https}}}}
    retry: {{retry: {{attempts: 3}}}}
    ask: {{forwardAuth: {{address: "http://127.0.0.1:{server}/auth"}}}}
  services:
    plain: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}]}}}}
    dead: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{dead}"}}]}}}}
"""

PATHS = ["/ok", "/ok?safe=1&other=2", "/three/x", "/kinds", "/retried", "/denied", "/asked", "/rest", "/moved", "/secure", "/refused", "/off", "/404", "/500", "/socket"]
TRACE, SPAN = "%032x", "b7ad6b7169203331"
CONTEXT = ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"]
# Where both differ on purpose, by path: the reason, the span, and its attributes.
KNOWN = {
    "/asked": ("Traefik does not record that an authentication server accepts", "AuthRequest", r"http\.response\."),
    "/rest": ("Traefik adds a user, redacted, to the server's URL", "ReverseProxy", r"url\.full"),
    "/socket": ("Traefik records an upgrade as 200", "GET", r"http\.response\.status_code"),
}
# What only Tidegate says.
OWN = re.compile(r"tidegate\.")


class Collector(http.server.BaseHTTPRequestHandler):
    spans = []

    def whole(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        body = self.whole()
        message = ExportTraceServiceRequest.FromString(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = []

    def do_GET(self):
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path.startswith("/socket"):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            self.close_connection = True
            return
        status = int(self.path[1:]) if self.path[1:].isdigit() else 200
        self.send_response(status)
        self.send_header("X-Answered", "yes")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def ask(port, path, headers):
    lines = [f"GET {path} HTTP/1.1", "Host: h.test", "User-Agent: agent", "X-Asked: a", *headers]
    lines += ["Connection: Upgrade", "Upgrade: websocket"] if path == "/socket" else ["Connection: close"]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        client.settimeout(3)
        try:
            while client.recv(65536):
                pass
        except TimeoutError:
            pass


def plain(value):
    kind = value.WhichOneof("value")
    return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind) if kind else None


def described(span, by_id, ports):
    attributes = {one.key: plain(one.value) for one in span.attributes if not OWN.match(one.key)}
    for key in ("client.port", "network.peer.port"):
        if attributes.get(key) not in ports:
            attributes.pop(key, None)
    parent = by_id.get(span.parent_span_id)
    return {"parent": parent.name if parent else span.parent_span_id.hex() == SPAN, "kind": span.kind, "status": span.status.code, "attributes": attributes}


def observe(binary, environment, ports, word):
    """Starts a gateway, sends the requests, and returns what arrived for each."""
    folder = tempfile.mkdtemp()
    os.mkdir(folder + "/routes")
    places = {**ports, "folder": folder + "/routes"}
    for name, text in (("settings.yml", SETTINGS), ("routes/routes.yml", ROUTES)):
        with open(f"{folder}/{name}", "w") as out:
            out.write(text.format(**places))
    Collector.spans.clear(), Server.seen.clear()
    gateway = subprocess.Popen([binary, f"--configFile={folder}/settings.yml"], env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    found = {}
    try:
        for _ in range(100):
            time.sleep(0.1)
            try:
                ask(ports["web"], "/off", [])
                if any(path == "/off" for path, _ in Server.seen):
                    break
            except OSError:
                pass
        cases = [(entry, path) for entry in ("web", "detail") for path in PATHS if word in path]
        for number, (entry, path) in enumerate(cases, 1):
            trace = TRACE % number
            context = [f"b3: {trace}-{SPAN}-1"] if "b3" in environment.get("OTEL_PROPAGATORS", "") else [f"traceparent: 00-{trace}-{SPAN}-01"]
            Server.seen.clear()
            ask(ports[entry], path, context)
            time.sleep(0.1)
            received = [(path, sorted(name for name in CONTEXT if name in headers), any(trace in headers.get(name, "") for name in CONTEXT)) for path, headers in Server.seen]
            found[f"{entry} {path}"] = {"received": received, "trace": trace}
        gateway.terminate()
        gateway.wait(20)
        time.sleep(0.5)
    finally:
        gateway.kill()
        shutil.rmtree(folder)
    known = {ports["server"], ports["dead"]}
    for case in found.values():
        spans = sorted((one for one in Collector.spans if one.trace_id.hex() == case["trace"]), key=lambda one: one.start_time_unix_nano)
        by_id = {one.span_id: one for one in spans}
        case["spans"] = [[one.name, described(one, by_id, known)] for one in spans]
        del case["trace"]
    return found


def known(name, *both):
    """The reason why both differ, if that is the only difference."""
    reason, span, attributes = KNOWN.get(name.split(" ")[1], (None, None, None))
    if not reason or None in both:
        return None

    def rest(case):
        kept = lambda one, said: {key: value for key, value in said["attributes"].items() if one != span or not re.match(attributes, key)}
        return case["received"], [[one, {**said, "attributes": kept(one, said)}] for one, said in case["spans"]]

    return reason if rest(both[0]) == rest(both[1]) else None


def main():
    arguments = comparison.parser(__doc__, 22100).parse_args()
    ports = {name: arguments.base + at for at, name in enumerate(["web", "detail", "dead"])}
    ports.update(collector=serve(Collector), server=serve(Server))
    different = False
    for propagators in ("", "b3", "b3multi"):
        print(f"propagators: {propagators or 'default'}")
        environment = {"OTEL_PROPAGATORS": propagators} if propagators else {}
        both = [observe(binary, environment, ports, arguments.k) for binary in (arguments.traefik, arguments.tidegate)]
        different |= comparison.report(both, known, arguments.v)
    sys.exit(different)


main()
