package upgrade

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	repositories "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// published is a repository with images of releases.
type published struct {
	*testing.T
	key *ecdsa.PrivateKey
	at  registry.Target
	ref string // of the repository
}

func newPublished(t *testing.T) published {
	t.Helper()
	s := httptest.NewServer(repositories.New())
	t.Cleanup(s.Close)
	ref := strings.TrimPrefix(s.URL, "http://") + "/lab"
	place, _, err := registry.Locate(ref, registry.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return published{t, newKey(t), place.(registry.Target), ref}
}

// put puts a signed image under a tag, and returns it.
func (p published) put(tag string, change func(*image.Manifest)) *registry.Published {
	p.Helper()
	ctx := context.Background()
	root := bytes.Repeat([]byte("r"), int(verity.BlockSize+verity.TreeSize(1)))
	m := &image.Manifest{Format: image.Format, Stream: "lab", Release: tag, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: arch, Boards: []string{"rpi4"}, SlotSize: 64 << 20, Packages: image.DigestOf(nil),
		Root:  image.Root{DataBlocks: 1, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 131072},
		Files: []image.File{{Name: image.RootFile, Size: int64(len(root)), Digest: image.DigestOf(root)}}}
	if change != nil {
		change(m)
	}
	text, err := m.Encode()
	if err != nil {
		p.Fatal(err)
	}
	oci, err := image.EncodeOCI(m, text)
	if err != nil {
		p.Fatal(err)
	}
	for _, b := range [][]byte{root, text} {
		d := image.Descriptor{MediaType: "application/octet-stream", Digest: image.DigestOf(b), Size: int64(len(b))}
		if err := p.at.PutBlob(ctx, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }); err != nil {
			p.Fatal(err)
		}
	}
	if err := p.at.PutManifest(ctx, tag, image.Describe(oci), oci); err != nil {
		p.Fatal(err)
	}
	if _, err := registry.Sign(ctx, p.at, tag, arch, p.key); err != nil {
		p.Fatal(err)
	}
	img, err := registry.Open(ctx, p.at, tag, registry.Want{Keys: []*ecdsa.PublicKey{&p.key.PublicKey}, Arch: arch})
	if err != nil {
		p.Fatal(err)
	}
	return img
}

// move has a channel name an image, with a statement where that is a way back.
func (p published) move(img *registry.Published, channel string) {
	p.Helper()
	if err := registry.Move(context.Background(), img, p.at, channel, p.key); err != nil {
		p.Fatal(err)
	}
}

// TestFindImage: what a node takes of what a registry shows it. A registry that
// moves tags brings no node to a lower release; a statement does, for the channel
// that was asked for, or that the node follows, and no other.
func TestFindImage(t *testing.T) {
	ctx := context.Background()
	p := newPublished(t)
	old, now := p.put("1.3", nil), p.put("1.5", nil)
	p.put("1.6", nil)
	p.put("2.0", func(m *image.Manifest) { m.Stream = "cabin" })
	p.put("2.1", func(m *image.Manifest) { m.Boards = []string{"rpi5"} })
	p.move(now, "lab-canary")
	p.move(old, "lab-canary") // with a statement
	for _, tag := range []string{"stable"} {
		// As whoever can move tags may.
		if err := p.at.PutManifest(ctx, tag, image.Describe(old.Signature.Manifest), old.Signature.Manifest); err != nil {
			t.Fatal(err)
		}
	}
	boot := updater.Boot{
		Digest: now.Digest, Keys: []*ecdsa.PublicKey{&p.key.PublicKey}, Stream: "lab", Release: "1.5", Arch: arch, Board: "rpi4",
	}
	plain := registry.Options{PlainHTTP: true}
	stable, canary := p.ref+":stable", p.ref+":lab-canary"
	for _, c := range []struct {
		what, ref, follows string
		want, channel      string // the error, or "" and the channel
	}{
		{"a higher release", ":1.6", "", "", ""},
		{"a higher release, by a follower", ":1.6", stable, "", "stable"},
		{"another stream", ":2.0", stable, `of stream "cabin"`, ""},
		{"another board", ":2.1", stable, "is for rpi5", ""},
		{"a lower release under a channel without a statement", ":stable", stable, "no trusted key allows nodes of channel stable", ""},
		{"that, by a follower of the channel with one", ":stable", canary, "no trusted key allows nodes of channel stable", ""},
		{"a lower release under the channel of its statement", ":lab-canary", stable, "", "lab-canary"},
		{"a lower release by its number", ":1.3", stable, "no trusted key allows nodes of channel stable", ""},
		{"that, by a follower of nothing", ":1.3", "", "no channel was asked for", ""},
		{"that, by a follower of the channel of its statement", ":1.3", canary, "", "lab-canary"},
		{"a lower release by its digest", "@" + old.Digest, stable, "no trusted key allows nodes of channel stable", ""},
		{"that, by a follower of the channel of its statement", "@" + old.Digest, canary, "", "lab-canary"},
	} {
		img, channel, err := findImage(ctx, p.ref+c.ref, c.follows, plain, boot)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.what, err, c.want)
		}
		if err != nil {
			continue
		}
		if channel != c.channel {
			t.Errorf("%s: channel %q, want %q", c.what, channel, c.channel)
		}
		if r, err := img.Open(context.Background(), image.RootFile); err != nil {
			t.Errorf("%s: %v", c.what, err)
		} else if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil {
			t.Errorf("%s: reading what was found: %v", c.what, err)
		}
	}
	if img, _, err := findImage(ctx, p.ref+":1.5", "", plain, boot); !errors.Is(err, updater.ErrRuns) || img == nil {
		t.Errorf("what runs: %v", err)
	}
	boot.Keys = []*ecdsa.PublicKey{&newKey(t).PublicKey}
	_, _, err := findImage(ctx, p.ref+":1.6", "", plain, boot)
	if err == nil || !strings.Contains(err.Error(), "none of the 1 keys") {
		t.Errorf("an image of another key: %v", err)
	}
}

