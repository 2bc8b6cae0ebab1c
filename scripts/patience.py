#!/usr/bin/env python3
"""Paused, quiet and slow clients, for as long as wanted, at several gateways with the same options.

    scripts/patience.py MINUTES 'NAME=GATEWAY [OPTION…]'…

Each client does the same thing again and again until the time is over; the table says how often it was served to the
end, and after how long it was cut otherwise. gRPC needs Python's grpcio and HTTP/3 needs aioquic; their rows are left
out without them.
"""

import asyncio
import base64
import os
import queue
import shlex
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

try:
    import grpc
except ImportError:
    grpc = None

try:
    import aioquic
    from aioquic.asyncio.client import connect
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ConnectionTerminated, StreamReset
except ImportError:
    aioquic = None
    QuicConnectionProtocol = object

MEGABYTE = 1 << 20
LARGE = 60 * MEGABYTE
SMALLER = 8 * MEGABYTE
PAUSE = 75
QUIET = 90


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_head(stream, got=b""):
    while b"\r\n\r\n" not in got:
        piece = stream.recv(65536)
        if not piece:
            raise EOFError("closed before the head was over")
        got += piece
    head, rest = got.split(b"\r\n\r\n", 1)
    return head, rest


def serve_one(client):
    """A server: a large answer, events, a WebSocket that echoes, and the length of an upload."""
    try:
        rest = b""
        while True:
            head, rest = read_head(client, rest)
            path = head.split()[1]
            if path == b"/large":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
                for _ in range(60):
                    client.sendall(b"x" * MEGABYTE)
            elif path == b"/smaller":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SMALLER)
                client.sendall(b"x" * SMALLER)
            elif path == b"/talk":
                client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                piece = rest
                while not piece.endswith(b"0\r\n\r\n"):
                    client.sendall(piece)
                    piece = client.recv(4096)
                    if not piece:
                        return
                client.sendall(piece)
                rest = b""
            elif path == b"/events":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(3):
                    client.sendall(b"9\r\ndata: x\n\n\r\n")
                    time.sleep(QUIET)
                client.sendall(b"0\r\n\r\n")
            elif path == b"/socket":
                client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while piece := client.recv(4096):
                    client.sendall(piece)
                return
            else:
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                while len(rest) < length:
                    piece = client.recv(65536)
                    if not piece:
                        return
                    rest += piece
                rest = rest[length:]
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (OSError, EOFError, StopIteration):
        pass
    finally:
        client.close()


def start_server():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)

    def accept():
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve_one, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def start_grpc():
    from concurrent import futures

    def chat(requests, _context):
        for request in requests:
            yield request

    method = grpc.stream_stream_rpc_method_handler(chat)
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Chat", {"Talk": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


ROUTES = """http:
  routers:
    plain: {{rule: 'PathPrefix(`/`)', service: s}}
    tls: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}
    grpc: {{rule: 'PathPrefix(`/test.Chat`)', service: g}}
  services:
    s: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:{server}'}}]}}}}
    g: {{loadBalancer: {{servers: [{{url: 'h2c://127.0.0.1:{grpc}'}}]}}}}
"""


class Gateway:
    def __init__(self, name, command, routes):
        command, *options = shlex.split(command)
        self.name, self.port = name, free_port()
        self.folder = tempfile.mkdtemp()
        with open(f"{self.folder}/routes.yml", "w") as file:
            file.write(routes)
        log = open(f"{self.folder}/log", "w")
        flags = [
            f"--entryPoints.web.address=127.0.0.1:{self.port}",
            f"--providers.file.filename={self.folder}/routes.yml",
            "--accessLog=true",
            f"--accessLog.filePath={self.folder}/access.log",
            "--global.sendAnonymousUsage=false",
            "--entryPoints.web.http3=true",
            *options,
        ]
        self.process = subprocess.Popen([command, *flags], stdout=log, stderr=log, cwd=self.folder)

    def connect(self, tls=False, window=None):
        stream = socket.socket()
        if window:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        stream.settimeout(300)
        stream.connect(("127.0.0.1", self.port))
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            stream = context.wrap_socket(stream, server_hostname="h.test")
        return stream


def get(path, more=""):
    return f"GET {path} HTTP/1.1\r\nHost: h.test\r\n{more}\r\n".encode()


def take(stream, length, pause=None):
    while length > 0:
        piece = stream.recv(min(length, 65536))
        if not piece:
            raise EOFError(f"{length} bytes are missing")
        length -= len(piece)
        if pause:
            time.sleep(pause)


def paused(tls=False, pause=PAUSE):
    def client(gateway):
        with gateway.connect(tls, 65536) as stream:
            stream.sendall(get("/large"))
            _, rest = read_head(stream)
            take(stream, MEGABYTE - len(rest))
            time.sleep(pause)
            take(stream, LARGE - MEGABYTE)

    return client


