#!/usr/bin/env python3
"""CPU that proxies need for TCP and UDP: seconds per GB, per 10,000 connections, per 100,000 datagrams there and back.

    bench-streams.py [--rounds N] NAME=BINARY...      (NAME: tidegate, traefik, haproxy, nginx)

The time that a proxy computes (user and system, all its processes) does not depend on how fast this client is. The peers take
turns within a round; the least of all rounds is shown.
"""
import argparse, os, pathlib, socket, subprocess, tempfile, threading, time

CHUNK = bytes(256 * 1024)
GB, CONNECTIONS, DATAGRAMS = 2, 10_000, 50_000


def free(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def backend():
    """Echoes the first eight bytes of a connection and swallows the rest; echoes datagrams."""
    listener, udp = socket.create_server(("127.0.0.1", 0), backlog=1024), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))

    def one(c):
        with c:
            try:
                c.sendall(c.recv(8, socket.MSG_WAITALL))
                buffer = bytearray(1 << 20)
                while c.recv_into(buffer):
                    pass
            except OSError:
                pass

    def accept():
        while True:
            threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    def echo():
        while True:
            data, peer = udp.recvfrom(65535)
            udp.sendto(data, peer)

    for loop in (accept, echo):
        threading.Thread(target=loop, daemon=True).start()
    return listener.getsockname()[1], udp.getsockname()[1]


def command(name, binary, folder, tcp, udp, to_tcp, to_udp):
    routes = pathlib.Path(folder, "routes.yml")
    routes.write_text(f"""
tcp:
  routers: {{all: {{entryPoints: [tcp], rule: 'HostSNI(`*`)', service: s}}}}
  services: {{s: {{loadBalancer: {{servers: [{{address: '127.0.0.1:{to_tcp}'}}]}}}}}}
udp:
  routers: {{all: {{entryPoints: [udp], service: s}}}}
  services: {{s: {{loadBalancer: {{servers: [{{address: '127.0.0.1:{to_udp}'}}]}}}}}}
""")
    if name in ("tidegate", "traefik"):
        return [binary, f"--entryPoints.tcp.address=127.0.0.1:{tcp}", f"--entryPoints.udp.address=127.0.0.1:{udp}/udp", f"--providers.file.filename={routes}", "--log.level=ERROR"]
    conf = pathlib.Path(folder, name + ".conf")
    if name == "haproxy":
        conf.write_text(f"global\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\nlisten t\n bind 127.0.0.1:{tcp}\n server s 127.0.0.1:{to_tcp}\n")
        return [binary, "-db", "-f", str(conf)]
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    load = f"load_module {module};\n" if os.path.exists(module) else ""
    conf.write_text(f"{load}daemon off;\nworker_processes auto;\npid {folder}/pid;\nerror_log {folder}/log;\nevents {{ worker_connections 4096; }}\nstream {{ server {{ listen 127.0.0.1:{tcp}; proxy_pass 127.0.0.1:{to_tcp}; }} server {{ listen 127.0.0.1:{udp} udp reuseport; proxy_pass 127.0.0.1:{to_udp}; proxy_timeout 3s; }} }}\n")
    return [binary, "-c", str(conf)]


def spent(pid):
    """CPU seconds of a process and its children that live."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(spent(int(child)) for child in children)


def connect(port):
    for left in range(200):
        try:
            s = socket.create_connection(("127.0.0.1", port))
            s.sendall(b"hello123")
            if s.recv(8, socket.MSG_WAITALL):
                return s
        except OSError:
            if left == 199:
                raise
        time.sleep(0.05)
    raise SystemExit("the proxy does not answer")


def bulk(port):
    with connect(port) as s:
        for _ in range(GB * 1_000_000_000 // len(CHUNK)):
            s.sendall(CHUNK)


def churn(port):
    for _ in range(CONNECTIONS):
        connect(port).close()


def datagrams(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", port))
        s.settimeout(1)
        done = 0
        while done < DATAGRAMS:
            try:
                s.send(bytes(200))
                s.recv(2048)
                done += 1
            except OSError:
                time.sleep(0.01)


def measure(pid, work, port, unit):
    before = spent(pid)
    work(port)
    time.sleep(0.2)
    return (spent(pid) - before) / unit


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("peers", nargs="+", metavar="NAME=BINARY")
    options = p.parse_args()
    to_tcp, to_udp = backend()
    best = {}
    for _ in range(options.rounds):
        for name, binary in (peer.split("=", 1) for peer in options.peers):
            tcp, udp = free(socket.SOCK_STREAM), free(socket.SOCK_DGRAM)
            with tempfile.TemporaryDirectory() as folder:
                proxy = subprocess.Popen(command(name, binary, folder, tcp, udp, to_tcp, to_udp), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    connect(tcp).close()
                    found = [measure(proxy.pid, bulk, tcp, GB), measure(proxy.pid, churn, tcp, CONNECTIONS / 10_000)]
                    found.append(float("nan") if name == "haproxy" else measure(proxy.pid, datagrams, udp, DATAGRAMS / 100_000))
                finally:
                    proxy.terminate()
                    proxy.wait()
            best[name] = [min(pair) for pair in zip(found, best.get(name, found))]
    print(f"{'':10} {'s per GB':>10} {'s per 10,000 connections':>26} {'s per 100,000 datagrams':>26}")
    for name, (a, b, c) in best.items():
        print(f"{name:10} {a:10.2f} {b:26.2f} {c:26.2f}")


main()
