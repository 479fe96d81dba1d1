package blobfetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// hosts is the http.RoundTripper of everything: one connection pool per set of certificates, chosen
// by the request's host. It follows no redirect and adds no credentials.
type hosts struct {
	cfg     Config
	proxies proxies
	extra   *tls.Config // of Config.CertDir, nil without one

	mu     sync.Mutex
	pools  map[string]*http.Transport
	shared *http.Transport // for hosts without certificates of their own
	named  map[string]bool // hosts that a reference names: only these see CertDir's client certificates
}

// certFolders lists the folders whose HOST[:PORT] subfolders hold certificates, as docker and
// podman do; see containers-certs.d(5).
func certFolders() []string {
	dirs := []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}
	if conf, err := os.UserConfigDir(); err == nil {
		dirs = append([]string{filepath.Join(conf, "containers/certs.d")}, dirs...)
	}
	return dirs
}

func newHosts(cfg Config) (*hosts, error) {
	p, err := newProxies()
	if err != nil {
		return nil, wrap("read", "the environment", err)
	}
	h := &hosts{cfg: cfg, proxies: p, pools: map[string]*http.Transport{}, named: map[string]bool{}}
	if cfg.CertDir != "" {
		if _, err := os.ReadDir(cfg.CertDir); err != nil {
			return nil, wrap("read", "certificate folder "+cfg.CertDir, localFault(err))
		}
		conf := &tls.Config{}
		if err := addCertificates(conf, cfg.CertDir); err != nil {
			return nil, wrap("read", "certificate folder "+cfg.CertDir, err)
		}
		h.extra = conf
	}
	return h, nil
}

// name marks a host as one that a reference named.
func (h *hosts) name(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.named[host] && h.extra != nil {
		delete(h.pools, host) // it was met as another's redirect, and has no client certificate yet
	}
	h.named[host] = true
}

// RoundTrip sends one request through the pool of its host.
func (h *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	if h.cfg.Known != nil && !h.known(hostPort(req.URL)) && private(net.ParseIP(req.URL.Hostname())) {
		return nil, notKnown(req.URL.Host) // behind a proxy, no address is seen
	}
	pool, err := h.pool(req.URL.Host)
	if err != nil {
		return nil, err
	}
	if req.Header.Get("User-Agent") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", h.cfg.UserAgent)
	}
	return pool.RoundTrip(req)
}

// pool returns the host's own transport if there are certificates for it, else the shared one.
func (h *hosts) pool(host string) (*http.Transport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pools[host]; p != nil {
		return p, nil
	}
	conf := &tls.Config{InsecureSkipVerify: h.cfg.Insecure}
	own := false
	if h.extra != nil {
		conf.RootCAs = h.extra.RootCAs
		if h.named[host] && len(h.extra.Certificates) > 0 {
			conf.Certificates = h.extra.Certificates
			own = true
		}
	}
	for _, dir := range certFolders() {
		dir = filepath.Join(dir, filepath.Base(host))
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		own = true
		if err := addCertificates(conf, dir); err != nil {
			return nil, wrap("read", "certificate folder "+dir, err)
		}
	}
	if !own {
		if h.shared == nil {
			h.shared = h.newPool(conf)
		}
		h.pools[host] = h.shared
		return h.shared, nil
	}
	h.pools[host] = h.newPool(conf)
	return h.pools[host], nil
}

