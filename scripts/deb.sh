#!/usr/bin/env bash
# Builds the Debian package from the release profile into target/debian. What is in it stands in Cargo.toml, below
# [package.metadata.deb].
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/target/tools:$PATH"
scripts/tool.sh cargo-deb
# Without debug information, which is most of the binary.
cargo deb --locked --strip "$@"
