package image_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Releases are compared number by number.
func ExampleCompareReleases() {
	fmt.Println(image.CompareReleases("1.9", "1.10"))
	fmt.Println(image.CompareReleases("2.0", "1.10"))
	fmt.Println(image.CompareReleases("1.10", "1.10"))
	// Output:
	// -1
	// 1
	// 0
}

func ExampleDigestOf() {
	fmt.Println(image.DigestOf([]byte("{}")))
	// Output: sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
}

// A signature over a digest is verified with any of several public keys.
func ExampleVerifyDigest() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	digest := image.DigestOf([]byte("an OCI manifest"))
	signed, err := image.SignDigest(digest, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	list := []image.Signed{signed}
	fmt.Println(image.VerifyDigest(digest, list, []*ecdsa.PublicKey{&stranger.PublicKey, &key.PublicKey}))
	err = image.VerifyDigest(digest, list, []*ecdsa.PublicKey{&stranger.PublicKey})
	fmt.Println(errors.Is(err, image.ErrSignature))
	// Output:
	// <nil>
	// true
}
