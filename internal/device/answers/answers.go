// Package answers finds out whether a server of some cluster answers at an address.
package answers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

const (
	patience = 5 * time.Second // for an answer: a server in the same network
	maxCA    = 64 << 10        // bytes, of the certificates of a server CA
)

// ErrOther is returned for a server of another cluster.
var ErrOther = errors.New("another cluster's server answers")

// As asks a k3s server, by HOST:PORT, which cluster's it is, and returns nil where
// it is one of the cluster whose server CA has a digest. The server shows so by its
// certificate; whoever repeats a CA's certificate does not. The clock has no part in
// it. Other errors than ErrOther mean that no k3s server answered.
func As(ctx context.Context, address, cluster string) error {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // checked below, by the digest of the authority
		},
	}
	// k3s gives this to everybody: agents compare it with the digest in their token.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/cacerts", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxCA))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.TLS == nil || len(resp.TLS.PeerCertificates) == 0 {
		return fmt.Errorf("asking %s for its server CA: %s", address, resp.Status)
	}
	got, err := node.ClusterOf(b)
	if err != nil {
		return err
	}
	if got != cluster {
		return fmt.Errorf("%w: %s", ErrOther, got)
	}
	block, _ := pem.Decode(b)
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if err := resp.TLS.PeerCertificates[0].CheckSignatureFrom(authority); err != nil {
		return fmt.Errorf("the certificate of %s is not of the server CA that it names: %w", address, err)
	}
	return nil
}

// Elsewhere returns the first of some addresses at which a server of the cluster
// answers that is not this machine; "" for none.
func Elsewhere(ctx context.Context, addresses []string, cluster string) string {
	found := make([]bool, len(addresses))
	var all sync.WaitGroup
	for i, a := range addresses {
		all.Go(func() { found[i] = !own(ctx, a) && As(ctx, a, cluster) == nil })
	}
	all.Wait()
	if i := slices.Index(found, true); i >= 0 {
		return addresses[i]
	}
	return ""
}

// own reports whether all that an address resolves to is this machine's.
func own(ctx context.Context, address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	list, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil || len(list) == 0 {
		return false
	}
	ours, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(list, func(a net.IPAddr) bool {
		return !slices.ContainsFunc(ours, func(o net.Addr) bool {
			n, is := o.(*net.IPNet)
			return is && n.IP.Equal(a.IP)
		})
	})
}
