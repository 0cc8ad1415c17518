package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// watchVM boots the image that is there, and each that takes its place.
func watchVM(ctx context.Context, o vmOptions) error {
	o.attach()
	keys := &keyboard{}
	if onTerminal() {
		o.Log("this is the virtual Pi's console; Ctrl-A X ends it, and it boots again when the image is built again")
		old, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(os.Stdin.Fd()), old)
		go io.Copy(keys, os.Stdin)
	}
	if _, err := os.Stat(o.Image); errors.Is(err, fs.ErrNotExist) {
		o.Log("waiting for " + o.Image + "; pikelet build --watch makes it, where its -o says")
	}
	for {
		image, err := await(ctx, o.Image, nil)
		if err != nil {
			return nil // the person ended it
		}
		ended, err := bootOnce(ctx, o, image, keys)
		if err != nil || ended {
			return err
		}
		o.Log("there is a new image")
	}
}

// await waits until an image is there that is not old.
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

// bootOnce runs an image until it ends or another takes its place. Builds
// rename a whole image over the old one, which stays readable for who has it.
func bootOnce(ctx context.Context, o vmOptions, image fs.FileInfo, keys *keyboard) (ended bool, err error) {
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
			fmt.Fprintf(os.Stdout, "\r\nlogin reached after %.1f s\r\n", time.Since(start).Seconds())
		}
	}()
	done, next := make(chan error, 1), make(chan error, 1)
	go func() { done <- m.Wait() }()
	go func() { _, err := await(ctx, o.Image, image); next <- err }()
	select {
	case err := <-done:
		if onTerminal() || ctx.Err() != nil {
			return true, err
		}
		return <-next != nil, nil // without a person, the next image is what one waits for
	case err := <-next:
		return err != nil, nil
	}
}

// keyboard hands what is typed to the machine that runs.
type keyboard struct{ to atomic.Pointer[vm.Machine] }

func (k *keyboard) Write(b []byte) (int, error) {
	if m := k.to.Load(); m != nil {
		return m.Write(b)
	}
	return len(b), nil
}
