package importer

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// TestServer: what an installed server is configured with, in all the places that k3s
// and its installer have for it.
func TestServer(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"systemd": {
			"etc/rancher/k3s/config.yaml": "write-kubeconfig-mode: 0640\ntls-san:\n  - a.lan\ndisable: [traefik]\nnode-label:\n- shed=yes\n" +
				"kube-apiserver-arg: {a: b}\n",
			"etc/rancher/k3s/config.yaml.d/10.yaml": "tls-san+: [b.lan]\ndisable: [servicelb]\n",
			"etc/rancher/k3s/registries.yaml":       "configs: {r.lan: {auth: {username: u, password: hush}}}\n",
			"etc/systemd/system/k3s.service": "[Service]\nEnvironmentFile=-/etc/systemd/system/%N.service.env\n" +
				"Environment=\"K3S_KUBECONFIG_MODE=644\" A=b\n" +
				"ExecStartPre=-/sbin/modprobe overlay\nExecStart=/usr/local/bin/k3s \\\n    server \\\n        '--flannel-backend' \\\n" +
				"        'host-gw' \\\n" +
				"        '--node-taint' \\\n        'a=b:NoSchedule' \\\n        '--node-name' \\\n        'Alpha' \\\n\nRestart=always\n",
			"etc/systemd/system/k3s.service.d/x.conf": "[Service]\nEnvironment=HTTPS_PROXY=http://hush@p\n",
			"etc/systemd/system/k3s.service.env":      "K3S_TOKEN=hush-token\nK3S_DATASTORE_CAFILE=/x\n",
		},
		"openrc": {
			"etc/init.d/k3s": "#!/sbin/openrc-run\n\ndepend() {\n    after network-online\n}\nsupervisor=supervise-daemon\nname=k3s\n" +
				"command=\"/usr/local/bin/k3s\"\ncommand_args=\"server --disable traefik \\\n    --data-dir=/srv/k3s >>/var/log/k3s.log 2>&1\"\n\n" +
				"pidfile=\"/var/run/k3s.pid\"\nset -o allexport\nif [ -f /etc/environment ]; then . /etc/environment; fi\n",
			"etc/rancher/k3s/k3s.env": "K3S_TOKEN='hush'\n",
		},
		"external": {"etc/systemd/system/k3s.service.env": "K3S_DATASTORE_ENDPOINT='postgres://u:hush@db/k3s'\n"},
		"nothing":  {},
	} {
		fsys := fstest.MapFS{}
		for name, text := range files {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
		}
		s := Installed{Files: fsys, Node: "pi", Addresses: []string{"10.0.0.2/24"}, Token: "K10aa::server:hush", Static: []string{"own.txt"}}
		if name == "systemd" {
			s.Configs, s.Drops = []string{"etc/rancher/k3s/config.yaml.d/10.yaml"}, []string{"etc/systemd/system/k3s.service.d/x.conf"}
		}
		r, err := Server(s, Options{Seal: seal})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "node %s, data %q, external %v\n", r.Node, r.DataDir, r.External)
		for _, n := range r.Notes {
			fmt.Fprintln(&b, n)
		}
		got := b.String() + "\n" + string(r.Inventory)
		if strings.Contains(got, "hush") {
			t.Errorf("%s: a secret is shown:\n%s", name, got)
		}
		golden := "testdata/server/" + name + ".txt"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Errorf("%s: golden file written; look at the difference", name)
			continue
		}
		if want, err := os.ReadFile(golden); err != nil || got != string(want) {
			t.Errorf("%s: got:\n%s\nwant:\n%s%v", name, got, want, err)
		}
	}
}
