package node

import (
	"reflect"
	"strings"
	"testing"
)

// TestConfigTrialEncodes: the record on state as it is written, and records that no
// node wrote.
func TestConfigTrialEncodes(t *testing.T) {
	sent := ConfigTrial{Step: TrialSent, Digest: ConfigDigest("hostname: attic\n"), Seconds: 300, Config: "hostname: attic\n"}
	b, err := sent.Encode()
	want := `{
 "step": "sent",
 "digest": "` + sent.Digest + `",
 "seconds": 300,
 "config": "hostname: attic\n"
}`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v", b, err)
	}
	if ConfigDigest("hostname: attic\n\n\x00\x00") != sent.Digest || ConfigDigest("hostname: attic #") == sent.Digest {
		t.Error("a digest is of the text without its blank end")
	}
	for text, want := range map[string]string{
		"{":                "unexpected end",
		`{"step":"tried"}`: `unknown step "tried"`,
		strings.Replace(want, "attic", "roof", 1):       "digest mismatch",
		strings.Replace(want, "300", "9", 1):            "a trial of 9 seconds",
		strings.Replace(want, "300", "3601", 1):         "a trial of 3601 seconds",
		`{"step":"left"` + strings.Repeat(" ", 512<<10): "too large",
	} {
		if _, err := DecodeConfigTrial([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

func FuzzDecodeConfigTrial(f *testing.F) {
	for _, t := range []ConfigTrial{
		{Step: TrialBegun, Digest: ConfigDigest("a: b"), Seconds: 300, Config: "a: b"}, {Step: TrialLeft, Reason: "it was not confirmed"},
	} {
		b, err := t.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := DecodeConfigTrial(b)
		if err != nil {
			return
		}
		again, err := x.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if y, err := DecodeConfigTrial(again); err != nil || y != x {
			t.Errorf("%+v became %+v, %v", x, y, err)
		}
	})
}

// TestConfigReportEncodes: what the desk reads is what the node said.
func TestConfigReportEncodes(t *testing.T) {
	r := ConfigReport{Config: "hostname: attic\n", Source: FromTrial, Pending: true, Fixed: "no card",
		Trial: &ConfigTrial{Step: TrialLeft, Reason: "it was not confirmed"}}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeConfigReport(b); err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("got %+v, %v", back, err)
	}
	if _, err := DecodeConfigReport([]byte("pikeletd: no")); err == nil {
		t.Error("an error of a node is read as a report")
	}
}
