package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fakes are nodes that are only what the API server sees of a node: Ready, with
// leases that are renewed, and pods that start and end at once. They are for tests
// of what acts on many nodes.
type Fakes struct {
	c     *ControlPlane
	names []string

	mu    sync.Mutex
	boots map[string]int
	down  map[string]bool
}

// NewFakes registers n nodes, fake-1 and so on, and keeps them alive until ctx
// ends.
func (c *ControlPlane) NewFakes(ctx context.Context, n int) (*Fakes, error) {
	f := &Fakes{c: c, boots: map[string]int{}, down: map[string]bool{}}
	for i := range n {
		name := fmt.Sprintf("fake-%d", i+1)
		f.names = append(f.names, name)
		node := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{
			"name": name, "labels": map[string]string{"kubernetes.io/hostname": name, "fake": "yes"},
		}}
		if _, err := c.Do(ctx, http.MethodPost, "/api/v1/nodes", node); err != nil {
			return nil, err
		}
		lease := map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"holderIdentity": name, "leaseDurationSeconds": 40},
		}
		if _, err := c.Do(ctx, http.MethodPost, leases, lease); err != nil {
			return nil, err
		}
		if err := f.report(ctx, name); err != nil {
			return nil, err
		}
	}
	go f.live(ctx)
	return f, nil
}

const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

// Down makes a node stop reporting and its pods stay as they are.
func (f *Fakes) Down(ctx context.Context, name string) error {
	f.mu.Lock()
	f.down[name] = true
	f.mu.Unlock()
	return f.report(ctx, name)
}

// Up brings a node back after Down, in another boot.
func (f *Fakes) Up(ctx context.Context, name string) error {
	f.mu.Lock()
	f.down[name] = false
	f.boots[name]++
	f.mu.Unlock()
	return f.report(ctx, name)
}

// report sends a node's status.
func (f *Fakes) report(ctx context.Context, name string) error {
	f.mu.Lock()
	status, boot := "True", fmt.Sprintf("boot-%d", f.boots[name])
	if f.down[name] {
		status = "False"
	}
	f.mu.Unlock()
	now := time.Now().UTC().Format(time.RFC3339)
	room := map[string]string{"cpu": "4", "memory": "4Gi", "pods": "110"}
	_, err := f.c.Do(ctx, http.MethodPatch, "/api/v1/nodes/"+name+"/status", map[string]any{"status": map[string]any{
		"capacity": room, "allocatable": room,
		"nodeInfo": map[string]string{
			"bootID": boot, "machineID": name, "systemUUID": name, "kernelVersion": "6.12", "osImage": "fake", "operatingSystem": "linux",
			"containerRuntimeVersion": "fake://1", "kubeletVersion": "v1.34.4", "kubeProxyVersion": "", "architecture": "arm64",
		},
		"conditions": []map[string]string{{
			"type": "Ready", "status": status, "reason": "Fake", "message": "a node of tests", "lastHeartbeatTime": now, "lastTransitionTime": now,
		}},
	}})
	return err
}

// live renews leases and lets pods start and end, until ctx ends. What fails is
// tried again: the API server may be away.
func (f *Fakes) live(ctx context.Context) {
	for tick := 0; ; tick++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		if tick%10 == 0 {
			f.renew(ctx)
		}
		f.runPods(ctx)
	}
}

func (f *Fakes) isDown(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down[name]
}

func (f *Fakes) renew(ctx context.Context) {
	for _, name := range f.names {
		if !f.isDown(name) {
			now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
			f.c.Do(ctx, http.MethodPatch, leases+"/"+name, map[string]any{"spec": map[string]any{"renewTime": now}})
		}
	}
}

// fakePod is what is read of a pod.
type fakePod struct {
	Metadata struct {
		Namespace, Name   string
		DeletionTimestamp string
	}
	Spec struct {
		NodeName   string
		Containers []struct{ Name, Image string }
	}
	Status struct{ Phase string }
}

func (f *Fakes) runPods(ctx context.Context) {
	b, err := f.c.Get(ctx, "/api/v1/pods")
	var list struct{ Items []fakePod }
	if err != nil || json.Unmarshal(b, &list) != nil {
		return
	}
	for _, p := range list.Items {
		if !slices.Contains(f.names, p.Spec.NodeName) || f.isDown(p.Spec.NodeName) {
			continue
		}
		at := "/api/v1/namespaces/" + p.Metadata.Namespace + "/pods/" + p.Metadata.Name
		switch {
		case p.Metadata.DeletionTimestamp != "":
			f.c.Do(ctx, http.MethodDelete, at, map[string]any{"gracePeriodSeconds": 0})
		case p.Status.Phase != "Running":
			f.c.Do(ctx, http.MethodPatch, at+"/status", map[string]any{"status": p.runs()})
		}
	}
}

// runs returns the status of a pod all of whose containers run.
func (p fakePod) runs() map[string]any {
	now := time.Now().UTC().Format(time.RFC3339)
	var containers []map[string]any
	for _, c := range p.Spec.Containers {
		containers = append(containers, map[string]any{
			"name": c.Name, "image": c.Image, "imageID": "", "ready": true, "started": true, "restartCount": 0,
			"state": map[string]any{"running": map[string]string{"startedAt": now}},
		})
	}
	var conditions []map[string]string
	for t := range strings.FieldsSeq("Initialized PodReadyToStartContainers ContainersReady Ready PodScheduled") {
		conditions = append(conditions, map[string]string{"type": t, "status": "True", "lastTransitionTime": now})
	}
	return map[string]any{
		"phase": "Running", "podIP": "10.42.99.9", "hostIP": "10.77.0.99", "startTime": now,
		"conditions": conditions, "containerStatuses": containers,
	}
}
