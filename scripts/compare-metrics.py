#!/usr/bin/env python3
"""Sends the same requests through Traefik and Tidegate, and prints which series of their metrics differ.

    compare-metrics.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT]

Both get the same settings with all labels, the same routes and the same requests. Compared are the names, types and labels of all
series named `traefik_`, and their values, except those that are times: of these only which ones there are. The scrapes are made
before any request, after all of them, after a router and its service were removed, and once more.
"""
import http.server, json, os, re, shutil, socket, ssl, subprocess, sys, tempfile, threading, time, urllib.request

import comparison

SETTINGS = """
entryPoints:
  web: {{address: "127.0.0.1:{web}"}}
  secure: {{address: "127.0.0.1:{secure}"}}
  quiet: {{address: "127.0.0.1:{quiet}", observability: {{metrics: false}}}}
  traefik: {{address: "127.0.0.1:{admin}"}}
metrics:
  prometheus:
    addRoutersLabels: true
    buckets: [0.1, 0.5, 10]
    headerLabels: {{agent: User-Agent}}
api: {{insecure: true}}
ping: {{}}
providers: {{file: {{directory: "{folder}", watch: true}}}}
"""

ROUTES = """
http:
  routers:
    plain: {{entryPoints: [web], rule: "PathPrefix(`/`)", priority: 1, service: plain}}
    silent: {{entryPoints: [web], rule: "Path(`/silent`)", service: plain, observability: {{metrics: false}}}}
    both: {{entryPoints: [web, quiet], rule: "Path(`/both`)", service: plain}}
    weighted: {{entryPoints: [web], rule: "Path(`/weighted`)", service: weighted}}
    denied: {{entryPoints: [web], rule: "Path(`/denied`)", service: plain, middlewares: [deny]}}
    retried: {{entryPoints: [web], rule: "Path(`/retried`)", service: dead, middlewares: [retry]}}
    page: {{entryPoints: [web], rule: "Path(`/page`)", service: plain, middlewares: [page]}}
    paged: {{entryPoints: [web], rule: "Path(`/503`)", service: plain, middlewares: [pages]}}
    mirrored: {{entryPoints: [web], rule: "PathPrefix(`/mirrored`)", service: mirrored}}
    tls: {{entryPoints: [secure], rule: "PathPrefix(`/`)", service: checked, tls: {{}}}}
  middlewares:
    deny: {{ipAllowList: {{sourceRange: ["10.9.9.9"]}}}}
    retry: {{retry: {{attempts: 3}}}}
    page: {{errors: {{status: ["500-599"], service: plain, query: /ok}}}}
    pages: {{errors: {{status: ["500-599"], service: pages, query: /big}}}}
  services:
    plain: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}]}}}}
    dead: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{dead}"}}]}}}}
    weighted: {{weighted: {{services: [{{name: plain, weight: 1}}]}}}}
    pages: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}]}}}}
    copy: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}]}}}}
    mirrored: {{mirroring: {{service: plain, mirrors: [{{name: copy, percent: 100}}]}}}}
    checked: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}], healthCheck: {{path: /ok, interval: 1s}}}}}}
tls:
  certificates: [{{certFile: "{folder}/cert.pem", keyFile: "{folder}/key.pem"}}]
"""

EXTRA = """
http:
  routers:
    gone: {{entryPoints: [web], rule: "Path(`/gone`)", service: gone}}
  services:
    gone: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}]}}}}
"""

