package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// shipped is a folder with a key and two releases, which tests share and do not
// change.
var shipped struct {
	sync.Once
	dir string
}

// shippedIn returns a folder with a key, and a copy of the outputs of two
// releases: ci.key, ci.pub, one, two.
func shippedIn(t *testing.T) string {
	t.Helper()
	needsStarter(t)
	shipped.Do(func() {
		dir, err := os.MkdirTemp("", "pikelet-shipped-")
		if err != nil {
			t.Fatal(err)
		}
		newSpec(t, dir)
		warmCache(t, dir)
		t.Setenv(passwordVariable, "open sesame")
		made := func(args ...string) {
			if out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, args...); code != 0 {
				t.Fatalf("%v: %s", args, out)
			}
		}
		made("keygen", "-o", "ci")
		made("build", "--sign-key", "ci.key", "-o", "one", "image.yaml")
		edit(t, dir+"/image.yaml", `release: "1.0"`, `release: "1.1"`)
		made("build", "--sign-key", "ci.key", "-o", "two", "image.yaml")
		shipped.dir = dir
	})
	if shipped.dir == "" {
		t.Fatal("a test before this one failed to build what they share")
	}
	dir := t.TempDir()
	must(t, dir, "cp -r "+shipped.dir+"/ci.* "+shipped.dir+"/one "+shipped.dir+"/two .")
	return dir
}

