package node

import (
	"testing"
	"time"
)

func FuzzDefaults(f *testing.F) {
	b, err := Defaults{Channel: "registry.example/lab:stable", Soak: time.Minute, Deadline: 10 * time.Minute}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	want := `{
 "channel": "registry.example/lab:stable",
 "soak": 60000000000,
 "deadline": 600000000000
}
`
	if string(b) != want {
		f.Fatalf("got %s", b)
	}
	f.Add(b)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDefaults(b)
		if err != nil {
			return
		}
		again, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if e, err := DecodeDefaults(again); err != nil || e != d {
			t.Fatalf("%+v became %+v (%v)", d, e, err)
		}
	})
}
