// Command pikelet-rollout carries out the rollouts of a cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(controller.Main(ctx, os.Args[1:], time.Now, os.Stderr))
}
