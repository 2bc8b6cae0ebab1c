#!/usr/bin/env python3
"""Uploads that are answered early, through Traefik and Tidegate: how many of them end without the answer.

    compare-uploads.py TRAEFIK TIDEGATE [-k WORD] [-v] [--base PORT] [--runs N] [--size BYTES] [--client curl|python] [--protocols LIST]
    compare-uploads.py TRAEFIK TIDEGATE --hostile N

Each case posts a body to a route whose answer does not wait for it, `--runs` times over HTTP/1.1, HTTP/1.1 with TLS and HTTP/2, with curl,
or with a client that reads nothing before it has sent everything (HTTP/1.1 only); over HTTP/3 with aioquic, where Python has it. Printed are
the losses on both sides. Exit code 1: Tidegate lost more than Traefik.

With `--hostile`, N clients send on behind a 404 for as long as the gateway lets them, as fast as they can and byte by byte. Printed are the
time until each was cut, what was taken from it, and by how much the gateway's memory grew.
"""
import asyncio, atexit, json, os, shutil, signal, socket, ssl, subprocess, sys, tempfile, threading, time

import comparison

try:
    from aioquic.asyncio import QuicConnectionProtocol, connect
    from aioquic.h3 import connection as h3, events
    from aioquic.quic import configuration as quic
except ImportError:
    connect, QuicConnectionProtocol = None, object

