package updater

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

// TestAccept: a node takes images of its own stream, architecture and board, and
// a lower release only with a statement for the channel that was asked for, by a
// key that it trusts, from the release that runs or a later one.
func TestAccept(t *testing.T) {
	key, other := newKey(t), newKey(t)
	digest, another := image.DigestOf([]byte("candidate")), image.DigestOf([]byte("another"))
	state := func(of, channel, from string, k *ecdsa.PrivateKey) image.Signed {
		s, err := image.SignDowngrade(of, image.Downgrade{Channel: channel, From: from}, k)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain, err := image.SignDigest(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	boot := Boot{Digest: image.DigestOf([]byte("running")), Keys: publics(key), Stream: "lab", Release: "1.10", Arch: "arm64", Board: "rpi4"}
	stable, lower := Order{Channel: "stable"}, image.Manifest{Release: "1.9"}
	const unsigned = "no trusted key allows nodes of channel stable"
	for name, c := range map[string]struct {
		m      image.Manifest
		signed image.Signed
		order  Order
		want   string // "" is taken
	}{
		"a higher release":            {m: image.Manifest{Release: "1.11"}},
		"the same release":            {m: image.Manifest{Release: "1.10"}},
		"another stream":              {m: image.Manifest{Stream: "cabin"}, want: `of stream "cabin"`},
		"another stream, going back":  {m: image.Manifest{Stream: "cabin"}, order: Order{Return: true}, want: `of stream "cabin"`},
		"another architecture":        {m: image.Manifest{Arch: "riscv64"}, want: "is for riscv64"},
		"another board":               {m: image.Manifest{Boards: []string{"rpi3", "rpi5"}}, want: "is for rpi3, rpi5, and this is a rpi4"},
		"a lower release":             {m: lower, signed: plain, order: stable, want: unsigned},
		"a lower release, no channel": {m: lower, signed: state(digest, "stable", "1.10", key), want: "no channel was asked for"},
		"going back on this card":     {m: lower, order: Order{Return: true}},

		"a statement":                       {m: lower, signed: state(digest, "stable", "1.10", key), order: stable},
		"a statement from a later release":  {m: lower, signed: state(digest, "stable", "2.0", key), order: stable},
		"a statement from an older release": {m: lower, signed: state(digest, "stable", "1.9.9", key), order: stable, want: unsigned},
		"a statement for another channel":   {m: lower, signed: state(digest, "canary", "9.0", key), order: stable, want: unsigned},
		"a statement about another image":   {m: lower, signed: state(another, "stable", "1.10", key), order: stable, want: unsigned},
		"a statement by another key":        {m: lower, signed: state(digest, "stable", "1.10", other), order: stable, want: unsigned},
	} {
		m := c.m
		m.Stream, m.Arch, m.Release = cmp.Or(m.Stream, "lab"), cmp.Or(m.Arch, "arm64"), cmp.Or(m.Release, "1.11")
		if m.Boards == nil {
			m.Boards = []string{"rpi3", "rpi4"}
		}
		err := boot.Accept(Candidate{Manifest: &m, Digest: digest, Signatures: []image.Signed{c.signed}}, c.order)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	same := Candidate{Manifest: &image.Manifest{Stream: "lab", Release: "1.10", Arch: "arm64", Boards: []string{"rpi4"}}, Digest: boot.Digest}
	if err := boot.Accept(same, stable); !errors.Is(err, ErrRuns) {
		t.Errorf("the image that runs: %v", err)
	}
	boot.Board = ""
	same.Digest = digest
	if err := boot.Accept(same, stable); err != nil {
		t.Errorf("a board that is not known: %v", err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// put writes an image onto slot b, with none of the checks that come before.
func (l *life) put(img image.Image) {
	l.t.Helper()
	if _, err := WriteSlot(context.Background(), l.card, img, slots.B, l.table().Partitions[disk.SlotB-1]); err != nil {
		l.t.Fatal(err)
	}
}

// copied is another node of the same kind, that was just started.
func (l *life) copied(t *testing.T) *life {
	c := *l
	c.t, c.card, c.well = t, powercut.Record(l.card.Card.Clone()), maps.Clone(l.well)
	c.start("", PowerOn)
	return &c
}

// spoil inverts a byte of a file on slot b.
func (l *life) spoil(img image.Image, name string) {
	l.t.Helper()
	p := l.table().Partitions[disk.SlotB-1]
	layout, err := sizesOf(l.t, img).Slot(slots.B, p)
	if err != nil {
		l.t.Fatal(err)
	}
	b := make([]byte, 1)
	at := p.Start + layout.Offset(name) + 3
	if _, err := l.card.ReadAt(b, at); err != nil {
		l.t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := l.card.WriteAt(b, at); err != nil {
		l.t.Fatal(err)
	}
}

// armCase is something that is wrong with a node, or with what its other slot
// holds, after an image was brought and before it is armed.
type armCase struct {
	img   func(*testing.T) making
	harm  func(*life, image.Image)
	order func(image.Image) Order
	want  string // "" is armed
}

// signedBy is a release whose initramfs trusts some keys, signed by others.
func signedBy(trusts, signers func(*testing.T) []*ecdsa.PrivateKey) func(*testing.T) making {
	return func(t *testing.T) making {
		k := newMaking(t, "1.1")
		k.info, k.signers = infoWith(t, trusts(t)...), signers(t)
		return k
	}
}

func oldKey(t *testing.T) []*ecdsa.PrivateKey {
	k, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	return []*ecdsa.PrivateKey{k}
}

// nextKey is the key that comes after testKey.
func nextKey(t *testing.T) []*ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return []*ecdsa.PrivateKey{k}
}

func bothKeys(t *testing.T) []*ecdsa.PrivateKey { return append(oldKey(t), nextKey(t)...) }

func changed(release string, change func(*making)) func(*testing.T) making {
	return func(t *testing.T) making {
		k := newMaking(t, release)
		change(&k)
		return k
	}
}

// withStatement is a lower release, with a statement for a channel.
func withStatement(channel string) func(*testing.T) making {
	return func(t *testing.T) making {
		k := newMaking(t, "0.9")
		k.more = func(digest string) []image.Signed {
			s, err := image.SignDowngrade(digest, image.Downgrade{Channel: channel, From: "1.0"}, k.signers[0])
			if err != nil {
				t.Fatal(err)
			}
			return []image.Signed{s}
		}
		return k
	}
}

func spoiled(name string) armCase {
	return armCase{harm: func(l *life, img image.Image) { l.spoil(img, name) }, want: name + ": digest mismatch: the card has"}
}

func asked(o Order) func(image.Image) Order {
	return func(img image.Image) Order { o.Digest = img.Digest; return o }
}

var armCases = map[string]armCase{
	"nothing is wrong":     {},
	"the node is not well": {harm: func(l *life, _ image.Image) { l.well[l.boot.Digest] = false }, want: "this node is not well"},
	"a changed kernel":     spoiled("vmlinuz"), "changed firmware": spoiled("start.elf"), "a changed initramfs": spoiled("initramfs"),
	"a changed config.txt": spoiled("config.txt"), "a changed command line": spoiled("cmdline.txt"), "a changed root": spoiled(image.RootFile),
	"another image": {
		order: func(image.Image) Order { return Order{Digest: image.DigestOf(nil)} },
		want:  "not " + image.DigestOf(nil),
	},
	"a trial":               {harm: func(l *life, _ image.Image) { l.boot.Kind = slots.Trial }, want: "this boot is a trial"},
	"it failed here before": {harm: failedHere, want: "failed on this node before"},
	"it failed here before, and is asked for again": {harm: failedHere, order: asked(Order{Again: true})},
	"another upgrade is armed": {harm: func(l *life, _ image.Image) {
		l.noted(slots.Update{Step: slots.Armed, Slot: slots.B, Digest: "sha256:x", Release: "7"})
	}, want: "release 7 is being tried"},

	"both keys signed":          {img: signedBy(nextKey, bothKeys)},
	"the old key alone signed":  {img: signedBy(nextKey, oldKey), want: "the /init of slot b would not start it"},
	"the next key alone signed": {img: signedBy(bothKeys, nextKey), want: "none of the 1 keys that are trusted made it"},
	"a key of its own can't be read": {img: changed("1.1", func(k *making) {
		k.info.Keys = append(k.info.Keys, "no key")
	}), want: "the /init of slot b would not start it: reading a key"},
	"no key of its own": {img: changed("1.1", func(k *making) { k.info.Keys = nil }), want: "it names no build or no keys"},
	"an initramfs of another build": {img: changed("1.1", func(k *making) {
		k.info.BuildID = strings.Repeat("cd", 16)
	}), want: "the initramfs is build cdcd"},
	"an initramfs of another stream": {img: changed("1.1", func(k *making) { k.info.Stream = "cabin" }), want: `of stream "cabin"`},
	"no initramfs": {img: changed("1.1", func(k *making) {
		k.change = func(m *image.Manifest) {
			m.Files = slices.DeleteFunc(m.Files, func(f image.File) bool { return f.Name == image.InitramfsFile })
		}
	}), want: "slot b has no initramfs"},

	"another stream": {img: changed("1.1", func(k *making) {
		k.info.Stream, k.change = "cabin", func(m *image.Manifest) { m.Stream = "cabin" }
	}), want: `is of stream "cabin"`},
	"another board": {img: changed("1.1", func(k *making) {
		k.change = func(m *image.Manifest) { m.Boards = []string{"rpi5"} }
	}), want: "is for rpi5"},
	"another architecture": {img: changed("1.1", func(k *making) {
		k.change = func(m *image.Manifest) { m.Arch = "riscv64" }
	}), want: "is for riscv64"},
	"a lower release": {
		img: changed("0.9", func(*making) {}), order: asked(Order{Channel: "stable"}),
		want: "is older than 1.0",
	},
	"a lower release with a statement": {img: withStatement("stable"), order: asked(Order{Channel: "stable"})},
	"a lower release with a statement for another channel": {
		img: withStatement("canary"), order: asked(Order{Channel: "stable"}),
		want: "is older than 1.0",
	},
	"a lower release with a statement, and no channel asked": {img: withStatement("stable"), want: "no channel was asked for"},
	"a lower release that this card holds":                   {img: changed("0.9", func(*making) {}), order: asked(Order{Return: true})},
	"the datastore can't be copied": {
		harm: func(l *life, _ image.Image) { l.full = true },
		want: "no space left on device",
	},
}

func failedHere(l *life, img image.Image) {
	l.noted(slots.Update{Step: slots.Left, Slot: slots.B, Digest: img.Digest, Release: img.Manifest.Release, Bad: true, Reason: "it panicked"})
}

// noted has the card's record say something.
func (l *life) noted(u slots.Update) {
	if err := l.updater().note(u); err != nil {
		l.t.Fatal(err)
	}
}

// TestArmChecksAgain: whatever went wrong since an image was brought, or was
// wrong with it already, nothing is armed, and the node does not restart.
func TestArmChecksAgain(t *testing.T) {
	base := newLife(t, newImage(t, "1.0"))
	for name, c := range armCases {
		t.Run(name, func(t *testing.T) {
			k := newMaking(t, "1.1")
			if c.img != nil {
				k = c.img(t)
			}
			l := base.copied(t)
			img := k.image(t)
			l.put(img)
			if c.harm != nil {
				c.harm(l, img)
			}
			before := l.record()
			order := Order{Digest: img.Digest}
			if c.order != nil {
				order = c.order(img)
			}
			err := l.updater().Arm(context.Background(), order)
			armed := l.asked != nil || l.record().Step == slots.Armed && l.record() != before
			if armed != (c.want == "") || (err == nil) != armed || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("armed: %v, %v; want %q", armed, err, c.want)
			}
		})
	}
}

// TestAskAgainChecks: a trial that was cut off is not asked for again by a node
// that is not well itself, nor of a slot that is not what was armed any more. It
// is left then, and not held against the release.
func TestAskAgainChecks(t *testing.T) {
	base := newLife(t, newImage(t, "1.0"))
	for name, c := range map[string]struct {
		img  func(*testing.T) making
		harm func(*life, image.Image)
		want string // "" is asked for again
	}{
		"nothing is wrong":         {},
		"the node is not well":     {harm: func(l *life, _ image.Image) { l.well[l.boot.Digest] = false }, want: "this node is not well"},
		"a changed kernel":         {harm: func(l *life, img image.Image) { l.spoil(img, "vmlinuz") }, want: "vmlinuz: digest mismatch"},
		"another image":            {harm: func(l *life, _ image.Image) { l.put(newImage(l.t, "1.2")) }, want: "the slot holds image sha256:"},
		"the old key alone signed": {img: signedBy(nextKey, oldKey), want: "the /init of slot b would not start it"},
		"another board":            {harm: func(l *life, _ image.Image) { l.boot.Board = "rpi5" }, want: "this is a rpi5"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newMaking(t, "1.1")
			if c.img != nil {
				k = c.img(t)
			}
			l := base.copied(t)
			img := k.image(t)
			l.put(img)
			l.noted(slots.Update{Step: slots.Tried, Slot: slots.B, Digest: img.Digest, Release: "1.1"})
			if c.harm != nil {
				c.harm(l, img)
			}
			if err := l.updater().Conclude(context.Background()); err != nil {
				t.Fatal(err)
			}
			u := l.record()
			if again := l.asked != nil && u.Step == slots.Armed; again != (c.want == "") || !strings.Contains(u.Reason, c.want) || u.Bad {
				t.Errorf("asked again: %v, the record says %+v; want %q", again, u, c.want)
			}
		})
	}
}

// TestTrialIsRetriedOnceHealthy: a node whose checks hold only some time after its
// start asks for its trial again then.
func TestTrialIsRetriedOnceHealthy(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	l.put(next)
	l.noted(slots.Update{Step: slots.Tried, Slot: slots.B, Digest: next.Digest, Release: "1.1"})
	l.well[l.boot.Digest] = false
	looked := 0
	l.kill = func(step string) {
		if looked++; looked == 5 {
			l.well[l.boot.Digest] = true
		}
	}
	if err := l.updater().Conclude(context.Background()); err != nil || l.asked == nil {
		t.Errorf("%v, the record says %+v", err, l.record())
	}
}
