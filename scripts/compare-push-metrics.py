#!/usr/bin/env python3
"""Sends the same requests through Traefik and Tidegate, and prints what they push to StatsD, Datadog and InfluxDB differently.

    compare-push-metrics.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT]

Receivers are local. Compared are the names, types and tags of all series, and the sums of counters. Of durations, the number is
compared; of gauges, only which ones there are.
"""
import http.server, re, shutil, socket, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request

import comparison

ROUTES = """
http:
  routers:
    plain: {{entryPoints: [web], rule: "PathPrefix(`/`)", priority: 1, service: plain}}
    tls: {{entryPoints: [secure], rule: "PathPrefix(`/`)", service: plain, tls: {{}}}}
    page: {{entryPoints: [web], rule: "Path(`/503`)", service: plain, middlewares: [page]}}
  middlewares:
    page: {{errors: {{status: ["500-599"], service: pages, query: /ok}}}}
  services:
    plain: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}], healthCheck: {{path: /ok, interval: 1s}}}}}}
    pages: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{server}"}}]}}}}
"""
PATHS = ["/ok", "/ok", "/404", "/503"]


class Server(http.server.BaseHTTPRequestHandler):
    """The server of the routes, and InfluxDB."""
    protocol_version = "HTTP/1.1"
    received = []

    def do_GET(self):
        self.answer(int(self.path[1:]) if self.path[1:].isdigit() else 200, b"hello")

    def do_POST(self):
        length, body = self.headers.get("Content-Length"), b""
        while length is None:
            size = int(self.rfile.readline(), 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        body += self.rfile.read(int(length or 0))
        Server.received.append((self.path, self.headers.get("Authorization"), body.decode()))
        self.answer(204, b"")

    def answer(self, status, body):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def receiver():
    """A socket, and the list of lines that it receives."""
    one, lines = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
    one.bind(("127.0.0.1", 0))

    def receive():
        while packet := one.recv(65536):
            lines.extend(line for line in packet.decode().split("\n") if line)

    threading.Thread(target=receive, daemon=True).start()
    return one, lines


def read_lines(lines):
    """Types and tags by name; sums of counters and numbers of durations."""
    seen = {}
    for line in lines:
        fields = line.split("|")
        name, _, value = fields[0].partition(":")
        tags = next((",".join(sorted(field[1:].split(","))) for field in fields if field.startswith("#")), "")
        rate = next((float(field[1:]) for field in fields if field.startswith("@")), 1)
        key = f"{name} {fields[1]} {tags}"
        amount = {"c": float(value), "g": 0}.get(fields[1], int(1 / rate))
        seen[key] = seen.get(key, 0) + amount
    return seen


def read_points(received):
    seen = {}
    for path, token, body in received:
        seen[f"request {path} {token}"] = True
        for line in body.splitlines():
            series, fields, _ = re.split(r"(?<!\\) ", line)
            names = ",".join(sorted(field.partition("=")[0] for field in fields.split(",")))
            key = f"{series} {names}"
            seen[key] = seen.get(key, 0) + (float(fields.partition("=")[2]) if names == "count" else 0)
    return seen


def observe(binary, base, server):
    folder = tempfile.mkdtemp()
    with open(f"{folder}/routes.yml", "w") as file:
        file.write(ROUTES.format(server=server))
    (statsd, statsd_lines), (datadog, datadog_lines) = receiver(), receiver()
    Server.received = []
    flags = [f"--entryPoints.web.address=127.0.0.1:{base}", f"--entryPoints.secure.address=127.0.0.1:{base + 1}",
             f"--providers.file.filename={folder}/routes.yml", "--metrics.statsD.prefix=own",
             f"--metrics.statsD.address=127.0.0.1:{statsd.getsockname()[1]}",
             f"--metrics.datadog.address=127.0.0.1:{datadog.getsockname()[1]}",
             f"--metrics.influxDB2.address=http://127.0.0.1:{server}", "--metrics.influxDB2.token=t", "--metrics.influxDB2.org=o p",
             "--metrics.influxDB2.bucket=b", "--metrics.influxDB2.additionalLabels.region=x y"]
    for system in "statsD", "datadog", "influxDB2":
        flags += [f"--metrics.{system}.pushInterval=1s", f"--metrics.{system}.addRoutersLabels=true"]
    process = subprocess.Popen([binary, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while subprocess.run(["curl", "-s", "-o", f"{folder}/out", f"127.0.0.1:{base + 1}/"], capture_output=True).returncode:
            if time.monotonic() > end:
                raise SystemExit("timed out")
            time.sleep(0.1)
        time.sleep(2)
        for path in PATHS:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{base}{path}", timeout=5).read()
            except urllib.error.HTTPError as error:
                error.read()
        subprocess.run(["curl", "-sk", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256", "--tls-max", "1.3", f"https://127.0.0.1:{base + 1}/ok"], capture_output=True)
        time.sleep(4)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
    found = {"statsD": read_lines(statsd_lines), "datadog": read_lines(datadog_lines), "influxDB2": read_points(Server.received)}
    return {f"{system}: {series}": value for system, all_of_it in found.items() for series, value in all_of_it.items()}


def known(name, traefik, tidegate):
    """Why a series differs."""
    if "config.reload.total" in name:
        return "counts configurations that were applied, which depends on when providers deliver"
    if "tls_cipher" in name or "tls.certs" in name:
        return "each has its own default certificate and order of cipher suites"
    if traefik == 0.0 and tidegate is None and ".total" in name:
        return "Traefik sends counters that add nothing"
    if "server.up" in name or "open.connections" in name:
        return "gauges are sent with every push, by Traefik when they are set"
    return None


def main():
    arguments = comparison.parser(__doc__, 21000).parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    binaries = arguments.traefik, arguments.tidegate
    both = [observe(binary, arguments.base + 10 * at, server.server_address[1]) for at, binary in enumerate(binaries)]
    both = [{key: value for key, value in one.items() if arguments.k in key} for one in both]
    sys.exit(comparison.report(both, known, arguments.v))


if __name__ == "__main__":
    main()
