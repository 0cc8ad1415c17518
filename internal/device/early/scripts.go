package early

// script is a script of /etc/init.d that was read, and is done in Go.
type script struct {
	name   string
	sum    string            // SHA-256 of its bytes
	source string            // where those come from: a file of this repository, or a package
	keys   map[string]string // what its conf.d file may set, as settings wants it
	plan   func(in input, conf map[string]string) ([]Step, error)
}

// starterFiles is where the scripts of the starter repository are, in this
// repository. A test compares their digests.
const starterFiles = "cmd/starter/files/"

// scripts are all that are known. Before a digest is changed or added, its
// script must be read, and what is done for it must still be what it does.
var scripts = []script{
	{"devfs", "4c33e9f05d26e91a5fe64a2e33eb1022b59ae26a5c3441aa74cd20da863e2d83",
		starterFiles + "openrc/etc/init.d/devfs", nil, devfs},
	{"dmesg", "4998c27862e26e280965e78f7a53662a9476a1dcea4f6672355d69f8840542fa",
		starterFiles + "openrc/etc/init.d/dmesg", map[string]string{"dmesg_level": ""}, dmesg},
	{"cgroups", "6d3bb836b666f4470c34679372caf9ce06e166b8a27d213f90e272a9243c52cf",
		"Debian's openrc 0.56-1, etc/init.d/cgroups", nil, cgroups},
	{"mdev", "6fd1b3af4e4bc92fefbbcb4f92f4e7cc948f3c89fd3a79577d1d9cb30f8d404a",
		starterFiles + "busybox-mdev-openrc/etc/init.d/mdev", nil, mdev},
	{"modules", "10120cf7caf1156b0456b615c9c5bf823bd50210d31ce5a4be2e4032ab66cbb1",
		starterFiles + "openrc/etc/init.d/modules", nil, modules},
	{"sysctl", "4ee850a7160c615219fa387b2f11b4e37ab8258d2b8cb04d24753c8a73d32e4d",
		starterFiles + "openrc/etc/init.d/sysctl", nil, sysctl},
	{"hostname", "5d45008e3a4b1d1edded8518753069ff0809c2bd03b3206ed320a217774195f5",
		starterFiles + "openrc/etc/init.d/hostname", nil, hostname},
	{"bootmisc", "e970dd4a950318cb2abcebd84bd3bd84637f7568589c0436e4cdf609166ab739",
		starterFiles + "openrc/etc/init.d/bootmisc", nil, bootmisc},
	{"localmount", "03608c7c31df6c633d060dd55b510e2b124576784d164054d85108fc507fd3e9",
		starterFiles + "openrc/etc/init.d/localmount", nil, localmount},
}

// known returns the script of a service by its digest, or nil.
func known(name, sum string) *script {
	for i := range scripts {
		if scripts[i].name == name && scripts[i].sum == sum {
			return &scripts[i]
		}
	}
	return nil
}
