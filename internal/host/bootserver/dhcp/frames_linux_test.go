package dhcp

import (
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFramesTakeCapability: who may not open a packet socket is told what to do.
func TestFramesTakeCapability(t *testing.T) {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: capabilities are the thread's, which ends with the goroutine
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&head, &none[0]); err != nil {
			failed <- err
			return
		}
		f, err := NewFrames("lo")
		if err == nil {
			f.Close()
		}
		failed <- err
	}()
	err := <-failed
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "opening a packet socket on lo: ") ||
		!strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("got %v", err)
	}
}
