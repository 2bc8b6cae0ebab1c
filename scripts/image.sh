#!/usr/bin/env bash
# Builds the container image tidegate:dev from a static binary, without any base image.
# usage: image.sh [TAG]
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-tidegate:dev}
target=$(rustc -vV | sed -n 's/^host: //p')
# No path of this machine stays in the binary.
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$registry=crates -ffile-prefix-map=$PWD=."
RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$registry=crates --remap-path-prefix=$PWD=." \
  cargo build --release --quiet --target "$target" --target-dir target/static --bin tidegate
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "target/static/$target/release/tidegate" "$context/tidegate"
strip "$context/tidegate" 2>/dev/null || true
cp Dockerfile "$context/Dockerfile"
mkdir "$context/tmp"
docker build --quiet --tag "$tag" "$context"
