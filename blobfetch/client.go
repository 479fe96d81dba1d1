package blobfetch

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Config sets credentials, trust, patience and storage of a Client. The zero value is usable.
type Config struct {
	Insecure bool     // certificates are not checked and registries may be asked by plain http (loopback registries always may)
	Creds    string   // user[:password] for the hosts of CredsFor; goes before AuthFile
	CredsFor []string // references: Creds is sent to their hosts and to no others
	// Known lists the hosts (HOST or HOST:PORT) whose loopback, link-local and private addresses may
	// be asked; nil allows every address.
	Known     []string
	AuthFile  string // docker's or podman's auth file; "" looks where docker and podman do
	CertDir   string // folder of *.crt (CAs), *.cert + *.key (client certificates), as in certs.d/HOST
	Offline   bool   // ask nothing over the network: kept answers only, else ErrOffline
	UserAgent string // default "machinefs"

	// Keep remembers answers, manifests and small configs, for Offline and to save requests; nil
	// keeps nothing.
	Keep Keeper
	// Scratch makes a temporary file for the body of a server that ignores ranges, so that its
	// bytes are sent once. nil, or an error, keeps nothing: a read that looks back starts a new
	// download.
	Scratch func() (Scratch, error)

	// StallTimeout bounds the retries of a fault that may pass, since the last new byte; default 10
	// minutes.
	StallTimeout time.Duration
	// DefaultImage is the reference that "docker://" alone stands for; "" asks containers.conf,
	// else quay.io/podman/machine-os.
	DefaultImage string
	Log          *slog.Logger
}

const (
	defaultStallTimeout = 10 * time.Minute
	// A user waits in front of a resolve, and a host that does not exist is mostly a typing error:
	// give up soon.
	resolvePatience = 15 * time.Second
	// A host that failed the last time is given less.
	suspectPatience = 3 * time.Second
	// A request that brings no byte for this long is tried again on another connection.
	defaultIdle = 30 * time.Second
	// Behind a mirror comes another place to ask.
	mirrorIdle = 5 * time.Second
)

// Client resolves references and opens blobs. It is safe for parallel use; connections, tokens and
// redirects are shared.
type Client struct {
	cfg    Config
	log    *slog.Logger
	clock  clock
	idle   time.Duration
	hosts  *hosts
	logins *logins
	keep   keep

	mu       sync.Mutex
	sessions map[string]*session  // by repository, and whether it is asked without TLS
	peers    map[string]*peer     // by host
	mirrors  map[string]time.Time // that failed: when they may be asked again
	absent   map[string]*absence  // by repository
}

// New reads the auth file and the certificates that cfg names; it does not touch the network.
// Errors are of kind ErrLocal or ErrNotFound.
func New(cfg Config) (*Client, error) {
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = defaultStallTimeout
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "machinefs"
	}
	c := &Client{cfg: cfg, log: cfg.Log, clock: realClock, idle: defaultIdle, keep: keep{cfg.Keep}, sessions: map[string]*session{},
		peers: map[string]*peer{}, mirrors: map[string]time.Time{}, absent: map[string]*absence{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.logins, err = newLogins(cfg); err != nil {
		return nil, err
	}
	if c.hosts, err = newHosts(cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// Close drops idle connections. Open Blobs keep working.
func (c *Client) Close() { c.hosts.closeIdle() }

// clock is the time as retries see it, so that a test can replay ten minutes of outage without
// waiting for them.
type clock struct {
	now func() time.Time
	// sleep waits for d, or until early is closed, and tells which.
	sleep func(ctx context.Context, d time.Duration, early <-chan struct{}) (woken bool, err error)
}

var realClock = clock{now: time.Now, sleep: func(ctx context.Context, d time.Duration, early <-chan struct{}) (bool, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false, nil
	case <-early:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}}
