package script

import (
	"context"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
)

// limits are scripts that come near a limit and stay below it, and the same ones behind
// it: those would end by themselves, so that nothing else stops them.
var limits = map[string]struct{ fits, over, reason string }{
	"steps": {"i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done", "i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done",
		"more than 20000 steps"},
	"output": {"printf '%65535s' x; echo", "printf '%65535s' x; echo; echo", "the script's output has more than 64 KiB"},
	"errors": {"printf '%65535s' x >&2; echo >&2", "printf '%65535s' x >&2; echo; echo >&2", "the script's output has more than 64 KiB"},
	"depth": {"f() { [ $1 = 0 ] || f $(($1-1)); }; f 60", "f() { [ $1 = 0 ] || f $(($1-1)); }; f 200",
		"commands nested more than 400 deep"},
	"depth of shells": {"f() { [ $1 = 0 ] || ( f $(($1-1)) ); }; f 30", "f() { [ $1 = 0 ] || ( f $(($1-1)) ); }; f 200",
		"commands nested more than 400 deep"},
	"a variable": {"x=$(printf '%65536s' x)", "x=$(printf '%65536s' x); x=${x}y", "has more than 64 KiB"},
	"a substitution": {"x=$(printf '%65535s' x; printf y)", "x=$(printf '%65535s' x; printf yy)",
		"has more than 64 KiB"},
	"a replacement": {"x=$(printf '%200s' x); y=$(printf '%300s' y); : ${x// /$y}",
		"x=$(printf '%200s' x); y=$(printf '%400s' y); : ${x// /$y}",
		"a word has more than 64 KiB"},
	"memory of sed": {"printf '%30000s\\n%30000s\\n' x y | sed 'H;d'", "printf '%30000s\\n%30000s\\n' x y | sed 'H;H;d'",
		"what sed keeps has more than 64 KiB"},
	"bytes written": {"printf '%65536s' x >/x; for i in $(seq 127); do cat /x >/y; done",
		"printf '%65536s' x >/x; for i in $(seq 128); do cat /x >/y; done", "more than 8 MiB written to files"},
	"changes": {"cd /tmp; touch $(seq 2000); touch $(seq 2001 4000)", "cd /tmp; touch $(seq 2000); touch $(seq 2001 4097)",
		"more than 4096 changes of files"},
	"bytes looked at": {"printf '%65536s' x >/x; for i in $(seq 20); do wc -c </x >/dev/null; grep -q y /x; done",
		"printf '%65536s' x >/x; for i in $(seq 1500); do grep -q y /x; done", "more than 64 MiB to look at"},
	"scripts": {"echo '[ $1 = 0 ] || sh /x $(($1-1))' >/x; sh /x 7", "echo '[ $1 = 0 ] || sh /x $(($1-1))' >/x; sh /x 8",
		"more than 8 scripts that call each other"},
	"scripts that are read": {"echo 'i=$((i-1)); [ $i = 0 ] || . /x' >/x; i=8; . /x", "echo 'i=$((i-1)); [ $i = 0 ] || . /x' >/x; i=9; . /x",
		"more than 8 scripts that call each other"},
	"words": {"set -- $(seq 2000) $(seq 2000)", "set -- $(seq 2100) $(seq 2100)", "more than 4096 words"},
}

// TestLimits: each limit is where it is said to be, neither far below nor above.
func TestLimits(t *testing.T) {
	kept := storetest.File(t, 1<<30)
	for what, c := range limits {
		t.Run(what, func(t *testing.T) {
			res, err := Run(context.Background(), newTree(t, kept), NewAccounts(nil, epoch), []byte(c.fits), options())
			if err != nil || res.Refusal != nil {
				t.Errorf("what fits: %v, %v", res.Refusal, err)
			}
			res, err = Run(context.Background(), newTree(t, kept), NewAccounts(nil, epoch), []byte(c.over), options())
			if err != nil || res.Refusal == nil || res.Refusal.Kind != Limit || !strings.Contains(res.Refusal.Reason, c.reason) {
				t.Errorf("what is over: %v, %v, want %q", res.Refusal, err, c.reason)
			}
		})
	}
}
