package certtest

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// Kubeconfig writes what k3s gives a kubelet to talk to the API server s with,
// as the node attic, and returns its path. The server has TLS.
func Kubeconfig(t *testing.T, s *httptest.Server) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	cert, key := Client(t)
	ca := write("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- cluster: {server: '%s', certificate-authority: %s}\n "+
		" name: local\nusers:\n- name: user\n  user: {client-certificate: %s, client-key: %s}\n",
		s.URL, ca, write("kubelet.crt", cert), write("kubelet.key", key))
	return write("kubelet.kubeconfig", []byte(text))
}
