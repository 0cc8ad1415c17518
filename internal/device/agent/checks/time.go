package checks

import (
	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

func timeCheck(s state) node.Check {
	if clock.Synchronised() {
		return result("time", "kept by a time server", "")
	}
	return s.beyond("time", "no time server has answered yet; is chrony in the image, and can its servers be reached?")
}
