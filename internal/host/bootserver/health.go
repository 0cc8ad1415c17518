package bootserver

import (
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Health is what became of releases on one machine. Images go by the digest of
// their OCI manifest.
type Health struct {
	Good   string   `yaml:"good,omitempty"`   // the last one that was healthy
	Bad    []string `yaml:"bad,omitempty"`    // those that were not, and are not served to it again
	Trying string   `yaml:"trying,omitempty"` // one that has started, and said nothing of its health yet
	Starts int      `yaml:"starts,omitempty"` // how often
}

// maxStarts is how often an image is started that never says that it is
// healthy, nor that it is not: its power may have been cut.
const maxStarts = 3

// maxBad bounds what is remembered of images that were not healthy.
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

// healthy returns the health after an image said that it is.
func (h Health) healthy(digest string) Health {
	h.Good, h.Trying, h.Starts = digest, "", 0
	h.Bad = slices.DeleteFunc(slices.Clone(h.Bad), func(d string) bool { return d == digest })
	return h
}

// unhealthy returns the health after an image said that it is not.
func (h Health) unhealthy(digest string) Health {
	if h.Good == digest {
		return h // it was once, so it is not the image that changed
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

// Images are those a server has at hand: those that are to run, by the
// reference that names each, and others that some machine runs, or was healthy
// with last.
type Images struct {
	mu      sync.Mutex
	current map[string]*image.Image
	all     []*image.Image // those too
}

// Set makes an image the one that a reference names.
func (l *Images) Set(reference string, i *image.Image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		l.current = map[string]*image.Image{}
	}
	l.current[reference] = i
	l.add(i)
}

// Add has an image at hand.
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

// Current returns the image that a reference names; nil where it is not at
// hand.
func (l *Images) Current(reference string) *image.Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current[reference]
}

// Served returns the images that are to run, by their references.
func (l *Images) Served() map[string]*image.Image {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.current)
}

// find returns the image of a digest; nil where it is not at hand.
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

// imageFor returns what a machine is to run: the image that its reference
// names, or, where that was not healthy there, the last one that was. It is nil
// where the reference could not be had.
func (s *Server) imageFor(m Machine) *image.Image {
	reference := s.Roster.Reference(m)
	if reference == "" {
		reference = s.Reference
	}
	current := s.Images.Current(reference)
	h := s.health(m)
	if current != nil && !h.refuses(current.Digest) {
		return current
	}
	if good := s.Images.find(h.Good); good != nil {
		return good
	}
	return current // there is nothing better: it may be well the next time
}

// maxRecords bounds the machines whose health is written down, of those whose
// hardware address is named nowhere: any machine that says a listed serial is one.
const maxRecords = 16 << 10

// health returns what is known of the releases on a machine.
func (s *Server) health(m Machine) Health {
	h, ok := s.Health.Find(m.record())
	if !ok {
		h, _ = s.Health.Find(m.Serial) // as it was written before hardware addresses counted
	}
	return h
}

// note changes what is known of a machine's health, and writes it down where
// it did.
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
		return is, was.Good != is.Good || was.Trying != is.Trying || was.Starts != is.Starts || !slices.Equal(was.Bad, is.Bad)
	})
	if err != nil {
		s.log(slog.LevelError, "health", "recording health failed", "serial", m.Serial, "err", err)
	}
}