// registry starts a real registry that ends with the test.
func startRegistry(t *testing.T, o registrytest.Options) *registrytest.Server {
	t.Helper()
	needsStarter(t)
	s, err := registrytest.Start("../../../build/tools/registry", t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// logIn writes a configuration of Docker's that logs in at a registry.
func logIn(t *testing.T, dir, addr string) {
	t.Helper()
	auth := fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, addr, registrytest.User, registrytest.Secret)
	write(t, dir+"/.docker/config.json", auth, 0o600)
}

// TestShip: to a registry with TLS of its own authority and a password, by
// people who know it; once more, which sends nothing; and back, in every form.
func TestShip(t *testing.T) {
	dir := shippedIn(t)
	s := startRegistry(t, registrytest.Options{TLS: true, Password: true})
	p := startProxy(t, s)
	repo := p.addr + "/os/twin"
	ca := []string{"--ca", p.ca, "--retry-after", "10ms"}
	fails(t, dir, []string{"publish", repo, "--image", "one"}, "untrusted certificate", "hint: --ca FILE.pem")
	fails(t, dir, append([]string{"publish", repo, "--image", "one"}, ca...), "access denied", "hint: ", "docker login")
	logIn(t, dir, p.addr)
	digest := digestLine(t, ok(t, dir, append([]string{"publish", repo, "--image", "one", "--channel", "stable"}, ca...)...))
	if p.sent.Swap(0) == 0 {
		t.Error("the proxy saw nothing sent: it counts nothing")
	}
	ok(t, dir, append([]string{"publish", repo, "--image", "one"}, ca...)...)
	if n := p.sent.Load(); n != 0 {
		t.Errorf("publishing again sent %d bytes", n)
	}
	fails(t, dir, append([]string{"publish", repo + ":1.0", "--image", "one"}, ca...), "leave out the tag")

	// By a credential helper, as docker-credential-* are called.
	write(t, dir+"/.docker/config.json", fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, p.addr), 0o600)
	write(t, dir+"/bin/docker-credential-test", fmt.Sprintf("#!/bin/sh\necho '{\"Username\":%q,\"Secret\":%q}'\n", registrytest.User, registrytest.Secret), 0o755)
	out, code := pikelet(t, dir, []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH")}, append([]string{"verify", repo + ":stable", "--key", "ci.pub"}, ca...)...)
	if code != 0 || !strings.Contains(out, "twin 1.0 (OCI manifest "+digest+"): signatures, manifests and every file verified") {
		t.Errorf("verify with a credential helper: %s", out)
	}
	logIn(t, dir, p.addr)

	fails(t, dir, append([]string{"pull", repo + ":1.0", "-o", "files"}, ca...), "you trust no key yet\nhint: name the public key that counts with --key")
	must(t, dir, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out o.key && openssl pkey -in o.key -pubout -out o.pub && mkdir -p .config/pikelet/keys && cp o.pub .config/pikelet/keys")
	fails(t, dir, append([]string{"pull", repo + ":1.0", "-o", "files"}, ca...), "none of the 1 keys that are trusted made it", "name the public key that counts with --key")
	must(t, dir, "cp ci.pub .config/pikelet/keys")
	for out, more := range map[string][]string{"files": nil, "layout": {"--as", "layout"}, "a.tar": nil, "twin.img": nil} {
		if got := digestLine(t, ok(t, dir, append(append([]string{"pull", repo + ":1.0", "-o", out}, ca...), more...)...)); got != digest {
			t.Errorf("%s has digest %s", out, got)
		}
	}
	must(t, dir, "cmp twin.img one/disk.img && diff -r layout one/artifact && for f in manifest.json signature.json config.txt cmdline-a.txt; do cmp files/$f one/$f; done")
	if left, _ := filepath.Glob(dir + "/*partial*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	fails(t, dir, append([]string{"pull", repo + ":1.0", "-o", "files"}, ca...), "writing files: file already exists\nhint: name another")
	fails(t, dir, append([]string{"pull", repo, "-o", "x"}, ca...), "want an image in it\nhint: write ")
	fails(t, dir, append([]string{"pull", repo + ":7", "-o", "x"}, ca...), "manifests/7", "not exist")
	fails(t, dir, append([]string{"pull", repo + ":1.0", "--stream", "cabin", "-o", "x"}, ca...), `is of stream "twin"; want "cabin"`)
	for _, from := range []string{"layout", "a.tar", "twin.img", "one"} {
		ok(t, dir, "inspect", from)
		ok(t, dir, "verify", "--key", "ci.pub", from)
	}
	ok(t, dir, append([]string{"inspect", repo + ":1.0"}, ca...)...)
	mirrorAndPromote(t, dir, repo, ca)
}

// mirrorAndPromote goes on: a second release, channels, downgrades, and another
// registry under another name.
func mirrorAndPromote(t *testing.T, dir, repo string, ca []string) {
	run := func(args ...string) string { t.Helper(); return ok(t, dir, append(args, ca...)...) }
	refused := func(args []string, texts ...string) { t.Helper(); fails(t, dir, append(args, ca...), texts...) }
	run("publish", repo, "--image", "two")
	refused([]string{"pull", repo + ":stable", "--at-least", "1.1", "-o", "x"}, "is release 1.0; want 1.1 at least")
	run("promote", repo+":1.1", "stable")
	out := run("diff", repo+":1.0", repo+":stable")
	if !strings.Contains(out, "by the files that changed: ") || !strings.Contains(out, "root.squashfs") {
		t.Errorf("diff across a registry says\n%s", out)
	}
	refused([]string{"promote", repo + ":1.0", "stable"}, "channel stable is at release 1.1, and this is 1.0", "--allow-downgrade")
	refused([]string{"promote", repo + ":1.0", "stable", "--allow-downgrade"}, "[allow-downgrade sign-key]")
	t.Setenv(passwordVariable, "")
	if out, code := pikelet(t, dir, []string{passwordVariable + "=wrong"}, append([]string{"promote", repo + ":1.0", "stable", "--allow-downgrade", "--sign-key", "ci.key"}, ca...)...); code == 0 || !strings.Contains(out, "the password is wrong") {
		t.Errorf("a wrong password: %s", out)
	}
	if out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, append([]string{"promote", repo + ":1.0", "stable", "--allow-downgrade", "--sign-key", "ci.key"}, ca...)...); code != 0 {
		t.Fatalf("a downgrade: %s", out)
	}
	run("pull", repo+":stable", "-o", "down")
	b, err := os.ReadFile(dir + "/down/" + image.SignatureFile)
	if err != nil || strings.Count(string(b), `"payload"`) != 2 {
		t.Errorf("the statement did not come along (%v): %s", err, b)
	}

	// A release is what it was first published as.
	must(t, dir, "cp -r two three && cp two/manifest.json m")
	other := t.TempDir()
	newSpec(t, other)
	warmCache(t, other)
	edit(t, other+"/image.yaml", "disable_splash=1", "disable_splash=0")
	if out, code := pikelet(t, other, []string{passwordVariable + "=open sesame"}, "build", "--sign-key", dir+"/ci.key", "-o", dir+"/changed", "image.yaml"); code != 0 {
		t.Fatal(out)
	}
	refused([]string{"publish", repo, "--image", "changed"}, "publishing release 1.0 to", "release already published with other contents")

	// A mirror, without TLS and only because it was told to; under another name.
	m := startRegistry(t, registrytest.Options{})
	to := m.Addr + "/elsewhere/mirror/twin"
	fails(t, dir, []string{"publish", to, "--image", "one", "--retry-after", "10ms"}, "does not speak TLS\nhint: --plain-http")
	run("pull", repo+":1.0", "-o", "carried.tar")
	ok(t, dir, "publish", to, "--plain-http", "--image", "carried.tar")
	ok(t, dir, "pull", to+":1.0", "--plain-http", "--key", "ci.pub", "-o", "mirrored")
	must(t, dir, "cmp mirrored/root.squashfs down/root.squashfs && cmp mirrored/signature.json down/signature.json")
	if out := ok(t, dir, "sign", "--plain-http", "--sign-key", "o.key", to+":1.0"); strings.Count(out, "signed sha256:") != 3 {
		t.Errorf("sign says %s", out)
	}
	ok(t, dir, "verify", to+":1.0", "--plain-http", "--key", "o.pub", "--signatures-only")
	ok(t, dir, "publish", m.Addr+"/by/two", "--plain-http", "--image", "one", "--sign-key", "o.key")
	for _, key := range []string{"o.pub", "ci.pub"} {
		ok(t, dir, "verify", m.Addr+"/by/two:1.0", "--plain-http", "--key", key)
	}
	fails(t, dir, []string{"verify", "two", "--key", "o.pub"}, "none of the 1 keys that are trusted made it")
	ok(t, dir, "sign", "--sign-key", "o.key", "two/artifact")
	ok(t, dir, "verify", "two", "--key", "o.pub")
}

// proxy stands between pikelet and a registry, and makes trouble.
type proxy struct {
	addr string
	ca   string
	sent atomic.Int64 // bytes of blobs that were sent
	got  atomic.Int64 // bytes of blobs that were fetched
	// trouble may answer a request itself, and says whether it did. n counts
	// the requests from 1.
	trouble func(w http.ResponseWriter, r *http.Request, n int64) bool
	// spoil may wrap what is answered.
	spoil func(r *http.Response)
	n     atomic.Int64
}

// startProxy starts a proxy with TLS in front of a registry.
func startProxy(t *testing.T, s *registrytest.Server) *proxy {
	t.Helper()
	scheme := "http"
	if s.CA != "" {
		scheme = "https"
	}
	back := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: scheme, Host: s.Addr})
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{TLSClientConfig: insecure(), MaxIdleConnsPerHost: 8},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := &proxy{}
	back.ModifyResponse = func(r *http.Response) error {
		if p.spoil != nil {
			p.spoil(r)
		}
		if strings.Contains(r.Request.URL.Path, "/blobs/sha256:") && r.Request.Method == http.MethodGet {
			r.Body = counted{r.Body, &p.got}
		}
		return nil
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.trouble != nil && p.trouble(w, r, p.n.Add(1)) {
			return
		}
		if r.Method == http.MethodPatch {
			r.Body = counted{r.Body, &p.sent}
		}
		back.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	p.addr = server.Listener.Addr().String()
	p.ca = filepath.Join(t.TempDir(), "proxy.pem")
	write(t, p.ca, string(pemOf(server.Certificate())), 0o644)
	return p
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TestShipThroughTrouble: a network that drops connections, a registry that is
// busy or unwell, one that ignores Range: all are got over. One that lies about
// what it holds is not believed, and nothing is written.
func TestShipThroughTrouble(t *testing.T) {
	dir := shippedIn(t)
	s := startRegistry(t, registrytest.Options{})
	p := startProxy(t, s)
	repo := p.addr + "/twin"
	flags := []string{"--ca", p.ca, "--retry-after", "5ms", "--key", "ci.pub"}
	drop := func(w http.ResponseWriter) bool { panic(http.ErrAbortHandler) }
	status := func(w http.ResponseWriter, code int) bool { w.WriteHeader(code); return true }
	push := func(name string, trouble func(http.ResponseWriter, *http.Request, int64) bool) {
		t.Helper()
		p.n.Store(0)
		p.trouble = trouble
		ok(t, dir, append([]string{"publish", repo + "/" + name, "--image", "one"}, flags...)...)
		p.trouble = nil
		ok(t, dir, append([]string{"verify", repo + "/" + name + ":1.0"}, flags...)...)
	}
	hit := map[string]int{}
	var mu sync.Mutex
	first := func(key string, times int) bool {
		mu.Lock()
		defer mu.Unlock()
		hit[key]++
		return hit[key] <= times
	}
	push("dropped", func(w http.ResponseWriter, r *http.Request, n int64) bool {
		if r.Method == http.MethodPatch && first(fmt.Sprintf("dropped %d", r.ContentLength), 1) {
			io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			return drop(w)
		}
		return false
	})
	push("busy", func(w http.ResponseWriter, r *http.Request, n int64) bool {
		switch {
		case r.Method == http.MethodHead || r.Method == http.MethodGet:
			return first("busy "+r.Method+r.URL.Path, 1) && status(w, 429)
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
			return first("busy manifest", 2) && status(w, 503)
		}
		return first("busy "+r.Method, 1) && status(w, map[string]int{http.MethodPost: 500, http.MethodPatch: 502, http.MethodPut: 504}[r.Method])
	})
	if len(hit) < 20 || hit["busy POST"] < 2 || hit["busy PATCH"] < 2 || hit["busy PUT"] < 2 || hit["busy manifest"] < 3 {
		t.Errorf("there was no trouble: %v", hit)
	}

	pull := func(out string) string {
		t.Helper()
		p.got.Store(0)
		got := ok(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", out}, flags...)...)
		must(t, dir, "cmp "+out+"/root.squashfs "+rootBlob(t, dir+"/one"))
		return got
	}
	cut := func(r *http.Response) { // every blob ends after its first third, again and again
		if strings.Contains(r.Request.URL.Path, "/blobs/sha256:") && r.Request.Method == http.MethodGet && r.ContentLength > 3000 {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(r.Body, r.ContentLength/3), r.Body}
		}
	}
	p.spoil = cut
	pull("cut")
	whole := p.got.Load()
	p.spoil = nil
	p.got.Store(0)
	pull("straight")
	if once := p.got.Load(); whole > once+once/50 {
		t.Errorf("downloads that broke off were %d bytes, whole ones %d: they do not go on where they were", whole, once)
	}
	p.spoil = cut
	p.trouble = func(_ http.ResponseWriter, r *http.Request, _ int64) bool { r.Header.Del("Range"); return false }
	p.spoil = func(r *http.Response) { // and a registry that knows no Range
		if strings.Contains(r.Request.URL.Path, "/blobs/sha256:") && first("whole"+r.Request.URL.Path, 1) {
			cut(r)
		}
	}
	pull("no-range")
	p.trouble = nil

	refuse := func(what string, spoil func(*http.Response), texts ...string) {
		t.Helper()
		p.spoil = spoil
		fails(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "lies"}, flags...), texts...)
		if left, _ := filepath.Glob(dir + "/lies*"); len(left) > 0 {
			t.Errorf("%s: %v was left", what, left)
			must(t, dir, "rm -rf lies*")
		}
	}
	change := func(part string, f func([]byte) []byte) func(*http.Response) {
		return func(r *http.Response) {
			if strings.Contains(r.Request.URL.Path, part) && r.Request.Method == http.MethodGet && r.StatusCode < 300 {
				b, _ := io.ReadAll(r.Body)
				b = f(b)
				r.Body = io.NopCloser(bytes.NewReader(b))
				r.ContentLength = int64(len(b))
				r.Header.Set("Content-Length", fmt.Sprint(len(b)))
			}
		}
	}
	root := strings.TrimPrefix(filepath.Base(rootBlob(t, dir+"/one")), "sha256:")
	refuse("a flipped byte", change("/blobs/sha256:"+root, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "its bytes are not those it is named by")
	refuse("another blob", change("/blobs/sha256:"+root, func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }), "its bytes are not those it is named by")
	refuse("a page of HTML", change("/manifests/1.0", func([]byte) []byte { return []byte("<html>") }), "reading an OCI manifest")
	refuse("another manifest", change("/manifests/sha256:", func(b []byte) []byte { return append(b, ' ') }), "was asked for")
	refuse("a manifest without end", change("/manifests/1.0", func(b []byte) []byte { return append(b, make([]byte, 8<<20)...) }), "larger than 4194304")
	refuse("always unwell", func(r *http.Response) { r.StatusCode = 500 }, "500")
	p.spoil = nil
	resumes(t, dir, p, repo, flags)
}

