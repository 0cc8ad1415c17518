// Command pikeletd is Pikelet's program on a node.
package main

import (
	"os"

	"github.com/pikelet-os/pikelet/internal/device/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
