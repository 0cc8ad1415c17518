package powercut

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// Facts that a run may note.
const (
	Well     = "well "    // with the digest of an image whose checks held for the soak
	Scrubbed = "scrubbed" // the node took its config, and no secret of it is to be found any more
)

// Firmwares are those a card may meet.
var Firmwares = []struct {
	Name string
	vm.Firmware
}{
	{"EEPROM of 2026", vm.Firmware{Walk: true, LineLimit: 98}},
	{"EEPROM of 2023", vm.Firmware{LineLimit: 98}},
	{"BCM2837", vm.Firmware{Bootcode: true, LineLimit: 78}},
	{"one that reads copies", vm.Firmware{Walk: true, Backup: true, LineLimit: 98}},
}

// CardParts returns the parts of a card, as Run wants them.
func CardParts(card *Card) ([]Part, error) {
	t, err := disk.ReadTable(card)
	if err != nil {
		return nil, err
	}
	at, size, err := slots.ControlFile(card, t, slots.AutobootFile)
	if err != nil {
		return nil, err
	}
	parts := []Part{
		{"commit", at, at + size},
		{"mbr", 0, disk.SectorSize},
		{"arm", disk.UpdateRecord0, disk.InitRecord},
		{"init", disk.InitRecord, disk.InitRecord + disk.RecordSize},
	}
	for n, name := range map[int]string{disk.Control: "control", disk.SlotA: "slot a", disk.SlotB: "slot b", disk.State: "state"} {
		p := t.Partitions[n-1]
		parts = append(parts, Part{name, p.Start, p.Start + p.Size})
	}
	slices.SortStableFunc(parts[4:], func(a, b Part) int { return strings.Compare(a.Name, b.Name) })
	parts[len(parts)-1].End = 1 << 62 // state may have grown
	return parts, nil
}

// Checker checks states of the cards of one run.
type Checker struct {
	Keys   []*ecdsa.PublicKey
	Well   []string // digests of images that were well before the run
	Secret []byte   // what must not be found after a scrub; nil for nothing

	known  map[string][]string
	chains map[string]chain
}

type chain struct {
	digest string
	err    error
}

// Check returns the problems of a state: none where every firmware starts a
// complete image from it whose checks held before.
func (c *Checker) Check(s *State, parts []Part) []string {
	if c.known == nil {
		c.known, c.chains = map[string][]string{}, map[string]chain{}
	}
	key := fmt.Sprint(s.Gone, s.Facts)
	for i, p := range parts {
		if p.Name != "state" {
			key += fmt.Sprintf(" %x", s.Keys[i])
		}
	}
	if problems, ok := c.known[key]; ok {
		return problems
	}
	problems := c.check(s, parts)
	c.known[key] = problems
	return problems
}

func (c *Checker) check(s *State, parts []Part) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	record := slots.ReadCard(s)
	if before := slots.ReadCard(s.base); (before.State != "" || before.Update != nil) && record.State == "" && record.Update == nil {
		bad("the record said %+v, and says nothing any more", before)
	}
	if why := c.moved(s); why != "" {
		bad("%s", why)
	}
	for _, f := range Firmwares {
		n, err := f.Starts(s, vm.Request{})
		if err != nil {
			bad("%s: unbootable: %v", f.Name, err)
			continue
		}
		def, ok := slots.OfPartition(n)
		if !ok {
			bad("%s starts partition %d", f.Name, n)
			continue
		}
		digest, err := c.whole(s, parts, def, f.Firmware)
		if err != nil {
			bad("%s: unbootable: it starts slot %s, which is not whole: %v", f.Name, def, err)
		} else if !slices.Contains(c.Well, digest) && !slices.Contains(s.Facts, Well+digest) {
			bad("%s starts slot %s, whose image never was well", f.Name, def)
		}
		c.other(s, parts, f.Name, f.Firmware, def, record.Update, bad)
	}
	if c.Secret != nil && slices.Contains(s.Facts, Scrubbed) && s.holds(c.Secret, parts) {
		bad("the secret is still on the card")
	}
	return problems
}

// other checks the slot that is not the default.
func (c *Checker) other(s *State, parts []Part, name string, f vm.Firmware, def slots.Letter, u *slots.Update, bad func(string, ...any)) {
	other := def.Other()
	alone := f
	alone.Walk = false
	_, err := alone.Starts(s, vm.Request{Partition: other.Partition()})
	digest, broken := c.whole(s, parts, other, f)
	if err == nil && broken != nil {
		bad("%s: slot %s is half written, and the firmware starts it: %v", name, other, broken)
	}
	if !u.UnderWay() || u.Slot != other {
		return
	}
	if s.Torn >= parts[0].Start/SectorSize && s.Torn < parts[0].End/SectorSize {
		return // both names may be the same now; a node mends that before it asks for a trial
	}
	n, err := f.Starts(s, vm.Request{Tryboot: true})
	switch {
	case err != nil:
		bad("%s: slot %s is armed, and nothing starts: %v", name, other, err)
	case n != other.Partition():
		bad("%s: slot %s is armed, and the trial is of partition %d", name, other, n)
	case broken != nil:
		bad("%s: slot %s is armed, and is not whole: %v", name, other, broken)
	case digest != u.Digest:
		bad("%s: slot %s is armed with %s, and holds %s", name, other, u.Digest, digest)
	}
}

