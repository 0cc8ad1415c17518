package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
)

// insecure is for a proxy that tests its clients, not its server.
func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