// resumes kills a pull when some of it came, and looks whether the next one
// fetches only the rest.
func resumes(t *testing.T, dir string, p *proxy, repo string, flags []string) {
	size := func(name string) int64 { st, _ := os.Stat(name); return st.Size() }
	root := size(rootBlob(t, dir+"/one"))
	var got atomic.Int64
	count := func(wrap func(io.ReadCloser) io.ReadCloser) func(*http.Response) {
		return func(r *http.Response) {
			if strings.HasSuffix(r.Request.URL.Path, filepath.Base(rootBlob(t, dir+"/one"))) {
				r.Body = counted{wrap(r.Body), &got}
			}
		}
	}
	p.spoil = count(func(r io.ReadCloser) io.ReadCloser { return slow{r} }) // so that there is a middle
	cmd := exec.Command(os.Args[0], append([]string{"pull", repo + "/busy:1.0", "-o", "killed"}, flags...)...)
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	limit := time.After(hang)
	for got.Load() < root/2 {
		select {
		case <-time.After(5 * time.Millisecond):
		case err := <-ended:
			t.Fatalf("a pull of which %d bytes came ended with %v", got.Load(), err)
		case <-limit:
			cmd.Process.Kill()
			t.Fatal("half a pull never came")
		}
	}
	cmd.Process.Kill()
	<-ended
	if _, err := os.Stat(dir + "/killed"); err == nil {
		t.Error("half a pull has the name of a whole one")
	}
	p.spoil = count(func(r io.ReadCloser) io.ReadCloser { return r })
	got.Store(0)
	ok(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "killed"}, flags...)...)
	if n := got.Load(); n == 0 || n > root*2/3 {
		t.Errorf("after half the root of %d bytes was there, %d more were fetched", root, n)
	}
	must(t, dir, "cmp killed/root.squashfs "+rootBlob(t, dir+"/one"))

	// A registry that goes away in the middle, for longer than anybody waits.
	var away atomic.Bool
	p.spoil = count(func(r io.ReadCloser) io.ReadCloser {
		return until{r, func() bool { away.Store(got.Load() > root/2); return away.Load() }}
	})
	p.trouble = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return away.Load()
	}
	got.Store(0)
	fails(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "away"}, flags...), "given up after 6 tries")
	if _, err := os.Stat(dir + "/away"); err == nil {
		t.Error("half a pull has the name of a whole one")
	}
	p.trouble, p.spoil = nil, count(func(r io.ReadCloser) io.ReadCloser { return r })
	got.Store(0)
	ok(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "away"}, flags...)...)
	if n := got.Load(); n == 0 || n > root*2/3 {
		t.Errorf("after the registry was away, %d of the root's %d bytes were fetched again", n, root)
	}
}

