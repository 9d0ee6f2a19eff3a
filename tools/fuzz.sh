#!/usr/bin/env bash
# Fuzz the C++ readers of manifests and safetensors files.
#
#   tools/fuzz.sh [SECONDS]     of each reader; default: 20
#
# Starts from tests/fuzz/corpus and keeps what it finds in build/fuzz/corpus. A crash ends it with an error and leaves the
# input in build/fuzz/crashes: repeat it with build/fuzz/fuzz_manifest FILE. Takes clang++ from the system, else from the
# distribution's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
out=build/fuzz
clang=${CLANGXX:-$(command -v clang++ || true)}
if [ -z "$clang" ]; then
    tools/fetch_native.sh --clang build/clang
    clang=$(echo "$PWD"/build/clang/usr/bin/clang++-*)
    export LD_LIBRARY_PATH="$PWD/build/clang/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
tools/fetch_native.sh
echo "==> building the fuzzers with $clang"
mkdir -p "$out"
{
    cmake -S tests/fuzz -B "$out" -G Ninja -DCMAKE_CXX_COMPILER="$clang" && cmake --build "$out" --parallel 2
} >"$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }

for reader in manifest safetensors; do
    mkdir -p "$out/corpus/$reader" "$out/crashes"
    echo "==> $reader, $seconds s"
    if ! "$out/fuzz_$reader" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -dict="tests/fuzz/$reader.dict" -artifact_prefix="$out/crashes/$reader-" \
        "$out/corpus/$reader" "tests/fuzz/corpus/$reader" >"$out/$reader.log" 2>&1; then
        tail -n 60 "$out/$reader.log" >&2
        echo "error: the reader of $reader failed; the input is in $out/crashes" >&2
        exit 1
    fi
    grep -E '^stat::(number_of_executed_units|new_units_added)' "$out/$reader.log"
done
