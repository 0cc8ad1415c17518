// Package skew holds Kubernetes' rule on versions that differ within a cluster
// (https://kubernetes.io/releases/version-skew-policy/), as a function of values:
// kubelets are never newer than their API server and at most three minor versions
// older, API servers are within one minor version of each other, and nothing goes
// more than one minor version at a time. Whoever calls it finds out the versions.
package skew

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is a version of Kubernetes. The zero value is none.
type Version struct {
	Major, Minor, Patch int
	text                string
}

// form takes what API servers and kubelets say (v1.34.4+k3s1), what Go modules
// are called (v1.34.4-k3s1), and versions of Alpine's package (1.34.4.1-r0).
var form = regexp.MustCompile(`^v?([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?(?:[.+-][0-9A-Za-z.+-]*)?$`)

// maxText bounds a version, in bytes.
const maxText = 64

// Parse reads a version; ErrVersion is returned for anything else.
func Parse(s string) (Version, error) {
	m := form.FindStringSubmatch(s)
	if m == nil || len(s) > maxText {
		return Version{}, fmt.Errorf("%w: %.80q", ErrVersion, s)
	}
	v := Version{text: "v" + strings.TrimPrefix(s, "v")}
	for i, to := range []*int{&v.Major, &v.Minor, &v.Patch} {
		*to, _ = strconv.Atoi(cmp.Or(m[i+1], "0")) // at most four digits
	}
	return v, nil
}

// String returns the version as v1.34.4+k3s1.
func (v Version) String() string { return v.text }

// IsZero reports whether this is no version.
func (v Version) IsZero() bool { return v.text == "" }

// Compare compares two versions without what follows the patch version: a
// revision of k3s is no other Kubernetes. It is negative where v is older.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Patch, o.Patch))
}

// minors returns how many minor versions v is newer than another. A major version
// is further than any minor one.
func (v Version) minors(o Version) int { return 1000*(v.Major-o.Major) + v.Minor - o.Minor }

// Limits of the policy, in minor versions.
const (
	olderKubelet = 3
	apartServers = 1
	step         = 1
)

// Why a version is refused.
var (
	ErrVersion       = errors.New("invalid version of Kubernetes")
	ErrKubeletNewer  = errors.New("a kubelet must not be newer than the API server")
	ErrKubeletOlder  = errors.New("a kubelet must be at most three minor versions older than the API server")
	ErrServersApart  = errors.New("API servers must be within one minor version of each other")
	ErrStep          = errors.New("Kubernetes moves one minor version at a time")
	ErrUnknownServer = errors.New("the version of the API server is not known")
)

// Member is another node of a cluster.
type Member struct {
	Name    string
	Server  bool    // of the control plane
	Kubelet Version // of a server, k3s' API server is of the same version
}

// Cluster is what a node knows of the versions around it.
type Cluster struct {
	// Server is set for a node of the control plane.
	Server bool
	// Kubelet is the version that the node runs; the zero value where it is not
	// known.
	Kubelet Version
	// API is the version of the API server that the node asks.
	API Version
	// Others are the other nodes. Agents may not list them and leave it empty:
	// what concerns them is decided by API.
	Others []Member
}

// Check returns why a node may not go to a version, with both versions and the
// node in the way named; nil where it may. The errors are those above.
func Check(to Version, c Cluster) error {
	if !c.Kubelet.IsZero() {
		if d := to.minors(c.Kubelet); d > step || d < -step {
			return fmt.Errorf("%w: from %s to %s is more", ErrStep, c.Kubelet, to)
		}
	}
	if !c.Server {
		if c.API.IsZero() {
			return ErrUnknownServer
		}
		return checkKubelet(to, c.API)
	}
	for _, o := range c.Others {
		switch apart := to.minors(o.Kubelet); {
		case o.Kubelet.IsZero():
		case o.Server && (apart > apartServers || apart < -apartServers):
			return fmt.Errorf("%w: this one would be %s, and %s runs %s", ErrServersApart, to, o.Name, o.Kubelet)
		case o.Server: // its own kubelet asks its own API server
		default:
			if err := checkKubelet(o.Kubelet, to); err != nil {
				return fmt.Errorf("%s: %w", o.Name, err)
			}
		}
	}
	return nil
}

// checkKubelet checks a kubelet's version beside an API server's.
func checkKubelet(kubelet, api Version) error {
	switch {
	case kubelet.Compare(api) > 0:
		return fmt.Errorf("%w: the kubelet would be %s, the API server %s", ErrKubeletNewer, kubelet, api)
	case api.minors(kubelet) > olderKubelet:
		return fmt.Errorf("%w: the kubelet would be %s, the API server %s", ErrKubeletOlder, kubelet, api)
	}
	return nil
}
