package slots

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
)

func TestAutobootGolden(t *testing.T) {
	want := "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
	got := EncodeAutoboot(A)
	if len(got) != 512 || strings.TrimRight(string(got), "\n")+"\n" != want {
		t.Errorf("got %d bytes:\n%s\nwant 512:\n%s", len(got), got, want)
	}
}

// TestEveryMixOfAutobootNamesASlot: a sector write that stopped anywhere, in
// either direction, leaves a default that exists.
func TestEveryMixOfAutobootNamesASlot(t *testing.T) {
	a, b := EncodeAutoboot(A), EncodeAutoboot(B)
	differ := 0
	for i := range a {
		if a[i] != b[i] {
			differ++
		}
		for _, mix := range [][]byte{append(append([]byte(nil), a[:i]...), b[i:]...), append(append([]byte(nil), b[:i]...), a[i:]...)} {
			if l, err := DecodeAutoboot(mix); err != nil || l != A && l != B {
				t.Fatalf("cut at %d: %q, %v", i, l, err)
			}
		}
	}
	if differ != 2 {
		t.Errorf("a commit changes %d bytes, want 2", differ)
	}
}

func TestDecodeAutoboot(t *testing.T) {
	for text, want := range map[string]Letter{
		string(EncodeAutoboot(B)): B, "boot_partition=2\r\n": A, "[tryboot]\nboot_partition=2\n[all]\nboot_partition=3": B,
	} {
		if got, err := DecodeAutoboot([]byte(text)); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "[tryboot]\nboot_partition=3", "boot_partition=1", "boot_partition=22"} {
		if got, err := DecodeAutoboot([]byte(text)); err == nil {
			t.Errorf("%q: %q and no error", text, got)
		}
	}
}

// TestKindOf checks all combinations.
func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		running, def Letter
		try          bool
		want         Kind
	}{
		{A, A, false, Committed}, {A, A, true, Committed}, {A, B, false, Rescue}, {A, B, true, Trial},
		{A, "", false, Rescue}, {A, "", true, Rescue},
		{B, B, false, Committed}, {B, B, true, Committed}, {B, A, false, Rescue}, {B, A, true, Trial},
		{B, "", false, Rescue}, {B, "", true, Rescue},
		{Net, "", false, Committed}, {Net, A, true, Committed},
	} {
		if got := KindOf(c.running, c.def, c.try); got != c.want {
			t.Errorf("running %q, default %q, tryboot %v: %s, want %s", c.running, c.def, c.try, got, c.want)
		}
	}
}

func TestRecordGolden(t *testing.T) {
	b := Record{Sequence: 7, Text: "slot a: why"}.Encode()
	want := "PKLTREC1\x51\x59\xec\xdb\x07\x00\x00\x00\x0b\x00\x00\x00slot a: why\x00"
	if len(b) != disk.RecordSize || !bytes.HasPrefix(b, []byte(want)) {
		t.Errorf("%d bytes, %q\nwant %q", len(b), b[:len(want)], want)
	}
}

func TestRecordDamaged(t *testing.T) {
	good := Record{Sequence: 1, Text: "text"}.Encode()
	for i := range 20 + len("text") {
		b := append([]byte(nil), good...)
		b[i] ^= 1
		if _, err := DecodeRecord(b); err == nil {
			t.Errorf("a flipped bit at %d goes unnoticed", i)
		}
	}
	if _, err := DecodeRecord(make([]byte, disk.RecordSize)); err == nil {
		t.Error("zeros are taken for a record")
	}
	long := Record{Text: strings.Repeat("x", 5000)}
	if r, err := DecodeRecord(long.Encode()); err != nil || len(r.Text) != MaxRecordText {
		t.Errorf("a text too long: %d bytes kept, %v", len(r.Text), err)
	}
}

func FuzzRecordRoundTrip(f *testing.F) {
	f.Add(uint32(1), "slot a: reason", Record{Text: "x"}.Encode())
	f.Add(uint32(0), "", make([]byte, 4096))
	f.Fuzz(func(t *testing.T, n uint32, text string, raw []byte) {
		if len(text) <= MaxRecordText {
			if r, err := DecodeRecord(Record{n, text}.Encode()); err != nil || r != (Record{n, text}) {
				t.Fatalf("%d %q became %+v (%v)", n, text, r, err)
			}
		}
		if r, err := DecodeRecord(raw); err == nil {
			if again, err := DecodeRecord(r.Encode()); err != nil || again != r {
				t.Fatalf("%+v became %+v (%v)", r, again, err)
			}
		}
	})
}

func FuzzDecodeAutoboot(f *testing.F) {
	f.Add(EncodeAutoboot(A))
	f.Add([]byte("[all]\nboot_partition=3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := DecodeAutoboot(b); err == nil && l != A && l != B {
			t.Fatalf("%q names slot %q", b, l)
		}
	})
}
