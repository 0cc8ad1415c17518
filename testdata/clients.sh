#!/bin/sh
# Let real clients judge what pikelet ships, and pikelet what they make: cosign 2
# and 3, crane, regctl, skopeo, syft and Kyverno, with distribution as the registry on loopback.
# Arguments: pikelet, distribution's registry, a spec, a folder to work in.
# Compiling both cosigns, syft and Kyverno takes about 17 minutes the first time.
set -eu
pikelet=$1 registry=$2 spec=$3 work=$4
rm -rf "$work/run"
mkdir -p "$work/run"
GOBIN=$(cd "$work" && pwd)/bin
export GOBIN
go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
go install github.com/regclient/regclient/cmd/regctl@v0.11.7
go install github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5
GOBIN="$GOBIN/v3" go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
go install github.com/anchore/syft/cmd/syft@v1.57.1
# Kyverno's go.mod replaces a module, which go install does not take: it is built in a copy.
kyverno=$GOBIN/kyverno-v1.19.1
if [ ! -x "$kyverno" ]; then
	cp -R "$(go mod download -json github.com/kyverno/kyverno@v1.19.1 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" "$work/run/kyverno"
	chmod -R u+w "$work/run/kyverno"
	(cd "$work/run/kyverno" && go build -o "$kyverno" ./cmd/cli/kubectl-kyverno)
	rm -rf "$work/run/kyverno"
fi
schema=$(go env GOMODCACHE)/github.com/anchore/syft@v1.57.1/schema/spdx-json/spdx-schema-2.3.json
run=$work/run
passed=0
fail() { echo "FAILED: $1"; [ ! -f "$run/log" ] || cat "$run/log"; exit 1; }
ok() { what=$1; shift; "$@" >"$run/log" 2>&1 || fail "$what"; passed=$((passed + 1)); }
refused() { what=$1; shift; if "$@" >"$run/log" 2>&1; then fail "$what"; fi; passed=$((passed + 1)); }

cat >"$run/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $run/registry}, delete: {enabled: true}}
http: {addr: 127.0.0.1:5999}
END
OTEL_TRACES_EXPORTER=none "$registry" serve "$run/registry.yml" >"$run/registry.log" 2>&1 &
server=$!
trap 'kill $server' EXIT
sleep 2
repo=127.0.0.1:5999/image
export COSIGN_PASSWORD=secret
cosign="$GOBIN/cosign"
# Where there are bundles, cosign 2.6 wants roots even for a key, and fetches them unless it has some.
"$cosign" trusted-root create --out "$run/roots.json"
verify="$cosign verify --insecure-ignore-tlog=true --allow-insecure-registry --trusted-root $run/roots.json"
cosign3="$GOBIN/v3/cosign"
verify3="$cosign3 verify --insecure-ignore-tlog=true --allow-insecure-registry"
list() { echo "$1" | tr : -; } # the tag under which a digest's referrers are listed
forget() { "$GOBIN/crane" delete --insecure "$repo@$("$GOBIN/crane" digest --insecure "$repo:$1")"; }

# Keys of both, and an image that trusts both.
(cd "$run" && "$cosign" generate-key-pair >/dev/null 2>&1)
ok "keygen" "$pikelet" keygen -o "$run/ours"
ok "keygen of a stranger" "$pikelet" keygen -o "$run/stranger"
{ grep -v '^#' "$spec" | sed "s|\.\./\.\./\.\./build|$PWD/build|g; s|\.\./build|$PWD/build|g"; printf 'keys: [ours.pub, cosign.pub]\n'; } >"$run/image.yaml"
ok "build" "$pikelet" build --sign-key "$run/ours.key" -o "$run/out" "$run/image.yaml"
ok "publish" "$pikelet" publish "$repo" --plain-http --image "$run/out" --channel stable
release=$(sed -n 's/^release: *"*\([0-9.]*\)"*/\1/p' "$run/image.yaml")
image=$(grep -o 'sha256:[0-9a-f]*' "$run/out/signature.json" | head -n 1 || true)
image=$("$GOBIN/crane" manifest --insecure "$repo:$release" | grep -o '"digest":"sha256:[0-9a-f]*"' | head -n 1 | cut -d'"' -f4)
index=$("$GOBIN/crane" digest --insecure "$repo:$release")

