#!/bin/sh
# Builds the gateway as a static binary: `scripts/static-binary.sh FILE` puts it there, stripped.
#
# PROFILE is the Cargo profile: release by default; demo is built much sooner.
set -eu
cd "$(dirname "$0")/.."
out=${1:?where to put the binary}
profile=${PROFILE:-release}
target=$(rustc -vV)
target=$(echo "$target" | sed -n 's/^host: //p')
# The binary holds no paths of the machine that it was built on.
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$registry=crates -ffile-prefix-map=$PWD=."
RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$registry=crates --remap-path-prefix=$PWD=." \
  cargo build --locked --profile "$profile" --target "$target" --target-dir target/static --bin tidegate
# Cargo's folder for the profile `dev` has another name.
[ "$profile" != dev ] || profile=debug
mkdir -p "$(dirname "$out")"
cp "target/static/$target/$profile/tidegate" "$out"
strip "$out" 2>/dev/null || true
