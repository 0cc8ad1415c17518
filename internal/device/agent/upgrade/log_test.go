package upgrade

import (
	"log/slog"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/console"
)

// testLog returns a logger that calls said for each line, as the console shows it
// but without the prefix.
func testLog(said func(string)) *slog.Logger {
	return slog.New(console.NewHandler(lineWriter(said), "pikelet"))
}

type lineWriter func(string)

func (w lineWriter) Write(b []byte) (int, error) {
	w(strings.TrimSuffix(strings.TrimPrefix(string(b), "pikelet: "), "\n"))
	return len(b), nil
}
