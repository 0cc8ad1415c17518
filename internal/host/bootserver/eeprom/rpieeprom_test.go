//go:build rpieeprom

package eeprom

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var repository = flag.String("rpi-eeprom", "", "work tree of raspberrypi/rpi-eeprom")

// TestReplaceAsRaspberryPi compares each image of raspberrypi/rpi-eeprom with
// what its own rpi-eeprom-config makes of it.
func TestReplaceAsRaspberryPi(t *testing.T) {
	if *repository == "" {
		t.Fatal("no -rpi-eeprom: want the work tree of raspberrypi/rpi-eeprom")
	}
	dir := t.TempDir()
	text, made := filepath.Join(dir, "boot.conf"), filepath.Join(dir, "made.bin")
	seen := 0
	err := filepath.WalkDir(*repository, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasPrefix(d.Name(), "pieeprom") || filepath.Ext(p) != ".bin" {
			return err
		}
		seen++
		image, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		out, err := Update(image, Options{Order: DefaultOrder})
		if err != nil {
			t.Errorf("%s: %v", p, err)
			return nil
		}
		conf, err := Config(out)
		if err != nil {
			return err
		}
		if err := os.WriteFile(text, []byte(conf), 0o600); err != nil {
			return err
		}
		b, err := exec.Command("python3", filepath.Join(*repository, "rpi-eeprom-config"), "--config", text, "--out", made, p).CombinedOutput()
		if err != nil {
			t.Errorf("%s: rpi-eeprom-config: %v: %s", p, err, b)
			return nil
		}
		want, err := os.ReadFile(made)
		if err != nil {
			return err
		}
		if !bytes.Equal(out, want) {
			t.Errorf("%s: the update differs from rpi-eeprom-config's", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("got %d images, want at least 100: is it the work tree of raspberrypi/rpi-eeprom?", seen)
	}
	t.Logf("%d images", seen)
}
