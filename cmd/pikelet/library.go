package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/netboot"
)

// library brings images into the cache for a boot server, and keeps them there
// while it runs.
type library struct {
	open   func(ctx context.Context, ref string) (*registry.Image, error)
	cache  string
	say    *teller
	images *netboot.Images
	held   []func()
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
	seen := map[string]bool{l.images.Current().Digest: true}
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

// watch makes what the reference names the current image, whenever it moves.
func (l *library) watch(ctx context.Context, ref string, every time.Duration) {
	said := ""
	for {
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		says := ""
		if err := l.look(ctx, ref); err != nil && ctx.Err() == nil {
			says = fmt.Sprintf("looking at %s: %v", ref, err)
		}
		if says != "" && says != said {
			l.say.line(says)
		}
		said = says
	}
}

func (l *library) look(ctx context.Context, ref string) error {
	img, err := l.open(ctx, ref)
	if err != nil || img.Digest == l.images.Current().Digest {
		return err
	}
	if now := l.images.Current(); img.Stream != now.Stream {
		return fmt.Errorf("it names stream %q now; this serves %q", img.Stream, now.Stream)
	}
	kept, err := l.keep(ctx, img)
	if err != nil {
		return err
	}
	l.images.Set(kept)
	l.say.line(fmt.Sprintf("serving %s %s from now on", kept.Stream, kept.Release))
	return nil
}
