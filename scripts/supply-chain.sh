#!/usr/bin/env bash
# Holds deny.toml: with cargo-deny where it is installed, and its most important bans with cargo alone everywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v cargo-deny >/dev/null; then
  cargo deny --offline check bans licenses sources
fi
for crate in ring openssl-sys native-tls serde_yaml serde_yml rustls-pemfile htpasswd-verify rust-crypto rsa reqwest; do
  if cargo tree --workspace --quiet --edges normal,build --invert "$crate" 2>/dev/null | grep -q .; then
    echo "deny.toml: $crate is in the dependency tree:" >&2
    cargo tree --workspace --edges normal,build --invert "$crate" >&2
    exit 1
  fi
done
