package bootserver

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// keeper is a roster of what was adopted.
type keeper struct{ *Records[Adoption] }

func (k keeper) Known(m Machine) (string, bool) {
	a, ok := k.Find(m.Serial)
	return a.MAC, ok
}

func (k keeper) Ending(digits string) (string, bool) {
	return EndingIn(digits, slices.Collect(maps.Keys(k.All())))
}

func (k keeper) Config(m Machine) ([]byte, error) {
	a, _ := k.Find(m.Serial)
	return []byte("hostname: " + a.As + "\n"), nil
}

func (k keeper) Reference(Machine) string { return "" }

func newAdmin(t *testing.T) (*stage, *Admin) {
	s := newStage(t)
	k := keeper{&Records[Adoption]{Dir: filepath.Join(t.TempDir(), "adopted")}}
	s.Roster = k
	return s, &Admin{Server: s.Server, Free: func() []string { return []string{"attic", "<script>"} }, Adopt: func(m Machine,
		as string) error {
		if as == "taken" {
			return errors.New("taken is another's")
		}
		return k.Put(m.Serial, Adoption{As: as, MAC: m.MAC})
	}}
}

func ask(a *Admin, method, path string, form url.Values, head ...string) (int, string, http.Header) {
	r := httptest.NewRequest(method, "http://127.0.0.1:8070"+path, strings.NewReader(form.Encode()))
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(head); i += 2 {
		if head[i] == "Host" {
			r.Host = head[i+1]
		}
		r.Header.Set(head[i], head[i+1])
	}
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

// TestAdoption: an unknown Pi waits, is shown, is adopted, and boots; its
// config is the one it was adopted for, and its address is held to.
func TestAdoption(t *testing.T) {
	s, a := newAdmin(t)
	const class, id = "PXEClient:Arch:00000:UNDI:002001", "\x00RPi4\x14\x31\xc0\x00\xdd\x01\x02\x03\x70\x73\x61\x52"
	if got := offer(t, s, piMAC, id, class); got != nil {
		t.Fatalf("an unknown Pi was answered: %v", got)
	}
	status, text, _ := ask(a, "GET", "/", nil)
	if status != 200 || !strings.Contains(text, "waits to be adopted") || !strings.Contains(text, `value="52617370"`) ||
		strings.Contains(text, "<script>") {
		t.Errorf("%d %s", status, text)
	}
	form := url.Values{"serial": {"52617370"}, "mac": {piMAC}, "as": {"attic"}}
	if status, _, h := ask(a, "POST", "/adopt", form, "Accept", "text/html"); status != http.StatusSeeOther || h.Get("Location") != "/" {
		t.Errorf("%d", status)
	}
	if got := offer(t, s, piMAC, id, class); got == nil {
		t.Error("an adopted Pi was not answered")
	}
	s.boots()
	status, text = s.asks(piIP, configOf(pi.MAC))
	if status != 200 || text != "hostname: attic\n" {
		t.Errorf("%d %q", status, text)
	}
	// Another machine that says it has this serial has nothing, and is shown.
	s.macs[piIP] = otherMAC
	for _, name := range []string{"config.txt", "vmlinuz", "initramfs"} {
		if _, err := s.fetch(piIP, "52617370/"+name); err == nil {
			t.Errorf("another machine got %s", name)
		}
	}
	if status, text := s.asks(piIP, configOf(otherMAC)); status != http.StatusForbidden {
		t.Errorf("another machine got %d %q", status, text)
	}
	_, text, _ = ask(a, "GET", "/nodes", nil)
	var list []Node
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 2 || !list[0].Adopted || list[0].MAC != piMAC ||
		list[0].Error != "" || list[0].Conflict != 1 ||
		list[1].Adopted || list[1].MAC != otherMAC || !strings.Contains(list[1].Error, "refused") || list[1].Conflict != 1 {
		t.Errorf("%v %s", err, text)
	}
	if _, text, _ := ask(a, "GET", "/", nil); !strings.Contains(text, "1 other hardware address says this serial") ||
		!strings.Contains(text, `name="mac" value="`+otherMAC+`"`) {
		t.Errorf("the page does not show the conflict:\n%s", text)
	}
	_, text, _ = ask(a, "GET", "/metrics", nil)
	for _, want := range []string{"\npikelet_serve_boots_total 1\n", "\npikelet_serve_configs_total 1\n",
		"\npikelet_serve_configs_refused_total 1\n", `{adopted="true",mac="` + piMAC + `",release="",serial="52617370",`,
		`{adopted="false",mac="` + otherMAC + `",release="",serial="52617370",`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
}

func TestAdminAccess(t *testing.T) {
	_, a := newAdmin(t)
	form := url.Values{"serial": {"52617370"}, "mac": {piMAC}}
	for name, c := range map[string]struct {
		method, path string
		form         url.Values
		head         []string
		token        string
		want         int
	}{
		"on this machine":                    {"GET", "/", nil, nil, "", 200},
		"a name that points at this machine": {"GET", "/", nil, []string{"Host", "evil.example:8070"}, "", 403},
		"somebody else's page":               {"POST", "/adopt", form, []string{"Sec-Fetch-Site", "cross-site"}, "", 403},
		"somebody else's page, old browser":  {"POST", "/adopt", form, []string{"Origin", "http://evil.example"}, "", 403},
		"a program":                          {"POST", "/adopt", form, nil, "", 204},
		"no token":                           {"GET", "/nodes", nil, nil, "0123456789abcdef", 401},
		"another token": {"GET", "/nodes", nil, []string{"Authorization", "Bearer 0123456789abcdee"},
			"0123456789abcdef", 401},
		"the token": {"GET", "/nodes", nil, []string{"Authorization", "Bearer 0123456789abcdef", "Host",
			"pi.lan"}, "0123456789abcdef", 200},
		"the token, from a browser": {"GET", "/", nil, []string{"Authorization", "Basic eDowMTIzNDU2Nzg5YWJjZGVm"},
			"0123456789abcdef", 200},
		"a serial that is a path": {"POST", "/adopt", url.Values{"serial": {"../../etc"}, "mac": {piMAC}}, nil, "", 400},
		"a name that is taken": {"POST", "/adopt", url.Values{"serial": {"52617370"}, "mac": {piMAC}, "as": {"taken"}},
			nil, "", 409},
		"a huge form":                 {"POST", "/adopt", url.Values{"serial": {strings.Repeat("1", 9000)}, "mac": {piMAC}}, nil, "", 400},
		"no hardware address":         {"POST", "/adopt", url.Values{"serial": {"52617370"}}, nil, "", 400},
		"an invalid hardware address": {"POST", "/adopt", url.Values{"serial": {"52617370"}, "mac": {piMAC + "\n"}}, nil, "", 400},
		"adopting by a link":          {"GET", "/adopt?serial=52617370", nil, nil, "", 405},
		"a path there is not":         {"GET", "/v1/config", nil, nil, "", 404},
	} {
		a.Token = c.token
		if status, text, _ := ask(a, c.method, c.path, c.form, c.head...); status != c.want {
			t.Errorf("%s: %d %q, want %d", name, status, text, c.want)
		}
	}
}

func TestAdoptedAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "adopted")
	a := &Records[Adoption]{Dir: dir}
	if err := a.Load(); err != nil {
		t.Fatal(err)
	}
	if err := a.Put("52617370", Adoption{As: "attic", MAC: piMAC}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "../x", "5261737", "5261737G", "52617370/x", "52617370-x", "52617370-d83add01020",
		"52617370-d83add010203/x"} {
		if err := a.Put(bad, Adoption{}); err == nil {
			t.Errorf("%q was adopted", bad)
		}
	}
	b := &Records[Adoption]{Dir: dir}
	if err := b.Load(); err != nil {
		t.Fatal(err)
	}
	if one, ok := b.Find("52617370"); !ok || one != (Adoption{"attic", piMAC}) || AdoptedAs(b, "attic") != "52617370" || AdoptedAs(b,
		"cellar") != "" {
		t.Errorf("%+v %v", one, ok)
	}
	text, err := os.ReadFile(filepath.Join(dir, "52617370.yaml"))
	if err != nil || string(text) != "as: attic\nmac: "+piMAC+"\n" {
		t.Errorf("%q %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "52617370.yaml.new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "00000001.yaml"), []byte("az: attic\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.Load(); err == nil || !strings.Contains(err.Error(), "00000001.yaml") {
		t.Errorf("a file that is wrong: %v", err)
	}
}
