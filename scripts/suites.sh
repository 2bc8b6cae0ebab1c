#!/usr/bin/env bash
# Puts what the protocol suites need into target/tools: `scripts/suites.sh`.
#
# grpc: gRPC's own Python library, in an environment of its own.
# autobahn: the Autobahn test suite of WebSocket. It needs Python 2.7, which Debian had last in bullseye, and packages of
# its time; nothing is installed outside of target/tools.
# cache-tests-npm: the tests of HTTP caches as they were in 2021, which npm has; scripts/cache-tests.sh fetches newer ones.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
mkdir -p "$tools"

if ! "$tools/grpc/bin/python" -c 'import grpc' 2>/dev/null; then
  rm -rf "$tools/grpc"
  python3 -m venv "$tools/grpc"
  "$tools/grpc/bin/pip" install -q --disable-pip-version-check grpcio==1.85.3
fi

if ! [ -f "$tools/cache-tests-npm/package/server/server.mjs" ]; then
  rm -rf "$tools/cache-tests-npm"
  mkdir -p "$tools/cache-tests-npm"
  (cd "$tools/cache-tests-npm" && npm pack --silent http-cache-tests@0.4.5 >/dev/null && tar --extract --gzip --file ./*.tgz)
  npm install --prefix "$tools/cache-tests-npm" --no-save --no-audit --no-fund --ignore-scripts --loglevel error node-fetch@2.7.0
fi

[ -x "$tools/autobahn/wstest" ] && exit 0
rm -rf "$tools/autobahn"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{wheels,sdists,made/site}
. scripts/bullseye.sh
bullseye "$work"
(cd "$work" && apt-get "${options[@]}" download python2.7-minimal libpython2.7-minimal libpython2.7-stdlib)
for package in "$work"/*.deb; do
  dpkg-deb --extract "$package" "$work/made/python"
done

pip() { "$tools/grpc/bin/pip" download -q --disable-pip-version-check --no-deps "$@"; }
pip -d "$work/wheels" --only-binary :all: --python-version 27 --implementation cp \
  --abi cp27mu --abi none --platform manylinux2010_x86_64 --platform manylinux1_x86_64 --platform any \
  autobahntestsuite==25.10.1 setuptools==44.0.0 incremental==16.10.1 pyOpenSSL==19.1.0 cryptography==3.3.2 \
  cffi==1.14.6 enum34==1.1.10 ipaddress==1.0.23 pycparser==2.20 zope.interface==4.6.0 jinja2==2.11.3 \
  markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0 service_identity==18.1.0 attrs==21.4.0 pyasn1==0.4.8 \
  pyasn1-modules==0.2.8 six==1.16.0 Twisted==19.10.0 constantly==15.1.0 Automat==20.2.0 hyperlink==21.0.0 \
  PyHamcrest==1.9.0 idna==2.10 typing==3.10.0.0 unittest2==1.1.0 traceback2==1.4.0 linecache2==1.0.0 argparse==1.4.0
pip -d "$work/sdists" --no-binary :all: autobahn==0.10.9 txaio==2.1.0
for wheel in "$work"/wheels/*.whl; do
  python3 -m zipfile -e "$wheel" "$work/made/site"
done
for sdist in "$work"/sdists/*.tar.gz; do
  tar --extract --gzip --file "$sdist" --directory "$work/sdists"
done
cp -r "$work"/sdists/autobahn-0.10.9/autobahn "$work"/sdists/txaio-2.1.0/txaio "$work/made/site"
touch "$work/made/site/zope/__init__.py"
cat >"$work/made/wstest" <<'WSTEST'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="$here/site" PYTHONDONTWRITEBYTECODE=1
exec "$here/python/usr/bin/python2.7" -c 'from autobahntestsuite import wstest; wstest.run()' "$@"
WSTEST
chmod +x "$work/made/wstest"
"$work/made/wstest" --help >/dev/null
mv "$work/made" "$tools/autobahn"
