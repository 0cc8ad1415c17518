// Package bootapi is what a node without a card and its boot server say to each
// other: the class the node's DHCP carries, where the server answers, and what
// is asked for there. What boots a Pi before that, DHCP and TFTP in the
// firmware's dialect, is none of it.
package bootapi

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// Class is what option 60 of a node's DHCP says: /init asks, not a firmware,
// and its server answers with the same.
const Class = "pikelet"

// Port is where the boot plane answers when nothing says otherwise, TCP.
const Port = 8069

// subPort is the suboption of option 43 that holds the port, two bytes, high
// one first; RFC 2132 8.4 leaves numbers to whoever owns the class.
const subPort = 1

// EncodePort returns option 43 for nodes.
func EncodePort(port uint16) []byte { return []byte{subPort, 2, byte(port >> 8), byte(port)} }

// DecodePort reads option 43; ok is false where it says no port.
func DecodePort(b []byte) (port uint16, ok bool) {
	for len(b) >= 2 {
		code, n := b[0], int(b[1])
		if code == 255 || len(b) < 2+n {
			return 0, false
		}
		if v := b[2 : 2+n]; code == subPort && n == 2 {
			return uint16(v[0])<<8 | uint16(v[1]), true
		}
		b = b[2+n:]
	}
	return 0, false
}

// Machine is what a node says of itself.
type Machine struct {
	Serial string // hexadecimal digits in lower case
	MAC    string // lower case, with colons
	Build  string // the build its initramfs is of
}

var (
	serialForm = regexp.MustCompile(`^[0-9a-f]{1,16}$`)
	macForm    = regexp.MustCompile(`^([0-9a-f]{2}:){5}[0-9a-f]{2}$`)
	buildForm  = regexp.MustCompile(`^[0-9a-zA-Z._-]{1,128}$`)
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Kind is what a node asks for.
type Kind string

// What there is to ask for.
const (
	Manifest  Kind = "manifest"  // the manifest of the node's build
	Signature Kind = "signature" // and its signature
	Blob      Kind = "blob"      // a file of it, by digest, in parts too
	Config    Kind = "config"    // the node config, once on each boot
	Progress  Kind = "progress"  // how far the node is, posted
	Current   Kind = "current"   // which image the node is to run
)

// Request is one question of a node.
type Request struct {
	Kind Kind
	Machine
	Digest string // of a blob: sha256:hex
}

const prefix = "/v1/"

// Encode returns what a request's line says: a path, and a query.
func (r Request) Encode() string {
	path := prefix + string(r.Kind)
	if r.Kind == Blob {
		path += "/" + r.Digest
	}
	v := url.Values{}
	v.Set("serial", r.Serial)
	v.Set("mac", r.MAC)
	v.Set("build", r.Build)
	return path + "?" + v.Encode()
}

// DecodeRequest reads it. Its error says what is wrong with which part.
func DecodeRequest(path, query string) (Request, error) {
	var r Request
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return r, fmt.Errorf("%q is no path of the boot plane", path)
	}
	kind, digest, more := strings.Cut(rest, "/")
	r.Kind = Kind(kind)
	switch r.Kind {
	case Blob:
		if !digestForm.MatchString(digest) {
			return r, fmt.Errorf("%q is no digest", digest)
		}
		r.Digest = digest
	case Manifest, Signature, Config, Progress, Current:
		if more {
			return r, fmt.Errorf("%q is no path of the boot plane", path)
		}
	default:
		return r, fmt.Errorf("%q is no path of the boot plane", path)
	}
	v, err := url.ParseQuery(query)
	if err != nil {
		return r, err
	}
	r.Machine = Machine{Serial: v.Get("serial"), MAC: v.Get("mac"), Build: v.Get("build")}
	switch {
	case !serialForm.MatchString(r.Serial):
		return r, fmt.Errorf("serial %q: want hexadecimal digits", r.Serial)
	case !macForm.MatchString(r.MAC):
		return r, fmt.Errorf("mac %q: want an address such as dc:a6:32:01:02:03", r.MAC)
	case !buildForm.MatchString(r.Build):
		return r, fmt.Errorf("build %q: want the id of a build", r.Build)
	}
	return r, nil
}

// Stage is how far a node is.
type Stage string

// The stages, in their order. The server sees those before itself.
const (
	Verified  Stage = "verified"  // the chain holds
	Fetching  Stage = "fetching"  // the root comes
	Started   Stage = "started"   // the root is verified, and its init begins
	Healthy   Stage = "healthy"   // all checks held for the soak
	Unhealthy Stage = "unhealthy" // they did not, until the deadline
	Failed    Stage = "failed"    // /init did not get to the root
)

// Report is what a node posts as its progress.
type Report struct {
	Stage   Stage  `json:"stage"`
	Release string `json:"release,omitempty"`
	Error   string `json:"error,omitempty"`
	// APIServer is the version of the API server that the node asks as an agent of
	// its cluster; "" for other nodes, and where it is not known.
	APIServer string `json:"apiServer,omitempty"`
}

// MaxReport bounds a report, in bytes.
const MaxReport = 4 << 10

// Encode returns the bytes of a report.
func (r Report) Encode() []byte {
	if len(r.Error) > MaxReport/2 {
		r.Error = r.Error[:MaxReport/2]
	}
	b, _ := json.Marshal(r) // of strings only
	return b
}

// DecodeReport reads a report.
func DecodeReport(b []byte) (Report, error) {
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("reading a report: %w", err)
	}
	if r.APIServer != "" {
		if _, err := skew.Parse(r.APIServer); err != nil {
			return r, fmt.Errorf("reading a report: API server: %w", err)
		}
	}
	switch r.Stage {
	case Verified, Fetching, Started, Healthy, Unhealthy, Failed:
		return r, nil
	}
	return r, fmt.Errorf("reading a report: there is no stage %s", strconv.Quote(string(r.Stage)))
}

// Wanted is which image a node is to run.
type Wanted struct {
	Build   string `json:"build"`
	Release string `json:"release"`
	// Good says that this node was healthy with the build it asks as. One that
	// was never restarts because of its checks.
	Good bool `json:"good"`
	// Kubernetes is the version that the image brings; "" where it is not known.
	Kubernetes string `json:"kubernetes,omitempty"`
}

// Encode returns the bytes of an answer.
func (w Wanted) Encode() []byte {
	b, _ := json.Marshal(w) // of strings and a bool
	return append(b, '\n')
}

// DecodeWanted reads an answer.
func DecodeWanted(b []byte) (Wanted, error) {
	var w Wanted
	if err := json.Unmarshal(b, &w); err != nil {
		return w, fmt.Errorf("reading what the boot server wants: %w", err)
	}
	if !buildForm.MatchString(w.Build) {
		return w, fmt.Errorf("reading what the boot server wants: %q is no id of a build", w.Build)
	}
	return w, nil
}
