package luks

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// boardProgram asks the firmware for a message authentication code (HMAC with
// SHA-256) under the secret in the board's OTP memory, which is key 1 and does
// not leave the firmware that way. Source: rpifwcrypto of
// https://github.com/raspberrypi/utils; not tried on a Pi.
const boardProgram = "rpi-fw-crypto"

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// long is what may be a part of a digest in a program's complaints.
var long = regexp.MustCompile(`[0-9a-fA-F]{16,}`)

// BoardKey returns the key that only this board makes for the disk with a UUID.
func (p Program) BoardKey(uuid string) (Key, error) {
	out, err := p.run([]byte("pikelet volume 1 "+uuid+"\n"), boardProgram,
		"hmac", "--in", "/proc/self/fd/0", "--key-id", "1", "--outform", "hex")
	switch out = strings.TrimSpace(out); {
	case errors.Is(err, exec.ErrNotFound):
		return Key{}, hint.With(fmt.Errorf("this image has no %s, which asks the firmware for the board's key", boardProgram),
			"give the overlay luks the parameter board: yes")
	case err != nil || !digest.MatchString(out):
		return Key{}, hint.Withf(fmt.Errorf("the firmware makes no key: %s", complaint(err)),
			"%s get-key-status 1 shows the state of the board's secret; %s genkey --key-id 1 --alg ec writes one, once and for good",
			boardProgram, boardProgram)
	}
	return Key{Secret: []byte(out)}, nil
}

// complaint is what the program said, without what may be a key.
func complaint(err error) string {
	if err == nil {
		return boardProgram + " printed something else than 64 hexadecimal digits"
	}
	return long.ReplaceAllString(err.Error(), "...")
}
