package node

import (
	"encoding/json"
	"fmt"
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
	FromCard  = "the control partition"
	FromState = "state"
	FromImage = "the image's inventory"
	FromNone  = "nowhere: there is none"
)

// ConfigStatus says which config this boot goes by.
type ConfigStatus struct {
	Source string `json:"source"`
	// Taken is when the node took it, in seconds since 1970; 0 where it is
	// the image's own.
	Taken int64 `json:"taken,omitempty"`
	// Refused says why a newer one was not taken.
	Refused string `json:"refused,omitempty"`
}

// Encode returns the bytes of ReportFile.
func (p Prepared) Encode() ([]byte, error) { return json.MarshalIndent(p, "", " ") }

// DecodePrepared reads ReportFile.
func DecodePrepared(b []byte) (Prepared, error) {
	var p Prepared
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("reading %s: %w", ReportFile, err)
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
	// Waiting says what is missing, where it is not mounted.
	Waiting string `json:"waiting,omitempty"`
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
