// Command control is a control plane in one binary, for the computer that tests
// run on.
package main

import (
	"os"

	"github.com/pikelet-os/pikelet/internal/testing/rig/programs/cluster"
)

func main() { os.Exit(cluster.Run(cluster.Programs(), os.Args)) }
