#!/usr/bin/env python3
"""CPU that gateways need for a request through a chain of ten middlewares, beside a request through none.

    bench-chain.py [--rounds N] [--seconds S] [--connections C] NAME=BINARY...     (NAME: tidegate, traefik; wrk on PATH)

The time that a gateway computes (user and system) for each request does not depend on how fast the client is. Both read the same route
file and have one core for themselves (`taskset`); client and backend share the other. They take turns within a round; the least of all rounds is shown.
"""
import argparse, os, pathlib, re, shutil, socket, subprocess, sys, tempfile, time

# Ten that an ordinary route has, and that all let the request pass.
CHAIN = {
    "allow": "ipAllowList: {sourceRange: ['127.0.0.0/8', '10.0.0.0/8']}",
    "limit": "rateLimit: {average: 10000000, burst: 10000000}",
    "flight": "inFlightReq: {amount: 100000, sourceCriterion: {requestHost: true}}",
    "security": "headers: {stsSeconds: 31536000, forceSTSHeader: true, frameDeny: true, contentTypeNosniff: true, referrerPolicy: same-origin, customRequestHeaders: {X-Tenant: bench}, customResponseHeaders: {X-Served-By: gateway}}",
    "cors": "headers: {accessControlAllowOriginList: ['https://a.example.com'], accessControlAllowMethods: [GET], addVaryHeader: true}",
    "strip": "stripPrefix: {prefixes: ['/shop']}",
    "rewrite": "replacePathRegex: {regex: '^/v1/(.*)', replacement: '/v2/$1'}",
    "prefix": "addPrefix: {prefix: /app}",
    "retry": "retry: {attempts: 3}",
    "compress": "compress: {}",
}


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def routes(backend):
    chain = "\n".join(f"    {name}: {{{options}}}" for name, options in CHAIN.items())
    return f"""
http:
  routers:
    chain: {{rule: 'Host(`chain.test`) && PathPrefix(`/shop`)', service: s, middlewares: [{', '.join(CHAIN)}]}}
    plain: {{rule: 'Host(`plain.test`) && PathPrefix(`/shop`)', service: s}}
  middlewares:
{chain}
  services:
    s: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:{backend}'}}]}}}}
"""


def backend(folder, port):
    """nginx answers 1 KiB to everything; without it nothing is fast enough."""
    conf = pathlib.Path(folder, "nginx.conf")
    conf.write_text(f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/log crit;\nevents {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 100000000; default_type text/plain; server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{'x' * 1024}'; }} }} }}\n")
    return subprocess.Popen(pinned(0, [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf)]), stderr=subprocess.DEVNULL)


def pinned(core, command):
    return ["taskset", "-c", str(core), *command] if os.cpu_count() > 1 and shutil.which("taskset") else command


def spent(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seen(port, host):
    """Status and headers of one answer, to be sure that the chain is at work."""
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as s:
                s.sendall(f"GET /shop/v1/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: s.recv(65536), b"")).lower()
                if answer.startswith(b"http/1.1 200"):
                    return answer
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit("the gateway does not answer")


def load(port, host, seconds, connections):
    """Requests that wrk had answered, all of them with 200."""
    out = subprocess.run(pinned(0, ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Host: {host}", f"http://127.0.0.1:{port}/shop/v1/x"]), capture_output=True, text=True).stdout
    if "Non-2xx" in out:
        sys.exit(f"answers other than 200: {out}")
    return int(re.search(r"(\d+) requests in", out)[1])


def measure(name, binary, to, seconds, connections):
    port = free()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "routes.yml")
        file.write_text(routes(to))
        command = [binary, f"--entryPoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={file}", "--log.level=ERROR"]
        environment = {**os.environ, "GATEWAY_WORKERS": "1", "GOMAXPROCS": "1"}
        gateway = subprocess.Popen(pinned(1, command), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            assert b"x-served-by: gateway" in seen(port, "chain.test") and b"x-served-by" not in seen(port, "plain.test"), name
            found = []
            for host in ("plain.test", "chain.test"):
                load(port, host, 1, connections)
                before = spent(gateway.pid)
                requests = load(port, host, seconds, connections)
                found.append(1e6 * (spent(gateway.pid) - before) / requests)
            return found
        finally:
            gateway.terminate()
            gateway.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=int, default=5)
    p.add_argument("--connections", type=int, default=32)
    p.add_argument("peers", nargs="+", metavar="NAME=BINARY")
    options = p.parse_args()
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        to = free()
        server = backend(folder, to)
        try:
            for _ in range(options.rounds):
                for name, binary in (peer.split("=", 1) for peer in options.peers):
                    found = measure(name, os.path.abspath(binary), to, options.seconds, options.connections)
                    best[name] = [min(pair) for pair in zip(found, best.get(name, found))]
        finally:
            server.terminate()
            server.wait()
    print(f"{'µs of CPU for a request':24} {'no middleware':>14} {'chain of ten':>14} {'added':>8}")
    for name, (plain, chain) in best.items():
        print(f"{name:24} {plain:14.1f} {chain:14.1f} {chain - plain:8.1f}")
    if "traefik" in best:
        for name, (plain, chain) in best.items():
            print(f"{name:24} {best['traefik'][0] / plain:13.2f}x {best['traefik'][1] / chain:13.2f}x {(best['traefik'][1] - best['traefik'][0]) / max(chain - plain, 0.1):7.1f}x")


main()
