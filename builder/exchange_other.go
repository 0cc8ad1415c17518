//go:build !linux

package builder

import "errors"

// exchange can't be done on this system.
func exchange(_, _ string) error { return errors.ErrUnsupported }