func (h *hosts) newPool(conf *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  h.proxies.of,
		DialContext:            h.dial,
		OnProxyConnectResponse: connected,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    15 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		DisableCompression:     true, // ranges count the bytes of the file as it is stored
		ReadBufferSize:         64 << 10,
		// A dead HTTP/2 connection would otherwise swallow each retry, for retries share it.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// dial connects to HOST:PORT. Where not all addresses may be asked, those of this machine and its
// networks are refused, after the DNS has been asked: a name may mean anything.
func (h *hosts) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if h.cfg.Known != nil && !h.known(addr) && !h.proxies.is(addr) {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ip, _, err := net.SplitHostPort(address)
			if err != nil || private(net.ParseIP(ip)) {
				return notKnown(addr)
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, addr)
}

func notKnown(host string) error {
	return failf(ErrNetwork, "--lookup "+host+" allows it", "%s is an address of this machine or its networks, which only the mounting user may have asked", host)
}

// known reports a HOST:PORT whose addresses may all be asked. Config.Known may leave out the ports
// of https and http.
func (h *hosts) known(addr string) bool {
	addr = canonicalHost("", addr)
	host, port, _ := net.SplitHostPort(addr)
	for _, k := range h.cfg.Known {
		if k = canonicalHost("", k); k == addr || (port == "443" || port == "80") && strings.Trim(k, "[]") == host {
			return true
		}
	}
	return false
}

// private reports an address that is not of the Internet at large: loopback, link-local, RFC 1918
// and RFC 4193, multicast, unspecified, carrier-grade NAT (RFC 6598).
func private(ip net.IP) bool {
	return ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() ||
		carrierNAT.Contains(ip) || ip.Equal(net.IPv4bcast))
}

var carrierNAT = net.IPNet{IP: net.IPv4(100, 64, 0, 0), Mask: net.CIDRMask(10, 32)}

func (h *hosts) closeIdle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pools {
		p.CloseIdleConnections()
	}
}

// addCertificates reads a folder as containers-certs.d(5) describes it.
func addCertificates(conf *tls.Config, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return localFault(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			pem, err := os.ReadFile(path)
			if err != nil {
				return localFault(err)
			}
			if conf.RootCAs == nil {
				if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
					conf.RootCAs = x509.NewCertPool()
				}
			} else {
				conf.RootCAs = conf.RootCAs.Clone()
			}
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return failf(ErrLocal, "it must be PEM", "%s holds no certificate", path)
			}
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			pair, err := tls.LoadX509KeyPair(path, key)
			if err != nil {
				return failf(ErrLocal, "", "client certificate %s with %s: %w", path, key, err)
			}
			conf.Certificates = append(conf.Certificates[:len(conf.Certificates):len(conf.Certificates)], pair)
		case ".key":
			if _, err := os.Stat(strings.TrimSuffix(path, ".key") + ".cert"); err != nil {
				return failf(ErrLocal, "client certificates end in .cert, CA certificates in .crt", "no .cert for the key %s", path)
			}
		}
	}
	return nil
}

// loopback reports a host that this machine itself is: plain http to it crosses no network.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// guarded refuses plain http to hosts for which plain is false, also behind redirects and token
// servers.
type guarded struct {
	inner http.RoundTripper
	plain func(host string) bool
}

func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plain(req.URL.Host) {
		// Without a kind: it is the lesser half of a handshake that tried TLS too, whose fault may
		// pass.
		return nil, fmt.Errorf("refused to ask %s without TLS (--tls-verify=false allows it)", req.URL.Host)
	}
	return g.inner.RoundTrip(req)
}

// localFault gives an error of this machine's file system its kind.
func localFault(err error) error {
	switch {
	case err == nil || Kind(err) != nil:
		return err
	case os.IsNotExist(err):
		return &kindError{kind: ErrNotFound, err: err}
	}
	return &kindError{kind: ErrLocal, err: fmt.Errorf("%w", err)}
}

// sameOrigin reports that two addresses are of one scheme and host.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && canonicalHost(a.Scheme, a.Host) == canonicalHost(b.Scheme, b.Host)
}

// canonicalHost returns HOST or HOST:PORT without what does not tell hosts apart: the scheme's own
// port, the case of letters, a final dot.
func canonicalHost(scheme, host string) string {
	host = strings.ToLower(host)
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return strings.TrimSuffix(host, ".")
	}
	name = strings.TrimSuffix(name, ".")
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return name
	}
	return name + ":" + port
}

// hostPort returns HOST:PORT of an address.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
