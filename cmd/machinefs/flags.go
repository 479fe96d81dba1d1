package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/seekable"
	"github.com/spf13/pflag"
)

// flags holds the flags that several commands share.
type flags struct {
	cacheDir  string
	cacheSize size
	memory    size
	span      size

	selection blobfetch.Select
	tlsVerify bool
	creds     string
	credsFile string
	authFile  string
	certDir   string
	offline   bool
	stall     time.Duration
	idle      time.Duration // --idle-close
	image     string        // --default-image
	lookup    lookup        // of mount

	indexFrom  []string
	indexTrust trust

	trace     traceFlags // of mount and record
	walkAhead bool       // --walk-ahead
	fill      fillMode
	fillRate  size

	quiet    bool
	progress progressMode
	logLevel string
}

// register declares the flags in the order of the help: local resources, the choice of an image,
// the network, indexes, messages.
func (f *flags) register(fs *pflag.FlagSet) {
	f.memory, f.span, f.indexTrust = defaultMemory, seekable.MaxSpan, trustRepository
	fs.SortFlags = false
	fs.StringVar(&f.cacheDir, "cache", defaultCache(),
		"folder of the cache; nobody else may own it or write to it")
	fs.Var(&f.cacheSize, "cache-size",
		"most that the cache takes on disk, open images included, such as 20GiB; 0: no limit but the reserve of free space")
	fs.Var(&f.memory, "memory", "most memory for decoding, of all images together; at least 64MiB")
	fs.BoolVar(&f.offline, "offline", false, "use only the cache and local files")

	fs.StringVar(&f.selection.Arch, "arch", "",
		"architecture of the image, such as x86_64 or aarch64 (default this machine's)")
	fs.StringVar(&f.selection.DiskType, "disktype", "",
		"qemu, applehv or hyperv, for images published for several (default qemu)")
	fs.StringVar(&f.selection.Layer, "layer", "", "layer that holds the disk: a number from 0, a digest or a title")
	fs.StringVar(&f.selection.Path, "path", "", "disk's path in a tar or zip")
	fs.StringVar(&f.image, "default-image", "",
		"image that docker:// alone means (default from containers.conf, else quay.io/podman/machine-os)")

	fs.BoolVar(&f.tlsVerify, "tls-verify", true, "ask registries by https only, and check their certificates")
	fs.Var((*secret)(&f.creds), "creds",
		"user[:password] for the hosts of the images on the command line (default $"+credsVariable+"); other users see it in ps\nfor an instant: --creds-file is better")
	fs.StringVar(&f.credsFile, "creds-file", "", "file with one line user:password, in the place of --creds")
	fs.StringVar(&f.authFile, "authfile", os.Getenv("REGISTRY_AUTH_FILE"),
		"file with registry credentials (default podman's and docker's)")
	fs.StringVar(&f.certDir, "cert-dir", "", "folder with certificates (*.crt, *.cert, *.key) for the registry")
	fs.DurationVar(&f.stall, "stall-timeout", 10*time.Minute, "how long an outage is waited out before a read fails")

	fs.StringArrayVar(&f.indexFrom, "index-from", nil,
		"file, folder or repository with indexes (see machinefs index); may be given several times")
	fs.Var(&f.indexTrust, "index-trust",
		"indexes to use: pinned (given as a file or by digest), repository (also found by tag) or none")
	fs.Var(&f.span, "span", "distance between the points at which a first pass makes a stream seekable, at most 16MiB")

	fs.BoolVarP(&f.quiet, "quiet", "q", false, "print errors only")
	f.progress = progressAuto
	fs.Var(&f.progress, "progress",
		"auto (bars on a terminal, log lines elsewhere), plain, json (an object a second on standard error) or none")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

const (
	defaultMemory = 512 << 20
	minMemory     = 64 << 20 // bytes: a span, its input and a window of 8 MiB, twice
)

// defaultCache returns a folder of the user's own, or "" if there is none: in a temporary folder,
// another user could have made it first.
func defaultCache() string {
	if os.Geteuid() == 0 {
		return "/var/cache/machinefs"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "machinefs")
}

func (f *flags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, &usageError{fmt.Errorf("--log-level %q: want debug, info, warn or error", f.logLevel)}
	}
	if f.quiet {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(screen, &slog.HandlerOptions{Level: level})), nil
}

// client returns a client. --creds goes to the hosts of refs; private addresses of other hosts than
// the known ones are not asked, unless known is nil.
func (f *flags) client(log *slog.Logger, c *cache.Cache, refs, known []string) (*blobfetch.Client, error) {
	creds, err := f.credentials()
	if err != nil {
		return nil, err
	}
	return blobfetch.New(blobfetch.Config{
		CredsFor: refs, Known: known,
		Insecure: !f.tlsVerify, Creds: creds, AuthFile: f.authFile, CertDir: f.certDir, Offline: f.offline,
		Keep: c.Shelf("refs"), Scratch: func() (blobfetch.Scratch, error) { return c.Scratch() },
		UserAgent: "machinefs/" + version, StallTimeout: f.stall, DefaultImage: f.image, Log: log,
	})
}

func (f *flags) cache(log *slog.Logger) (*cache.Cache, error) {
	if f.cacheDir == "" {
		return nil, errors.New("open cache: neither HOME nor XDG_CACHE_HOME is set: give a folder with --cache")
	}
	return cache.Open(cache.Config{Dir: f.cacheDir, Limit: int64(f.cacheSize), Log: log})
}

// A secret is the value of a flag that help does not show.
type secret string

// Set parses the flag.
func (s *secret) Set(v string) error { *s = secret(v); return nil }

// String is empty: it is what help shows as the default.
func (s *secret) String() string { return "" }

// Type names the flag's value in help.
func (s *secret) Type() string { return "string" }
