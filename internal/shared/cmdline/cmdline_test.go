package cmdline

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

func TestEncodeGolden(t *testing.T) {
	want := "pikelet.slot=a console=tty1 console=serial0,115200 panic=10 ro quiet " +
		"cgroup_enable=cpuset cgroup_memory=1 cgroup_enable=memory psi=1 extra=1\n"
	if got := string(Encode(slots.A, append(Base(), "extra=1"))); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestParse(t *testing.T) {
	l, err := Parse([]byte("dma.x=1 pikelet.slot=b console=ttyS0,115200 panic=10\n"))
	if err != nil || l.Slot != slots.B {
		t.Fatalf("%+v, %v", l, err)
	}
	if w := l.Missing([]byte("pikelet.slot=b console=serial0,115200 panic=10\n")); w != "" {
		t.Errorf("missing %q, want none: consoles are rewritten by the firmware", w)
	}
	if w := l.Missing([]byte("pikelet.slot=b panic=20")); w != "panic=20" {
		t.Errorf("missing %q, want panic=20", w)
	}
	for _, bad := range []string{"", "quiet", "pikelet.slot=c", "pikelet.slot="} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestDecodeInfoRefuses(t *testing.T) {
	for _, bad := range []string{"", "{}", `{"buildID":"x"}`, `{"keys":["k"]}`} {
		if _, err := DecodeInfo([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzWordsRoundTrip(f *testing.F) {
	f.Add("a", "quiet panic=10")
	f.Add("net", "")
	f.Fuzz(func(t *testing.T, slot, words string) {
		l, err := slots.ParseLetter(slot)
		if err != nil || strings.Contains(words, slotWord) {
			return
		}
		line, err := Parse(Encode(l, strings.Fields(words)))
		if err != nil || line.Slot != l {
			t.Fatalf("%q became %+v (%v)", words, line, err)
		}
		if w := line.Missing([]byte(words)); w != "" {
			t.Fatalf("%q lost %q", words, w)
		}
	})
}

func FuzzInfoRoundTrip(f *testing.F) {
	b, _ := EncodeInfo(Info{Stream: "s", Release: "1", BuildID: "b", Epoch: 5, Keys: []string{"k"},
		Modules: []Module{{"/m.ko", "sha256:x", true}}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := DecodeInfo(b)
		if err != nil {
			return
		}
		again, err := EncodeInfo(i)
		if err != nil {
			t.Fatal(err)
		}
		if i2, err := DecodeInfo(again); err != nil || !cmp.Equal(i, i2) {
			t.Fatalf("%+v became %+v (%v)", i, i2, err)
		}
	})
}
