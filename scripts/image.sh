#!/usr/bin/env bash
# Builds the container image tidegate:dev from a static binary, without any base image.
# usage: [PROFILE=demo] image.sh [TAG]
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-tidegate:dev}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
scripts/static-binary.sh "$context/tidegate"
mkdir "$context/tmp"
cp Dockerfile "$context/Dockerfile"
docker build --quiet --tag "$tag" "$context"
