#!/usr/bin/env bash
# Holds deny.toml: with cargo-deny where it is installed, and its most important bans with cargo alone everywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v cargo-deny >/dev/null; then
  cargo deny --offline check bans licenses sources
fi
for crate in ring openssl-sys native-tls serde_yaml serde_yml rustls-pemfile htpasswd-verify rust-crypto rsa; do
  if cargo tree --workspace --quiet --edges normal,build --invert "$crate" 2>/dev/null | grep -q .; then
    echo "deny.toml: $crate is in the dependency tree:" >&2
    cargo tree --workspace --edges normal,build --invert "$crate" >&2
    exit 1
  fi
done
# A library for the APIs of DNS providers brings reqwest, and nothing else may.
users=$(cargo tree --workspace --quiet --edges normal,build --invert reqwest --depth 1 --prefix none | sed 1d)
if grep -qv '^dns-update ' <<<"$users"; then
  printf 'deny.toml: reqwest is used by:\n%s\n' "$users" >&2
  exit 1
fi
# Cargo also lists a version that is built twice, with the features of build dependencies and with others.
several=$(cargo tree --workspace --quiet --all-features --edges normal,build,dev --duplicates --depth 0 --prefix none)
for crate in $(cut -d ' ' -f 1,2 <<<"$several" | sort -u | cut -d ' ' -f 1 | uniq -d); do
  if ! grep -q "{ crate = \"$crate@[0-9.]*\", reason" deny.toml; then
    echo "deny.toml: there are several versions of $crate" >&2
    exit 1
  fi
done
