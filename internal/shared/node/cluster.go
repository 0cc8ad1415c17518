package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
)

// ClusterOf returns the digest of a cluster's server CA, from its certificate in
// PEM: what a token of k3s names as its cluster too.
func ClusterOf(certificate []byte) (string, error) {
	block, _ := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("reading the certificate of the server CA: not a certificate in PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
