package checks

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

func stateCheck(s state) node.Check {
	memory := s.prepared.State.Memory
	switch {
	case s.preparedErr != nil:
		return result("prepare", "", "the node was not prepared: "+s.preparedErr.Error())
	case memory != "" && s.cardless():
		return result("state", "in memory: "+memory, "")
	case memory != "":
		return result("state", "", "state is in memory: "+memory)
	}
	return result("state", "on "+s.prepared.State.Device, "")
}

func volumeCheck(s state) node.Check {
	v := s.volume
	switch {
	case s.volumeErr != nil:
		return result("volume", "", s.volumeErr.Error())
	case !v.Mounted && v.On == nodeconfig.OnISCSI && !v.Refused:
		return s.beyond("volume", v.Waiting)
	case !v.Mounted:
		return result("volume", "", v.Waiting)
	}
	return result("volume", "on "+v.On, volume.Problem(v))
}

// Filesystem types as statfs names them, from linux/magic.h.
const (
	magicExt4  = 0xef53
	magicXFS   = 0x58465342
	magicTmpfs = 0x01021994
)

func rancherProblem() string {
	var st unix.Statfs_t
	if err := unix.Statfs("/var/lib/rancher", &st); err != nil {
		return err.Error()
	}
	switch st.Type {
	case magicExt4, magicXFS, magicTmpfs:
		return ""
	}
	return fmt.Sprintf("/var/lib/rancher is on a filesystem of type %#x; k3s' overlayfs wants ext4", st.Type)
}
