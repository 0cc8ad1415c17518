// Package provenance says what an image was built from, as a predicate of SLSA
// (https://slsa.dev/spec/v1.1/provenance, JSON). The same build has the same bytes:
// there is no time and no name of a run in it. docs/provenance.md describes it.
package provenance

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// BuildType names the page that says what the parameters of a build mean.
const BuildType = "https://github.com/pikelet-os/pikelet/blob/main/docs/provenance.md#image-v1"

// BuilderID names what built: pikelet, wherever it ran. Whoever ran it is known by
// the key that signs.
const BuilderID = "https://github.com/pikelet-os/pikelet"

// Build is what an image was built from, and by what.
type Build struct {
	Spec     Input             // the image spec
	Stream   string            // of the image
	Release  string            // of the image
	Internal map[string]string // what pikelet chose by itself, by name
	Inputs   []Input           // everything else that was read
	Version  string            // of pikelet
}

// Input is something that was read. At least one of name, digest and URI is there.
type Input struct {
	Name     string            `json:"name,omitempty"`
	URI      string            `json:"uri,omitempty"`    // a package URL, where there is one
	Digest   map[string]string `json:"digest,omitempty"` // by algorithm, as in-toto names it
	Download string            `json:"downloadLocation,omitempty"`
	Notes    map[string]string `json:"annotations,omitempty"`
}

// Algorithms of digests that are not those of a file. in-toto leaves other names
// than its own to whoever uses them
// (https://github.com/in-toto/attestation/blob/main/spec/v1/digest_set.md).
const (
	// ControlSHA1 and ControlSHA256 are the digest that an index knows a package by
	// (docs/platform.md 5.9).
	ControlSHA1   = "apkControlSha1"
	ControlSHA256 = "apkControlSha256"
	// Tree is the digest of names, modes and contents that a lock has for a
	// directory or an overlay.
	Tree = "pikeletTreeSha256"
)

// SHA256 returns a digest set of "sha256:" and hexadecimal digits.
func SHA256(digest string) map[string]string {
	return map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}
}

// Identity adds the identity of a package, Q1 or Q2 and base64, to a digest set.
func Identity(set map[string]string, identity string) error {
	algorithm := map[string]string{"Q1": ControlSHA1, "Q2": ControlSHA256}[identity[:min(2, len(identity))]]
	if algorithm == "" {
		return fmt.Errorf("unsupported identity %q of a package", identity)
	}
	sum, err := base64.StdEncoding.DecodeString(identity[2:])
	if err != nil {
		return fmt.Errorf("reading the identity %q of a package: %w", identity, err)
	}
	set[algorithm] = hex.EncodeToString(sum)
	return nil
}

// Predicate is the predicate's form.
type Predicate struct {
	Definition Definition `json:"buildDefinition"`
	Run        Run        `json:"runDetails"`
}

// Definition says what was to be built.
type Definition struct {
	Type     string            `json:"buildType"`
	External External          `json:"externalParameters"`
	Internal map[string]string `json:"internalParameters"`
	Inputs   []Input           `json:"resolvedDependencies"`
}

// External are the parameters that whoever builds has a say in.
type External struct {
	Spec    Input  `json:"spec"`
	Stream  string `json:"stream"`
	Release string `json:"release"`
}

// Run says what built.
type Run struct {
	Builder Builder `json:"builder"`
}

// Builder is pikelet in one version.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version"`
}

// Encode returns the predicate's bytes.
func Encode(b Build) ([]byte, error) {
	return json.Marshal(Predicate{
		Definition: Definition{
			Type: BuildType, External: External{b.Spec, b.Stream, b.Release}, Internal: b.Internal, Inputs: b.Inputs,
		},
		Run: Run{Builder{BuilderID, map[string]string{"pikelet": b.Version}}},
	})
}

// Decode reads a predicate. The error is for one of another build type: what its
// parameters mean is not known here.
func Decode(b []byte) (*Predicate, error) {
	var p Predicate
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("reading the provenance: %w", err)
	}
	if p.Definition.Type != BuildType {
		return nil, fmt.Errorf("reading the provenance: unsupported build type %q; want %q", p.Definition.Type, BuildType)
	}
	return &p, nil
}

// Lock returns the input that is the lock; nil for a build without one.
func (p *Predicate) Lock() *Input {
	for i, in := range p.Definition.Inputs {
		if in.Notes[Kind] == KindLock {
			return &p.Definition.Inputs[i]
		}
	}
	return nil
}

// Kind is the annotation that says what an input is.
const Kind = "dev.pikelet.input"

// KindLock is the kind of the lock.
const KindLock = "lock"
