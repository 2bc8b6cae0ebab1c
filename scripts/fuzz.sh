#!/usr/bin/env bash
# Runs fuzz targets, each for FUZZ_SECONDS (default 600): all of them, or those that are named as arguments.
#
# Stable Rust does: RUSTC_BOOTSTRAP lets it take the flags for coverage. No sanitizer unless FUZZ_SANITIZER names one:
# the gateway has no unsafe code, and without it there are more executions in the same time.
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTC_BOOTSTRAP=1
seconds=${FUZZ_SECONDS:-600}
sanitizer=${FUZZ_SANITIZER:-none}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(rule labels route_file preface http1_server http1_client http1_body http3 stream template settings)

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

scripts/fuzz-seeds.sh
failed=()
for target in "${targets[@]}"; do
  echo "== $target: $seconds s"
  # An input may take 10 s and 2 GB at most: what is slower or larger is a finding too.
  cargo fuzz run -s "$sanitizer" "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
    -print_final_stats=1 || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { echo "findings in: ${failed[*]} (see fuzz/artifacts)" >&2; exit 1; }
