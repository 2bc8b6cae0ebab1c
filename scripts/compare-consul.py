#!/usr/bin/env python3
"""Runs Traefik and Tidegate on the same Consul agent and compares what they derive from it.

    scripts/compare-consul.py TRAEFIK TIDEGATE [--consul PROGRAM] [-v]

Services and keys are registered once, then both are started with each set of options and their /api/rawdata are
compared. What differs is printed, and makes the exit status 1; what differs on purpose stands in KNOWN with its reason,
and in docs/differences.md.
"""
import argparse, json, os, signal, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request

S = "traefik.http.services.%s.loadbalancer."
R = "traefik.http.routers.%s."


def service(name, port=0, *tags, id=None, address="", status=None, checks=None, **more):
    body = {"Name": name, "ID": id or name + "-1", "Tags": list(tags)}
    body.update(more)
    if port:
        body["Port"] = port
    if address:
        body["Address"] = address
    statuses = checks or ([status] if status else [])
    if statuses:
        body["Checks"] = [{"TTL": "1h", "Status": one} for one in statuses]
    return body


SERVICES = [
    service("web", 8001, "traefik.enable=true", R % "web" + "rule=Host(`web.test`)", S % "web" + "server.weight=3", "blue",
            id="web1", address="127.0.0.1", status="passing"),
    service("web", 8002, "traefik.enable=true", R % "web" + "rule=Host(`web.test`)", S % "web" + "server.weight=3", "green",
            id="web2", address="127.0.0.2", status="passing"),
    service("web", 8003, "traefik.enable=true", R % "web" + "rule=Host(`web.test`)", S % "web" + "server.weight=3",
            id="a_web", address="127.0.0.3", status="warning"),
    service("plain svc", 8010),
    service("critical", 8011, status="critical"),
    service("warning", 8012, status="warning"),
    service("mixed", 8013, checks=["passing", "critical", "warning"]),
    service("off", 8014, "traefik.enable=false"),
    service("canary", 8015, "traefik.consulcatalog.canary=true", "v2", id="k1"),
    service("canary", 8016, "v1", R % "stable" + "rule=Host(`stable.test`)", id="k2"),
    service("noport"),
    service("Upper_Case.x", 8018, S % "two" + "server.port=99", S % "two" + "server.scheme=https", S % "one" + "server.port=98"),
    service("url", 8019, S % "url" + "server.url=http://10.1.2.3:5/"),
    service("tcpsvc", 8020, "traefik.tcp.routers.t.rule=HostSNI(`t.test`)", "traefik.tcp.routers.t.tls=true"),
    service("tcptwo", 8021, "traefik.tcp.routers.t2.rule=HostSNI(`t2.test`)", "traefik.tcp.routers.t2.tls.passthrough=true",
            "traefik.tcp.services.t2.loadbalancer.server.port=77", R % "both" + "rule=Host(`both.test`)"),
    service("connected", 8023, "traefik.consulcatalog.connect=true"),
    service("native", 8031, "traefik.consulcatalog.connect=true", Connect={"Native": True}),
    service("sided", 8032, "traefik.consulcatalog.connect=true", R % "sided" + "rule=Host(`sided.test`)",
            Connect={"SidecarService": {"Port": 8033, "Checks": [{"TTL": "1h", "Status": "passing"}]}}),
    service("v6", 8024, "traefik.http.middlewares.m6.addprefix.prefix=/x", R % "v6" + "middlewares=m6", address="::1"),
    service("sloppy", 8025, "traefik.enable", "traefik", "traefik-x.y=z", "Traefik.http.routers.q.rule=Path(`/up`)", "x=y"),
    service("options", 8026, S % "options" + "passhostheader=false", S % "options" + "sticky.cookie.name=c",
            S % "options" + "healthcheck.path=/h", S % "options" + "healthcheck.interval=7s", R % "options" + "priority=7",
            R % "options" + "entrypoints=web", R % "options" + "tls=true"),
    service("doubled", 8027, R % "d" + "rule=Path(`/1`)", R % "d" + "rule=Path(`/2`)"),
    service("custom", 8028, "edge.enable=true", "edge.http.routers.custom.rule=Host(`edge.test`)"),
]
MAINTENANCE = service("resting", 8030)

