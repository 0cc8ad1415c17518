// Command pikelet-rollout carries out the rollouts of a cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/upgrade"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	o := controller.Options{Now: time.Now, Resolve: upgrade.Resolver()}
	status := controller.Main(ctx, os.Args[1:], o, os.Stderr)
	stop()
	os.Exit(status)
}
