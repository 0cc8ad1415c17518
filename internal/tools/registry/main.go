// Command registry is distribution's registry with nothing but what tests use
// of it: storage in files, and accounts of htpasswd. Its own command brings the
// clients of three clouds, which take longer to compile than all of Pikelet.
//
// It is a module of its own, so that none of this is among Pikelet's
// dependencies.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

func main() {
	if registry.RootCmd.Execute() != nil {
		os.Exit(1)
	}
}
