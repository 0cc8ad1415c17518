// Command pikelet builds images for Raspberry Pi nodes, ships them, writes them
// onto cards, and boots them in a virtual Pi.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/pikelet-os/pikelet/internal/host/cli"
)

// version is set by the build: a tag, or the commit it was built from.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
