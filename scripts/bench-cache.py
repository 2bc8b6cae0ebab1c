#!/usr/bin/env python3
"""CPU per request that a cache answers, beside NGINX, Varnish and HAProxy, in one run.

    bench-cache.py BINARY [--rounds 3] [--only tidegate,nginx] [--port 23400] [--seconds 3]

Needs h2load, nginx, varnishd and haproxy; a peer that is not installed is left out. Each cache has one worker and one
CPU; h2load has another one. An object is fetched once, and then asked for over 16 connections, by HTTP/1.1 and by
HTTP/2 without TLS (4 streams per connection). What counts is the CPU time of all processes of the cache, divided by
the requests: it depends less on the rest of the machine than requests per second.

NGINX has no store in memory: its figure is the same for both, from files that the kernel has in memory. Each round runs
every cache once, and the lowest and the median of the rounds are printed.
"""
import argparse
import http.server
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

SIZES = {"1 KiB": 1024, "1 MiB": 1 << 20}
TICKS = os.sysconf("SC_CLK_TCK")


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fetched = 0

    def do_GET(self):
        Server.fetched += 1
        body = b"x" * int(self.path.rsplit("/", 1)[1])
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Cache-Control", "public, max-age=86400")
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Servers(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A cache that is stopped closes its connections."""


def tidegate(binary, tmp, port, back, disk):
    store = f"{{maxObjectBytes: 64, disk: {{path: '{tmp}/disk'}}}}" if disk else "{maxObjectBytes: 8388608}"
    (tmp / "routes.yml").write_text(
        "http:\n"
        f"  middlewares: {{c: {{cache: {store}}}}}\n"
        "  routers: {all: {rule: 'PathPrefix(`/`)', service: s, middlewares: [c]}}\n"
        f"  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:{back}'}}]}}}}}}\n"
    )
    flags = [f"--providers.file.filename={tmp}/routes.yml", f"--entryPoints.web.address=127.0.0.1:{port}"]
    return [binary, *flags, "--log.level=ERROR"], {"h1": port, "h2": port}


def nginx(program, tmp, port, back, _disk):
    (tmp / "nginx.conf").write_text(
        f"pid {tmp}/pid; error_log {tmp}/err; daemon off; worker_processes 1;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on;\n"
        f"  proxy_cache_path {tmp}/files levels=1:2 keys_zone=c:10m max_size=1g; proxy_temp_path {tmp}/temp;\n"
        "  open_file_cache max=100;\n"
        f"  server {{ listen 127.0.0.1:{port}; listen 127.0.0.1:{port + 1} http2;\n"
        f"    location / {{ proxy_cache c; proxy_pass http://127.0.0.1:{back}; }} }} }}\n"
    )
    return [program, "-c", str(tmp / "nginx.conf")], {"h1": port, "h2": port + 1}


def varnish(program, tmp, port, back, disk):
    (tmp / "default.vcl").write_text(
        f'vcl 4.1; backend b {{ .host = "127.0.0.1"; .port = "{back}"; }}\n'
        "sub vcl_backend_response { set beresp.ttl = 1d; }\n"
    )
    store = f"file,{tmp}/store,1g" if disk else "malloc,256m"
    flags = ["-F", "-n", str(tmp / "work"), "-a", f"127.0.0.1:{port}", "-f", str(tmp / "default.vcl"), "-s", store]
    return [program, *flags, "-p", "feature=+http2", "-p", "thread_pools=1"], {"h1": port, "h2": port}


def haproxy(program, tmp, port, back, _disk):
    (tmp / "haproxy.cfg").write_text(
        "global\n  nbthread 1\n  tune.bufsize 32768\n"
        "defaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n"
        "cache c\n  total-max-size 64\n  max-object-size 2097152\n  max-age 86400\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  bind 127.0.0.1:{port + 1} proto h2\n"
        "  http-request cache-use c\n  http-response cache-store c\n  default_backend b\n"
        f"backend b\n  http-response cache-store c\n  server s 127.0.0.1:{back}\n"
    )
    return [program, "-db", "-f", str(tmp / "haproxy.cfg")], {"h1": port, "h2": port + 1}


def family(pid):
    """A process and all its children."""
    found = [pid]
    for parent in found:
        for task in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def cpu(pid):
    total = 0
    for one in family(pid):
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(") ", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def load(port, protocol, size, seconds):
    how = ["--h1"] if protocol == "h1" else ["-m", "4"]
    url = f"http://127.0.0.1:{port}/object/{size}"
    run = ["taskset", "-c", "1", "h2load", *how, "-c", "16", "-D", str(seconds), url]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    done, failed = (int(re.search(rf"(\d+) {word}", out)[1]) for word in ("succeeded", "failed"))
    return done, failed


def measure(command, ports, size, seconds, tmp):
    """CPU in microseconds per request, for both protocols."""
    environment = {**os.environ, "TIDEGATE_WORKERS": "1"}
    with open(tmp / "output", "wb") as output:
        process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=output, stderr=output, env=environment)
    try:
        url = f"http://127.0.0.1:{ports['h1']}/object/{size}"
        for _ in range(200):
            try:
                assert len(urllib.request.urlopen(url, timeout=5).read()) == size
                break
            except OSError:
                time.sleep(0.05)
        else:
            sys.exit(f"{command[0]} does not serve: {(tmp / 'output').read_text()[-600:]}")
        time.sleep(0.5)
        result = {}
        for protocol, port in ports.items():
            load(port, protocol, size, 1)
            before, fetched = cpu(process.pid), Server.fetched
            done, failed = load(port, protocol, size, seconds)
            used = cpu(process.pid) - before
            if failed or Server.fetched != fetched:
                print(f"{command[0]}: {failed} failed, {Server.fetched - fetched} not from the cache", file=sys.stderr)
            result[protocol] = used / done * 1e6
        return result
    finally:
        process.terminate()
        process.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--port", type=int, default=23400)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    search = os.environ["PATH"] + ":/usr/sbin"
    caches = {"tidegate memory": (tidegate, options.binary, False), "tidegate disk": (tidegate, options.binary, True)}
    for name, make, program in (("nginx", nginx, "nginx"), ("haproxy", haproxy, "haproxy")):
        if found := shutil.which(program, path=search):
            caches[name] = (make, found, False)
    if found := shutil.which("varnishd", path=search):
        caches |= {"varnish malloc": (varnish, found, False), "varnish file": (varnish, found, True)}
    wanted = [name for name in options.only.split(",") if name]
    caches = {name: what for name, what in caches.items() if not wanted or name.split()[0] in wanted}
    server = Servers(("127.0.0.1", options.port + 9), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = {}
    for _ in range(options.rounds):
        for label, size in SIZES.items():
            for name, (make, program, disk) in caches.items():
                with tempfile.TemporaryDirectory() as folder:
                    tmp = pathlib.Path(folder)
                    tmp.chmod(0o755)
                    command, ports = make(program, tmp, options.port, options.port + 9, disk)
                    for protocol, figure in measure(command, ports, size, options.seconds, tmp).items():
                        seen.setdefault((name, label, protocol), []).append(figure)
    columns = [(label, protocol) for label in SIZES for protocol in ("h1", "h2")]
    print("µs per request, lowest (median)")
    print("| cache | " + " | ".join(f"{label} {protocol}" for label, protocol in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in caches:
        figures = (seen[(name, *column)] for column in columns)
        print(f"| {name} | " + " | ".join(f"{min(f):.1f} ({statistics.median(f):.1f})" for f in figures) + " |")


main()
