package prepare

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// setClock puts the clock to the last time this node knew, where that is
// later than what /init made of the build's: no Pi before the 5 keeps time
// without power.
func setClock() error {
	b, err := os.ReadFile(node.ClockFile)
	if err != nil {
		return nil // a first boot
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	if err != nil || !time.Now().Before(t) {
		return nil
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

// SaveClock writes down the time, for the next boot.
func SaveClock() error {
	if _, err := os.Stat(ForgottenFile); err == nil {
		return nil // nothing is to be left
	}
	return statefile.Write(node.ClockFile, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"))
}

// ForgottenFile keeps the daemon from writing anything down while a node that
// was reset goes down.
const ForgottenFile = "/run/pikelet/forgotten"
