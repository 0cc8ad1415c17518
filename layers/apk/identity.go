package apk

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// shortDigest is the length of a SHA-1, and of a SHA-256 where apk keeps that
// much of one.
const shortDigest = 20

// identityOf returns how an index spells a digest of 20 or 32 bytes: Q1 or Q2,
// and base64. Of a package of format 2 that is a digest of the control
// member, SHA-1 in an index of the same format; of one of format 3 the SHA-256
// of the block of values, which has the digest of every file.
func identityOf(sum []byte) string {
	kind := "Q2"
	if len(sum) == shortDigest {
		kind = "Q1"
	}
	return kind + base64.StdEncoding.EncodeToString(sum)
}

// checkIdentity returns the identity that an index may mean, want, where the
// package has it, or its first where want is empty.
func checkIdentity(want string, has ...string) (string, error) {
	if want == "" {
		return has[0], nil
	}
	if slices.Contains(has, want) {
		return want, nil
	}
	got := has[0]
	for _, id := range has {
		if strings.HasPrefix(want, id[:2]) {
			got = id
			break
		}
	}
	return "", fmt.Errorf("identity mismatch: got %s, want %s: another build of the same version", got, want)
}

// shortIdentity returns an identity as apk's database of installed packages has
// it, and dependencies on one: of a SHA-256, the first 20 bytes.
func shortIdentity(s string) string {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "Q2"))
	if err != nil || !strings.HasPrefix(s, "Q2") || len(sum) < shortDigest {
		return s
	}
	return identityOf(sum[:shortDigest])
}
