package backup

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// KeyOf returns the key of one backup, in base64: it opens that backup, and no other
// of those that the same identities open. Of r it reads the header, at most 64 KiB. The
// errors are those of Decrypt.
func KeyOf(r io.Reader, identities ...age.Identity) (string, error) {
	if len(identities) == 0 {
		return "", ErrKey
	}
	header, err := age.ExtractHeader(io.LimitReader(r, maxInfo))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	key, err := age.DecryptHeader(header, identities...)
	if errors.As(err, new(*age.NoIdentityMatchError)) {
		return "", ErrKey
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return base64.StdEncoding.EncodeToString(key), nil
}

// DecryptWith is Decrypt with a key that KeyOf returned. The error is ErrKey for that
// of another backup.
func DecryptWith(r io.Reader, key string) (io.Reader, error) {
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(b) != 16 { // of a file key (https://age-encryption.org/v1)
		return nil, fmt.Errorf("%w: the key is not 16 bytes in base64", ErrKey)
	}
	plain, err := age.Decrypt(r, age.NewInjectedFileKeyIdentity(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return damaged{plain}, nil
}
