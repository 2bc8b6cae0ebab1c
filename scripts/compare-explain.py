#!/usr/bin/env python3
"""Asks a running gateway what would happen to each request of conformance cases, sends it, and compares.

    compare-explain.py FOLDER GATEWAY [-k WORD] [-v]

FOLDER holds cases.json, and diff.py and echo.py, which start the servers and send the requests. GATEWAY is the binary.
Compared are the router, the status where the gateway itself responds, whether a server responds, which one where it is
known, and the method, path and host that it sees. Requests that `explain` cannot be asked about (exact bytes, targets
other than paths) and answers that depend on more than the request are counted separately. Ports from 41000; CONFORM_BASE moves them.
"""
import argparse, collections, json, os, pathlib, re, signal, subprocess, sys, tempfile, time, urllib.error, urllib.parse, urllib.request

WRITTEN_BASE = 24000  # the ports in cases.json


def api(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", data=body and json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def recorded(port, entry_point, before):
    """The newest request of an entry point, once it is another than before."""
    query = urllib.parse.quote(f'entryPoint == "{entry_point}"')
    end = time.time() + 3
    while time.time() < end:
        _, found = api(port, f"requests?per_page=1&filter={query}")
        if found and found[0]["id"] != before:
            return api(port, f"requests/{found[0]['id']}")[1]
        time.sleep(0.02)
    return None


def newest(port, entry_point):
    query = urllib.parse.quote(f'entryPoint == "{entry_point}"')
    _, found = api(port, f"requests?per_page=1&filter={query}")
    return found[0]["id"] if found else None


def question(r, entry_point):
    headers = collections.defaultdict(list)
    for name, value in list(r.headers) + [("Host", r.host)]:
        headers[name].append(value)
    if r.body and "content-length" not in {name.lower() for name in headers}:
        headers["Content-Length"] = [str(len(r.body))]
    scheme = "https" if r.tls else "http"
    host = r.tls or r.host or "nobody.invalid"
    return {"method": r.method, "url": f"{scheme}://{host}{r.path}", "headers": headers, "from": "127.0.0.1",
            "entryPoint": entry_point}


def differences(explained, record, seen, backends):
    """What explain and the request say differently."""
    result, out = explained["result"], []
    if record is not None:
        router = record.get("router", "").split(" -> ")[-1]
        if router != result.get("router", ""):
            out.append(f"router: explained {result.get('router')}, was {router}")
    status = (result.get("response") or {}).get("status")
    if status is not None and result["certain"] and status != seen.get("status"):
        out.append(f"status: explained {status}, was {seen.get('status')}")
    backend = seen.get("backend")
    if not result["certain"] and not (record or {}).get("origin", "").startswith("server"):
        # What it depends on has responded.
        return out
    if backend and result["origin"] != "server" and not result.get("revised"):
        out.append(f"explained a response of {result['origin']}, a server responded")
    forwarded = explained.get("forwarded")
    if backend and forwarded:
        host = next((value for name, value in backend["headers"] if name == "host"), "")
        for key, was in (("method", backend["method"]), ("path", backend["target"]), ("host", host)):
            if forwarded[key] != was:
                out.append(f"{key}: explained {forwarded[key]!r}, was {was!r}")
        server = next_server(explained.get("service"))
        if server and backends.get(server) != backend["name"]:
            out.append(f"server: explained {backends.get(server)}, was {backend['name']}")
    if result["origin"] == "server" and result["certain"] and seen.get("status") and not backend:
        # A server that is down or slow, and what a middleware makes of its response, are not known before.
        origin = (record or {}).get("origin", "")
        known = origin.startswith("server") or (record or {}).get("reason") in (
            "connect_failed", "response_timeout", "connection_lost", "router_timeout", "response_too_large")
        if not known:
            out.append(f"explained a server, {origin or 'another'} responded with {seen['status']}")
    return out


def next_server(service):
    while service:
        for server in service.get("servers", []):
            if server["next"]:
                return "/".join(server["url"].split("/")[:3])
        service = next((child.get("service") for child in service.get("services", []) if child["next"]), None)
    return None


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=pathlib.Path)
    ap.add_argument("gateway")
    ap.add_argument("-k", default="")
    ap.add_argument("-v", action="store_true")
    a = ap.parse_args()
    os.environ.setdefault("CONFORM_BASE", "41000")
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(a.folder.resolve()))
    import diff
    diff.scrub = lambda text, ports: text
    with tempfile.TemporaryDirectory(prefix="explain-") as folder:
        text = (a.folder / "cases.json").read_text()
        move = lambda found: f"127.0.0.1:{int(found[1]) - WRITTEN_BASE + diff.BASE}"
        cases = pathlib.Path(folder) / "cases.json"
        cases.write_text(re.sub(rf"127\.0\.0\.1:({WRITTEN_BASE // 1000}\d\d\d)\b", move, text))
        groups = [group for group in diff.load(cases) if a.k in group.name]
    echo = subprocess.Popen([sys.executable, str(a.folder / "echo.py")] + [f"{n}={p}" for n, p in diff.BACKENDS.items()],
                            stdout=subprocess.DEVNULL)
    counts = collections.Counter()
    try:
        diff.free_wait(max(diff.BACKENDS.values()))
        if echo.poll() is not None:
            sys.exit("the servers did not start: CONFORM_BASE chooses other ports")
        for group in groups:
            own = run(diff, os.path.abspath(a.gateway), group, a.v)
            counts.update(own)
            print(f"{group.name}: {own['agree']}/{own['agree'] + own['differ']}", flush=True)
    finally:
        echo.terminate()
        echo.wait()
    asked = counts["agree"] + counts["differ"]
    print(f"{counts['agree']} of {asked} requests agree; {counts['server']} reached a server, {counts['unsure']} of them depended on more than the request; "
          f"{counts['not asked']} were not asked about")
    sys.exit(counts["differ"] > 0)


