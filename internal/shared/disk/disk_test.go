package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCardPassesSfdisk(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs sfdisk")
	}
	for _, size := range []int64{34 * MiB, 1 << 30} {
		table, err := Card(size, StateInImage, 0xdeadbeef)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "card")
		if err := os.WriteFile(name, table.Encode(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, table.End()); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sfdisk", "--verify", name).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors detected") {
			t.Errorf("sfdisk --verify: %v\n%s", err, out)
		}
		out, err = exec.Command("sfdisk", "--dump", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"label: dos", "label-id: 0xdeadbeef", "start=        8192, size=      131072, type=c, bootable", "type=83",
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("sfdisk --dump lacks %q:\n%s", want, out)
			}
		}
	}
}

func TestRecordsLieInTheGap(t *testing.T) {
	for _, at := range []int64{UpdateRecord0, UpdateRecord1, InitRecord} {
		if at < SectorSize || at+RecordSize > firstPartition || at%4096 != 0 {
			t.Errorf("a record at %d is not in the gap before %d, or not aligned", at, firstPartition)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Card(34*MiB, StateInImage, 1)
	if err != nil {
		t.Fatal(err)
	}
	overlap := good
	overlap.Partitions[1].Start -= SectorSize
	zero := good
	zero.Partitions[0].Start = 0
	for what, b := range map[string][]byte{
		"nothing": nil, "zeros": make([]byte, 512), "overlap": overlap.Encode(), "sector 0": zero.Encode(),
	} {
		if _, err := Decode(b); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	for _, size := range []int64{0, -MiB, MiB + 1, 1 << 41} {
		if _, err := Card(size, StateInImage, 0); err == nil {
			t.Errorf("slots of %d bytes: no error", size)
		}
	}
}

func FuzzTableRoundTrip(f *testing.F) {
	t, _ := Card(64*MiB, StateInImage, 7)
	f.Add(t.Encode())
	f.Add(make([]byte, 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(table.Encode())
		if err != nil || again != table {
			t.Fatalf("%+v became %+v (%v)", table, again, err)
		}
		if !bytes.Equal(table.Encode(), again.Encode()) {
			t.Fatal("the same table has two encodings")
		}
	})
}

// FuzzUnfinished: a card that is being written never has a partition table,
// and keeps the one it had for whoever asks for it.
func FuzzUnfinished(f *testing.F) {
	t, err := Card(64*MiB, StateInImage, 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(t.Encode())
	f.Add(EncodeUnfinished(t.Encode()))
	f.Add(make([]byte, SectorSize))
	f.Fuzz(func(t *testing.T, old []byte) {
		s := EncodeUnfinished(old)
		if !IsUnfinished(s) || len(s) != SectorSize {
			t.Fatalf("%q", s)
		}
		if _, err := Decode(s); err == nil {
			t.Fatal("a card that is not finished has a partition table")
		}
		again := EncodeUnfinished(s)
		if string(again) != string(s) {
			t.Fatal("a second interrupted flash loses what the first one kept")
		}
		if was, err := Decode(old); err == nil && len(old) >= SectorSize {
			if kept, err := DecodeUnfinished(s); err != nil || kept != was {
				t.Fatalf("%+v became %+v (%v)", was, kept, err)
			}
		}
	})
}
