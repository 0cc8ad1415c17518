package node

import (
	"encoding/json"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Prepared is what pikeletd prepare found out and did on this boot. The
// daemon and status read it.
type Prepared struct {
	Hostname    string       `json:"hostname"`
	Serial      string       `json:"serial,omitempty"`
	HostKey     string       `json:"hostKey"`     // as in known_hosts
	Fingerprint string       `json:"fingerprint"` // of the host key
	IQN         string       `json:"iqn"`
	Seed        string       `json:"seed"` // where it came from: config, state, or made on this boot
	State       StateStatus  `json:"state"`
	Config      ConfigStatus `json:"config"`
	Problems    []string     `json:"problems,omitempty"`
	Seconds     float64      `json:"seconds"`
}

// StateStatus says how the state partition is.
type StateStatus struct {
	Device string `json:"device,omitempty"`
	// Memory says why state is in memory on this boot; "" where it is on the
	// card.
	Memory string `json:"memory,omitempty"`
	Made   bool   `json:"made,omitempty"`  // on this boot
	Grown  bool   `json:"grown,omitempty"` // on this boot
	// Repaired says what the check of the filesystem mended.
	Repaired string `json:"repaired,omitempty"`
}

// Where a config came from.
const (
	FromCard   = "the control partition"
	FromServer = "the boot server"
	FromState  = "state"
	FromTrial  = "a trial"
	FromImage  = "the image's inventory"
	FromNone   = "nowhere: there is none"
)

// ConfigStatus says which config this boot goes by.
type ConfigStatus struct {
	Source string `json:"source"`
	// Taken is when the node took it, in seconds since 1970; 0 where it is
	// the image's own.
	Taken int64 `json:"taken,omitempty"`
	// Digest is the ConfigDigest of what was taken from card or state.
	Digest string `json:"digest,omitempty"`
	// Refused says why a newer one was not taken.
	Refused string `json:"refused,omitempty"`
	// Partial says that Refused names fields of the config in use, which this
	// image goes without: an earlier one took them.
	Partial bool `json:"partial,omitempty"`
}

// Encode returns the bytes of PreparedFile.
func (p Prepared) Encode() ([]byte, error) { return json.MarshalIndent(p, "", " ") }

// DecodePrepared reads PreparedFile.
func DecodePrepared(b []byte) (Prepared, error) {
	var p Prepared
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("reading %s: %w", PreparedFile, err)
	}
	return p, nil
}

// VolumeStatus says how the volume is. The volume service and the daemon
// write it.
type VolumeStatus struct {
	On      string `json:"on"` // as in the node config
	Device  string `json:"device,omitempty"`
	Mounted bool   `json:"mounted"`
	Made    bool   `json:"made,omitempty"` // on this boot
	// Repaired says what the check of the filesystem mended.
	Repaired string `json:"repaired,omitempty"`
	// Encrypted says that the node config wants it encrypted.
	Encrypted bool `json:"encrypted,omitempty"`
	// Waiting says what is missing, where it is not mounted.
	Waiting string `json:"waiting,omitempty"`
	// Refused says that waiting will not help: what is on the disk is not this
	// node's volume.
	Refused bool `json:"refused,omitempty"`
	// Another says that it is not the filesystem the node had there before; ""
	// where it is.
	Another string `json:"another,omitempty"`
	// Sessions say which other targets could not be logged in to.
	Sessions []string `json:"sessions,omitempty"`
}

// Encode returns the bytes of VolumeFile.
func (v VolumeStatus) Encode() ([]byte, error) { return json.MarshalIndent(v, "", " ") }

// DecodeVolume reads VolumeFile.
func DecodeVolume(b []byte) (VolumeStatus, error) {
	var v VolumeStatus
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("reading %s: %w", VolumeFile, err)
	}
	return v, nil
}

// Status is all that pikeletd status says, as JSON with --json.
type Status struct {
	Boot   Boot         `json:"boot"`
	Node   Prepared     `json:"node"`
	State  Space        `json:"stateSpace"`
	Volume VolumeStatus `json:"volume"`
	Space  Space        `json:"volumeSpace"`
	Checks []Check      `json:"checks"`
	K3s    K3sStatus    `json:"k3s"`
	// Cluster is what the API server says of this node; nil where the node
	// config gives it no role.
	Cluster  *ClusterStatus `json:"cluster,omitempty"`
	Sessions []Session      `json:"iscsi,omitempty"`
	Firmware Firmware       `json:"firmware"`
	// Update is what the card's record says of the last upgrade.
	Update *slots.Update `json:"update,omitempty"`
	// Datastore says what became of k3s' datastore when a release was left that
	// had written to it; "" for nothing.
	Datastore string `json:"datastore,omitempty"`
	// CardWritten is how many bytes were written to the card since it was
	// started.
	CardWritten int64 `json:"cardWrittenBytes"`
	// Synchronised reports whether a time server keeps the clock right.
	Synchronised bool `json:"timeSynchronised"`
}

