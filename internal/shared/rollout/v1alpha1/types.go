// Package v1alpha1 is the API of rollouts: a custom resource that brings one release
// of an image to the nodes of a cluster.
//
// +kubebuilder:object:generate=true
// +groupName=pikelet.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// GroupVersion is that of this API.
var GroupVersion = schema.GroupVersion{Group: "pikelet.dev", Version: "v1alpha1"}

// AddToScheme adds the kinds of this API to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Rollout{}, &RolloutList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Rollout brings one release of an image to the nodes of a cluster: servers one by
// one, then agents. The first node that does not keep the release halts it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=ro
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Done",type=integer,JSONPath=`.status.done`
// +kubebuilder:printcolumn:name="Total",type=integer,JSONPath=`.status.total`
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.spec.image`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Rollout struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RolloutSpec `json:"spec"`
	// +optional
	Status RolloutStatus `json:"status,omitzero"`
}

// RolloutList is a list of rollouts.
//
// +kubebuilder:object:root=true
type RolloutList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Rollout `json:"items"`
}

// RolloutSpec is what a rollout is to do.
type RolloutSpec struct {
	// image is a reference with a digest, registry.example/pi/homelab@sha256:..., or
	// with a tag, registry.example/pi/homelab:stable: then the rollout brings what the
	// tag names, and begins anew when that is another image.
	//
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^@\s/]+(/[^@\s/:]+)+(:[\w.-]+|(:[\w.-]+)?@sha256:[0-9a-f]{64})$`
	Image string `json:"image"`
	// nodeSelector says which nodes the rollout is for. Without it, all that run
	// Pikelet.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// maxUnavailable is how many agents, or what part of them, are unavailable at
	// the same time. Servers go one by one.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == string || self >= 1",message="want at least 1"
	// +kubebuilder:validation:Pattern=`^[1-9][0-9]?%$|^100%$`
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
	// windows are when a node's turn may begin. Without any, always.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	Windows []Window `json:"windows,omitempty"`
	// drain says how pods leave a node.
	// +optional
	Drain Drain `json:"drain,omitzero"`
	// soak is how long a node must be Ready after its upgrade before the next turn.
	// +optional
	// +kubebuilder:default="2m"
	Soak metav1.Duration `json:"soak,omitempty"`
	// deadline is how long a node may take from its restart until it is Ready.
	// +optional
	// +kubebuilder:default="30m"
	Deadline metav1.Duration `json:"deadline,omitempty"`
	// fetchTimeout is how long a node may take to bring the image.
	// +optional
	// +kubebuilder:default="2h"
	FetchTimeout metav1.Duration `json:"fetchTimeout,omitempty"`
	// onFailure says what a node that does not keep the release leads to. Halt, which
	// is all that there is so far: no further node's turn begins until the spec is
	// changed.
	// +optional
	// +kubebuilder:default=Halt
	OnFailure OnFailure `json:"onFailure,omitempty"`
	// pause lets no further node's turn begin.
	// +optional
	Pause bool `json:"pause,omitempty"`
	// again takes a release that failed on a node before.
	// +optional
	Again bool `json:"again,omitempty"`
}

// OnFailure is what a node that does not keep a release leads to.
//
// +kubebuilder:validation:Enum=Halt
type OnFailure string

// Halt keeps nodes that have not had their turn as they are.
const Halt OnFailure = "Halt"

// Drain says how pods leave a node, through the Eviction API: disruption budgets
// hold.
type Drain struct {
	// timeout is how long pods may take to leave.
	// +optional
	// +kubebuilder:default="15m"
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// off leaves pods on the node: they end with it.
	// +optional
	Off bool `json:"off,omitempty"`
	// force evicts pods too that no controller makes anew.
	// +optional
	Force bool `json:"force,omitempty"`
	// deleteEmptyDirData evicts pods too that keep data in an emptyDir.
	// +optional
	DeleteEmptyDirData bool `json:"deleteEmptyDirData,omitempty"`
}

// Day is a day of the week.
//
// +kubebuilder:validation:Enum=Sunday;Monday;Tuesday;Wednesday;Thursday;Friday;Saturday
type Day string

// Window is a time of day, on some days of the week.
type Window struct {
	// days are those on which the window opens. Without any, every day.
	// +optional
	Days []Day `json:"days,omitempty"`
	// time is such as 02:00-05:00. A window that ends before it begins goes on after
	// midnight.
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$`
	Time string `json:"time"`
	// timeZone is such as Europe/Vienna.
	// +optional
	// +kubebuilder:default="UTC"
	TimeZone string `json:"timeZone,omitempty"`
}

// RolloutStatus is how far a rollout is.
type RolloutStatus struct {
	// state is Waiting, Progressing, Paused, Halted or Complete.
	// +optional
	State string `json:"state,omitempty"`
	// reason says why the rollout does not go on.
	// +optional
	Reason string `json:"reason,omitempty"`
	// observedGeneration is that of the spec which this is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// image is the one that is brought, by the digest of its manifest.
	// +optional
	Image string `json:"image,omitempty"`
	// named is the spec's image that it was found by.
	// +optional
	Named string `json:"named,omitempty"`
	// done is how many nodes run the release.
	// +optional
	Done int `json:"done"`
	// total is how many nodes are selected.
	// +optional
	Total int `json:"total"`
	// completed is the image that all nodes ran last.
	// +optional
	Completed string `json:"completed,omitempty"`
	// previous is the image that all nodes ran before that.
	// +optional
	Previous string `json:"previous,omitempty"`
	// slowest is the longest that a node took from its restart until it kept the
	// release and was Ready.
	// +optional
	Slowest metav1.Duration `json:"slowest,omitzero"`
	// turns are the nodes under way and those that failed.
	// +optional
	Turns []Turn `json:"turns,omitempty"`
	// began is how many turns ever began.
	// +optional
	Began int64 `json:"began,omitempty"`
	// returned is the epoch of the lock that was given back last.
	// +optional
	Returned int64 `json:"returned,omitempty"`
}

// Turn is a node that is under way, or failed.
type Turn struct {
	Node string `json:"node"`
	UID  string `json:"uid"`
	// step is Fetch, Cordon, Evict, Restart, Soak, Release, Abort or Failed.
	Step string `json:"step"`
	// since is when the step began.
	Since metav1.MicroTime `json:"since"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// request is the ID of what the node is asked for.
	Request string `json:"request"`
	Image   string `json:"image"`
	Digest  string `json:"digest"`
}
