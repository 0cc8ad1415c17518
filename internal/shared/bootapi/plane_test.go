package bootapi

import (
	"bytes"
	"net/url"
	"testing"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var machine = Machine{Serial: "1000000052617370", MAC: "d8:3a:dd:01:02:03", Build: "50c470559375ff62"}

// TestWireFormatIsStable: a server understands the requests of nodes of earlier
// releases.
func TestWireFormatIsStable(t *testing.T) {
	for want, r := range map[string]Request{
		"/v1/manifest?build=50c470559375ff62&mac=d8%3A3a%3Add%3A01%3A02%3A03&serial=1000000052617370": {
			Kind: Manifest, Machine: machine,
		},
		"/v1/config?build=50c470559375ff62&mac=d8%3A3a%3Add%3A01%3A02%3A03&serial=1000000052617370": {
			Kind: Config, Machine: machine,
		},
		"/v1/blob/" + digest + "?build=50c470559375ff62&mac=d8%3A3a%3Add%3A01%3A02%3A03&serial=1000000052617370": {
			Kind: Blob, Machine: machine, Digest: digest,
		},
	} {
		if got := r.Encode(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		u, err := url.Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeRequest(u.Path, u.RawQuery); err != nil || got != r {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
	}
	if got := EncodePort(8069); !bytes.Equal(got, []byte{1, 2, 0x1f, 0x85}) {
		t.Errorf("% x", got)
	}
	const want = `{"stage":"failed","release":"1.2","error":"why"}`
	if got := (Report{Stage: Failed, Release: "1.2", Error: "why"}).Encode(); string(got) != want {
		t.Errorf("%s", got)
	}
}

func TestBadRequests(t *testing.T) {
	good := "serial=1&mac=d8:3a:dd:01:02:03&build=x"
	for _, bad := range []struct{ path, query string }{
		{"/", good}, {"/v1/", good}, {"/v1/config/", good}, {"/v1/config/x", good}, {"/v2/config", good}, {"/v1/blob/", good}, {"/v1/blob", good},
		{"/v1/blob/" + digest + "/../x", good}, {"/v1/blob/sha256:../../etc/passwd", good}, {"/v1/../../etc/passwd", good},
		{"/v1/config", "serial=&mac=d8:3a:dd:01:02:03&build=x"}, {"/v1/config", "serial=../1&mac=d8:3a:dd:01:02:03&build=x"},
		{"/v1/config", "serial=1&mac=D8:3a:dd:01:02:03&build=x"}, {"/v1/config", "serial=1&mac=d8:3a:dd:01:02:03&build=a/b"}, {"/v1/config", "%"},
	} {
		if r, err := DecodeRequest(bad.path, bad.query); err == nil {
			t.Errorf("%s?%s was taken for %+v", bad.path, bad.query, r)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("/v1/config", "serial=1&mac=d8:3a:dd:01:02:03&build=x")
	f.Add("/v1/blob/"+digest, "serial=1000000052617370&mac=d8:3a:dd:01:02:03&build=50c4")
	f.Fuzz(func(t *testing.T, path, query string) {
		r, err := DecodeRequest(path, query)
		if err != nil {
			return
		}
		u, err := url.Parse(r.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := DecodeRequest(u.Path, u.RawQuery); err != nil || again != r {
			t.Fatalf("%+v became %+v (%v)", r, again, err)
		}
	})
}

func FuzzPort(f *testing.F) {
	f.Add(EncodePort(8069))
	f.Add([]byte{6, 1, 3, 10, 4, 0, 'P', 'X', 'E', 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := DecodePort(b); ok {
			if q, ok := DecodePort(EncodePort(p)); !ok || q != p {
				t.Fatalf("%d became %d", p, q)
			}
		}
	})
}

func FuzzReport(f *testing.F) {
	f.Add(Report{Stage: Started, Release: "1.2"}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReport(b)
		if err != nil {
			return
		}
		if _, err := DecodeReport(r.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}
