#!/bin/sh
# Builds the large program at a version of Kubernetes, for arm64:
# build.sh 1.34.4 OUT. A few minutes on two cores.
set -eu
version=$1 out=$2
[ ! -e "$out" ] || exit 0
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
grep -v '^//go:build ignore' "$here/main.go" > "$work/main.go"
mkdir -p "$(dirname "$out")"
out=$(readlink -f "$(dirname "$out")")/$(basename "$out")
cd "$work"
export GOFLAGS=-mod=mod
printf 'module large\n\ngo 1.24\n\nrequire k8s.io/kubernetes v%s\n' "$version" > go.mod
# Kubernetes takes its own modules from a folder; outside of it they have
# versions: those of 1.34.4 are v0.34.4.
mod=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
grep -o 'k8s.io/[a-z0-9-]* => ./staging' "$mod" | cut -d' ' -f1 | sort -u | while read -r m; do
  echo "replace $m => $m v0.${version#1.}" >> go.mod
done
go mod tidy
CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$out.part" .
mv "$out.part" "$out"