# What we sign, cosign verifies: the index by its tags, the image, the bill.
for ref in "$repo:$release" "$repo:stable" "$repo@$image" "$repo@$index"; do
	ok "cosign verifies $ref" $verify --key "$run/ours.pub" "$ref"
	refused "cosign takes a stranger's key for $ref" $verify --key "$run/stranger.pub" "$ref"
	ok "cosign 3 verifies $ref" $verify3 --key "$run/ours.pub" "$ref"
	refused "cosign 3 takes a stranger's key for $ref" $verify3 --key "$run/stranger.pub" "$ref"
done
bill=$("$GOBIN/crane" manifest --insecure "$repo:$(list "$image")" | tr '{' '\n' | grep spdx | grep -o 'sha256:[0-9a-f]*' | head -n 1)
ok "cosign 3 verifies the bill of materials" $verify3 --key "$run/ours.pub" "$repo@$bill"

# Kyverno checks both forms, for a pod and for a Rollout, and the image by its digest in policies of its newer kind.
keyed() { sed "s/^/$1/" "$run/$2.pub"; } # a key in a policy
resource() { printf 'apiVersion: %s\nkind: %s\nmetadata: {name: x}\nspec: %s\n' "$1" "$2" "$3" >"$run/$2.yaml"; }
resource v1 Pod "{containers: [{name: c, image: '$repo:$release'}]}"
resource pikelet.dev/v1alpha1 Rollout "{image: '$repo:$release'}"
policy() { # a form of signatures, a kind of objects and a key
	cat >"$run/policy.yaml" <<END
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: signed}
spec:
  background: false
  rules:
    - name: signed
      match: {any: [{resources: {kinds: [$2]}}]}
$([ "${2##*/}" != Rollout ] || echo "      imageExtractors: {Rollout: [{path: /spec/image}]}")
      verifyImages:
        - imageReferences: ["$repo*"]
          failureAction: Enforce
          type: $1
          mutateDigest: false
          verifyDigest: false
          attestors:
            - entries:
                - keys:
                    publicKeys: |
$(keyed '                      ' "$3")
                    rekor: {ignoreTlog: true}
                    ctlog: {ignoreSCT: true}
END
}
admits() { "$kyverno" apply "$run/policy.yaml" --registry --resource "$run/$1.yaml" | tee "$run/admitted" && grep -q 'pass: [1-9].*fail: 0.*error: 0' "$run/admitted"; }
denies() { ! "$kyverno" apply "$run/policy.yaml" --registry --resource "$run/$1.yaml" >"$run/admitted" && grep -q 'pass: 0, fail: [1-9].*error: 0' "$run/admitted"; }
for form in Cosign SigstoreBundle; do
	for kind in Pod pikelet.dev/v1alpha1/Rollout; do
		policy "$form" "$kind" ours
		ok "Kyverno admits a ${kind##*/} by $form" admits "${kind##*/}"
		policy "$form" "$kind" stranger
		ok "Kyverno denies a ${kind##*/} by a stranger's $form" denies "${kind##*/}"
	done
done
validating() {
	cat >"$run/policy.yaml" <<END
apiVersion: policies.kyverno.io/v1
kind: ImageValidatingPolicy
metadata: {name: signed}
spec:
  validationActions: [Deny]
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods]}]}
  matchImageReferences: [{glob: "$repo*"}]
  validationConfigurations: {mutateDigest: false, verifyDigest: false}
  attestors:
    - name: ours
      cosign:
        key:
          data: |
$(keyed '            ' "$1")
        ctlog: {insecureIgnoreTlog: true, insecureIgnoreSCT: true}
  validations:
    - expression: images.containers.map(image, verifyImageSignatures(image, [attestors.ours])).all(n, n > 0)
      message: not signed
END
}
resource v1 Pod "{containers: [{name: c, image: '$repo@$image'}]}"
validating ours
ok "Kyverno's newer policy admits a Pod" admits Pod
validating stranger
ok "Kyverno's newer policy denies a Pod of a stranger's" denies Pod

