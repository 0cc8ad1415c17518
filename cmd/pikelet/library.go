package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/netboot"
	"github.com/pikelet-os/pikelet/internal/whole"
)

// library brings images into the cache for a boot server, and keeps them there
// while it runs.
type library struct {
	open   func(ctx context.Context, ref string) (*registry.Image, error)
	cache  string
	say    *teller
	images *netboot.Images
	memory string            // the file that says what each reference was last
	last   map[string]string // what it says: digests
	held   []func()
}

// start brings what is served. What can't be had is what it was last, from the
// cache: when power comes back, the registry may be on a node that boots from
// here. Only the first reference must be there.
func (l *library) start(ctx context.Context, first string, references []string) error {
	if err := l.remember(); err != nil {
		return err
	}
	for _, ref := range references {
		img, err := l.fetch(ctx, ref)
		if err != nil && l.last[ref] != "" && ctx.Err() == nil {
			var layout string
			var again error
			if layout, again = cachedImage(l.cache, l.last[ref]); again == nil {
				img, again = l.fetch(ctx, layout)
			}
			if again == nil {
				l.say.warning(fmt.Sprintf("%v; serving what %s was last, %s %s", err, ref, img.Stream, img.Release))
				err = nil
			}
		}
		if err != nil && ref == first {
			return err
		}
		if err != nil {
			l.say.warning(fmt.Sprintf("%s: %v; its nodes can't start until it is there", ref, err))
			continue
		}
		if err := l.set(ref, img); err != nil {
			return err
		}
	}
	return nil
}

// remember reads what each reference was last.
func (l *library) remember() error {
	b, err := os.ReadFile(l.memory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := yaml.Unmarshal(b, &l.last); err != nil {
		return fmt.Errorf("%s: %w; mend it, or remove it", l.memory, err)
	}
	if l.last == nil {
		l.last = map[string]string{}
	}
	return nil
}

// set makes an image what a reference names, and writes that down; what others
// were last stays.
func (l *library) set(ref string, img *netboot.Image) error {
	l.images.Set(ref, img)
	l.last[ref] = img.Digest
	b, err := yaml.Marshal(l.last)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.memory), 0o755); err != nil {
		return err
	}
	return whole.Write(l.memory, b, 0o644)
}

func (l *library) close() {
	for _, release := range l.held {
		release()
	}
}

// fetch brings the image that a reference names.
func (l *library) fetch(ctx context.Context, ref string) (*netboot.Image, error) {
	img, err := l.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	return l.keep(ctx, img)
}

func (l *library) keep(ctx context.Context, img *registry.Image) (*netboot.Image, error) {
	signature, err := img.Signature()
	if err != nil {
		return nil, err
	}
	_, layout, release, err := keep(ctx, img, l.cache, l.say)
	if err != nil {
		return nil, err
	}
	l.held = append(l.held, release)
	return &netboot.Image{Manifest: img.Manifest, Text: img.Text, Signature: signature, Digest: img.Digest, Blobs: filepath.Join(layout, "blobs", "sha256")}, nil
}

// former has the images at hand that nodes were healthy with last, as far as
// they are still in the cache. Where one is not, its node gets what is current.
func (l *library) former(ctx context.Context, health *netboot.Records[netboot.Health]) {
	seen := map[string]bool{}
	for _, img := range l.images.Served() {
		seen[img.Digest] = true
	}
	for serial, h := range health.All() {
		if h.Good == "" || seen[h.Good] {
			continue
		}
		seen[h.Good] = true
		layout, err := cachedImage(l.cache, h.Good)
		if err != nil {
			continue
		}
		img, err := l.fetch(ctx, layout)
		if err != nil {
			l.say.line(fmt.Sprintf("serial %s was healthy with %s, which is not in the cache any more: %v", serial, h.Good, err))
			continue
		}
		l.images.Add(img)
	}
}

// watch makes what a reference names the image that is to run, whenever it
// moves.
func (l *library) watch(ctx context.Context, references []string, every time.Duration) {
	said := map[string]string{}
	for {
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		for _, ref := range references {
			says := ""
			if err := l.look(ctx, ref); err != nil && ctx.Err() == nil {
				says = fmt.Sprintf("looking at %s: %v", ref, err)
			}
			if says != "" && says != said[ref] {
				l.say.line(says)
			}
			said[ref] = says
		}
	}
}

func (l *library) look(ctx context.Context, ref string) error {
	img, err := l.open(ctx, ref)
	if err != nil {
		return err
	}
	now := l.images.Current(ref)
	switch {
	case now != nil && img.Digest == now.Digest:
		return nil
	case now != nil && img.Stream != now.Stream:
		return fmt.Errorf("it names stream %q now; this serves %q", img.Stream, now.Stream)
	}
	kept, err := l.keep(ctx, img)
	if err != nil {
		return err
	}
	if err := l.set(ref, kept); err != nil {
		return err
	}
	l.say.line(fmt.Sprintf("serving %s %s from now on", kept.Stream, kept.Release))
	return nil
}
