package node

import "testing"

func FuzzProgress(f *testing.F) {
	f.Add("1.3")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := ParseRestarting(Restarting(text)); !ok || got != text {
			t.Errorf("the node restarts into %q, %t, want %q", got, ok, text)
		}
		if got, ok := ParseHint(Hint(text)); !ok || got != text {
			t.Errorf("the hint is %q, %t, want %q", got, ok, text)
		}
		if _, ok := ParseRestarting(Hint(text)); ok {
			t.Errorf("the hint %q restarts a node", text)
		}
	})
}
