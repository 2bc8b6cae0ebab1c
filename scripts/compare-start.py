#!/usr/bin/env python3
"""What clients see from the start of a gateway on, when its source of configuration takes long to answer.

    compare-start.py TRAEFIK TIDEGATE [-k WORD] [--delay 3]

Each gateway is started with an HTTP provider, or with a Docker Engine, that answers after `--delay` seconds. From the
moment of the start on, a client opens a connection every 20 ms and asks for a path that the configuration routes. The
table has the answers by status, connections that were refused, and when the first request was served.
"""
import collections, http.server, json, pathlib, socket, subprocess, sys, tempfile, threading, time

from comparison import parser

CONTAINER = {
    "Id": "c" * 64, "Name": "/whoami", "Names": ["/whoami"], "State": {"Status": "running", "Running": True},
    "Config": {"Labels": {"traefik.http.routers.r.rule": "PathPrefix(`/`)"}, "Hostname": "whoami"},
    "HostConfig": {"NetworkMode": "bridge"},
}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # The clients that have waited come all at once.
    request_queue_size = 1024


def serve(port, answer):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = answer(self)
            if body is None:
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Api-Version", "1.47")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def engine(backend, delay, asked):
    """A Docker Engine with one container, whose list comes late."""
    inspected = {
        **CONTAINER,
        "NetworkSettings": {
            "Ports": {f"{backend}/tcp": None},
            "Networks": {"bridge": {"IPAddress": "127.0.0.1", "NetworkID": "n", "Gateway": ""}},
        },
    }
    listed = {**inspected, "State": "running", "Status": "Up", "Image": "whoami", "Labels": CONTAINER["Config"]["Labels"],
              "Ports": [{"PrivatePort": backend, "Type": "tcp"}]}

    def answer(request):
        path = request.path.split("?")[0]
        if path.endswith("/_ping"):
            return b"OK"
        if path.endswith("/version"):
            return json.dumps({"Version": "28.0", "ApiVersion": "1.47", "MinAPIVersion": "1.24"}).encode()
        if path.endswith("/containers/json"):
            time.sleep(max(0.0, asked[0] + delay - time.monotonic()))
            return json.dumps([listed]).encode()
        if path.endswith("/json"):
            return json.dumps(inspected).encode()
        if path.endswith("/events"):
            request.send_response(200)
            request.send_header("Content-Type", "application/json")
            request.end_headers()
            time.sleep(3600)
            return None
        return b"[]"

    return answer


def ask(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            head = stream.recv(64)
            return head.split(b" ")[1].decode() if head else "closed"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return type(error).__name__


def run(binary, flags, port, delay, asked):
    """Outcomes of requests by the second at which they began, from the start of the process on."""
    with tempfile.TemporaryDirectory() as folder:
        asked[0] = begun = time.monotonic()
        process = subprocess.Popen([binary, *flags, f"--entryPoints.web.address=127.0.0.1:{port}", "--log.level=ERROR"],
                                   cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen, threads = [], []

        def one():
            at = time.monotonic() - begun
            seen.append((at, ask(port), time.monotonic() - begun))

        try:
            while time.monotonic() - begun < delay + 5:
                threads.append(threading.Thread(target=one))
                threads[-1].start()
                time.sleep(0.02)
            for thread in threads:
                thread.join()
        finally:
            process.terminate()
            process.wait()
        return seen


def main():
    arguments = parser(__doc__, 26500)
    arguments.add_argument("--delay", type=float, default=3.0)
    given = arguments.parse_args()
    backend, source, port = given.base, given.base + 1, given.base + 2
    serve(backend, lambda _: b"{}")
    asked = [0.0]
    routes = {"http": {"routers": {"r": {"rule": "PathPrefix(`/`)", "service": "s"}},
                       "services": {"s": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{backend}"}]}}}}}

    def late(_):
        time.sleep(max(0.0, asked[0] + given.delay - time.monotonic()))
        return json.dumps(routes).encode()

    cases = {
        "HTTP provider": (late, [f"--providers.http.endpoint=http://127.0.0.1:{source}/"]),
        "Docker Engine": (engine(backend, given.delay, asked), [f"--providers.docker.endpoint=tcp://127.0.0.1:{source}"]),
    }
    print("| source | gateway | requests | 200 | 404 | refused | others | first served after |\n|---|---|---|---|---|---|---|---|")
    for name, (answer, flags) in cases.items():
        if given.k not in name:
            continue
        for gateway in (given.traefik, given.tidegate):
            server = serve(source, answer)
            seen = run(str(pathlib.Path(gateway).resolve()), flags, port, given.delay, asked)
            server.shutdown()
            server.server_close()
            count = collections.Counter(outcome for _, outcome, _ in seen)
            first = min((end for _, outcome, end in seen if outcome == "200"), default=None)
            others = {outcome: number for outcome, number in count.items() if outcome not in ("200", "404", "refused")}
            print(f"| {name} | {pathlib.Path(gateway).name} | {len(seen)} | {count['200']} | {count['404']} | {count['refused']} |"
                  f" {others or '–'} | {f'{first:.1f} s' if first else '–'} |", flush=True)


sys.exit(main())
