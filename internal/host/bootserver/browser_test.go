// Chromium's protocol takes minutes to compile for the race detector, which
// finds nothing in another program.

//go:build !race

package bootserver

import (
	"context"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// browser starts a real one, without a screen. On a build machine everything
// runs as root, where its own sandbox does not.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), hang)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.NoSandbox, chromedp.DisableGPU)...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	return ctx
}

func act[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPageInBrowser: what a person does on the status page, in Chromium: sees
// who waits, adopts it as a node of the inventory, sees how far it is, and gets
// nowhere without the token.
func TestPageInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs Chromium")
	}
	s, a := newAdmin(t)
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	if _, err := s.fetch(piIP, "52617370/config.txt"); err == nil {
		t.Fatal("it is served before it is adopted")
	}
	ctx := browser(t)
	act(t, ctx, chromedp.Navigate(server.URL))
	before := act(t, ctx, chromedp.Text("body"))
	act(t, ctx, chromedp.Evaluate[chromedp.Void](`document.querySelector('form select').add(new Option('taken'))`))
	act(t, ctx, chromedp.SetValue("form select", "taken"))
	act(t, ctx, chromedp.Click("form button"))
	act(t, ctx, chromedp.WaitNotPresent("form"))
	refused := act(t, ctx, chromedp.Text("html"))
	act(t, ctx, chromedp.Navigate(server.URL))
	act(t, ctx, chromedp.SetValue("form select", "attic"))
	act(t, ctx, chromedp.Click("form button"))
	act(t, ctx, chromedp.WaitNotPresent("form"))
	after := act(t, ctx, chromedp.Text("body"))
	if !strings.Contains(before, "52617370") || !strings.Contains(before, "small 1.2") || !strings.Contains(before, piMAC) {
		t.Errorf("the page says\n%s", before)
	}
	if n := act(t, ctx, chromedp.Evaluate[int]("document.scripts.length")); n != 0 {
		t.Errorf("%d scripts are in it", n) // an entry of the inventory is called that
	}
	if !strings.Contains(refused, "taken is another's") {
		t.Errorf("who is another's is\n%s", refused)
	}
	if !strings.Contains(after, "52617370") {
		t.Errorf("after adopting it says\n%s", after)
	}
	if config, err := s.Roster.Config(Machine{Serial: "52617370"}); err != nil || string(config) != "hostname: attic\n" {
		t.Errorf("it was adopted as %q, %v", config, err)
	}
	if _, err := s.fetch(piIP, "52617370/vmlinuz"); err != nil {
		t.Fatal(err)
	}
	act(t, ctx, chromedp.Navigate(server.URL))
	progress := act(t, ctx, chromedp.Text("body"))
	if !strings.Contains(progress, "has vmlinuz") {
		t.Errorf("its progress is\n%s", progress)
	}

	a.Token = "a token no one guesses"
	guarded := httptest.NewServer(a.Handler())
	defer guarded.Close()
	if _, err := chromedp.Run(ctx, chromedp.Navigate(guarded.URL)); err == nil {
		if without := act(t, ctx, chromedp.Text("html")); strings.Contains(without, "52617370") {
			t.Errorf("without the token it says\n%s", without)
		}
	}
	as := strings.Replace(guarded.URL, "http://", "http://any:"+strings.ReplaceAll(a.Token, " ", "%20")+"@", 1)
	act(t, ctx, chromedp.Navigate(as))
	with := act(t, ctx, chromedp.Text("body"))
	if !strings.Contains(with, "52617370") {
		t.Errorf("with the token it says\n%s", with)
	}
}
