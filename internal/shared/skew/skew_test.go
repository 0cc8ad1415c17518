package skew

import (
	"errors"
	"strings"
	"testing"
)

func parse(t testing.TB, s string) Version {
	t.Helper()
	if s == "" {
		return Version{}
	}
	v, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestParse: versions as API servers, modules and packages write them.
func TestParse(t *testing.T) {
	for s, want := range map[string][3]int{
		"v1.34.4": {1, 34, 4}, "v1.34.4+k3s1": {1, 34, 4}, "v1.34.4-k3s1": {1, 34, 4}, "1.34.4.1-r0": {1, 34, 4},
		"v1.35.0-rc.1+k3s1": {1, 35, 0}, "1.34": {1, 34, 0},
	} {
		v := parse(t, s)
		if got := [3]int{v.Major, v.Minor, v.Patch}; got != want || v.String() != "v"+strings.TrimPrefix(s, "v") {
			t.Errorf("%s: got %v and %q, want %v", s, got, v, want)
		}
	}
	for _, s := range []string{"", "v", "v1", "latest", "v1.x", "v1.34.4 ", "v1.34.4\n",
		"v1.34.4+\x1b[2J", "1.99999.1", "v1.34.4+" + strings.Repeat("k", 99)} {
		if v, err := Parse(s); !errors.Is(err, ErrVersion) || !v.IsZero() {
			t.Errorf("%q: got %v, %v, want ErrVersion", s, v, err)
		}
	}
}

// TestCheck is Kubernetes' policy, case by case.
func TestCheck(t *testing.T) {
	agent := func(kubelet, api string) Cluster { return Cluster{Kubelet: parse(t, kubelet), API: parse(t, api)} }
	server := func(kubelet string, others ...Member) Cluster {
		v := parse(t, kubelet)
		return Cluster{Server: true, Kubelet: v, API: v, Others: others}
	}
	other := func(name, version string) Member {
		return Member{name, strings.HasPrefix(name, "server"), parse(t, version)}
	}
	for name, c := range map[string]struct {
		to   string
		in   Cluster
		want error
		text string
	}{
		"the same":                     {"v1.34.4", agent("v1.34.4", "v1.34.4"), nil, ""},
		"up to the server":             {"v1.35.0", agent("v1.34.4", "v1.35.0"), nil, ""},
		"another revision of k3s":      {"v1.34.4+k3s2", agent("v1.34.4+k3s1", "v1.34.4+k3s1"), nil, ""},
		"a minor above the server":     {"v1.35.0", agent("v1.34.4", "v1.34.4"), ErrKubeletNewer, "v1.35.0, the API server v1.34.4"},
		"a patch above the server":     {"v1.34.5", agent("v1.34.4", "v1.34.4"), ErrKubeletNewer, "v1.34.5, the API server v1.34.4"},
		"below the server":             {"v1.33.9", agent("v1.34.4", "v1.34.4"), nil, ""},
		"three below the server":       {"v1.31.0", agent("v1.32.0", "v1.34.4"), nil, ""},
		"four below the server":        {"v1.30.9", agent("v1.31.0", "v1.34.4"), ErrKubeletOlder, "v1.30.9, the API server v1.34.4"},
		"two minors up":                {"v1.36.0", agent("v1.34.4", "v1.36.0"), ErrStep, "from v1.34.4 to v1.36.0"},
		"two minors down":              {"v1.32.0", agent("v1.34.4", "v1.34.4"), ErrStep, "from v1.34.4 to v1.32.0"},
		"another major version":        {"v2.34.4", agent("v1.34.4", "v2.34.4"), ErrStep, ""},
		"of an unknown version":        {"v1.34.4", agent("", "v1.34.4"), nil, ""},
		"unknown server":               {"v1.34.4", agent("v1.34.4", ""), ErrUnknownServer, ""},
		"a server":                     {"v1.35.0", server("v1.34.4", other("agent-1", "v1.34.4"), other("server-2", "v1.34.4")), nil, ""},
		"a server, agents too old":     {"v1.35.0", server("v1.34.4", other("agent-1", "v1.31.0")), ErrKubeletOlder, "agent-1"},
		"a server, others too old":     {"v1.35.0", server("v1.34.4", other("server-2", "v1.33.0")), ErrServersApart, "server-2 runs v1.33.0"},
		"a server down below an agent": {"v1.34.4", server("v1.35.0", other("agent-1", "v1.35.0")), ErrKubeletNewer, "agent-1"},
		"a server down":                {"v1.34.4", server("v1.35.0", other("agent-1", "v1.34.4"), other("server-2", "v1.35.0")), nil, ""},
		"a server two up":              {"v1.36.0", server("v1.34.4"), ErrStep, "from v1.34.4 to v1.36.0"},
		"a node of no known version":   {"v1.35.0", server("v1.34.4", Member{Name: "agent-1"}), nil, ""},
	} {
		err := Check(parse(t, c.to), c.in)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %v with %q", name, err, c.want, c.text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"v1.34.4+k3s1", "1.34.4.1-r0", "", "v1..2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(v.String())
		if err != nil || again != v || v.Compare(again) != 0 {
			t.Errorf("%q reads as %+v, and that as %+v, %v", s, v, again, err)
		}
	})
}