# The provenance: cosign takes it for what SLSA defines, by our key alone, and so do we.
attested="--type slsaprovenance1 --insecure-ignore-tlog=true --allow-insecure-registry"
ok "cosign 3 verifies the provenance" "$cosign3" verify-attestation $attested --key "$run/ours.pub" "$repo@$image"
refused "cosign 3 takes a stranger's provenance" "$cosign3" verify-attestation $attested --key "$run/stranger.pub" "$repo@$image"

ok "cosign verifies the provenance" "$cosign" verify-attestation --new-bundle-format --trusted-root "$run/roots.json" $attested --key "$run/ours.pub" "$repo@$image"
ok "cosign 3 lists the provenance" sh -c "'$cosign3' tree --allow-insecure-registry $repo@$image | grep -q https://slsa.dev/provenance/v1"
ok "we verify the provenance" "$pikelet" provenance --plain-http --key "$run/ours.pub" --spec "$run/image.yaml" "$repo:$release"
refused "another spec made it" "$pikelet" provenance --plain-http --key "$run/ours.pub" --spec "$spec" "$repo:$release"

# The bill of materials: it fits SPDX's schema, and syft reads packages, versions, licences and package URLs.
"$pikelet" -q sbom --plain-http --key "$run/ours.pub" "$repo:$release" >"$run/bill.spdx.json"
ok "SPDX's schema takes the bill of materials" go test -tags clients -count=1 -run TestSchema ./builder/sbom -spdx-schema "$schema" -document "$run/bill.spdx.json"
syft() { SYFT_CHECK_FOR_APP_UPDATE=false "$GOBIN/syft" -q convert "$@"; }
syft "$run/bill.spdx.json" -o cyclonedx-json >"$run/bill.cdx.json"
listed=$(grep -c '"SPDXID": "SPDXRef-[a-z]' "$run/bill.spdx.json") # the parts, the image, and not the document
ok "syft reads every part" test "$(grep -o '"type":"library"' "$run/bill.cdx.json" | wc -l)" -eq "$listed"
ok "syft reads a package" grep -q '"name":"busybox","version":"1' "$run/bill.cdx.json"
syft builder/testdata/documents.spdx.json -o cyclonedx-json >"$run/documents.cdx.json"
ok "syft reads the package URL" grep -q '"purl":"pkg:apk/alpine/busybox@1.37.0-r12?arch=aarch64&distro=alpine-3.23"' "$run/documents.cdx.json"
ok "syft reads the licence" grep -q '"license":{"id":"GPL-2.0-only"}' "$run/documents.cdx.json"
ok "syft reads the distribution" grep -q '"type":"operating-system","name":"alpine","version":"3.23"' "$run/documents.cdx.json"
ok "cosign 3 lists the bundle" sh -c "'$cosign3' tree --allow-insecure-registry $repo@$image | grep -q https://sigstore.dev/cosign/sign/v1"
ok "crane reads the artifact type" sh -c "'$GOBIN/crane' manifest --insecure $repo@$image | grep -q application/vnd.pikelet.image.v1"
ok "regctl lists the tags" sh -c "'$GOBIN/regctl' --host reg=127.0.0.1:5999,tls=disabled tag ls $repo | grep -qx stable"
ok "regctl finds the bill of materials" sh -c "'$GOBIN/regctl' --host reg=127.0.0.1:5999,tls=disabled artifact list $repo@$image | grep -q spdx"
ok "regctl gets a file" sh -c "'$GOBIN/regctl' --host reg=127.0.0.1:5999,tls=disabled artifact get --file config.txt $repo@$image | cmp - $run/out/config.txt"

# skopeo keeps our digests.
skopeo copy -q --all --src-tls-verify=false "docker://$repo:$release" "oci:$run/skopeo:$release"
ok "skopeo keeps the index's digest" grep -q "$index" "$run/skopeo/index.json"
refused "an image without its signatures is taken" "$pikelet" verify --key "$run/ours.pub" "$run/skopeo"
for digest in "$image" "$index"; do
	tag=$(echo "$digest" | tr : -).sig
	skopeo copy -q --src-tls-verify=false "docker://$repo:$tag" "oci:$run/skopeo:$tag"