func TestChannelOf(t *testing.T) {
	for _, c := range []struct{ tag, follows, want string }{
		{"stable", "registry.example/lab:canary", "stable"}, {"1.4", "registry.example/lab:canary", "canary"},
		{image.DigestOf(nil), "registry.example:5000/pi/lab:canary", "canary"}, {"", "registry.example/lab:canary", "canary"},
		{"1.4", "", ""}, {"1.4", "registry.example:5000/lab", ""}, {"1.4", "registry.example/lab:1.4", ""},
	} {
		if got := channelOf(c.tag, c.follows); got != c.want {
			t.Errorf("%q, following %q: %q, want %q", c.tag, c.follows, got, c.want)
		}
	}
	cfg, d := &nodeconfig.Config{}, node.Defaults{Channel: "image"}
	if got := followed(cfg, d); got != "image" {
		t.Errorf("the image's channel: %q", got)
	}
	cfg.Upgrades.Channel = "config"
	if got := followed(cfg, d); got != "config" {
		t.Errorf("the node config's channel: %q", got)
	}
}

func TestFirmwareHint(t *testing.T) {
	for board, want := range map[string]string{
		"rpi3": "pikelet flash --repair-control", "zero2w": "pikelet flash --repair-control",
		"rpi4": "rpi-eeprom-update -a", "rpi5": "rpi-eeprom-update -a",
	} {
		if got := firmwareHint(board); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q in it", board, got, want)
		}
	}
}

// TestBringTime: a registry that sends just enough does not hold a node for ever.
func TestBringTime(t *testing.T) {
	m := &image.Manifest{Files: []image.File{{Size: 1 << 30}, {Size: 1 << 20}}}
	if got := bringTime(m); got < 9*time.Hour || got > 11*time.Hour {
		t.Errorf("%v for a gigabyte", got)
	}
}

// TestUpgradeLock: who wants the upgrade lock while another process has it reads at
// once who that is, and gets an error after a while, or the lock when it is free.
func TestUpgradeLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := holder{"upgrade to lab:1.4", 0, io.Discard, nil}.lock(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = holder{"rollback", time.Millisecond, &printed, nil}.lock(ctx, name)
	if !errors.Is(err, errUpgrading) || !strings.Contains(err.Error(), "upgrade to lab:1.4") || len(hint.Of(err)) != 1 {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
	if !strings.Contains(printed.String(), "upgrade to lab:1.4") || strings.Count(printed.String(), "\n") != 1 {
		t.Errorf("printed %q, want one line", printed.String())
	}
	cancel()
	if _, err := (holder{"rollback", time.Hour, io.Discard, nil}).lock(ctx, name); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	unlock()
	unlock, err = holder{"rollback", 0, io.Discard, nil}.lock(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if b, err := os.ReadFile(name); err != nil || strings.Contains(string(b), "lab:1.4") || !strings.Contains(string(b), "rollback") {
		t.Errorf("the lock names %q (%v), want its new holder", b, err)
	}
}
