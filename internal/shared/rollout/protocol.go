// Package rollout brings one release to the nodes of a cluster: what a controller
// and a node say to each other, what a node does next, and what a controller does
// next, as functions of values. Nothing here talks to an API server or reads a
// clock; whoever calls it passes in what it sees, and carries out what it returns.
package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Annotations of a Node. The first two are the controller's; a kubelet could write
// them too, but on its own Node alone, where it harms only itself. The others are
// the node's.
const (
	// RequestKey holds a Request.
	RequestKey = "pikelet.dev/upgrade-request"
	// CordonKey holds the UID of the rollout that made the node unschedulable. A
	// node that was unschedulable before has none, and stays so.
	CordonKey = "pikelet.dev/cordoned-by"
	// AnswerKey holds an Answer.
	AnswerKey = "pikelet.dev/upgrade"
	// ImageKey holds the Image that the node runs.
	ImageKey = "pikelet.dev/image"
)

// Condition is the type of the condition that a node sets in its status: True while
// it runs the release that it was asked for last, or was asked for nothing.
const Condition = "PikeletUpgraded"

// maxText bounds an annotation of these, bytes. All annotations of an object
// together may have 256 KiB
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/).
const maxText = 4 << 10

// maxReason bounds a reason, bytes.
const maxReason = 1 << 10

// Request is what a controller asks a node for.
type Request struct {
	// ID tells one request from another: the rollout's UID and a number.
	ID string `json:"id"`
	// Image is a reference with a digest, such as
	// registry.example/pi/lab@sha256:...
	Image string `json:"image"`
	// Digest is that of the image's manifest.
	Digest string `json:"digest"`
	// Apply asks the node to restart into the image. Before that it only writes
	// the image to its other slot.
	Apply bool `json:"apply,omitempty"`
	// Again takes a release that failed on the node before.
	Again bool `json:"again,omitempty"`
}

// Phase is how far a node is with a request.
type Phase string

// The phases. The last three are final: only another request changes them.
const (
	Bringing  Phase = "bringing"  // writes the image to its other slot
	Brought   Phase = "brought"   // has written it
	Applying  Phase = "applying"  // is about to restart into the image
	OnTrial   Phase = "on trial"  // runs it, and watches its checks
	Committed Phase = "committed" // runs it, and keeps it
	Left      Phase = "left"      // tried it, and went back
	Refused   Phase = "refused"   // does not take it
)

// Final reports whether nothing follows the phase.
func (p Phase) Final() bool { return p == Committed || p == Left || p == Refused }

// Answer is what a node says of a request.
type Answer struct {
	ID    string `json:"id"` // of the request
	Phase Phase  `json:"phase"`
	// Reason says why the phase is not a better one; "" for nothing.
	Reason string `json:"reason,omitempty"`
}

// Image is what a node runs.
type Image struct {
	Stream     string `json:"stream"`
	Release    string `json:"release"`
	Digest     string `json:"digest"`
	Kubernetes string `json:"kubernetes,omitempty"`
	Trial      bool   `json:"trial,omitempty"` // it may still be left
}

// ErrText is returned for an annotation that cannot be read.
var ErrText = errors.New("invalid annotation")

// Encode returns the text of an annotation. A reason is cut to 1 KiB.
func (r Request) Encode() string { return encode(r) }

// Encode returns the text of an annotation. A reason is cut to 1 KiB.
func (a Answer) Encode() string {
	if len(a.Reason) > maxReason {
		a.Reason = strings.ToValidUTF8(a.Reason[:maxReason], "")
	}
	return encode(a)
}

// Encode returns the text of an annotation.
func (i Image) Encode() string { return encode(i) }

func encode(v any) string {
	b, err := json.Marshal(v) // of strings and bools
	if err != nil {
		panic(err)
	}
	return string(b)
}

// DecodeRequest reads an annotation; nil for "". The error is ErrText, also where the
// image is no reference of a registry with its digest: a request reaches no file of
// the node.
func DecodeRequest(text string) (*Request, error) {
	r, err := decode[Request](text)
	switch {
	case r == nil:
		return nil, err
	case r.ID == "" || r.Digest == "":
		return nil, fmt.Errorf("%w: a request lacks its id or digest", ErrText)
	case !strings.HasSuffix(r.Image, "@"+r.Digest) || strings.HasPrefix(r.Image, "/") || strings.HasPrefix(r.Image, "."):
		return nil, fmt.Errorf("%w: a request for %.100q, want a reference of a registry with its digest", ErrText, r.Image)
	}
	return r, nil
}

// DecodeAnswer reads an annotation; nil for "". The error is ErrText.
func DecodeAnswer(text string) (*Answer, error) { return decode[Answer](text) }

// DecodeImage reads an annotation; nil for "". The error is ErrText.
func DecodeImage(text string) (*Image, error) { return decode[Image](text) }

func decode[T any](text string) (*T, error) {
	switch {
	case text == "":
		return nil, nil
	case len(text) > maxText || !utf8.ValidString(text):
		return nil, fmt.Errorf("%w: %d bytes, at most %d of UTF-8 are read", ErrText, len(text), maxText)
	}
	v := new(T)
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrText, err)
	}
	return v, nil
}