def slow_reader(gateway):
    with gateway.connect(window=16384) as stream:
        stream.sendall(get("/large"))
        _, rest = read_head(stream)
        end = time.time() + 200
        while time.time() < end:
            take(stream, 16384)
            time.sleep(0.5)


def slow_upload(gateway):
    with gateway.connect() as stream:
        stream.sendall(b"POST /upload HTTP/1.1\r\nHost: h.test\r\nContent-Length: 40960\r\n\r\n")
        for _ in range(160):
            stream.sendall(b"x" * 256)
            time.sleep(1)
        head, _ = read_head(stream)
        assert b" 200 " in head, head


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name, value):
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def paused_http2(gateway):
    def read(length):
        whole = b""
        while len(whole) < length:
            piece = stream.recv(length - len(whole))
            if not piece:
                raise EOFError("closed")
            whole += piece
        return whole

    with gateway.connect() as stream:
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/large"), (":authority", "h.test")]
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        stream.sendall(frame(1, 5, 1, b"".join(field(*each) for each in fields)))
        got, is_paused = 0, False
        while got < LARGE:
            head = read(9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            payload = read(length)
            if kind == 4 and not flags & 1:
                stream.sendall(frame(4, 1, 0))
            elif kind == 6 and not flags & 1:
                stream.sendall(frame(6, 1, 0, payload))
            elif kind in (3, 7):
                raise EOFError("reset" if kind == 3 else "GOAWAY")
            elif kind == 0:
                got += length
                if got > MEGABYTE and not is_paused:
                    time.sleep(PAUSE)
                    is_paused = True
                update = struct.pack(">I", max(length, 1))
                stream.sendall(frame(8, 0, 0, update) + frame(8, 0, 1, update))


def quiet_grpc(gateway):
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        said = queue.Queue()
        talk = channel.stream_stream("/test.Chat/Talk")
        answers = talk(iter(said.get, None))
        for word in [b"one", b"two", b"three"]:
            said.put(word)
            assert next(answers) == word
            time.sleep(QUIET)
        said.put(None)


class Http3(QuicConnectionProtocol):
    """A client of HTTP/3 that takes what fits its first window, and more when it is told to go on."""

    def __init__(self, quic, **more):
        super().__init__(quic, **more)
        self.http = H3Connection(quic)
        self.came, self.ended = asyncio.Queue(), None
        quic._write_connection_limits = quic._write_stream_limits = lambda **_: None

    def quic_event_received(self, event):
        if isinstance(event, (ConnectionTerminated, StreamReset)):
            self.ended = type(event).__name__
            self.came.put_nowait(self.ended)
        for each in self.http.handle_event(event):
            if isinstance(each, DataReceived):
                self.came.put_nowait(len(each.data))
            elif isinstance(each, HeadersReceived):
                self.came.put_nowait(0)

    def go_on(self):
        del self._quic._write_connection_limits, self._quic._write_stream_limits
        self.transmit()

    def begin(self, method, path, ended):
        stream = self._quic.get_next_available_stream_id()
        fields = [(b":method", method), (b":scheme", b"https"), (b":authority", b"h.test"), (b":path", path)]
        self.http.send_headers(stream, fields, end_stream=ended)
        self.transmit()
        return stream

    async def take(self, length):
        while length > 0:
            came = await asyncio.wait_for(self.came.get(), 300)
            if isinstance(came, str):
                raise EOFError(came)
            length -= came

    async def wait(self, seconds, pings):
        for _ in range(seconds // 15):
            await asyncio.sleep(15)
            if pings:
                await asyncio.wait_for(self.ping(), 15)
            if self.ended:
                raise EOFError(self.ended)


def over_http3(conversation):
    def client(gateway):
        async def run():
            configuration = QuicConfiguration(
                is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name="h.test", idle_timeout=900
            )
            async with connect("127.0.0.1", gateway.port, configuration=configuration, create_protocol=Http3) as http3:
                await conversation(http3)

        asyncio.run(run())

    return client


def paused_http3(pings):
    async def conversation(http3):
        http3.begin(b"GET", b"/smaller", True)
        await http3.take(MEGABYTE // 2)
        await http3.wait(PAUSE, pings)
        http3.go_on()
        await http3.take(SMALLER - MEGABYTE // 2 - 65536)

    return over_http3(conversation)


async def quiet_http3(http3):
    stream = http3.begin(b"POST", b"/talk", False)
    for _ in range(3):
        http3.http.send_data(stream, b"x" * 10, False)
        http3.transmit()
        await http3.take(10)
        await http3.wait(QUIET, True)
    http3.http.send_data(stream, b"", True)
    http3.transmit()


def silent_upload(gateway):
    """A hostile client, which sends half of a body and nothing more."""
    with gateway.connect() as stream:
        stream.sendall(b"POST /upload HTTP/1.1\r\nHost: h.test\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
        stream.settimeout(300)
        head, _ = read_head(stream)
        raise EOFError(head[9:12].decode())


def events(gateway):
    with gateway.connect() as stream:
        stream.sendall(get("/events"))
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            piece = stream.recv(4096)
            if not piece:
                raise EOFError("closed")
            got += piece


def websocket(gateway):
    key = base64.b64encode(os.urandom(16)).decode()
    more = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    with gateway.connect() as stream:
        stream.sendall(get("/socket", more))
        head, _ = read_head(stream)
        assert b" 101 " in head, head
        for _ in range(3):
            stream.sendall(b"\x81\x82\0\0\0\0hi")
            take(stream, 8)
            time.sleep(QUIET)


def trickle(beginning):
    """A hostile client, which should be cut: a byte each five seconds."""

    def client(gateway):
        with gateway.connect() as stream:
            stream.sendall(beginning)
            stream.settimeout(5)  # As long as between two bytes.
            for _ in range(60):
                try:
                    piece = stream.recv(4096)
                    if not piece or b" 4" in piece[:12] or b" 5" in piece[:12]:
                        raise EOFError("cut")
                except TimeoutError:
                    stream.sendall(b"x")

    return client


CASES = [
    ("HTTP/1.1: 60 MiB, pause of 75 s after 1 MiB", paused()),
    ("HTTP/1.1: 60 MiB, pause of 10 min after 1 MiB", paused(pause=600)),
    ("TLS: 60 MiB, pause of 75 s after 1 MiB", paused(tls=True)),
    ("HTTP/2: 60 MiB, pause of 75 s after 1 MiB", paused_http2),
    ("HTTP/1.1: 32 KiB in a second for 200 s", slow_reader),
    ("HTTP/1.1: upload of 256 bytes in a second, 160 s", slow_upload),
    ("gRPC, both directions: silent for 90 s, three times", quiet_grpc),
    ("WebSocket: silent for 90 s, three times", websocket),
    ("SSE: an event each 90 s, three times", events),
    ("HTTP/3: 8 MiB, pause of 75 s after 1 MiB, client pings", paused_http3(True)),
    ("HTTP/3: 8 MiB, pause of 75 s after 1 MiB, client silent", paused_http3(False)),
    ("HTTP/3, both directions: silent for 90 s, three times", over_http3(quiet_http3)),
    ("hostile: half of a body, then nothing", silent_upload),
    ("hostile: a byte of a head each 5 s", trickle(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")),
    ("hostile: a byte of a body each 5 s", trickle(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n")),
]


def main():
    end = time.time() + float(sys.argv[1]) * 60
    chat, grpc_port = start_grpc() if grpc else (None, 9)
    routes = ROUTES.format(server=start_server(), grpc=grpc_port)
    gateways = [Gateway(*each.split("=", 1), routes) for each in sys.argv[2:]]
    time.sleep(3)
    results = {}

    def repeat(gateway, name, client):
        outcomes = results.setdefault((gateway.name, name), [])
        while time.time() < end or not outcomes:
            start = time.time()
            try:
                client(gateway)
                outcomes.append(None)
            except Exception as error:  # Whatever it was, the client was not served.
                outcomes.append((time.time() - start, str(error) if isinstance(error, EOFError) else type(error).__name__))
                print(f"{time.time() - start:.0f} s {gateway.name} {name}: {error!r}", file=sys.stderr, flush=True)
            time.sleep(1)

    cases = [case for case in CASES if (grpc or "gRPC" not in case[0]) and (aioquic or "HTTP/3" not in case[0])]
    threads = [
        threading.Thread(target=repeat, args=(gateway, name, client), daemon=True)
        for gateway in gateways
        for name, client in cases
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    print("| client | " + " | ".join(gateway.name for gateway in gateways) + " |")
    print("|---" * (len(gateways) + 1) + "|")
    for name, _ in cases:
        cells = []
        for gateway in gateways:
            outcomes = results[gateway.name, name]
            cut = [outcome for outcome in outcomes if outcome]
            cell = f"{len(outcomes) - len(cut)} of {len(outcomes)}"
            if cut:
                times = [seconds for seconds, _ in cut]
                cell += f"; cut after {min(times):.0f} to {max(times):.0f} s ({', '.join(sorted({why for _, why in cut}))})"
            cells.append(cell)
        print(f"| {name} | " + " | ".join(cells) + " |")
    for gateway in gateways:
        gateway.process.terminate()


if __name__ == "__main__":
    main()