# Route, expected status, whether the body is chunked.
CASES = {
    "server 413": ("/closing", 413, False),
    "server 413, chunked": ("/closing", 413, True),
    "server 413, kept": ("/kept", 413, False),
    "server 200": ("/fine", 200, False),
    "server 413 with HTTP/1.0": ("/old", 413, False),
    "basicAuth 401": ("/basic", 401, False),
    "forwardAuth 302": ("/forward", 302, False),
    "buffering 413": ("/buffering", 413, False),
    "buffering 413, chunked": ("/buffering", 413, True),
    "ipAllowList 403": ("/allow", 403, False),
    "no route 404": ("/none", 404, False),
    "no route 404, chunked": ("/none", 404, True),
    "redirect 308": ("/redirect", 308, False),
    "no server 503": ("/empty", 503, False),
    "rateLimit 429": ("/limit", 429, False),
    "inFlightReq 429": ("/busy", 429, False),
    "retry, server 413": ("/retry", 413, False),
    "retry, server 413, chunked": ("/retry", 413, True),
    "error page for 413": ("/page", 413, False),
    "h2c server 413": ("/early", 413, False),
    "dashboard 405": ("/api/version", 405, False),
    "TCP router, server 413": ("tcp/closing", 413, False),
    "TCP router, server kept": ("tcp/kept", 413, False),
}
PROTOCOLS = {"http": [], "https": ["--http1.1"], "h2": ["--http2"], "h3": []}
ANSWERS = {
    "/closing": b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
    "/kept": b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large",
    "/fine": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    "/retry": b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
    "/page": b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
    "/sorry": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry",
    "/old": b"HTTP/1.0 413 Too Large\r\n\r\ntoo large",
    "/auth": b"HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


def accept(port, answer):
    """Gives each connection to a thread of its own."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def run():
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()


def answer(stream):
    """A server that answers each request from its head alone and closes, as small servers do."""
    with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := stream.recv(4096)):
                return
            head += more
        path = head.split(b" ")[1].decode()
        try:
            if path == "/busy":
                while stream.recv(4096):
                    pass
            stream.sendall(ANSWERS.get(path, ANSWERS["/auth"]))
            if path == "/kept":
                # It never reads the rest, and waits for the other side to go.
                stream.settimeout(10)
                time.sleep(0.5)
        except OSError:
            pass


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def answer_h2(stream):
    """The same over HTTP/2: an answer, then RST_STREAM(NO_ERROR). What still comes of the request is discarded."""
    with stream, stream.makefile("rb") as reader:
        reader.read(24)
        stream.sendall(frame(4, 0, 0, b""))
        while len(head := reader.read(9)) == 9:
            reader.read(int.from_bytes(head[:3], "big"))
            kind, flags, number = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == 4 and not flags & 1:
                stream.sendall(frame(4, 1, 0, b""))
            if kind == 1:
                whole = frame(1, 4, number, b"\x08\x03413") + frame(0, 1, number, b"too large")
                stream.sendall(whole + frame(3, 0, number, bytes(4)))


def configuration(port):
    def service(*urls):
        return {"loadBalancer": {"servers": [{"url": url} for url in urls]}}

    middlewares = {
        "basic": {"basicAuth": {"users": ["u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"]}},
        "forward": {"forwardAuth": {"address": f"http://127.0.0.1:{port}/auth"}},
        "buffering": {"buffering": {"maxRequestBodyBytes": 100000}},
        "allow": {"ipAllowList": {"sourceRange": ["10.255.0.0/16"]}},
        "redirect": {"redirectRegex": {"regex": ".*", "replacement": "https://other.test/", "permanent": True}},
        "limit": {"rateLimit": {"average": 1, "period": "24h", "burst": 1}},
        "busy": {"inFlightReq": {"amount": 1}},
        "retry": {"retry": {"attempts": 2}},
        "page": {"errors": {"status": ["413"], "service": "server", "query": "/sorry"}},
    }
    others = {"empty": "empty", "early": "h2c", "api": "api@internal"}
    routers = {}
    for name in ["closing", "kept", "fine", "old", *others, *middlewares]:
        for tls in (False, True):
            router = {"rule": f"PathPrefix(`/{name}`)", "service": others.get(name, "server"), "entryPoints": ["tls" if tls else "web"]}
            if name in middlewares:
                router["middlewares"] = [name]
            if tls:
                router["tls"] = {}
            routers[f"{name}-{int(tls)}"] = router
    services = {"server": service(f"http://127.0.0.1:{port}"), "h2c": service(f"h2c://127.0.0.1:{port + 1}"), "empty": service()}
    tcp = {"loadBalancer": {"servers": [{"address": f"127.0.0.1:{port}"}]}}
    streams = {name: {"rule": "HostSNI(`*`)", "service": "server", "entryPoints": [name]} for name in ("tcp", "tcptls")}
    streams["tcptls"]["tls"] = {}
    return {"http": {"routers": routers, "services": services, "middlewares": middlewares}, "tcp": {"routers": streams, "services": {"server": tcp}}}


def start(binary, folder, base):
    """Starts a gateway; gives its ports for plain text and TLS."""
    file = os.path.join(folder, "routes.json" if "json" in binary else "routes.yml")
    points = [f"--entryPoints.{name}.address=127.0.0.1:{base + at}" for at, name in enumerate(("web", "tls", "tcp", "tcptls"))]
    command = [binary, *points, f"--providers.file.filename={file}", "--log.level=ERROR", "--entryPoints.tls.http3", "--api"]
    log = open(os.path.join(folder, f"log-{base}"), "w")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    atexit.register(process.kill)
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"{binary} ended: " + open(log.name).read())
        got = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{base}/basic"], capture_output=True, text=True)
        if got.stdout == "401":
            return process.pid, {protocol: base + (protocol != "http") for protocol in PROTOCOLS}
        time.sleep(0.1)
    sys.exit(f"{binary} does not serve: " + open(log.name).read())


def curl(protocol, port, path, chunked, body):
    """Posts with curl; what the client says of it."""
    url = f"{'http' if protocol == 'http' else 'https'}://127.0.0.1:{port}{path}"
    command = ["curl", "-sSk", "-m", "10", "-X", "POST", "-H", "Expect:", "-o", "/dev/null", "-w", "%{http_code}", *PROTOCOLS[protocol]]
    if chunked:
        command += ["-H", "Transfer-Encoding: chunked"] if protocol != "h2" else ["-H", "Content-Length:"]
    done = subprocess.run([*command, "--data-binary", "@" + body, url], capture_output=True, text=True)
    return int(done.stdout or 0) if done.returncode == 0 else f"{done.stdout} exit {done.returncode}: {done.stderr.strip()}"


def python(protocol, port, path, chunked, body):
    """Sends everything before it reads anything, as many HTTP libraries do."""
    data = open(body, "rb").read()
    stream = socket.create_connection(("127.0.0.1", port), timeout=30)
    if protocol == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = context.wrap_socket(stream)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if chunked else data
    try:
        stream.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n".encode())
        stream.sendall(framed)
        return int(stream.recv(4096).split(b" ")[1])
    except (OSError, IndexError) as error:
        return repr(error)
    finally:
        stream.close()


class Upload(QuicConnectionProtocol):
    """Sends one request over HTTP/3 and reads while it sends."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http, self.status, self.done = h3.H3Connection(self._quic), None, asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        for heard in self.http.handle_event(event):
            if isinstance(heard, events.HeadersReceived) and self.status is None:
                self.status = int(dict(heard.headers)[b":status"])
            if getattr(heard, "stream_ended", False):
                self.finish(self.status)
        if type(event).__name__ in ("StreamReset", "ConnectionTerminated"):
            self.finish(repr(event))

    def finish(self, outcome):
        if not self.done.done():
            self.done.set_result(outcome)

    async def post(self, authority, path, chunked, data):
        stream = self._quic.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "https", ":authority": authority, ":path": path} | ({} if chunked else {"content-length": str(len(data))})
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in head.items()])
        self.http.send_data(stream, data, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self.done, 10)


