package apiserver

import "time"

// NewCondition is a condition as it is written.
type NewCondition struct {
	Type      string    `json:"type"`
	Status    string    `json:"status"` // True, False or Unknown
	Reason    string    `json:"reason"` // one word in CamelCase
	Message   string    `json:"message"`
	Heartbeat time.Time `json:"lastHeartbeatTime"`
	Since     time.Time `json:"lastTransitionTime"`
}

// Event is something that happened to a node
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
type Event struct {
	Node    string
	Warning bool
	Reason  string // one word in CamelCase
	Message string
	At      time.Time
}

// component is what events are said to come from.
const component = "pikeletd"

// object is the event as the API server takes it. A Node's events are in the
// namespace default, and name its name as its UID, as the kubelet's do.
func (e Event) object() map[string]any {
	kind, at := "Normal", e.At.UTC().Format(time.RFC3339)
	if e.Warning {
		kind = "Warning"
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"generateName": e.Node + ".", "namespace": "default"},
		"involvedObject": map[string]any{"kind": "Node", "apiVersion": "v1", "name": e.Node, "uid": e.Node},
		"reason":         e.Reason, "message": e.Message, "type": kind, "count": 1,
		"firstTimestamp": at, "lastTimestamp": at,
		"source": map[string]any{"component": component, "host": e.Node}, "reportingComponent": component, "reportingInstance": e.Node,
	}
}
