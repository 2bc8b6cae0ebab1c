#!/usr/bin/env python3
"""Measures gateways on a large Consul catalog.

    scripts/consul-scale.py [--services 5000] [--instances 4] [--consul PROGRAM] [--base PORT] NAME=PROGRAM...

For each program: the time until all services are served, memory and CPU then, the time from a change of health and from a
registration until it is served, and CPU, memory and the requests to the agent while there are CHANGES changes a second.
"""
import argparse, http.client, json, os, re, signal, subprocess, sys, tempfile, threading, time, urllib.request


def usage(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    with open(f"/proc/{pid}/status") as file:
        memory = int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), memory / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--changes", type=int, default=100, help="a second, in the last part")
    parser.add_argument("--seconds", type=int, default=20, help="of the last part")
    parser.add_argument("--consul", default=os.path.join(os.path.dirname(__file__), "../target/tools/consul"))
    parser.add_argument("--base", type=int, default=21800)
    options = parser.parse_args()
    http_port, server, serf, web, api = range(options.base, options.base + 5)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "agent.json"), "w") as file:
            json.dump({"server": True, "bootstrap": True, "data_dir": "data", "bind_addr": "127.0.0.1", "node_name": "n1",
                       "performance": {"raft_multiplier": 1}, "disable_update_check": True, "log_level": "error",
                       "limits": {"http_max_conns_per_client": 2000},
                       "ports": {"http": http_port, "server": server, "serf_lan": serf, "serf_wan": -1, "dns": -1, "grpc": -1}}, file)
        agent = subprocess.Popen([os.path.abspath(options.consul), "agent", "-config-file", "agent.json"], cwd=folder,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run(options, agent, http_port, web, api)
        finally:
            agent.kill()
            agent.wait()


class Consul:
    def __init__(self, port):
        self.port, self.connection = port, None

    def put(self, path, body):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.connection.request("PUT", path, json.dumps(body))
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {text[:200]}")

    def instance(self, service, instance, status="passing", port=None):
        name, node = f"s{service}", f"node{instance}"
        ident = f"{name}-{instance}"
        self.put("/v1/catalog/register", {
            "Node": node, "Address": f"10.0.0.{instance + 1}", "SkipNodeUpdate": True,
            "Service": {"ID": ident, "Service": name, "Port": port or 10000 + service, "Address": f"10.1.{instance}.{service % 250 + 1}",
                        "Tags": ["traefik.enable=true", f"traefik.http.routers.{name}.rule=Host(`{name}.test`)"]},
            "Checks": [{"Node": node, "CheckID": "service:" + ident, "Name": "c", "Status": status, "ServiceID": ident}]})


def run(options, agent, http_port, web, api):
    consul = Consul(http_port)
    for _ in range(300):
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{http_port}/v1/status/leader").read() != b'""':
                consul.put("/v1/kv/x", 1)
                break
        except OSError:
            pass
        time.sleep(0.1)
    begun = time.time()
    for service in range(options.services):
        for instance in range(options.instances):
            consul.instance(service, instance)
    print(f"{options.services} services with {options.instances} instances each, registered in {time.time() - begun:.0f} s", flush=True)
    for program in options.programs:
        name, path = program.split("=", 1)
        measure(options, name, path, agent, consul, http_port, web, api)


def measure(options, name, path, agent, consul, http_port, web, api):
    flags = [f"--entryPoints.web.address=127.0.0.1:{web}", f"--entryPoints.traefik.address=127.0.0.1:{api}", "--api.insecure=true",
             f"--providers.consulCatalog.endpoint.address=127.0.0.1:{http_port}", "--providers.consulCatalog.watch=true",
             "--providers.consulCatalog.exposedByDefault=false"]

    def get(path):
        try:
            return json.load(urllib.request.urlopen(f"http://127.0.0.1:{api}{path}", timeout=30))
        except (OSError, ValueError):
            return None

    def until(holds, step=0.01, most=300):
        begun = time.time()
        while time.time() - begun < most:
            if holds():
                return time.time() - begun
            time.sleep(step)
        return float("nan")

    def servers(service):
        found = get(f"/api/http/services/s{service}@consulcatalog")
        return len(found["loadBalancer"].get("servers", [])) if found and "loadBalancer" in found else 0

    agent_before = usage(agent.pid)[0]
    process = subprocess.Popen([path, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def complete():
            overview = get("/api/overview")
            return overview and overview["http"]["services"]["total"] >= options.services
        first = until(complete, 0.1)
        cpu, memory = usage(process.pid)
        print(f"{name}: all served after {first:.1f} s; CPU {cpu:.1f} s, agent {usage(agent.pid)[0] - agent_before:.1f} s; {memory:.0f} MiB", flush=True)
        time.sleep(5)
        times = {"health": [], "registration": []}
        for turn in range(5):
            service = turn * 97 + 11
            consul.instance(service, 0, "critical")
            times["health"].append(until(lambda: servers(service) == options.instances - 1))
            consul.instance(service, 0, "passing")
            times["health"].append(until(lambda: servers(service) == options.instances))
            consul.instance(service, options.instances)
            times["registration"].append(until(lambda: servers(service) == options.instances + 1))
            consul.put("/v1/catalog/deregister", {"Node": f"node{options.instances}", "ServiceID": f"s{service}-{options.instances}"})
            until(lambda: servers(service) == options.instances)
            # Each turn is a change of its own.
            time.sleep(2)
        for what, found in times.items():
            print(f"{name}: {what} live after " + ", ".join(f"{time * 1000:.0f}" for time in sorted(found)) + " ms", flush=True)
        before, agent_before, begun, done = usage(process.pid)[0], usage(agent.pid)[0], time.time(), 0
        while time.time() - begun < options.seconds:
            consul.instance(done * 13 % options.services, done % options.instances, "critical" if done % 2 else "passing")
            done += 1
            time.sleep(max(0, begun + done / options.changes - time.time()))
        took = time.time() - begun
        cpu, memory = usage(process.pid)
        print(f"{name}: {done / took:.0f} changes a second: CPU {(cpu - before) / took * 100:.0f} %, agent "
              f"{(usage(agent.pid)[0] - agent_before) / took * 100:.0f} %; {memory:.0f} MiB", flush=True)
        for service in range(0, options.services):
            for instance in {done * 0, *range(options.instances)}:
                if instance == service % options.instances:
                    consul.instance(service, instance)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
