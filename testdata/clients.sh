#!/bin/sh
# Let the real crane and cosign read an artifact that pikelet built: push its
# OCI layout to a registry on loopback, and verify its signature with the right
# key and with a wrong one. Arguments: pikelet, a spec, a folder to work in.
# Compiling cosign takes about four minutes the first time.
set -eu
pikelet=$1 spec=$2 work=$3
mkdir -p "$work"
GOBIN=$(cd "$work" && pwd)/bin
export GOBIN
go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
go install github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$1.key" 2>/dev/null && openssl pkey -in "$work/$1.key" -pubout -out "$work/$1.pub"; }
key right
key wrong
"$pikelet" build --key "$work/right.key" -o "$work/out" "$spec"

"$GOBIN/crane" registry serve --address 127.0.0.1:5999 >"$work/registry.log" 2>&1 &
registry=$!
trap 'kill $registry' EXIT
sleep 1
repo=127.0.0.1:5999/image
"$GOBIN/crane" push --index "$work/out/artifact" "$repo:layout"
image=sha256:$(grep -o 'sha256-[0-9a-f]*\.sig' "$work/out/artifact/index.json" | sed 's/sha256-//; s/\.sig//')
signature=$("$GOBIN/crane" manifest "$repo:layout" | tr '{' '\n' | grep -B1 '\.sig"' | grep -o 'sha256:[0-9a-f]*' | head -n 1)
"$GOBIN/crane" copy "$repo@$signature" "$repo:sha256-${image#sha256:}.sig"

verify() { "$GOBIN/cosign" verify --key "$work/$1.pub" --insecure-ignore-tlog=true --allow-insecure-registry "$repo@$image" 2>"$work/cosign.log"; }
verify right || { cat "$work/cosign.log"; echo "cosign does not accept the signature"; exit 1; }
if verify wrong; then echo "cosign accepts a foreign key, so it judges nothing here"; exit 1; fi
"$GOBIN/crane" manifest "$repo@$image" | grep -q application/vnd.pikelet.image.v1
echo "cosign and crane agree: 1 passed, 0 failed"
