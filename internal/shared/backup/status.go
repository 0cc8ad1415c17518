package backup

import (
	"encoding/json"
	"fmt"
	"time"
)

// Status is what a node says of the k3s server that it has, and of what is to
// become of it.
type Status struct {
	Node    string `json:"node"`
	Role    string `json:"role"`    // of the node's config
	HostKey string `json:"hostKey"` // public: two nodes with one have one seed
	K3s     string `json:"k3s"`     // version of the image's
	Cluster string `json:"cluster"` // ClusterOf its server CA; "" for no server
	Etcd    bool   `json:"etcd"`    // keeps the datastore
	Serving bool   `json:"serving"` // answers as that cluster on this node
	Answers string `json:"answers"` // as Info
	// Size is that of the datastore, Free the space on the volume, in bytes.
	Size int64 `json:"size"`
	Free int64 `json:"free"`
	// Moved says where the server has gone: it never starts here again.
	Moved *Moved `json:"moved,omitempty"`
	// Restored is the backup that the server came from, Next the one that it is
	// about to become with the next start.
	Restored *Info `json:"restored,omitempty"`
	Next     *Info `json:"next,omitempty"`
	// Heard says when each node of the cluster was last heard of, where the server
	// serves.
	Heard map[string]time.Time `json:"heard,omitempty"`
	Now   time.Time            `json:"now"` // this node's clock
	// Waiting says why nothing of a server is known: the volume is not there; "" where
	// it is.
	Waiting string `json:"waiting,omitempty"`
}

// Moved is the fence around a server that has moved.
type Moved struct {
	ID string    `json:"id"` // of the move
	To string    `json:"to"` // the node's name
	At time.Time `json:"at"`
}

// Encode returns the JSON of a status.
func (s Status) Encode() ([]byte, error) { return json.Marshal(s) }

// DecodeStatus reads what Encode wrote.
func DecodeStatus(b []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("reading what a node says of its server: %w", err)
	}
	return s, nil
}

// Has reports whether the node has the server that moved, from the last backup of a
// move.
func (s Status) Has(move string) bool {
	return move != "" && s.Restored != nil && s.Restored.Move == move
}