def run(diff, gateway, group, verbose):
    counts = collections.Counter()
    names = {f"http://127.0.0.1:{port}": name for name, port in diff.BACKENDS.items()}
    with tempfile.TemporaryDirectory(prefix="explain-") as folder, open(os.devnull, "w") as null:
        tmp = pathlib.Path(folder)
        ports = {"api": diff.BASE + 1, **{e: diff.BASE + 2 + i for i, e in enumerate(group.entrypoints)}}
        for name, content in group.files.items():
            (tmp / name).write_text(content)
        (tmp / "dynamic.yml").write_text(json.dumps(group.doc).replace("{tmp}", str(tmp)))
        args = [gateway, f"--providers.file.filename={tmp}/dynamic.yml", "--api.insecure=true", "--ping=true",
                "--log.level=ERROR", f"--entryPoints.traefik.address=127.0.0.1:{ports['api']}"]
        args += [f"--entryPoints.{e}.address=127.0.0.1:{ports[e]}{suffix}" for e, suffix in group.entrypoints.items()]
        args += [flag.replace("{tmp}", str(tmp)) for flag in group.static]
        process = subprocess.Popen(args, stdout=null, stderr=null, cwd=tmp)
        try:
            diff.free_wait(ports["api"], timeout=20)
            diff.loaded(ports["api"])
            time.sleep(group.settle)
            for r in group.requests:
                time.sleep(r.wait)
                for _ in range(r.n):
                    one(diff, group, r, ports, names, counts, verbose)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            for port in ports.values():
                diff.free_wait(port, up=False, timeout=5)
    return counts


def one(diff, group, r, ports, names, counts, verbose):
    if r.raw is not None or not r.path.startswith("/"):
        counts["not asked"] += 1
        return
    entry_point = "traefik" if r.api else r.ep
    status, explained = api(ports["api"], "explain", question(r, entry_point))
    if status != 200:
        counts["not asked"] += 1
        if verbose:
            print(f"  [{group.name}] {r.label()}: not asked: {explained}")
        return
    before = newest(ports["api"], entry_point) if not r.api else None
    r.only = None
    seen = diff.observe(r, ports)
    record = recorded(ports["api"], entry_point, before) if not r.api and "failed" not in seen else None
    found = differences(explained, record, seen, names)
    counts["differ" if found else "agree"] += 1
    counts["server"] += "backend" in seen
    counts["unsure"] += not explained["result"]["certain"]
    if found or verbose:
        print(f"  [{group.name}] {r.label()}" + ("" if found else " agrees"))
        for line in found:
            print(f"      {line}")


if __name__ == "__main__":
    main()
