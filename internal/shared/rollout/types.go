package rollout

import (
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Rollout is one release that is brought to the nodes of a cluster.
type Rollout struct {
	Name, UID string
	Created   time.Time
	// Generation changes with each change of Spec.
	Generation int64
	// Deleted says that the rollout is to go: what it began is ended first.
	Deleted bool
	Spec    Spec
	Status  Status
}

// Spec is what a rollout is to do.
type Spec struct {
	Image  string // a reference with a digest
	Digest string // of the image's manifest
	Named  string // the reference that Image was found by, such as that of a channel
	// Selects reports whether a node with some labels is one of the rollout's; nil
	// selects all.
	Selects func(labels map[string]string) bool
	// MaxUnavailable is how many agents are unavailable at the same time; at least
	// 1. Servers go one by one, alone.
	MaxUnavailable int
	// Windows are when a node's turn may begin; none is always.
	Windows []Window
	Drain   Drain
	// Soak is how long a node must be Ready after its upgrade before the next one's
	// turn; Deadline how long it may take for that, from its restart on.
	Soak, Deadline time.Duration
	// Fetch is how long a node may take to bring the image.
	Fetch  time.Duration
	Paused bool
	Again  bool // take a release that failed on a node before
}

// Drain is how pods leave a node.
type Drain struct {
	Timeout time.Duration
	// Off leaves pods where they are. They end with the node, and start with it.
	Off bool
	// Force evicts pods too that no controller makes anew, and LocalData pods that
	// have an emptyDir, whose data is lost.
	Force, LocalData bool
}

// Window is a time of day, on some days of the week, in a time zone.
type Window struct {
	Days     []time.Weekday // none is every day
	Day      nodeconfig.Window
	Location *time.Location
}

// Contains reports whether the window is open. One that goes on after midnight
// belongs to the day on which it began.
func (w Window) Contains(t time.Time) bool {
	t = t.In(w.Location)
	if !w.Day.Contains(t) {
		return false
	}
	if m := t.Hour()*60 + t.Minute(); w.Day.To < w.Day.From && m < w.Day.To {
		t = t.AddDate(0, 0, -1)
	}
	for _, d := range w.Days {
		if d == t.Weekday() {
			return true
		}
	}
	return len(w.Days) == 0
}

// State is where a rollout is.
type State string

// The states.
const (
	Waiting     State = "Waiting"     // no node's turn may begin now; Reason says why
	Progressing State = "Progressing" // some nodes are under way
	Paused      State = "Paused"      // by its spec
	Halted      State = "Halted"      // by a node that failed, until its spec changes
	Complete    State = "Complete"    // all nodes run the release
)

// Status is how far a rollout is. Everything that a controller must know of the
// past is in it: a node's turn is here before anything is done to the node.
type Status struct {
	State  State
	Reason string
	// Observed is the generation of the spec that this is about, Image and Named those
	// of it: a channel names another image without a change of the spec.
	Observed     int64
	Image, Named string
	// Turns are the nodes under way and those that failed, in the order in which
	// they began.
	Turns []Turn
	// Began counts the turns that ever began: each has a request of its own.
	Began int64
	// Returned is the epoch of the lock that was given back last. It is written down
	// before the lock is free, and no turn begins under it any more.
	Returned int64
	// Done and Total count the nodes that run the release, and all selected ones.
	Done, Total int
	// Completed is the image that all nodes ran last, Previous the one before that:
	// what a person goes back to. "" is none yet.
	Completed, Previous string
	// Slowest is the longest that a node ever took from its restart until it kept the
	// release and was Ready.
	Slowest time.Duration
}

// Turn is a node that is under way, or failed.
type Turn struct {
	Node string
	UID  string // of the Node: another one of the same name is another node
	Step Step
	// Since is when the step began, by the clock of the controller that began it.
	Since  time.Time
	Reason string
	// Request is the ID of what the node is asked for, Image and Digest the release:
	// the spec may have another one by now.
	Request, Image, Digest string
}

// Step is how far a node's turn is.
type Step string

// The steps, in their order.
const (
	Fetch   Step = "Fetch"   // the node writes the image to its other slot
	Cordon  Step = "Cordon"  // it becomes unschedulable
	Evict   Step = "Evict"   // its pods leave
	Restart Step = "Restart" // it restarts into the image, and keeps it
	Soak    Step = "Soak"    // it is watched
	Release Step = "Release" // it becomes schedulable, if it was
	Abort   Step = "Abort"   // as Release, of a turn that is given up before Restart
	Failed  Step = "Failed"  // as Release, and the rollout halts
)

// View is what a controller sees of a cluster. It may be old: every Action holds
// what it was decided by, and is refused where that has changed.
type View struct {
	Now   time.Time
	Nodes []Node // all of the cluster
	Lock  Lock
	// Others are the other rollouts of the cluster. Where two select the same node,
	// the one that was created later stands still.
	Others []*Rollout
	// Pods are those of nodes whose turn is at Evict or Restart, by the node's name.
	// They are read when needed, and not old.
	Pods map[string][]Pod
}

// Lock says which rollout may have nodes under way.
type Lock struct {
	Holder string // UID of a rollout; "" for none
	Epoch  int64  // how often it was taken
}

// Node is what a controller sees of a node.
type Node struct {
	Name, UID string
	Version   string // of the object
	Labels    map[string]string
	Server    bool // of the control plane
	// Learner says that its etcd is not a voting member yet, or not any more.
	Learner       bool
	Ready         bool
	Unschedulable bool
	CordonedBy    string // UID of a rollout; "" for none
	Request       *Request
	Answer        *Answer
	Image         *Image // nil for a node that does not run Pikelet
}

// Pod is what a controller sees of a pod.
type Pod struct {
	Namespace, Name, UID string
	Static               bool // of a manifest on the node
	DaemonSet            bool
	Controlled           bool // a controller makes it anew
	LocalData            bool // it has an emptyDir
	Finished             bool // it succeeded or failed
	Terminating          bool
	// Blocked is why its eviction was refused last; "" for nothing.
	Blocked string
}

// Kind is what an action does.
type Kind string

// The kinds.
const (
	WriteStatus Kind = "write status" // of the rollout, of the version that was seen
	TakeLock    Kind = "take lock"    // if it is free
	ReleaseLock Kind = "release lock" // if it is this rollout's, of the epoch that was seen
	PatchNode   Kind = "patch node"   // of the version that was seen
	EvictPod    Kind = "evict pod"    // through the Eviction API
	Forget      Kind = "forget"       // the rollout may go
)

// Action is one request to the API server.
type Action struct {
	Kind   Kind
	Status Status // of WriteStatus
	Node   string
	Change Change // of PatchNode
	Pod    Pod    // of EvictPod
	Epoch  int64  // of ReleaseLock
}

// Change is what is changed of a node; nil leaves a field as it is.
type Change struct {
	Unschedulable *bool
	CordonedBy    *string
	Request       *Request // one without an ID takes away what is there
}
