package nodeconfig

import "testing"

func FuzzEncrypted(f *testing.F) {
	f.Add("YWdlLWVuY3J5cHRpb24=")
	f.Add("age:")
	f.Fuzz(func(t *testing.T, text string) {
		secret := Encrypted(text)
		if got, ok := Ciphertext(secret); !ok || got != text || !IsEncrypted(secret) {
			t.Errorf("%q holds %q, %t, want %q", secret, got, ok, text)
		}
		if _, ok := Ciphertext(text); ok != IsEncrypted(text) {
			t.Errorf("%q is encrypted: %t and %t", text, ok, !ok)
		}
	})
}