KEYS = {
    "traefik/http/routers/kv/rule": "Host(`kv.test`)",
    "traefik/http/routers/kv/entryPoints/0": "web",
    "traefik/http/routers/kv/middlewares": "add,strip",
    "traefik/http/routers/kv/service": "weighted",
    "traefik/http/routers/kv/tls": "true",
    "traefik/http/routers/kv/tls/domains/0/main": "kv.test",
    "traefik/http/routers/kv/tls/domains/0/sans/0": "a.kv.test",
    "traefik/http/routers/kv/tls/domains/0/sans/1": "b.kv.test",
    "traefik/http/routers/with.dot/rule": "Host(`dot.test`)",
    "traefik/http/routers/with.dot/priority": "9",
    "traefik/http/routers/with.dot/service": "s",
    "traefik/http/middlewares/add/addPrefix/prefix": "/x",
    "traefik/http/middlewares/strip/stripPrefix/prefixes": "/a,/b",
    "traefik/http/services/s/loadBalancer/servers/0/url": "http://127.0.0.1:1",
    "traefik/http/services/s/loadBalancer/servers/1/url": "http://127.0.0.1:2",
    "traefik/http/services/s/loadbalancer/passhostheader": "false",
    "traefik/http/services/weighted/weighted/services/0/name": "s",
    "traefik/http/services/weighted/weighted/services/0/weight": "42",
}

CASES = [
    ("defaults", {}),
    ("not exposed", {"exposedByDefault": "false"}),
    ("any state", {"strictChecks": "any"}),
    ("passing only", {"strictChecks": "passing"}),
    ("prefix", {"prefix": "edge", "exposedByDefault": "false"}),
    ("constraint", {"constraints": "Tag(`blue`) || TagRegex(`^v[0-9]$`)"}),
    ("default rule", {"defaultRule": "Host(`{{ .Name | lower }}.{{ index .Labels \"traefik.enable\" }}.test`)"}),
    ("stale and cached", {"stale": "true", "cache": "true"}),
    ("consistent", {"requireConsistent": "true"}),
    ("connect", {"connectAware": "true"}),
    ("connect by default", {"connectAware": "true", "connectByDefault": "true"}),
]

# What Tidegate shows beside or instead, and why.
KNOWN = {
    "warnings on routers of equal rule and priority": lambda name, theirs, ours: bool(
        theirs and ours and ours.get("status") == "warning" and {k: v for k, v in ours.items() if k not in ("status", "error")}
        == {k: v for k, v in theirs.items() if k != "status"}),
    "not there yet: see docs/differences.md": lambda name, theirs, ours: "not supported yet" in str(ours and ours.get("error")),
}


def free_ports(number):
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def ask(url, method="GET", body=None):
    data = body.encode() if isinstance(body, str) else body
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=10) as answer:
        return answer.read().decode()


def until(what, holds):
    end = time.time() + 30
    while time.time() < end:
        try:
            value = holds()
            if value:
                return value
        except (OSError, urllib.error.URLError, ValueError):
            pass
        time.sleep(0.05)
    sys.exit(f"waited in vain: {what}")


