package bootserver

import (
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// Health records how releases fared on one machine. Images are named by the digest
// of their OCI manifest.
type Health struct {
	Good   string   `yaml:"good,omitempty"`   // the last healthy image
	Bad    []string `yaml:"bad,omitempty"`    // unhealthy images, which are not served to the machine again
	Trying string   `yaml:"trying,omitempty"` // an image that has started, and has not reported its health yet
	Starts int      `yaml:"starts,omitempty"` // of Trying
	// APIServer is the version of the API server that the machine asks as an agent
	// of its cluster, as it reported last.
	APIServer string `yaml:"apiServer,omitempty"`
}

// maxStarts is how often an image is started that never reports its health: the
// power may have been cut.
const maxStarts = 3

// maxBad bounds the number of unhealthy images that are recorded.
const maxBad = 20

// started returns the health after the machine's firmware had an image.
func (h Health) started(digest string) Health {
	switch {
	case h.Good == digest:
		if h.Starts >= maxStarts {
			return h.unhealthy(h.Trying)
		}
		h.Trying, h.Starts = "", 0
	case h.Trying == digest:
		h.Starts = min(h.Starts+1, maxStarts)
	default:
		h.Trying, h.Starts = digest, 1
	}
	return h
}

// healthy returns the health after an image reported that it is healthy.
func (h Health) healthy(digest string) Health {
	h.Good, h.Trying, h.Starts = digest, "", 0
	h.Bad = slices.DeleteFunc(slices.Clone(h.Bad), func(d string) bool { return d == digest })
	return h
}

// unhealthy returns the health after an image reported that it is unhealthy.
func (h Health) unhealthy(digest string) Health {
	if h.Good == digest {
		return h // it was healthy before, so the image is not the cause
	}
	if !slices.Contains(h.Bad, digest) {
		h.Bad = append(slices.Clone(h.Bad), digest)
		h.Bad = h.Bad[max(0, len(h.Bad)-maxBad):]
	}
	h.Trying, h.Starts = "", 0
	return h
}

// refuses reports whether an image is not to be served to the machine again.
func (h Health) refuses(digest string) bool {
	return h.Good != digest && (slices.Contains(h.Bad, digest) || h.Trying == digest && h.Starts >= maxStarts)
}

// Images are the images that a server can serve: the current image of each
// reference, and images that some machine runs or was last healthy with.
type Images struct {
	mu      sync.Mutex
	current map[string]*image.Image
	all     []*image.Image // current ones included
}

// Set makes an image the current one of a reference.
func (l *Images) Set(reference string, i *image.Image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		l.current = map[string]*image.Image{}
	}
	l.current[reference] = i
	l.add(i)
}

// Add adds an image that no reference names.
func (l *Images) Add(i *image.Image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(i)
}

func (l *Images) add(i *image.Image) {
	if !slices.ContainsFunc(l.all, func(o *image.Image) bool { return o.Digest == i.Digest }) {
		l.all = append(l.all, i)
	}
}

// Current returns the current image of a reference; nil where it is not loaded.
func (l *Images) Current(reference string) *image.Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current[reference]
}

// Served returns the current images by their references.
func (l *Images) Served() map[string]*image.Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.current)
}

// find returns the image with a digest; nil where it is not loaded.
func (l *Images) find(digest string) *image.Image {
	return l.where(func(i *image.Image) bool { return i.Digest == digest })
}

// built returns the image of a build.
func (l *Images) built(id string) *image.Image {
	return l.where(func(i *image.Image) bool { return i.BuildID == id })
}

func (l *Images) where(is func(*image.Image) bool) *image.Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := slices.IndexFunc(l.all, is); at >= 0 {
		return l.all[at]
	}
	return nil
}

// skews returns why an image's kubelet would not go with the API server of the
// machine; nil where it would, and where one of the two is not known.
func (h Health) skews(i *image.Image) error {
	to, err := skew.Parse(i.Kubernetes)
	if err != nil {
		return nil
	}
	api, err := skew.Parse(h.APIServer)
	if err != nil {
		return nil
	}
	return skew.Check(to, skew.Cluster{API: api})
}

// imageFor returns the image for a machine: the current one of its reference, or
// the last healthy one where the current one was unhealthy there, or where it
// brings a kubelet that does not go with the machine's API server: held says so.
// It returns nil where the reference could not be loaded.
func (s *Server) imageFor(m Machine) (img *image.Image, held string) {
	reference := s.Roster.Reference(m)
	if reference == "" {
		reference = s.Reference
	}
	current := s.Images.Current(reference)
	h := s.health(m)
	if current != nil {
		if err := h.skews(current); err != nil && h.Good != current.Digest {
			held = Printable("release "+current.Release+" is held back: "+err.Error(), maxError)
		}
		if held == "" && !h.refuses(current.Digest) {
			return current, ""
		}
	}
	if good := s.Images.find(h.Good); good != nil {
		return good, held
	}
	// No other image: this one may be healthy next time, and what is known of the
	// API server may be old. A machine that does not start could not correct it.
	return current, ""
}

// holds records why a machine is not served the current release, and logs it where
// that is new. The caller holds the lock.
func (s *Server) holds(n *Node, held string) {
	if n == nil || n.Held == held {
		return
	}
	if n.Held = held; held != "" {
		s.log(slog.LevelWarn, "health", "a release is held back until the servers of the cluster are upgraded", "serial", n.Serial, "mac", n.MAC,
			"err", held)
	}
}

// maxRecords bounds the health records of machines whose hardware address is not
// pinned: any machine can claim a listed serial.
const maxRecords = 16 << 10

// health returns the health of a machine.
func (s *Server) health(m Machine) Health {
	h, ok := s.Health.Find(m.record())
	if !ok {
		h, _ = s.Health.Find(m.Serial) // records of earlier versions have no hardware address in their names
	}
	return h
}

// note applies change to the health of a machine, and records it if it changed.
func (s *Server) note(m Machine, change func(Health) Health) {
	if _, ok := s.Health.Find(m.record()); !ok && s.standing(m) < pinned && s.Health.Len() >= maxRecords {
		s.log(slog.LevelWarn, "health", "health is not recorded, there are too many records",
			"hint", "remove the records of machines that are gone", "serial", m.Serial, "mac", m.MAC, "dir", s.Health.Dir, "records", s.Health.Len())
		return
	}
	before, _ := s.Health.Find(m.Serial)
	err := s.Health.Update(m.record(), func(was Health, ok bool) (Health, bool) {
		if !ok {
			was = before
		}
		is := change(was)
		return is, was.Good != is.Good || was.Trying != is.Trying || was.Starts != is.Starts || was.APIServer != is.APIServer ||
			!slices.Equal(was.Bad, is.Bad)
	})
	if err != nil {
		s.log(slog.LevelError, "health", "recording health failed", "serial", m.Serial, "err", err)
	}
}
