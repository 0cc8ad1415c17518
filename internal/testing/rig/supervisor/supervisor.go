package supervisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Network is what agents are told of the cluster's network.
type Network struct {
	ClusterCIDR, ServiceCIDR, ClusterDNS string
	// Flannel is a backend of flannel's: vxlan, host-gw, or none.
	Flannel string
}

// DefaultNetwork is k3s' own (https://docs.k3s.io/cli/server).
func DefaultNetwork() Network {
	return Network{ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDNS: "10.43.0.10", Flannel: "vxlan"}
}

// Dial connects to the API server.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// api is where the API server listens, behind the supervisor.
const api = "https://127.0.0.1:6444"

// Supervisor answers on port 6443 of a server.
type Supervisor struct {
	cluster            Cluster
	network            Network
	password           string
	serverCA, clientCA []byte
	admin              API
	log                *slog.Logger
}

// New returns a supervisor for a cluster whose API server dial connects to.
func New(c Cluster, n Network, dial Dial, log *slog.Logger) (*Supervisor, error) {
	s := &Supervisor{cluster: c, network: n, log: log}
	token, err := c.Token()
	if err != nil {
		return nil, err
	}
	_, s.password, _ = strings.Cut(token, "::server:")
	if s.password == "" {
		return nil, fmt.Errorf("%s: the token has no password", c.Dir)
	}
	if s.serverCA, err = os.ReadFile(c.TLS("server-ca.crt")); err != nil {
		return nil, err
	}
	if s.clientCA, err = os.ReadFile(c.TLS("client-ca.crt")); err != nil {
		return nil, err
	}
	s.admin, err = c.Admin(dial)
	return s, err
}

// API is the API server of a cluster, for its administrator.
type API struct{ *http.Client }

// Admin returns the API server that dial connects to.
func (c Cluster) Admin(dial Dial) (API, error) {
	client, err := Pair{c.TLS("client-admin.crt"), c.TLS("client-admin.key"), c.TLS("server-ca.crt")}.Client(dial)
	return API{client}, err
}

// Do sends JSON, nil for none, and returns the HTTP status and the answer. What
// PATCH sends is a merge patch.
func (a API) Do(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, api+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := a.Client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

func pool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificates", file)
	}
	return p, nil
}

// Serve answers at a listener until it is closed.
func (s *Supervisor) Serve(l net.Listener, dial Dial) error {
	cert, err := tls.LoadX509KeyPair(s.cluster.TLS("serving-kube-apiserver.crt"), s.cluster.TLS("serving-kube-apiserver.key"))
	if err != nil {
		return err
	}
	clients, err := pool(s.cluster.TLS("client-ca.crt"))
	if err != nil {
		return err
	}
	h, err := s.handler(dial)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// Upgrades, of exec and port-forward, are HTTP/1.1's.
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients, NextProtos: []string{"http/1.1"},
		},
	}
	return server.ServeTLS(l, "", "")
}

func (s *Supervisor) handler(dial Dial) (http.Handler, error) {
	proxy, err := s.proxy(dial)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "pong") })
	mux.HandleFunc("GET /cacerts", func(w http.ResponseWriter, r *http.Request) { w.Write(s.serverCA) })
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServer(http.Dir(filepath.Join(s.cluster.Dir, "static")))))
	mux.HandleFunc("/v1-k3s/", s.join)
	mux.Handle("/", proxy)
	return mux, nil
}

// proxy passes requests on to the API server, as whom their certificate names.
func (s *Supervisor) proxy(dial Dial) (http.Handler, error) {
	front, err := tls.LoadX509KeyPair(s.cluster.TLS("client-auth-proxy.crt"), s.cluster.TLS("client-auth-proxy.key"))
	if err != nil {
		return nil, err
	}
	roots, err := pool(s.cluster.TLS("server-ca.crt"))
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(api)
	if err != nil {
		return nil, err
	}
	through := func(certs ...tls.Certificate) *httputil.ReverseProxy {
		return &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(to)
				r.Out.Host = r.In.Host
			},
			Transport:     &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}},
			FlushInterval: -1,
			ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			},
		}
	}
	byCertificate, byToken := through(front), through()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Remote-") {
				r.Header.Del(name)
			}
		}
		if len(r.TLS.PeerCertificates) == 0 {
			byToken.ServeHTTP(w, r)
			return
		}
		user := r.TLS.PeerCertificates[0].Subject
		r.Header.Set("X-Remote-User", user.CommonName)
		r.Header["X-Remote-Group"] = user.Organization
		byCertificate.ServeHTTP(w, r)
	}), nil
}

