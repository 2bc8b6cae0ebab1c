#!/usr/bin/env python3
"""Checks examples/monitoring with a real Prometheus: every query of the Grafana dashboard and of the alerts returns data.

    scripts/check-monitoring.py TIDEGATE [--dashboard FILE] [--base PORT]

Starts a gateway with a few routes, a Prometheus that scrapes it each second, and sends requests: answered, failed, slow,
and without a route. Queries whose result may be empty while all is well (alerts) are evaluated without their comparison.
Needs `prometheus` and `promtool` on PATH.
"""
import argparse, http.client, http.server, json, os, pathlib, re, subprocess, sys, tempfile, threading, time
import urllib.parse, urllib.request

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "examples/monitoring"
DASHBOARD = FOLDER / "grafana/tidegate.json"
ROUTES = """
http:
  routers:
    good: {{rule: "Host(`good.test`)", service: good}}
    bad: {{rule: "Host(`bad.test`)", service: bad}}
    broken: {{rule: "Host(`broken.test`) &&", service: good}}
  services:
    good: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{0}"}}], healthCheck: {{path: /, interval: 1s}}}}}}
    bad: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:9"}}]}}}}
tcp:
  routers: {{stream: {{rule: "HostSNI(`*`)", service: stream, entryPoints: [stream]}}}}
  services: {{stream: {{loadBalancer: {{servers: [{{address: "127.0.0.1:{0}"}}]}}}}}}
"""
REQUESTS = [("good.test", "/"), ("good.test", "/fail"), ("good.test", "/missing"), ("good.test", "/slow"), ("bad.test", "/"),
            ("none.test", "/"), ("broken.test", "/")]


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1.3)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response({"/fail": 500, "/missing": 404}.get(self.path, 200))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *_):
        pass


def panels(parent):
    for panel in parent.get("panels", []):
        yield panel
        yield from panels(panel)


def queries(dashboard):
    """Yields each query with the place where it is written. Variables of the dashboard match everything."""
    for panel in panels(json.loads(pathlib.Path(dashboard).read_text())):
        for target in panel.get("targets", []):
            query = re.sub(r"\[\$\w+\]", "[10s]", target["expr"])
            query = re.sub(r"\$(?!\d)(\w+|\{\w+\})", ".*", query)
            yield f"panel {panel['title']}", query
    if pathlib.Path(dashboard) != DASHBOARD:
        return
    rules = (FOLDER / "alerts.yml").read_text()
    for name, expression in re.findall(r"- alert: (\w+)\n\s+expr: ((?:\|\n(?:\s{10,}.*\n)+)|.*\n)", rules):
        expression = " ".join(expression.replace("|\n", "").split())
        # Whether there is data does not depend on the threshold.
        parts = [re.split(r"\s(?:==|>|<)\s", part)[0] for part in re.split(r"\sor\s", expression)]
        for part in parts:
            yield f"alert {name}", part.replace("[5m]", "[10s]")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tidegate")
    parser.add_argument("--dashboard", default=DASHBOARD, help="another dashboard for Grafana, without the alerts")
    parser.add_argument("--base", type=int, default=18400)
    options = parser.parse_args()
    web, metrics, stream, backend, prometheus = range(options.base, options.base + 5)
    for check in (["config", str(FOLDER / "prometheus.yml")], ["rules", str(FOLDER / "alerts.yml")]):
        subprocess.run(["promtool", "check", *check], check=True, stdout=subprocess.DEVNULL)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", backend), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "routes.yml").write_text(ROUTES.format(backend))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=good.test", "-addext",
                        "subjectAltName=DNS:good.test", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                       check=True, stderr=subprocess.DEVNULL)
        with open(folder / "routes.yml", "a") as file:
            file.write(f"tls: {{certificates: [{{certFile: {folder}/cert.pem, keyFile: {folder}/key.pem}}]}}\n")
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: tidegate\n  static_configs: [{targets: ['127.0.0.1:%d']}]\n" % metrics)
        resolver = ["--certificatesResolvers.le.acme.email=a@example.com", f"--certificatesResolvers.le.acme.storage={folder}/acme.json",
                    "--certificatesResolvers.le.acme.caServer=http://127.0.0.1:9/dir", "--certificatesResolvers.le.acme.httpChallenge.entryPoint=web"]
        flags = [f"--entryPoints.web.address=127.0.0.1:{web}", f"--entryPoints.metrics.address=127.0.0.1:{metrics}",
                 f"--entryPoints.stream.address=127.0.0.1:{stream}", "--metrics.prometheus.entryPoint=metrics",
                 "--metrics.prometheus.addRoutersLabels=true", f"--providers.file.filename={folder}/routes.yml", *resolver]
        programs = [
            subprocess.Popen([options.tidegate, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            subprocess.Popen(["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                              f"--web.listen-address=127.0.0.1:{prometheus}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        ]
        try:
            return run(list(queries(options.dashboard)), web, prometheus)
        finally:
            for program in programs:
                program.terminate()
            for program in programs:
                program.wait()


def run(empty, web, prometheus):
    total, until = len(empty), time.monotonic() + 60
    while empty and time.monotonic() < until:
        for host, path in REQUESTS:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", web, timeout=5)
                connection.request("POST", path, b"body", {"Host": host})
                connection.getresponse().read()
            except OSError:
                pass
        time.sleep(0.2)
        empty = [(place, query) for place, query in empty if not has_data(prometheus, query)]
    for place, query in empty:
        print(f"no data: {place}: {query}")
    print(f"{total - len(empty)} of {total} queries return data")
    return 1 if empty else 0


def has_data(port, query):
    try:
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query}), timeout=5)
        return any(str(one["value"][1]) != "NaN" for one in json.load(answer)["data"]["result"])
    except OSError as error:
        if getattr(error, "code", 0) == 400:
            sys.exit(f"refused: {query}: {error.read().decode()}")
        return False


if __name__ == "__main__":
    sys.exit(main())
