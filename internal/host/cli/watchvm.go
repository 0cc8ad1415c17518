package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// watchVM boots an image, and each image that replaces it.
func watchVM(ctx context.Context, o vmOptions, a *app) error {
	o.attach(a)
	keys := &keyboard{}
	if a.onTerminal() {
		o.Log.Info("connecting to the console of the virtual Pi", "hint", "Ctrl-A X ends it; it boots again when the image is built again")
		restore, err := a.rawTerminal()
		if err != nil {
			return err
		}
		defer restore()
		go io.Copy(keys, a.in)
	}
	if _, err := os.Stat(o.Image); errors.Is(err, fs.ErrNotExist) {
		o.Log.Info("waiting for the image", "image", o.Image, "hint", "pikelet build --watch writes it")
	}
	for {
		image, err := await(ctx, o.Image, nil)
		if err != nil {
			return nil // interrupted
		}
		ended, err := bootOnce(ctx, o, image, keys, a)
		if err != nil || ended {
			return err
		}
		o.Log.Info("image was replaced")
	}
}

// await waits until an image exists that is not the old one.
func await(ctx context.Context, name string, old fs.FileInfo) (fs.FileInfo, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		now, err := os.Stat(name)
		if err == nil && (old == nil || !os.SameFile(now, old)) {
			return now, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// bootOnce runs an image until the guest powers off or another image replaces
// it. Builds rename a complete image over the old one, which stays readable for
// programs that have it open.
func bootOnce(ctx context.Context, o vmOptions, image fs.FileInfo, keys *keyboard, a *app) (ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	m, err := vm.Start(ctx, o.Options)
	if err != nil {
		return false, err
	}
	defer m.Close()
	keys.to.Store(m)
	defer keys.to.Store(nil)
	go func() {
		if _, err := m.ExpectAny(prompts...); err == nil {
			a.loginReached(time.Since(start).Seconds())
		}
	}()
	done, next := make(chan error, 1), make(chan error, 1)
	go func() { done <- m.Wait() }()
	go func() { _, err := await(ctx, o.Image, image); next <- err }()
	select {
	case err := <-done:
		if a.onTerminal() || ctx.Err() != nil {
			return true, err
		}
		return <-next != nil, nil // without a terminal, wait for the next image
	case err := <-next:
		return err != nil, nil
	}
}

// keyboard passes input to the machine that runs.
type keyboard struct{ to atomic.Pointer[vm.Machine] }

func (k *keyboard) Write(b []byte) (int, error) {
	if m := k.to.Load(); m != nil {
		return m.Write(b)
	}
	return len(b), nil
}
