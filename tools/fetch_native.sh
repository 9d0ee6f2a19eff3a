#!/usr/bin/env bash
# Headers (and a static library, utf8proc) that the C++ runtime is built with, from the distribution's own packages: unpacked, nothing is installed.
#
#   tools/fetch_native.sh [DIRECTORY]           default: build/native; the headers are then below DIRECTORY/usr
#   tools/fetch_native.sh --clang DIRECTORY     clang with libFuzzer instead, and what of it the system lacks
#
# Where the system's own suite is too old for a package (ONNX Runtime's headers came with Debian 13), apt reads a
# newer suite from the same mirror, with lists and downloads of its own, so the system's configuration stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

fail()
{
    echo "error: $1" >&2
    echo "  next: $2" >&2
    exit 1
}

packages=(libonnxruntime-dev nlohmann-json3-dev doctest-dev libutf8proc-dev)
newer_suite=trixie
clang=
if [ "${1:-}" = --clang ]; then
    clang=yes
    shift
fi
directory=${1:-build/native}

if [ -n "$clang" ]; then
    version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p')
    [ -n "$version" ] || fail "apt knows no clang" "run apt-get update, or set CLANGXX to a clang++ with libFuzzer"
    mapfile -t packages < <(apt-get -s install --no-install-recommends "clang-$version" "libclang-rt-$version-dev" \
        "libfuzzer-$version-dev" 2>/dev/null | awk '/^Inst / { print $2 }')
    [ "${#packages[@]}" -gt 0 ] || fail "apt cannot resolve clang-$version" "set CLANGXX to a clang++ with libFuzzer"
fi
wanted="${packages[*]}"
stamp=$directory/.packages
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null || fail "there is no $tool, so packages cannot be fetched" \
        "install the headers of ONNX Runtime, nlohmann-json and doctest yourself and pass -DCMAKE_PREFIX_PATH=..."
done

mkdir -p "$directory"
work=$(mktemp -d "$directory/.part-XXXXXX")
trap 'rm -rf "$work"' EXIT
work=$(cd "$work" && pwd)
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"

# The mirror of the system's own suite, as apt knows it.
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk -v release="$codename" '$2 == release { print $1; exit }')
[ -n "$mirror" ] || fail "apt has no source of this release ($codename)" "add one, and run this again"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] && signed="[signed-by=$keyring] " || signed=
echo "deb $signed$mirror $newer_suite main" >"$work/sources.list"

own=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o Acquire::Languages=none
    -o "APT::Sandbox::User=$(id -un)" -o Acquire::Retries=3)

echo "==> fetching ${packages[*]}"
if ! (cd "$work" && apt-get -q download "${packages[@]}") >"$work/log" 2>&1; then
    # The system's suite lacks one of them, or was never updated.
    rm -f "$work"/*.deb
    apt-get -q "${own[@]}" update >>"$work/log" 2>&1 ||
        fail "the package lists of $newer_suite cannot be had: $(tail -n 1 "$work/log")" \
            "check the network, or apt's sources"
    (cd "$work" && apt-get -q "${own[@]}" download "${packages[@]}") >>"$work/log" 2>&1 ||
        fail "the packages cannot be had: $(tail -n 1 "$work/log")" "check the network, or apt's sources"
fi

for package in "$work"/*.deb; do
    dpkg -x "$package" "$work/root"
done
rm -rf "${directory:?}/usr"
mv "$work/root/usr" "$directory/usr"
echo "$wanted" >"$stamp"
echo "==> unpacked in $directory/usr"
