#!/usr/bin/env bash
# Runs every test, after installing and starting what the tests need from outside: Docker Engine, Compose, Chromium,
# Redis and Consul.
set -euo pipefail
cd "$(dirname "$0")/.."

need=()
command -v dockerd >/dev/null || need+=(docker.io)
command -v docker-compose >/dev/null || need+=(docker-compose)
command -v chromium >/dev/null || need+=(chromium)
command -v redis-server >/dev/null || need+=(redis-server)
command -v cc >/dev/null || need+=(build-essential)
if [ ${#need[@]} -gt 0 ]; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${need[@]}"
fi

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

scripts/tool.sh consul
scripts/image.sh tidegate:dev
cargo build --workspace --bins
# The ignored tests are those that need an outside program; here they all run.
RUST_TEST_THREADS=4 cargo test --workspace --no-fail-fast -- --include-ignored
