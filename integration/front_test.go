package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A front is what a registry looks like from outside: docker-registry behind a line that can be
// broken (gate), with tokens, and with its blobs in a store that it redirects to with signed
// addresses.
type front struct {
	*rangeServer              // the registry, behind the gate
	store        *rangeServer // nil: blobs come from the registry itself
	gate         *gate

	mu     sync.Mutex
	tokens bool          // requests need a token of /token
	life   time.Duration // of a token; 0: for ever
	valid  map[string]time.Time
	given  int
	wantPW string // the password that /token wants; "" for none
	signed int    // the signature in force
	faults []*fault
	blob   []byte
	home   string // of the program that uses it
}

// A frontForm is what a front has besides the registry.
type frontForm struct{ tls, tokens, store, password bool }

// newFront puts a front before the library's registry.
func (l *library) newFront(t testing.TB, form frontForm) *front {
	t.Helper()
	f := &front{tokens: form.tokens || form.password, valid: map[string]time.Time{}}
	if form.password {
		f.wantPW = "s3cret"
	}
	back := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: l.registry.Direct})
	back.ErrorLog = log.New(io.Discard, "", 0)
	if form.store {
		f.store = watch(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			good := r.URL.Query().Get("sig") == fmt.Sprint(f.signed)
			f.mu.Unlock()
			if !good {
				http.Error(w, "<Error><Code>AccessDenied</Code></Error>", http.StatusForbidden)
				return
			}
			r.URL.RawQuery = ""
			back.ServeHTTP(w, r)
		}), 0)
	}
	f.rangeServer = watch(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.tokens && !f.let(w, r) {
			return
		}
		if f.store != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
			f.mu.Lock()
			to := fmt.Sprintf("http://%s%s?sig=%d", f.store.Addr, r.URL.Path, f.signed)
			f.mu.Unlock()
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return
		}
		back.ServeHTTP(w, r)
	}), 0)
	f.gate = newGate(t, strings.Replace(f.rangeServer.Addr, "localhost", "127.0.0.1", 1), form.tls)
	return f
}

// content is the server that the bytes of blobs come from.
func (f *front) content() *rangeServer {
	if f.store != nil {
		return f.store
	}
	return f.rangeServer
}

// addr is HOST:PORT of the front.
func (f *front) addr() string { return f.gate.addr }

// let hands tokens out, and asks for them.
func (f *front) let(w http.ResponseWriter, r *http.Request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.URL.Path == "/token" {
		if _, password, _ := r.BasicAuth(); password != f.wantPW {
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
		f.given++
		token := fmt.Sprintf("token%d", f.given)
		f.valid[token] = time.Now()
		fmt.Fprintf(w, `{"token":%q}`, token)
		return false
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if since, is := f.valid[token]; is && (f.life == 0 || time.Since(since) < f.life) {
		return true
	}
	scheme := "http"
	if f.gate.secure {
		scheme = "https"
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s://%s/token",service="front"`, scheme, r.Host))
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// expire ends all tokens.
func (f *front) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.valid)
}

// sign ends all signatures.
func (f *front) sign() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signed++
}

// The ways in which a gate is open or shut.
const (
	gateOpen    = iota
	gateRefuse  // nothing listens
	gateSwallow // connections are taken and nothing is answered
	gateReset   // connections are taken and reset
)

// A gate is a line to a server, on a port of its own.
type gate struct {
	addr, to string
	secure   bool
	caFolder string // for --cert-dir
	fired    atomic.Int64

	mu     sync.Mutex
	way    int
	wrong  bool // another certificate is shown
	listen net.Listener
	open   map[net.Conn]bool
	certs  [2]tls.Certificate // the right one, another one
}

func newGate(t testing.TB, to string, secure bool) *gate {
	t.Helper()
	g := &gate{to: to, secure: secure, open: map[net.Conn]bool{}}
	if secure {
		g.caFolder = t.TempDir()
		g.certs = [2]tls.Certificate{certificate(t, filepath.Join(g.caFolder, "ca.crt")), certificate(t, filepath.Join(t.TempDir(), "other.crt"))}
	}
	if err := g.start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(g.listen.Addr().String())
	g.addr = "localhost:" + port
	t.Cleanup(func() { g.set(gateRefuse) })
	return g
}

// certificate makes a certificate for localhost that signs itself, and writes it to a file.
func certificate(t testing.TB, file string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (g *gate) start(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	g.listen = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(c)
		}
	}()
	return nil
}

// set opens or shuts the gate. Connections that are open are ended.
func (g *gate) set(way int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.way
	g.way = way
	for c := range g.open {
		if tcp, ok := c.(*net.TCPConn); ok && way == gateReset {
			tcp.SetLinger(0)
		}
		c.Close()
	}
	clear(g.open)
	switch {
	case way == gateRefuse && was != gateRefuse:
		g.fired.Add(1) // nothing tells of a connection that is refused
		g.listen.Close()
	case way != gateRefuse && was == gateRefuse:
		for g.start(strings.Replace(g.addr, "localhost", "127.0.0.1", 1)) != nil {
			time.Sleep(10 * time.Millisecond) // another process has the port for an instant
		}
	}
}

// disguise shows another certificate from now on, or the right one again.
func (g *gate) disguise(wrong bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrong = wrong
	for c := range g.open {
		c.Close()
	}
	clear(g.open)
}

func (g *gate) keep(c net.Conn) (way int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.way != gateOpen || g.wrong {
		g.fired.Add(1)
	}
	g.open[c] = true
	return g.way
}

func (g *gate) serve(c net.Conn) {
	defer c.Close()
	switch g.keep(c) {
	case gateReset:
		c.(*net.TCPConn).SetLinger(0)
		return
	case gateSwallow:
		io.Copy(io.Discard, c)
		return
	}
	in := c
	if g.secure {
		in = tls.Server(c, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.wrong {
				return &g.certs[1], nil
			}
			return &g.certs[0], nil
		}})
	}
	out, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		io.Copy(out, in)
		out.Close()
	}()
	io.Copy(in, out)
}