// Space is how full a filesystem is, in bytes; zeros where there is none.
type Space struct {
	Size int64 `json:"size"`
	Free int64 `json:"free"`
}

// Check is one thing a node was asked for.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Says what is missing and what to do, or, where all is well, what there
	// is.
	Says string `json:"says,omitempty"`
	// Outside says that it is not OK for a reason that lies outside this node:
	// the network here is well, and what is behind it does not answer.
	Outside bool `json:"outside,omitempty"`
	// Warning says that it is OK, since the node does its work, and that
	// somebody should look at what Says tells all the same.
	Warning bool `json:"warning,omitempty"`
}

// String is a line of a list of checks.
func (c Check) String() string {
	word := "ok     "
	switch {
	case !c.OK:
		word = "MISSING"
	case c.Warning:
		word = "WARNING"
	}
	return fmt.Sprintf("%s %-16s %s", word, c.Name, c.Says)
}

// K3sStatus says how k3s is.
type K3sStatus struct {
	Role    string `json:"role,omitempty"` // "" for none
	Running bool   `json:"running"`
	// Says what the kubelet answers when it is asked for its health.
	Says string `json:"says,omitempty"`
}

// ClusterStatus is what the API server says of a node.
type ClusterStatus struct {
	// Problem says why it says nothing; "" where it does.
	Problem string `json:"problem,omitempty"`
	// Ready is True, False, or Unknown where the cluster has not heard of the
	// node for a while.
	Ready   string `json:"ready,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Since is when Ready last changed, in seconds since 1970.
	Since int64 `json:"since,omitempty"`
	// BootBefore says that all this is of an earlier boot of the node.
	BootBefore bool `json:"bootBefore,omitempty"`
	// Kubelet and Server are versions; Server is "" where it does not say.
	Kubelet       string   `json:"kubelet,omitempty"`
	Server        string   `json:"server,omitempty"`
	Unschedulable bool     `json:"unschedulable,omitempty"`
	Taints        []string `json:"taints,omitempty"`    // as KEY=VALUE:EFFECT
	Pressures     []string `json:"pressures,omitempty"` // conditions besides Ready that hold, such as DiskPressure
	Addresses     []string `json:"addresses,omitempty"` // such as InternalIP 10.0.0.2
	// Labels says how labels and taints of the node config fared.
	Labels LabelStatus `json:"labels,omitzero"`
}

// LabelStatus says how the labels and taints of the node config fared. The
// daemon writes it.
type LabelStatus struct {
	// Problem says why they could not be set; "" where they could.
	Problem string `json:"problem,omitempty"`
	// Refused are changes that the API server does not allow this node.
	Refused []Refusal `json:"refused,omitempty"`
}

// Refusal is a change that the API server does not allow a node.
type Refusal struct {
	Why string `json:"why"`
	// Command is what somebody runs who may change the node.
	Command string `json:"command"`
}

// Encode returns the bytes of LabelsFile.
func (l LabelStatus) Encode() ([]byte, error) { return json.MarshalIndent(l, "", " ") }

// DecodeLabels reads LabelsFile.
func DecodeLabels(b []byte) (LabelStatus, error) {
	var l LabelStatus
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("reading %s: %w", LabelsFile, err)
	}
	return l, nil
}

// Session is one iSCSI session.
type Session struct {
	Target string   `json:"target"`
	State  string   `json:"state"` // as the kernel calls it: LOGGED_IN, FAILED, FREE
	Disks  []string `json:"disks,omitempty"`
}

// Firmware says how old what starts the node is, in seconds since 1970; 0
// where it does not say.
type Firmware struct {
	Bootloader int64  `json:"bootloader,omitempty"`
	Model      string `json:"model,omitempty"`
}

// Encode returns the JSON of pikeletd status --json.
func (s Status) Encode() ([]byte, error) { return json.MarshalIndent(s, "", " ") }

// DecodeStatus reads what pikeletd status --json says.
func DecodeStatus(b []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("reading the status of a node: %w", err)
	}
	return s, nil
}
