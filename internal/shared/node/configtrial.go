package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The steps of a config that a node tries.
const (
	TrialSent  = "sent"  // the next boot tries it
	TrialBegun = "begun" // this boot tries it; any other boot leaves it
	TrialLeft  = "left"  // the node went back to the config before
)

// ConfigTrial is a config that a node tries on one boot, beside the one it goes back
// to unless the trial is confirmed.
type ConfigTrial struct {
	Step    string `json:"step"`
	Digest  string `json:"digest"`            // as ConfigDigest returns it
	Seconds int    `json:"seconds,omitempty"` // how long the node waits for the confirmation, once it is up
	Reason  string `json:"reason,omitempty"`  // why it was left
	// Config is the config, secrets and all. Nothing but the record on state has it.
	Config string `json:"config,omitempty"`
}

// The limits of how long a node waits for the confirmation of a config: too short to
// reach it again is no trial, and too long leaves somebody locked out.
const (
	MinConfigTrial     = 10 * time.Second
	MaxConfigTrial     = time.Hour
	DefaultConfigTrial = 5 * time.Minute
)

// maxConfigTrial limits a record in bytes: a config of 64 KiB, each byte of it escaped.
const maxConfigTrial = 512 << 10

// Encode returns the bytes of ConfigTrialFile.
func (t ConfigTrial) Encode() ([]byte, error) { return json.MarshalIndent(t, "", " ") }

// DecodeConfigTrial reads ConfigTrialFile. The error says what is wrong with a record
// that no node wrote: an unknown step, a config that its digest is not of, or a time
// beyond MaxConfigTrial.
func DecodeConfigTrial(b []byte) (ConfigTrial, error) {
	var t ConfigTrial
	err := errors.New("too large")
	if len(b) <= maxConfigTrial {
		err = json.Unmarshal(b, &t)
	}
	waits := t.Step == TrialSent || t.Step == TrialBegun
	switch {
	case err != nil:
	case !waits && t.Step != TrialLeft:
		err = fmt.Errorf("unknown step %q", t.Step)
	case waits && ConfigDigest(t.Config) != t.Digest:
		err = errors.New("digest mismatch")
	case waits && (t.Time() < MinConfigTrial || t.Time() > MaxConfigTrial):
		err = fmt.Errorf("a trial of %d seconds", t.Seconds)
	}
	if err != nil {
		return ConfigTrial{}, fmt.Errorf("reading %s: %w", ConfigTrialFile, err)
	}
	return t, nil
}

// Time returns how long the node waits for the confirmation.
func (t ConfigTrial) Time() time.Duration { return time.Duration(t.Seconds) * time.Second }

// ConfigDigest returns the digest by which a config is confirmed: the SHA-256 of its
// text, without the blank ends with which it may be stored.
func ConfigDigest(config string) string {
	sum := sha256.Sum256([]byte(strings.TrimRight(config, "\x00\n")))
	return hex.EncodeToString(sum[:])
}

// ConfigReport is what pikeletd config show says: which config a node keeps.
type ConfigReport struct {
	// Config is the config, with digests in the place of secrets; "" where the node
	// was given none.
	Config string `json:"config"`
	Source string `json:"source"` // of the config of this boot
	// Pending says that the node keeps a config that it uses from its next boot on.
	Pending bool `json:"pending,omitempty"`
	// Fixed says why the node keeps no config that is sent to it; "" where it does.
	Fixed string `json:"fixed,omitempty"`
	// HostKey is the SSH host key, as in known_hosts.
	HostKey string       `json:"hostKey,omitempty"`
	Trial   *ConfigTrial `json:"trial,omitempty"`
}

// Encode returns the JSON of pikeletd config show.
func (r ConfigReport) Encode() ([]byte, error) { return json.MarshalIndent(r, "", " ") }

// DecodeConfigReport reads what pikeletd config show says.
func DecodeConfigReport(b []byte) (ConfigReport, error) {
	var r ConfigReport
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("reading the config of a node: %w", err)
	}
	return r, nil
}

// ConfigRestarting is the last line of a config trial that begins: the node restarts,
// and the connection will end.
const ConfigRestarting = "restarting into the trial of the config"
