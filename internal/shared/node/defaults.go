package node

import (
	"encoding/json"
	"fmt"
	"time"
)

// DefaultsFile is where an image says what its nodes do unless told
// otherwise.
const DefaultsFile = "/usr/lib/pikelet/defaults.json"

// Defaults are an image's word to its nodes.
type Defaults struct {
	// Channel is the reference to watch for new releases; "" for none.
	Channel string `json:"channel,omitempty"`
	// Soak is how long all checks of a trial must hold, Deadline when a trial
	// that has not got there is left.
	Soak     time.Duration `json:"soak"`     // nanoseconds
	Deadline time.Duration `json:"deadline"` // nanoseconds
}

// Encode returns the bytes of DefaultsFile.
func (d Defaults) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(d, "", " ")
	return append(b, '\n'), err
}

// DecodeDefaults reads DefaultsFile.
func DecodeDefaults(b []byte) (Defaults, error) {
	var d Defaults
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("reading %s: %w", DefaultsFile, err)
	}
	if d.Soak <= 0 || d.Deadline <= d.Soak {
		return d, fmt.Errorf("reading %s: a soak of %s and a deadline of %s", DefaultsFile, d.Soak, d.Deadline)
	}
	return d, nil
}