// moved reports whether a slot is somewhere else than it was.
func (c *Checker) moved(s *State) string {
	before, err := disk.ReadTable(s.base)
	if err != nil {
		return fmt.Sprintf("there was no partition table: %v", err)
	}
	now, err := disk.ReadTable(s)
	if err != nil {
		return fmt.Sprintf("the partition table is gone: %v", err)
	}
	for _, n := range []int{disk.Control, disk.SlotA, disk.SlotB} {
		if now.Partitions[n-1] != before.Partitions[n-1] {
			return fmt.Sprintf("partition %d is %+v, and was %+v", n, now.Partitions[n-1], before.Partitions[n-1])
		}
	}
	if now.Partitions[disk.State-1].Start != before.Partitions[disk.State-1].Start {
		return "the state partition begins elsewhere"
	}
	return ""
}

// whole checks the chain of a slot down to the last file, and every block of
// its root. Keys of the slot's part say when that was done before.
func (c *Checker) whole(s *State, parts []Part, l slots.Letter, f vm.Firmware) (string, error) {
	i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == "slot "+string(l) })
	key := fmt.Sprintf("%s %v %x %v", l, f.Backup, s.Keys[i], s.Gone >= parts[i].Start/SectorSize && s.Gone < parts[i].End/SectorSize)
	known, ok := c.chains[key]
	if !ok {
		known.digest, known.err = Whole(s, l, c.Keys, f)
		c.chains[key] = known
	}
	return known.digest, known.err
}

// reader is a card.
type reader interface {
	ReadAt([]byte, int64) (int, error)
}

// Whole checks all of a slot, reading it as the firmware does, and returns the
// digest that was signed.
func Whole(card reader, l slots.Letter, keys []*ecdsa.PublicKey, f vm.Firmware) (string, error) {
	read := func(name string, limit int64) ([]byte, error) {
		return f.ReadAsROM(card, l.Partition(), name, limit)
	}
	signature, err := read(image.SignatureFile, image.MaxSignature)
	if err != nil {
		return "", err
	}
	text, err := read(image.ManifestFile, image.MaxManifest)
	if err != nil {
		return "", err
	}
	m, digest, err := image.Verify(signature, text, keys)
	if err != nil {
		return "", err
	}
	for _, f := range m.Files {
		name, ok := l.OnSlot(f.Name)
		if !ok {
			continue
		}
		b, err := read(name, f.Size)
		if err != nil {
			return "", err
		}
		if image.DigestOf(b) != f.Digest {
			return "", fmt.Errorf("%s: digest mismatch: got %s, want %s", name, image.DigestOf(b), f.Digest)
		}
		if name == image.RootFile {
			if err := root(m, b); err != nil {
				return "", err
			}
		}
	}
	return digest, nil
}

// root checks every block of a root against the hash tree behind it, and the
// tree against the hash that the manifest names.
func root(m *image.Manifest, b []byte) error {
	p, err := m.Verity()
	if err != nil {
		return err
	}
	data := int64(p.DataBlocks) * verity.BlockSize
	if int64(len(b)) != data+verity.TreeSize(p.DataBlocks) {
		return fmt.Errorf("root size mismatch: got %d, want %d", len(b), data+verity.TreeSize(p.DataBlocks))
	}
	h := verity.NewHasher(p.Salt)
	if _, err := h.Write(b[:data]); err != nil {
		return err
	}
	got, tree, err := h.Tree()
	switch {
	case err != nil:
		return err
	case !bytes.Equal(got.RootHash, p.RootHash):
		return fmt.Errorf("root hash mismatch: got %x, want %x", got.RootHash, p.RootHash)
	case !bytes.Equal(tree, b[data:]):
		return errors.New("the hash tree of the root does not match its blocks")
	}
	return nil
}

// holds reports whether a text is anywhere on the control partition.
func (s *State) holds(text []byte, parts []Part) bool {
	control := parts[slices.IndexFunc(parts, func(p Part) bool { return p.Name == "control" })]
	pages := map[int64]bool{}
	for n := range s.base.pages {
		pages[n] = true
	}
	for n := range s.here {
		pages[n*SectorSize/pageSize] = true
	}
	b := make([]byte, pageSize+len(text)) // a text may reach into the next page
	for n := range pages {
		if at := n * pageSize; at >= control.Start && at < control.End {
			s.ReadAt(b, at)
			if bytes.Contains(b, text) {
				return true
			}
		}
	}
	return false
}
