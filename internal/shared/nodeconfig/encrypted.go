package nodeconfig

import "strings"

// encryptedPrefix begins a secret that is encrypted with age
// (https://age-encryption.org/v1). pikelet decrypts it before a node sees it.
const encryptedPrefix = "age:"

// IsEncrypted reports whether a secret of a config is still encrypted.
func IsEncrypted(secret string) bool { return strings.HasPrefix(secret, encryptedPrefix) }

// Encrypted returns the secret of a config for a ciphertext in base64.
func Encrypted(ciphertext string) string { return encryptedPrefix + ciphertext }

// Ciphertext returns the ciphertext of a secret; ok is false where it is not
// encrypted.
func Ciphertext(secret string) (ciphertext string, ok bool) {
	return strings.CutPrefix(secret, encryptedPrefix)
}
