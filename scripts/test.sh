#!/usr/bin/env bash
# Runs every test, after installing and starting what the tests need from outside: Docker Engine, Compose, Chromium,
# Redis, Consul, etcd, Traefik, Pebble, an OpenID provider, BIND, PostgreSQL, HAProxy, NGINX, OpenLDAP, a DNS server, gRPC's library and the
# Autobahn test suite.
set -euo pipefail
cd "$(dirname "$0")/.."
# What is downloaded for the tests comes before what the machine has.
export PATH="$PWD/target/tools:$PATH"

need=()
command -v dockerd >/dev/null || need+=(docker.io)
# The images of tests hold its shell; nothing else depends on it.
[ -x /bin/busybox ] || need+=(busybox-static)
command -v chromium >/dev/null || need+=(chromium)
command -v openssl >/dev/null || need+=(openssl)
command -v curl >/dev/null || need+=(curl)
command -v redis-server >/dev/null || need+=(redis-server)
{ command -v node && command -v npm; } >/dev/null || need+=(nodejs npm)
command -v promtool >/dev/null || need+=(prometheus)
command -v cc >/dev/null || need+=(build-essential)
[ -d /usr/lib/postgresql ] || need+=(postgresql)
command -v psql >/dev/null || need+=(postgresql-client)
command -v haproxy >/dev/null || need+=(haproxy)
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || need+=(nginx libnginx-mod-stream)
# The system's directory must not run: the package starts it unless a policy forbids it.
if ! { [ -x /usr/sbin/slapd ] && command -v ldapsearch; } >/dev/null; then
  need+=(slapd ldap-utils)
  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; policy=own; }
fi
[ -x /usr/sbin/dnsmasq ] || need+=(dnsmasq-base)
command -v dig >/dev/null || need+=(bind9-dnsutils)
# Its programs check the units; the service manager itself does not run.
[ -x /usr/bin/systemd-socket-activate ] || need+=(systemd)
python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
if [ ${#need[@]} -gt 0 ]; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${need[@]}"
fi
[ -z "${policy-}" ] || rm -f /usr/sbin/policy-rc.d

started=
work=$(mktemp -d)
finish() {
  if [ -n "$started" ]; then
    kill "$started" 2>/dev/null || true
    wait "$started" 2>/dev/null || true
  fi
  rm -rf "$work" 2>/dev/null || true
}
trap finish EXIT

if ! docker info >/dev/null 2>&1; then
  dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" >"$work/log" 2>&1 &
  started=$!
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && break
    kill -0 "$started" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.2
  done
fi

# Compose v2, or v1 where it cannot be had.
if ! docker compose version >/dev/null 2>&1 && ! scripts/tool.sh docker-compose; then
  command -v docker-compose >/dev/null || apt-get install -y -q --no-install-recommends docker-compose
fi
scripts/tool.sh pebble
scripts/tool.sh consul
scripts/tool.sh cargo-deb
scripts/tool.sh named || { apt-get update -q && scripts/tool.sh named; }
scripts/tool.sh etcd || { apt-get update -q && scripts/tool.sh etcd; }
# Without it only the comparison cannot be made.
left_out=()
if ! scripts/tool.sh traefik; then
  echo "There is no Traefik to compare with: the package registry did not answer. The comparison is left out." >&2
  left_out=(--skip programs::traefik_conformance::)
fi
if ! scripts/tool.sh oidc-provider; then
  echo "There is no OpenID provider: the package registry did not answer. Its tests are left out." >&2
  left_out+=(--skip programs::oidc::)
fi
if ! scripts/tool.sh pyjwt; then
  echo "PyJWT cannot be had: the test of a service in Python is left out" >&2
  left_out+=(--skip programs::identity::)
fi
if ! scripts/tool.sh h11; then
  echo "h11 cannot be had: the comparison with it is left out" >&2
  left_out+=(--skip programs::http1_peers::h11)
fi
# They come from an index of Python packages. Where there is none, everything else is tested all the same.
if ! scripts/suites.sh; then
  echo "gRPC's own library, the Autobahn test suite or npm's tests of HTTP caches cannot be had: their tests are left out" >&2
  left_out+=(--skip programs::protocol_suites:: --skip programs::cache_suite::those_in_npm)
fi
if ! scripts/cache-tests.sh; then
  echo "The tests of HTTP caches cannot be had from GitHub: only those in npm run" >&2
  left_out+=(--skip programs::cache_suite::the_cache)
fi
# Tests need no optimised image, and it is built much sooner without.
PROFILE=demo scripts/image.sh tidegate:dev
cargo build --workspace --bins
# The ignored tests are those that need an outside program; here they all run.
RUST_TEST_THREADS=4 cargo test --workspace --no-fail-fast -- --include-ignored "${left_out[@]}"
