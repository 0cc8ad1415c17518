package vm

import "github.com/pikelet-os/pikelet/internal/shared/sparse"

// CopySparse copies a disk image without reading or writing its holes.
func CopySparse(from, to string) error { return sparse.Copy(to, from) }
