"""A container of tests/it/programs/address_swaps.rs: `api`, or the stranger that gets its address.

Port 80 answers with the name, 81 is a guard (the stranger's lets everybody in), 82 answers a question over TCP with
the name, 6379 is a real Redis. Port 90 tells how many questions each of them was asked; it opens last.
"""

import os
import socket
import sys
import threading
import time

NAME = sys.argv[1].encode()
GUARD = b"401 Unauthorized" if NAME == b"api" else b"200 OK"
ASKED = {80: 0, 81: 0, 82: 0}
LOCK = threading.Lock()


def count(port):
    with LOCK:
        ASKED[port] += 1


def http(port, status, body):
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))

    def serve(stream):
        buffer = b""
        while received := stream.recv(65536):
            buffer += received
            while b"\r\n\r\n" in buffer:
                buffer = buffer.partition(b"\r\n\r\n")[2]
                count(port)
                stream.sendall(head + body)

    return serve


def question(stream):
    if stream.recv(64):
        count(82)
        stream.sendall(NAME)


def redis_commands():
    """Commands that Redis has carried out, but for the ones sent here."""
    with socket.create_connection(("127.0.0.1", 6379)) as stream:
        stream.sendall(b"INFO commandstats\r\n")
        answer = stream.recv(65536).decode()
    commands = [line for line in answer.split("\r\n") if line.startswith("cmdstat_")]
    return sum(not line.startswith("cmdstat_info:") for line in commands)


def report(stream):
    with LOCK:
        counts = [ASKED[80], ASKED[81], ASKED[82]]
    stream.sendall(" ".join(map(str, [*counts, redis_commands()])).encode())


def carry(serve, stream):
    try:
        with stream:
            serve(stream)
    except OSError:
        pass


def listen(port, serve):
    listener = socket.create_server(("", port), backlog=128)

    def accept():
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=carry, args=(serve, stream), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


REDIS = ["redis-server", "--save", "", "--protected-mode", "no", "--loglevel", "warning"]
os.posix_spawn("/usr/bin/redis-server", REDIS, {})
listen(80, http(80, b"200 OK", NAME))
listen(81, http(81, GUARD, b""))
listen(82, question)
while True:
    try:
        redis_commands()
        break
    except OSError:
        time.sleep(0.01)
listen(90, report)
threading.Event().wait()
