// Command pikeletd is Pikelet's program on a node.
package main

import (
	"fmt"
	"os"

	"github.com/pikelet-os/pikelet/internal/device/agent"
)

func main() {
	if err := agent.Run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pikeletd:", err)
		os.Exit(1)
	}
}
