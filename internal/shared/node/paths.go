package node

// Where a running node keeps things.
const (
	// StateDir is where the state partition is mounted, or memory where there
	// is none.
	StateDir = "/var/lib/pikelet/state"
	// VolumeDir is where the volume is mounted.
	VolumeDir = "/var/lib/pikelet/volume"
	// K3sDir is where k3s keeps everything (docs/platform.md 7.1).
	K3sDir = "/var/lib/rancher/k3s"
	// K3sServerDir is where a k3s server keeps its datastore, token and
	// certificates.
	K3sServerDir = K3sDir + "/server"
	// SeedFile holds the seed of a node that was given none, or was given it
	// by its config.
	SeedFile = StateDir + "/node/seed"
	// BackupLock is held while a backup of a server is made or restored, and while a
	// restored server takes its place.
	BackupLock = "/run/pikelet/backup.lock"
	// ConfigFile is the config the node took last, and that was good.
	ConfigFile = StateDir + "/node/node.yaml"
	// ConfigTrialFile is the record of a config that is tried (ConfigTrial).
	ConfigTrialFile = StateDir + "/node/trial.json"
	// ConfigLock is held while a config is sent, confirmed or left.
	ConfigLock = "/run/pikelet/config.lock"
	// ConfigSinceFile says since when this boot waits for the confirmation of a
	// config: seconds of the monotonic clock.
	ConfigSinceFile = "/run/pikelet/config-since"
	// ClockFile is the last time the node knew.
	ClockFile = StateDir + "/node/clock"
	// InventoryFile is the inventory an image may hold.
	InventoryFile = "/usr/lib/pikelet/inventory.yaml"
	// ServedFile is the config the boot server gave to a node without a card.
	ServedFile = "/run/pikelet/served.yaml"
	// PreparedFile is what prepare found out, for the daemon and for status.
	PreparedFile = "/run/pikelet/prepare.json"
	// StateReportFile is the copy on state of what report.txt on the control
	// partition says of the last upgrade (slots.UpgradeReport).
	StateReportFile = StateDir + "/report.txt"
	// EarlyFile says which services were started without OpenRC, and why the
	// others were not.
	EarlyFile = "/run/pikelet/early.txt"
	// VolumeFile says what became of the volume.
	VolumeFile = "/run/pikelet/volume.json"
	// LabelsFile says how labels and taints of the node config fared.
	LabelsFile = "/run/pikelet/labels.json"
	// EffectiveFile is the config this boot goes by, secrets and all, 0600.
	EffectiveFile = "/run/pikelet/node.yaml"
)

// Place says where a writable path lives.
type Place string

// The places.
const (
	Memory Place = "memory" // gone with the power; an overlay over what the image has
	State  Place = "state"
	Volume Place = "volume"
)

// Writable is one path of the root that programs write to.
type Writable struct {
	Path  string
	Place Place
	Mode  uint32
	Why   string
}

// WritablePaths is the one table of what is writable on a node besides /run,
// /tmp and /dev. What is on state or on the volume is real ext4, bound from
// there: k3s' snapshotter cannot work on overlayfs (docs/platform.md 6.2). All
// the rest of the root is read-only.
func WritablePaths() []Writable {
	return []Writable{
		{"/etc", Memory, 0o755, "refilled from the image and the node config on each boot, so that no node drifts"},
		{"/var", Memory, 0o755, "what may be gone after a boot"},
		{"/root", Memory, 0o700, "root's own files"},
		{"/home", Memory, 0o755, "users' own files"},
		{"/var/log", Memory, 0o755, "logs; a card wears out by them. With a limit of its own, so that they cannot fill /var"},
		{"/var/lib/chrony", State, 0o750, "how fast this board's clock runs"},
		{"/var/lib/seedrng", State, 0o700, "randomness for the next boot"},
		{"/var/lib/rancher", Volume, 0o755, "k3s: datastore, containerd, images, local volumes"},
		{"/var/lib/kubelet", Volume, 0o755, "pods' volumes; bound shared, as containers mount in it"},
		{"/var/lib/containerd", Volume, 0o711, "containerd without k3s"},
		{"/var/lib/longhorn", Volume, 0o755, "where Longhorn keeps its replicas"},
		{"/var/log/pods", Volume, 0o755, "pods' logs, which can be large"},
		{"/var/lib/pikelet-serve", Volume, 0o700, "a boot server: who was adopted, and the images it serves"},
		{"/var/lib/cni", Volume, 0o755, "addresses given to pods"},
		{"/opt/cni", Volume, 0o755, "network plugins that Calico, Cilium and multus install"},
		{"/usr/libexec/kubernetes", Volume, 0o755, "the kubelet's flexvolume plugins"},
	}
}
