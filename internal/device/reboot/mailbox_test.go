package reboot

import "testing"

// TestMailbox: the message is the one of docs/platform.md 2.2, the ioctl is
// _IOWR(100, 0, char *) on 64 bits, and only a firmware that says it took the
// tag has taken it.
func TestMailbox(t *testing.T) {
	m := message()
	if m != [7]uint32{28, 0, 0x38064, 4, 4, 1, 0} {
		t.Errorf("the message is %#x", m)
	}
	if mailboxIOCTL != 0xc0086400 {
		t.Errorf("the ioctl is %#x", uint64(mailboxIOCTL))
	}
	if checkAnswer(m) == nil {
		t.Error("a message without an answer was taken")
	}
	m[1], m[4] = 0x80000000, 0x80000004
	if err := checkAnswer(m); err != nil {
		t.Error(err)
	}
	m[1] = 0x80000001 // could not be read
	if checkAnswer(m) == nil {
		t.Error("a refusal was taken for an answer")
	}
}
