package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/seekable"
	"github.com/spf13/pflag"
)

// flags are those that several commands share.
type flags struct {
	cacheDir  string
	cacheSize size
	span      size
	memory    size

	selection blobfetch.Select
	tlsVerify bool
	creds     string
	authFile  string
	certDir   string
	offline   bool
	stall     time.Duration
	idle      time.Duration // --idle-close
	image     string        // --default-image

	indexFrom  []string
	indexTrust trust

	quiet    bool
	logLevel string
}

func (f *flags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.cacheDir, "cache", defaultCache(), "folder in which fetched spans are kept")
	f.memory = defaultMemory
	fs.Var(&f.memory, "memory", "most memory that decoding takes: windows, spans and read-ahead of all images together")
	fs.Var(&f.cacheSize, "cache-size", "most that the cache may take on disk, such as 20GiB; 0 is no limit")
	fs.StringVar(&f.selection.Arch, "arch", "", "architecture of the image, such as x86_64 or aarch64 (default this machine's)")
	fs.StringVar(&f.selection.DiskType, "disktype", "", "qemu, applehv or hyperv, for images published for several (default qemu)")
	fs.StringVar(&f.selection.Layer, "layer", "", "layer that holds the disk: a number from 0, a digest or a title")
	fs.StringVar(&f.selection.Path, "path", "", "file inside a tar or zip that is the disk")
	fs.BoolVar(&f.tlsVerify, "tls-verify", true, "ask registries by https only and check their certificates")
	fs.StringVar(&f.creds, "creds", "", "user[:password] for the registry")
	fs.StringVar(&f.authFile, "authfile", os.Getenv("REGISTRY_AUTH_FILE"), "file with registry credentials (default podman's and docker's)")
	fs.StringVar(&f.certDir, "cert-dir", "", "folder with certificates (*.crt, *.cert, *.key) for the registry")
	fs.StringVar(&f.image, "default-image", "", "what docker:// means (default from containers.conf, else quay.io/podman/machine-os)")
	fs.BoolVar(&f.offline, "offline", false, "use what is local, ask nothing over the network")
	fs.DurationVar(&f.stall, "stall-timeout", 10*time.Minute, "how long a fault that may pass is retried before a read fails")
	f.span = seekable.MaxSpan
	fs.Var(&f.span, "span", "size of the pieces that a stream without entry points is cut into, at most 16MiB")
	fs.StringArrayVar(&f.indexFrom, "index-from", nil, "where indexes of streams may be: a file, a folder or a repository; may be given several times")
	f.indexTrust = trustRepository
	fs.Var(&f.indexTrust, "index-trust", "which indexes are believed: pinned, repository or none")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "print errors only")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

const (
	defaultMemory = 512 << 20
	minMemory     = 64 << 20 // bytes: a span, its input and a window of 8 MiB, twice
)

// defaultCache is a folder of the user's own; "" if there is none. A temporary folder would be anybody's.
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
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}

func (f *flags) client(log *slog.Logger, c *cache.Cache) (*blobfetch.Client, error) {
	return blobfetch.New(blobfetch.Config{
		Insecure: !f.tlsVerify, Creds: f.creds, AuthFile: f.authFile, CertDir: f.certDir, Offline: f.offline,
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

// size is a flag in bytes, with KiB, MiB, GiB and TiB.
type size int64

var units = []struct {
	suffix string
	shift  uint
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"T", 40}, {"G", 30}, {"M", 20}, {"K", 10}, {"B", 0}, {"", 0}}

// Set parses a size.
func (s *size) Set(text string) error {
	for _, u := range units {
		num, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(n >= 0) || n*float64(int64(1)<<u.shift) >= 1<<62 {
			break
		}
		*s = size(n * float64(int64(1)<<u.shift))
		return nil
	}
	return fmt.Errorf("want a size such as 512MiB or 20GiB")
}

// String prints the size with the largest unit that fits.
func (s *size) String() string {
	for _, u := range units[:4] {
		if n := int64(*s) >> u.shift; n > 0 && n<<u.shift == int64(*s) {
			return fmt.Sprintf("%d%s", n, u.suffix)
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type names the flag's value in help.
func (s *size) Type() string { return "size" }

// human prints a number of bytes for people, with three digits.
func human(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v /= 1024; v < 999.5 {
			break
		}
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, unit)
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}