class Program:
    def __init__(self, arguments, folder, name):
        self.log = open(os.path.join(folder, name + ".log"), "w")
        self.process = subprocess.Popen(arguments, stdout=self.log, stderr=self.log, cwd=folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


def objects(port):
    """What providers say, by kind and name, without what belongs to the gateway itself."""
    found = {}
    for kind, entries in json.loads(ask(f"http://127.0.0.1:{port}/api/rawdata")).items():
        for name, entry in entries.items():
            if name.endswith("@internal"):
                continue
            for key in ("usedBy", "using"):
                if key in entry:
                    entry[key].sort()
            entry.pop("serverStatus", None)
            found[f"{kind} {name}"] = entry
    return found


def settled(port):
    """The objects when they have been the same for a while."""
    last, since = None, time.time()

    def same():
        nonlocal last, since
        now = objects(port)
        if now != last:
            last, since = now, time.time()
        return now and time.time() - since > 0.7
    until("the configuration settles", same)
    return last


def compared(theirs, ours):
    """The objects that differ, each with the reason when it is on purpose."""
    unlike = []
    for key in sorted(set(theirs) | set(ours)):
        a, b = theirs.get(key), ours.get(key)
        if a != b:
            unlike.append((key, next((reason for reason, known in KNOWN.items() if known(key, a, b)), None)))
    return unlike


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traefik")
    parser.add_argument("tidegate")
    parser.add_argument("--consul", default=os.path.join(os.path.dirname(__file__), "../target/tools/consul"))
    parser.add_argument("-v", action="store_true", help="print what differs on purpose, too")
    options = parser.parse_args()
    # Both run in a folder of their own.
    traefik, tidegate = os.path.abspath(options.traefik), os.path.abspath(options.tidegate)
    http, server, serf, web, api, web2, api2 = free_ports(7)
    consul = f"127.0.0.1:{http}"
    differences = 0
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "agent.json"), "w") as file:
            json.dump({"server": True, "bootstrap": True, "data_dir": "data", "bind_addr": "127.0.0.1", "node_name": "n1",
                       "performance": {"raft_multiplier": 1}, "disable_update_check": True, "connect": {"enabled": True},
                       "ports": {"http": http, "server": server, "serf_lan": serf, "serf_wan": -1, "dns": -1, "grpc": -1}}, file)
        with Program([os.path.abspath(options.consul), "agent", "-config-file", "agent.json"], folder, "consul"):
            until("the agent leads", lambda: "n1" in ask(f"http://{consul}/v1/catalog/nodes"))
            for one in SERVICES + [MAINTENANCE]:
                ask(f"http://{consul}/v1/agent/service/register", "PUT", json.dumps(one))
            ask(f"http://{consul}/v1/agent/service/maintenance/{MAINTENANCE['ID']}?enable=true", "PUT")
            for key, value in KEYS.items():
                ask(f"http://{consul}/v1/kv/{key}", "PUT", value)
            for name, case in CASES:
                flags = [f"--providers.consulCatalog.{key}={value}" for key, value in case.items()]
                flags += [f"--providers.consulCatalog.endpoint.address={consul}", "--providers.consulCatalog.watch=true",
                          f"--providers.consul.endpoints={consul}", "--api.insecure=true"]
                points = [[f"--entryPoints.web.address=127.0.0.1:{a}", f"--entryPoints.traefik.address=127.0.0.1:{b}"]
                          for a, b in ((web, api), (web2, api2))]
                with Program([traefik, "--global.checkNewVersion=false", *points[0], *flags], folder, "traefik"), \
                        Program([tidegate, *points[1], *flags], folder, "tidegate"):
                    until("Traefik listens", lambda: ask(f"http://127.0.0.1:{api}/api/rawdata"))
                    until("Tidegate listens", lambda: ask(f"http://127.0.0.1:{api2}/api/rawdata"))
                    # On a busy machine either may be late: what differs is looked at again for a while.
                    end = time.time() + 45
                    while True:
                        theirs, ours = settled(api), settled(api2)
                        unlike = compared(theirs, ours)
                        if all(reason for _, reason in unlike) or time.time() > end:
                            break
                for key, reason in unlike:
                    differences += reason is None
                    if reason is None or options.v:
                        print(f"{name}: {key}: {reason or 'DIFFERS'}\n  Traefik  {json.dumps(theirs.get(key))}\n"
                              f"  Tidegate {json.dumps(ours.get(key))}")
                total = len(set(theirs) | set(ours))
                print(f"{name}: {total - len(unlike)} of {total} objects are equal")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
