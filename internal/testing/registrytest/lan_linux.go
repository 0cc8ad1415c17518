package registrytest

import "github.com/pikelet-os/pikelet/internal/testing/vm"

// LANAddr is where machines of a network reach the registry in it.
const LANAddr = vm.LANAddress + ":5000"

// StartInLAN starts a registry in a network of virtual Pis, as Start does on
// loopback.
func StartInLAN(l *vm.LAN, program, dir string) (*Server, error) {
	return start(l.Command(l.Name, program), dir, LANAddr, Options{}, l.DialContext)
}
