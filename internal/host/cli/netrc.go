package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/pikelet-os/pikelet/builder/fetch"
)

// logins reads the logins of mirrors from the file that $NETRC names, which must
// exist then, or from ~/.netrc.
func logins() (fetch.Logins, error) {
	name, named := os.LookupEnv("NETRC")
	if !named || name == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil
		}
		name, named = filepath.Join(home, ".netrc"), false
		if _, err := os.Stat(name); err != nil && runtime.GOOS == "windows" {
			name = filepath.Join(home, "_netrc")
		}
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the logins of mirrors: %w", err)
	}
	list, err := fetch.ParseNetrc(b)
	if err != nil {
		return nil, fmt.Errorf("reading the logins of mirrors from %s: %w", name, err)
	}
	return list, nil
}