// until breaks off when it is told to.
type until struct {
	io.ReadCloser
	over func() bool
}

func (u until) Read(b []byte) (int, error) {
	if u.over() {
		return 0, io.ErrUnexpectedEOF
	}
	return u.ReadCloser.Read(b[:min(len(b), 32<<10)])
}

// slow gives a MiB in a fiftieth of a second.
type slow struct{ io.ReadCloser }

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(time.Second / 1600)
	return s.ReadCloser.Read(b[:min(len(b), 32<<10)])
}

// rootBlob returns the file of the root in a build's output.
func rootBlob(t *testing.T, out string) string {
	t.Helper()
	var m image.Manifest
	if err := json.Unmarshal([]byte(mustRead(t, out+"/manifest.json")), &m); err != nil {
		t.Fatal(err)
	}
	return out + "/artifact/blobs/sha256/" + digest(&m, image.RootFile)
}

// TestRegistryMistakes: what people get wrong.
func TestRegistryMistakes(t *testing.T) {
	dir := shippedIn(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	write(t, dir+"/no.pem", "hello", 0o644)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"publish", "nowhere"}, "no registry's reference"},
		{[]string{"publish", nobody + "/x", "--image", "nothing"}, "opening nothing: file does not exist"},
		{[]string{"publish", nobody + "/x", "--image", "one", "--retry-after", "1ms"}, "connection refused"},
		{[]string{"publish", nobody + "/UPPER", "--image", "one"}, "reading the reference"},
		{[]string{"publish", nobody + "/x", "--image", "one", "--ca", "no.pem"}, "holds no PEM certificate"},
		{[]string{"publish", nobody + "/x", "--image", "one", "--sign-key", "ci.pub"}, "it is a public key"},
		{[]string{"publish", "one/artifact"}, "is a file or a directory; want a registry's reference"},
		{[]string{"pull", "one", "--as", "cake"}, "want files, layout, archive or disk"},
		{[]string{"sign", "one"}, `required flag(s) "sign-key" not set`},
		{[]string{"keygen", "-o", "ci"}, "ci.key is there already"},
		{[]string{"verify", "ci.pub"}, "not a card and not a disk image"},
		{[]string{"verify", "one", "--key", "ci.key"}, "reading the public key ci.key"},
	} {
		out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, c.args...)
		if code == 0 || !strings.Contains(out, c.want) {
			t.Errorf("%v: exit %d, no %q in\n%s", c.args, code, c.want, out)
		}
	}
}