def aioquic(protocol, port, path, chunked, body):
    """Posts over HTTP/3."""

    async def post():
        settings = quic.QuicConfiguration(alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, server_name="localhost")
        async with connect("127.0.0.1", port, configuration=settings, create_protocol=Upload) as client:
            return await client.post(f"127.0.0.1:{port}", path, chunked, open(body, "rb").read())

    try:
        return asyncio.run(post())
    except (OSError, asyncio.TimeoutError) as error:
        return repr(error)


def occupy(port, tls):
    """Takes the one place of `inFlightReq`."""
    stream = socket.create_connection(("127.0.0.1", port))
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = context.wrap_socket(stream)
    stream.sendall(f"POST /busy HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1\r\n\r\n".encode())
    return stream


def prepare(path, ports):
    """Uses up what a limit allows. What is returned keeps it so."""
    if path == "/busy":
        held = [occupy(ports["http"], False), occupy(ports["https"], True)]
        time.sleep(1)
        return held
    if path == "/limit":
        subprocess.run(["curl", "-sk", "-o", "/dev/null", f"https://127.0.0.1:{ports['https']}/limit"])
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{ports['http']}/limit"])


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def hostile(pid, ports, clients):
    """Sends behind an answer until the connection is cut."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for protocol in ("http", "https"):
        for name, piece, pause in (("flood", bytes(1 << 16), 0), ("byte by byte", b"x", 0.2)):
            ends = []

            def attack():
                stream, sent = socket.create_connection(("127.0.0.1", ports[protocol]), timeout=60), 0
                stream = context.wrap_socket(stream) if protocol == "https" else stream
                with stream:
                    stream.sendall(b"POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n")
                    stream.recv(4096)
                    begun = time.monotonic()
                    try:
                        while True:
                            sent += stream.send(piece)
                            time.sleep(pause)
                    except OSError:
                        ends.append((time.monotonic() - begun, sent))

            before = most = memory(pid)
            threads = [threading.Thread(target=attack) for _ in range(clients)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                most = max(most, memory(pid))
                time.sleep(0.05)
            times, taken = zip(*ends)
            print(f"{protocol:6} {name:13} {len(ends):4} cut after {min(times):.1f} to {max(times):.1f} s, {max(taken):>11,} bytes at most, memory + {most - before:,} KiB", flush=True)


def main():
    parser = comparison.parser(__doc__, 23700)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--size", type=int, default=8 << 20)
    parser.add_argument("--client", choices=["curl", "python"], default="curl")
    parser.add_argument("--hostile", type=int, metavar="N")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="uploads")
    atexit.register(shutil.rmtree, folder, True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    accept(args.base + 8, answer)
    accept(args.base + 9, answer_h2)
    with open(os.path.join(folder, "routes.yml"), "w") as file:
        json.dump(configuration(args.base + 8), file)
    body = os.path.join(folder, "body")
    with open(body, "wb") as file:
        file.write(os.urandom(1 << 20) * (args.size >> 20) or os.urandom(args.size))
    sides = [start(os.path.abspath(binary), folder, args.base + 4 * at) for at, binary in enumerate((args.traefik, args.tidegate))]
    if args.hostile:
        for name, side in zip(("Traefik", "Tidegate"), sides):
            print(name)
            hostile(*side, args.hostile)
        return False
    sides = [ports for _, ports in sides]
    by_client = {"curl": curl, "python": python}[args.client]
    able = {"http", "https", *(["h2"] if args.client == "curl" else []), *(["h3"] if connect else [])}
    protocols = [protocol for protocol in args.protocols.split(",") if protocol in able]
    totals = [0, 0]
    print(f"losses of {args.runs}: Traefik, Tidegate")
    print(f"{'':28}" + "".join(f"{protocol:>12}" for protocol in protocols))
    for name, (path, status, chunked) in CASES.items():
        if args.k not in name:
            continue
        cells, shown = [], []
        offset, path = (2, path[3:]) if path.startswith("tcp") else (0, path)
        for protocol in protocols:
            if offset and protocol in ("h2", "h3"):
                cells.append(f"{'-':>12}")
                continue
            losses, post = [], aioquic if protocol == "h3" else by_client
            for side, ports in enumerate(sides):
                held = prepare(path, ports)
                outcomes = [post(protocol, ports[protocol] + offset, path, chunked, body) for _ in range(args.runs)]
                del held
                lost = [outcome for outcome in outcomes if outcome != status]
                losses.append(len(lost))
                totals[side] += len(lost)
                shown += [f"   {protocol}, {('Traefik', 'Tidegate')[side]}: {outcome}" for outcome in sorted({str(one) for one in lost})]
            cells.append(f"{losses[0]:>8},{losses[1]:>3}")
        print(f"{name:28}" + "".join(cells), flush=True)
        if args.v:
            print("\n".join(shown))
    print(f"in all: Traefik {totals[0]}, Tidegate {totals[1]}")
    return totals[1] > totals[0]


if __name__ == "__main__":
    sys.exit(main())
