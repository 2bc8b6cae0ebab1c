#!/usr/bin/env bash
# Builds the container image tidegate:dev from a static binary, without any base image.
# usage: [PROFILE=demo] image.sh [TAG]
#
# The Dockerfile in the top folder builds the same image from source, in a container.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-tidegate:dev}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
scripts/static-binary.sh "$context/tidegate"
mkdir "$context/tmp" "$context/certs"
# Authorities that servers and ACME directories are checked with.
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
  cp /etc/ssl/certs/ca-certificates.crt "$context/certs"
fi
cp packaging/binary.Dockerfile "$context/Dockerfile"
docker build --quiet --tag "$tag" "$context"