done
ok "what skopeo carried is whole" "$pikelet" verify --key "$run/ours.pub" "$run/skopeo"

# Either form is enough, for cosign 3 as for us.
for digest in "$image" "$index"; do forget "$(list "$digest").sig"; done
ok "cosign 3 verifies bundles alone" $verify3 --key "$run/ours.pub" "$repo:$release"
ok "we verify bundles alone" "$pikelet" verify --plain-http --key "$run/ours.pub" "$repo:$release"
refused "bundles of ours are a stranger's" "$pikelet" verify --plain-http --key "$run/stranger.pub" "$repo:$release"

# What cosign 3 signs, we verify, and it boots by that alone: ours are taken away.
for digest in "$image" "$index"; do forget "$(list "$digest")"; done
refused "an image without signatures is taken" "$pikelet" verify --plain-http --key "$run/ours.pub" "$repo:$release"
"$cosign3" signing-config create --out "$run/nolog.json"
ok "cosign 3 signs" "$cosign3" sign --key "$run/cosign.key" --signing-config "$run/nolog.json" --allow-insecure-registry --recursive -y "$repo:$release"
refused "our key still counts" "$pikelet" verify --plain-http --key "$run/ours.pub" "$repo:$release"
ok "we verify what cosign 3 signed" "$pikelet" verify --plain-http --key "$run/cosign.pub" "$repo:$release"
ok "it becomes an archive" "$pikelet" pull --plain-http --key "$run/cosign.pub" -o "$run/cosign3.tar" "$repo:$release"
ok "which is whole" "$pikelet" verify --key "$run/cosign.pub" "$run/cosign3.tar"
ok "it becomes a card" "$pikelet" pull --plain-http --key "$run/cosign.pub" -o "$run/cosign3.img" "$repo:$release"
ok "which is whole too" "$pikelet" verify --key "$run/cosign.pub" "$run/cosign3.img"
ok "it boots by a bundle" sh -c "timeout 240 '$pikelet' vm run --snapshot $run/cosign3.img </dev/null 2>&1 | grep -m 1 'root verified: dm-verity'"

# What cosign 2 signs, we verify, and it boots by that alone.
for digest in "$image" "$index"; do forget "$(list "$digest")"; done
refused "an image without signatures is taken" "$pikelet" verify --plain-http --key "$run/ours.pub" "$repo:$release"
ok "cosign signs" "$cosign" sign --key "$run/cosign.key" --tlog-upload=false --allow-insecure-registry --recursive -y "$repo:$release"
refused "our key still counts" "$pikelet" verify --plain-http --key "$run/ours.pub" "$repo:$release"
ok "we verify what cosign signed" "$pikelet" verify --plain-http --key "$run/cosign.pub" "$repo:$release"
ok "it becomes a card" "$pikelet" pull --plain-http --key "$run/cosign.pub" -o "$run/cosign.img" "$repo:$release"
ok "it boots" sh -c "timeout 240 '$pikelet' vm run --snapshot $run/cosign.img </dev/null 2>&1 | grep -m 1 'root verified: dm-verity'"

# cosign signs with our key, and its downgrade statement is ours.
ok "cosign signs with our key" "$cosign" sign --key "$run/ours.key" --tlog-upload=false --allow-insecure-registry --recursive -y "$repo:$release"
ok "we verify that too" "$pikelet" verify --plain-http --key "$run/ours.pub" "$repo:$release"
ok "sign beside cosign's" "$pikelet" sign --plain-http --sign-key "$run/stranger.key" "$repo:$release"
for key in ours cosign stranger; do
	ok "we verify $key beside the others" "$pikelet" verify --plain-http --key "$run/$key.pub" "$repo:$release"
done
# Where there is a bundle, cosign from 2.6 on looks at bundles alone.
ok "cosign verifies the one that signed in both forms" $verify --key "$run/stranger.pub" "$repo@$image"
ok "cosign 3 verifies the one that signed in both forms" $verify3 --key "$run/stranger.pub" "$repo@$image"
echo "clients: $passed passed, 0 failed"
