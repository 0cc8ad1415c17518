package bootserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"asks for config.txt": "asks for config.txt", "größer": "größer",
		"a\nb": `a\nb`, "\x1b[2J": `\x1b[2J`, "\x9b": `\x9b`, "\u009b": `\u009b`,
		"\u202e": `\u202e`, "\x00": `\x00`, "\uFFFD": "\uFFFD", "\u2028": `\u2028`, "": "",
		strings.Repeat("x", 30): strings.Repeat("x", 20) + "...", strings.Repeat("x", 19) + "\n": strings.Repeat("x", 19) + "...",
	} {
		if got := Printable(text, 20); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// moves reports whether text has anything in it that ends a line, moves a
// cursor, or changes the direction of writing.
func moves(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// TestMachineTextIsPrintable: what machines say, known or not, reaches the log, the
// list, the page and the metrics with nothing in it that is not printable.
func TestMachineTextIsPrintable(t *testing.T) {
	const words = "x\nadopted: serial 52617370\x1b[2J\x07\u202e\u009b\x9b\"\\"
	s, a := newAdmin(t)
	s.Roster = inventories(t)["serial and MAC"]
	r := httptest.NewRequest("GET", "/x%0aadopted:%20serial%2052617370%1b%5b2J", nil)
	r.RemoteAddr = netip.AddrPortFrom(otherIP, 1).String()
	s.Plane().ServeHTTP(httptest.NewRecorder(), r)
	name := strings.ToValidUTF8(words, "") // what is not is no name
	if s.fetch(otherIP, "99999999/"+name); !strings.HasPrefix(s.Nodes()[0].Stage, "asks for x") {
		t.Errorf("%+v", s.Nodes())
	}
	s.boots()
	report := bootapi.Report{Stage: bootapi.Failed, Release: words, Error: words}
	if status, text := s.post(piIP, bootapi.Request{Kind: bootapi.Progress, Machine: pi},
		string(report.Encode())); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, text)
	}
	errorLog{s.Server}.Write([]byte("http: " + words))
	if len(s.logged) < 3 {
		t.Fatalf("%q", s.logged)
	}
	for _, l := range s.logged {
		if moves(l) {
			t.Errorf("a line of the log is %q", l)
		}
	}
	for _, n := range s.Nodes() {
		for _, text := range []string{n.Serial, n.MAC, n.Model, n.IP, n.Stage, n.Release, n.Error} {
			if moves(text) || len(text) > maxError+3 {
				t.Errorf("of a machine %q is known", text)
			}
		}
	}
	for _, path := range []string{"/", "/nodes", "/metrics"} {
		_, text, _ := ask(a, "GET", path, nil)
		for _, l := range strings.Split(text, "\n") {
			if moves(l) {
				t.Errorf("%s says %q", path, l)
			}
		}
	}
}

// TestLabels has Prometheus' own parser read the metrics: it knows three escapes,
// and loses all it was told where there is another one.
func TestLabels(t *testing.T) {
	s, a := newAdmin(t)
	want := map[string]bool{`asks for \x1b`: true, `asks for "ü\u00a0\`: true, `asks for \n`: true}
	for i, name := range []string{"\x1b", "\"ü\u00a0\\", "\n"} {
		client := netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})
		s.macs[client] = fmt.Sprintf("02:00:00:00:00:%02x", i)
		s.fetch(client, "99999999/"+name)
	}
	_, text, _ := ask(a, "GET", "/metrics", nil)
	if !strings.Contains(text, `stage="asks for \\x1b"`) {
		t.Errorf("the metrics say\n%s", text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, m := range families["pikelet_serve_node_last_seen_seconds"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "stage" {
				got[l.GetValue()] = true
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Prometheus reads the stages %v, want %v", got, want)
	}
	if c := families["pikelet_serve_boots_total"]; c.GetType() != dto.MetricType_COUNTER {
		t.Errorf("boots are a %v", c.GetType())
	}
}
