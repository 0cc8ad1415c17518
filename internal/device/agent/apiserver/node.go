package apiserver

import (
	"encoding/json"
	"time"
)

// Node is what pikeletd reads of a Node
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/node-v1/).
type Node struct {
	Metadata struct {
		Name            string            `json:"name"`
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Unschedulable bool    `json:"unschedulable"`
		Taints        []Taint `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []Condition `json:"conditions"`
		Addresses  []Address   `json:"addresses"`
		NodeInfo   NodeInfo    `json:"nodeInfo"`
	} `json:"status"`
}

// ControlPlane is the label of nodes that have an API server
// (https://kubernetes.io/docs/reference/labels-annotations-taints/); k3s sets it
// on its servers.
const ControlPlane = "node-role.kubernetes.io/control-plane"

// NodeInfo is what the kubelet says of its machine.
type NodeInfo struct {
	BootID         string `json:"bootID"`
	KubeletVersion string `json:"kubeletVersion"`
}

// Condition is one thing that the cluster knows of a node.
type Condition struct {
	Type    string    `json:"type"`
	Status  string    `json:"status"` // True, False or Unknown
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"lastTransitionTime"`
}

// Address is one address of a node.
type Address struct {
	Type    string `json:"type"` // such as InternalIP
	Address string `json:"address"`
}

// Condition returns the condition of a type, and whether there is one.
func (n *Node) Condition(kind string) (Condition, bool) {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c, true
		}
	}
	return Condition{}, false
}

// Taint keeps pods away from a node. What else the API server says of a taint,
// such as when it was added, is kept for when the list is written back.
type Taint struct {
	Key    string
	Value  string
	Effect string
	raw    json.RawMessage
}

type plainTaint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// UnmarshalJSON reads a taint.
func (t *Taint) UnmarshalJSON(b []byte) error {
	var p plainTaint
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*t = Taint{p.Key, p.Value, p.Effect, append(json.RawMessage(nil), b...)}
	return nil
}

// MarshalJSON writes a taint as it was read.
func (t Taint) MarshalJSON() ([]byte, error) {
	if t.raw != nil {
		return t.raw, nil
	}
	return json.Marshal(plainTaint{t.Key, t.Value, t.Effect})
}

// String returns a taint as KEY=VALUE:EFFECT.
func (t Taint) String() string {
	if t.Value == "" {
		return t.Key + ":" + t.Effect
	}
	return t.Key + "=" + t.Value + ":" + t.Effect
}