# Method, port, path, headers, body.
REQUESTS = [
    ("GET", "web", "/ok", {}, b""),
    ("GET", "web", "/ok", {"User-Agent": "b"}, b""),
    ("POST", "web", "/ok", {}, b"0123456789"),
    ("HEAD", "web", "/ok", {}, b""),
    ("PROPFIND", "web", "/ok", {}, b""),
    ("GET", "web", "/404", {}, b""),
    ("GET", "web", "/500", {}, b""),
    ("GET", "web", "/silent", {}, b""),
    ("GET", "web", "/both", {}, b""),
    ("GET", "quiet", "/both", {}, b""),
    ("GET", "quiet", "/nobody", {}, b""),
    ("GET", "web", "/weighted", {}, b""),
    ("GET", "web", "/denied", {}, b""),
    ("GET", "web", "/retried", {}, b""),
    ("GET", "web", "/gone", {}, b""),
    ("GET", "web", "/sse", {"Accept": "text/event-stream"}, b""),
    ("POST", "web", "/grpc", {"Content-Type": "application/grpc"}, b"00000"),
    ("POST", "web", "/grpc?status=5", {"Content-Type": "application/grpc-web+proto"}, b"00000"),
    ("POST", "web", "/ok", {"Content-Type": "application/grpc"}, b"00000"),
    ("GET", "web", "/ws", {"Connection": "Upgrade", "Upgrade": "websocket"}, b""),
    ("GET", "web", "/big", {}, b""),
    ("GET", "web", "/503", {}, b""),
    ("POST", "web", "/503", {}, b"0123456789"),
    ("GET", "web", "/mirrored", {}, b""),
    ("POST", "web", "/mirrored", {}, b"0123456789"),
    ("GET", "secure", "/ok", {}, b""),
    ("GET", "secure", "/nobody", {"Host": "other.test"}, b""),
]
TIMES = ("_seconds_sum", "_seconds_bucket", "traefik_config_last_reload_success")


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by path."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/ws":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            self.wfile.write(b"hello")
            self.close_connection = True
            return
        status = int(self.path[1:]) if self.path[1:].isdigit() else 200
        body = b"x" * 100_000 if self.path == "/big" else b"hello"
        self.send_response(status)
        if self.path.startswith("/grpc"):
            self.send_header("Grpc-Status", self.path.partition("=")[2] or "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = do_PROPFIND = answer

    def log_message(self, *_):
        pass


class Gateway:
    def __init__(self, binary, base, server, certificate):
        self.ports = {name: base + at for at, name in enumerate(["web", "secure", "quiet", "admin", "dead"])}
        self.folder = tempfile.mkdtemp()
        os.makedirs(f"{self.folder}/routes")
        names = {**self.ports, "server": server, "folder": f"{self.folder}/routes"}
        for name in "key.pem", "cert.pem":
            shutil.copy(f"{certificate}/{name}", names["folder"])
        with open(f"{self.folder}/settings.yml", "w") as file:
            file.write(SETTINGS.format(**names))
        for name, text in ("routes", ROUTES), ("extra", EXTRA):
            with open(f"{names['folder']}/{name}.yml", "w") as file:
                file.write(text.format(**names))
        self.process = subprocess.Popen([binary, f"--configFile={self.folder}/settings.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(lambda: "gone@file" in self.routers() and self.is_checked())

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=5) as response:
                return response.read().decode()
        except OSError:
            return ""

    def routers(self):
        return {router["name"] for router in json.loads(self.get("/api/http/routers") or "[]")}

    def is_checked(self):
        return "UP" in (self.get("/api/http/services/checked@file") or "")

    def send(self, method, port, path, headers, body):
        connection = socket.create_connection(("127.0.0.1", self.ports[port]), timeout=10)
        if port == "secure":
            context = ssl._create_unverified_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            connection = context.wrap_socket(connection, server_hostname="metrics.test")
        fields = {"Host": "metrics.test", "User-Agent": "a", "Connection": "close", "Content-Length": str(len(body)), **headers}
        if not body:
            del fields["Content-Length"]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        while connection.recv(65536):
            pass
        connection.close()

    def series(self):
        """Types by name, and values by series; `…` for times."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith("# TYPE traefik_"):
                found[line] = True
            elif line.startswith("traefik_"):
                series, _, value = line.rpartition(" ")
                name, _, labels = series.rstrip("}").partition("{")
                series = name + "{" + ",".join(sorted(re.findall(r'\w+="(?:[^"\\\\]|\\\\.)*"', labels))) + "}"
                found[series] = "…" if series.partition("{")[0].endswith(TIMES) else float(value)
        return found

    def remove(self):
        os.remove(f"{self.folder}/routes/extra.yml")
        wait(lambda: "gone@file" not in self.routers())

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


def wait(is_so, seconds=20):
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit("timed out")
        time.sleep(0.05)


def observe(binary, base, server, certificate):
    gateway = Gateway(binary, base, server, certificate)
    seen = {}
    try:
        seen["start"] = gateway.series()
        for request in REQUESTS:
            gateway.send(*request)
        time.sleep(0.5)
        seen["requests"] = gateway.series()
        gateway.remove()
        time.sleep(0.5)
        seen["removed"] = gateway.series()
        seen["once more"] = gateway.series()
    finally:
        gateway.close()
    return {f"{when}: {series}": value for when, all_of_it in seen.items() for series, value in all_of_it.items()}


def known(name, traefik, tidegate):
    """Why a series differs."""
    series = name.partition(": ")[2]
    if "service_retries_total" in series:
        return "Traefik declares retries and never counts them"
    if "config_reloads_total" in series:
        return "counts configurations that were applied, which depends on when providers deliver"
    if name.startswith("start: ") and "server_up" in series:
        return "Traefik shows a server after its second check"
    if "tls_cipher" in series:
        return "each chooses another cipher suite of those that the client offers"
    if 'protocol="websocket"' in series and re.search(r'code="(0|101)"', series):
        return "Traefik has 0 for the 101 of a WebSocket"
    if series.startswith("traefik_service_responses_bytes_total") and "dead@file" in series:
        return "Traefik adds the bodies of answers that were replaced by a retry"
    return None


def main():
    arguments = comparison.parser(__doc__, 21000).parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{folder}/key.pem", "-out",
                        f"{folder}/cert.pem", "-days", "30", "-subj", "/CN=metrics.test", "-set_serial", "77",
                        "-addext", "subjectAltName=DNS:metrics.test,DNS:a.test"], check=True, capture_output=True)
        binaries = arguments.traefik, arguments.tidegate
        both = [observe(binary, arguments.base + 10 * at, port, folder) for at, binary in enumerate(binaries)]
    # Each gateway has its own ports.
    both = [{re.sub(r":21\d\d\d", ":port", key): value for key, value in one.items() if arguments.k in key} for one in both]
    sys.exit(comparison.report(both, known, arguments.v))


if __name__ == "__main__":
    main()
