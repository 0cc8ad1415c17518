#!/bin/sh
# Unpacks packages of Debian's for arm64 in their newest two versions, the older
# one into OUT/old, the newer into OUT/new: debs.sh OUT PACKAGE... It keeps an
# apt state of its own.
set -eu
out=$1
shift
[ ! -e "$out/new" ] || exit 0
mkdir -p "$out/apt/state/lists/partial" "$out/apt/cache/archives/partial" "$out/part/old" "$out/part/new"
out=$(readlink -f "$out")
apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$out/apt/state" -o Dir::State::status=/dev/null \
    -o Dir::Cache="$out/apt/cache" -o APT::Sandbox::User=root "$@"
}
: > "$out/apt/state/status"
apt update
for p in "$@"; do
  versions=$(apt-cache -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$out/apt/state" -o Dir::State::status=/dev/null -o Dir::Cache="$out/apt/cache" \
    madison "$p" | cut -d'|' -f2 | tr -d ' ' | sort -u)
  list=$(for v in $versions; do echo "$v"; done | while read -r v; do
    n=0
    for w in $versions; do if dpkg --compare-versions "$w" le "$v"; then n=$((n + 1)); fi; done
    printf '%03d %s\n' "$n" "$v"
  done | sort | cut -d' ' -f2 | tail -2)
  [ "$(echo "$list" | wc -l)" = 2 ] || { echo "$p: there is one version only: $list" >&2; exit 1; }
  i=old
  for v in $list; do
    echo "$p $v" >> "$out/versions.txt"
    (cd "$out/part" && apt download "$p=$v" && dpkg-deb -x "$p"_*.deb "$i" && rm "$p"_*.deb)
    i=new
  done
done
mv "$out/part/old" "$out/part/new" "$out/"