// join answers what nodes with the token ask for.
func (s *Supervisor) join(w http.ResponseWriter, r *http.Request) {
	if _, password, _ := r.BasicAuth(); password != s.password {
		http.Error(w, "not authorized", http.StatusUnauthorized)
		return
	}
	node := r.Header.Get("k3s-Node-Name")
	switch path.Base(r.URL.Path) {
	case "server-ca.crt":
		w.Write(s.serverCA)
	case "client-ca.crt":
		w.Write(s.clientCA)
	case "client-kubelet.crt":
		s.certify(w, r, "client-ca", pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}})
	case "serving-kubelet.crt":
		s.certify(w, r, "server-ca", pkix.Name{CommonName: node})
	case "client-kube-proxy.crt":
		s.certify(w, r, "client-ca", pkix.Name{CommonName: "system:kube-proxy"})
	case "client-k3s-controller.crt":
		s.certify(w, r, "client-ca", pkix.Name{CommonName: "system:k3s-controller"})
	case "config":
		json.NewEncoder(w).Encode(s.network)
	case "readyz":
		io.WriteString(w, "ok")
	default:
		http.NotFound(w, r)
	}
}

// certify answers with a certificate for a node that names its password, and the
// key of it.
func (s *Supervisor) certify(w http.ResponseWriter, r *http.Request, authority string, subject pkix.Name) {
	node := r.Header.Get("k3s-Node-Name")
	err := s.nodePassword(r.Context(), node, r.Header.Get("k3s-Node-Password"))
	if errors.Is(err, errRejected) {
		s.log.Warn("node password rejected", "node", node)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1)}
	if ip := net.ParseIP(r.Header.Get("k3s-Node-IP")); ip != nil {
		ips = append(ips, ip)
	}
	der, key, err := s.cluster.issue(authority, subject, []string{node, "localhost"}, ips)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	if authority == "server-ca" {
		w.Write(s.serverCA)
	} else {
		w.Write(s.clientCA)
	}
	pem.Encode(w, &pem.Block{Type: "PRIVATE KEY", Bytes: k})
}

var errRejected = errors.New("node password rejected")

// nodePassword keeps a hash of what a node of a new name says in a secret, and
// compares it from then on (k3s, pkg/nodepassword).
func (s *Supervisor) nodePassword(ctx context.Context, node, password string) error {
	if node == "" || password == "" {
		return errRejected
	}
	const secrets = "/api/v1/namespaces/kube-system/secrets"
	name := node + ".node-password.k3s"
	sum := sha256.Sum256([]byte(node + ":" + password))
	hash := hex.EncodeToString(sum[:])
	var kept struct {
		Data map[string][]byte `json:"data"`
	}
	switch status, err := s.Do(ctx, http.MethodGet, secrets+"/"+name, "", &kept); {
	case err != nil:
		return err
	case status == http.StatusOK && string(kept.Data["hash"]) == hash:
		return nil
	case status == http.StatusOK:
		return errRejected
	case status != http.StatusNotFound:
		return fmt.Errorf("reading the secret %s: status %d", name, status)
	}
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name}, "immutable": true,
		"stringData": map[string]string{"hash": hash},
	})
	if err != nil {
		return err
	}
	status, err := s.Do(ctx, http.MethodPost, secrets, string(secret), nil)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("creating the secret %s: status %d", name, status)
	}
	return err
}

// Do is API.Do as the cluster's administrator, with the answer decoded into a
// value, which may be nil.
func (s *Supervisor) Do(ctx context.Context, method, path, body string, into any) (int, error) {
	status, b, err := s.admin.Do(ctx, method, path, []byte(body))
	if err != nil || into == nil || status >= 300 {
		return status, err
	}
	return status, json.Unmarshal(b, into)
}
