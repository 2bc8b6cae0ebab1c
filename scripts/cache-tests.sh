#!/usr/bin/env bash
# Puts the tests of HTTP caches (http-tests/cache-tests), for Node 20.18 or later, into target/tools/cache-tests:
# `scripts/cache-tests.sh`. CACHE_TESTS may name a copy of the repository. The package in npm is from 2021, and its tests
# differ from RFC 9111, which is newer.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
mkdir -p "$tools"

cache_tests=b55b8bda3dbb8c927c04e85bd8d496a8caa3e4ba
if ! [ -f "$tools/cache-tests/$cache_tests" ]; then
  rm -rf "$tools/cache-tests"
  git init --quiet "$tools/cache-tests"
  GIT_TERMINAL_PROMPT=0 timeout 120 git -C "$tools/cache-tests" fetch --quiet --depth 1 "${CACHE_TESTS:-https://github.com/http-tests/cache-tests}" "$cache_tests"
  git -C "$tools/cache-tests" checkout --quiet FETCH_HEAD
  # What its tests of interim responses use.
  (cd "$tools" && npm pack --silent undici@7.16.0 >/dev/null)
  mkdir -p "$tools/cache-tests/node_modules/undici"
  tar --extract --gzip --file "$tools"/undici-7.16.0.tgz --strip-components 1 --directory "$tools/cache-tests/node_modules/undici"
  rm "$tools"/undici-7.16.0.tgz
  touch "$tools/cache-tests/$cache_tests"
fi
