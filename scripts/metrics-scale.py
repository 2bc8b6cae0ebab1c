#!/usr/bin/env python3
"""Measures what metrics cost with many routers, beside Traefik, and checks that strangers add no series.

    scripts/metrics-scale.py TRAEFIK TIDEGATE [--routers N] [--services N] [--requests N] [--stranger SECONDS] [--base PORT]

Both gateways get the same file with 10,000 routers and 1,000 services, and one request for each of 2,000 routers, without
metrics and with those of entry points, routers and services. Printed are memory, and for `/metrics` its time, size and
number of series. Then somebody sends Tidegate random methods, hosts, paths and protocols: first one request of each kind,
and after that, for a minute, nothing may add a series. Ends with 1 if something does.
"""
import argparse, http.server, pathlib, random, re, socket, statistics, string, subprocess, sys, tempfile, threading, time

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
PROTOCOLS = ["", "Accept: text/event-stream\r\n", "Content-Type: application/grpc\r\n",
             "Content-Type: application/grpc-web\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"]


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def routes(routers, services, backend):
    lines = ["http:", "  routers:"]
    lines += [f"    r{n}: {{rule: 'Host(`r{n}.test`)', service: s{n % services}}}" for n in range(routers)]
    lines.append("  services:")
    lines += [f"    s{n}: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:{backend}'}}]}}}}" for n in range(services)]
    return "\n".join(lines) + "\n"


def exchange(port, text, timeout=20):
    """Sends a request and returns everything until the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as stream:
        stream.sendall(text.encode("latin-1"))
        received = b""
        try:
            while part := stream.recv(1 << 16):
                received += part
        except (ConnectionResetError, TimeoutError):
            pass
        return received


def get(port, host, path="/"):
    answer = exchange(port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            length = int(size, 16)
            whole, body = whole + body[:length], body[length + 2:]
        body = whole
    return head, body


class Gateway:
    def __init__(self, name, binary, folder, base, with_metrics):
        self.web, self.own = base + 1, base + 2
        flags = [f"--entryPoints.web.address=127.0.0.1:{self.web}", f"--entryPoints.traefik.address=127.0.0.1:{self.own}",
                 f"--providers.file.filename={folder}/routes.yml", "--log.level=ERROR",
                 "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"]
        if with_metrics:
            flags.append("--metrics.prometheus.addRoutersLabels=true")
        self.process = subprocess.Popen([binary, *flags], stdout=subprocess.DEVNULL, stderr=open(f"{folder}/{name}.log", "w"))

    def wait(self, host):
        end = time.time() + 180
        while time.time() < end:
            try:
                if get(self.web, host)[0].startswith(b"HTTP/1.1 200"):
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"{host} is not served")

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def scrape(self):
        begun = time.perf_counter()
        body = get(self.own, "h", "/metrics")[1]
        return time.perf_counter() - begun, body

    def stop(self):
        self.process.kill()
        self.process.wait()


def series(text):
    """Returns the series of a scrape. Those of the process and of other systems do not depend on requests."""
    lines = text.decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


def measure(name, binary, folder, options, with_metrics):
    gateway = Gateway(name, binary, folder, options.base, with_metrics)
    try:
        gateway.wait(f"r{options.routers - 1}.test")
        for number in range(options.requests):
            head, _ = get(gateway.web, f"r{number * (options.routers // options.requests)}.test")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{name}: {head[:80]}")
        time.sleep(1)
        line = f"{name:9} metrics {'on ' if with_metrics else 'off'}  RSS {gateway.memory():7.1f} MiB"
        if with_metrics:
            scrapes = [gateway.scrape() for _ in range(5)]
            body = scrapes[-1][1]
            took = statistics.median(seconds for seconds, _ in scrapes) * 1000
            line += (f"   scrape {took:7.1f} ms  {len(body) / 1024:8.0f} KiB  {len(series(body)):7} series"
                     f"   RSS after scrapes {gateway.memory():7.1f} MiB")
        print(line, flush=True)
    finally:
        gateway.stop()


def word(length=12):
    return "".join(random.choices(string.ascii_lowercase, k=length))


def stranger(port, method, version, headers):
    text = f"{method} /{word()}?{word()}={word()} HTTP/{version}\r\nHost: {word()}.test\r\n{headers}"
    try:
        exchange(port, text + ("" if "Connection" in headers else "Connection: close\r\n") + "Content-Length: 0\r\n\r\n", 5)
    except OSError:
        pass


def check_strangers(binary, folder, options):
    gateway = Gateway("tidegate", binary, folder, options.base, True)
    try:
        gateway.wait("r0.test")
        # One of each kind: what these add is bounded by the lists.
        for method in [*METHODS, "CONNECT", "BREW"]:
            for headers in PROTOCOLS:
                for version in ["1.0", "1.1"]:
                    stranger(gateway.web, method, version, headers)
        for junk in ["\x16\x03\x01", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", f"{'x' * 9000} / HTTP/1.1\r\n\r\n"]:
            exchange(gateway.web, junk, 1)
        time.sleep(2)
        before, sent = series(gateway.scrape()[1]), 0
        end = time.time() + options.stranger
        while time.time() < end:
            method = random.choice([*METHODS, "CONNECT", word().upper(), word(3), "PROPFIND", "get"])
            headers = random.choice(PROTOCOLS) + f"X-{word()}: {word()}\r\nUser-Agent: {word()}\r\nX-Forwarded-Proto: {word()}\r\n"
            stranger(gateway.web, method, random.choice(["1.0", "1.1"]), headers)
            sent += 1
        time.sleep(2)
        added = series(gateway.scrape()[1]) - before
        print(f"strangers: {sent} requests in {options.stranger} s, {len(before)} series before, {len(added)} added")
        for line in sorted(added)[:20]:
            print(f"  {line}")
        return not added
    finally:
        gateway.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traefik")
    parser.add_argument("tidegate")
    parser.add_argument("--routers", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--stranger", type=int, default=60)
    parser.add_argument("--base", type=int, default=18_400)
    options = parser.parse_args()
    server = Server(("127.0.0.1", options.base), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "routes.yml").write_text(routes(options.routers, options.services, options.base))
        for name, binary in [("traefik", options.traefik), ("tidegate", options.tidegate)]:
            for with_metrics in [False, True]:
                measure(name, binary, folder, options, with_metrics)
        return 0 if check_strangers(options.tidegate, folder, options) else 1


sys.exit(main())
