// Command pikelet-backup backs up the k3s server of a node, and restores it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/pikelet-os/pikelet/internal/device/backup/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	status := program.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}
