//go:build linux

package fs

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Config is how a Tree is mounted. The zero value is good.
type Config struct {
	AllowOther bool   // other users may read, too; as an ordinary user this needs user_allow_other in /etc/fuse.conf
	FsName     string // the source that df and findmnt show; "machinefs" if empty

	// Passthrough lets the kernel read complete disks from their local file; see Backer. It takes
	// effect for root, on Linux 6.9 and later.
	Passthrough bool

	// IdleClose is how long a disk without open handles stays open; 0 is until the mount ends.
	IdleClose time.Duration

	// ErrnoOf may name the errno of errors that this package cannot know, and returns 0 for all
	// others.
	ErrnoOf func(error) syscall.Errno

	Log   *slog.Logger // nil: nothing is logged
	Debug bool         // log every request
}

const (
	// maxRequest is the most the kernel asks for at once: 256 pages, its own limit unless the
	// administrator raised it.
	maxRequest = 1 << 20
	// maxBackground bounds the asynchronous requests under way, and with maxRequest the memory they
	// take.
	maxBackground = 64
)

// Mount mounts t on dir and serves it until it is unmounted. It returns when the mount can be used.
// A failure to mount is a *MountError; a stale machinefs mount on dir is detached first.
func Mount(dir string, t Tree, cfg Config) (*Server, error) {
	names := t.Names()
	if err := CheckNames(names); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	real, mountErr := prepare(dir)
	if mountErr != nil {
		return nil, mountErr
	}
	ctx, cancel := context.WithCancel(context.Background())
	owner := fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	s := &Server{dir: real, cancel: cancel, served: make(chan struct{})}
	s.fs = newFilesystem(ctx, t, names, cfg, owner)
	raw, err := newServer(s.fs, real, mountOptions(cfg))
	if err != nil {
		cancel()
		if on, mounted, _ := mountAt(real); mounted && on.kind == fsType {
			detach(real) // mounted, and then the kernel and go-fuse did not agree
		}
		return nil, explain(real, cfg, err)
	}
	s.fs.backing.server, s.fs.pages.kernel = raw, raw
	go s.serve(raw)
	if err := raw.WaitMount(); err != nil {
		detach(real)
		<-s.served
		return nil, &MountError{Op: "mount", Dir: dir, Err: fmt.Errorf("mounted, but it does not answer: %w", err)}
	}
	if cfg.IdleClose > 0 {
		go s.fs.closeIdleLoop(ctx)
	}
	if on, mounted, err := mountAt(real); err == nil && mounted {
		s.device = on.device
	}
	return s, nil
}

// newServer mounts with mount(2), and if that is not allowed with fusermount3.
//
// go-fuse opens the device for mount(2) without close-on-exec. A child that inherits it keeps the
// mount alive when this process dies, and cannot be killed once it waits for the mount. So no child
// may start before that is put right, as it would be through os.OpenFile.
func newServer(fs *filesystem, dir string, o *fuse.MountOptions) (*fuse.Server, error) {
	direct := *o
	direct.DirectMountStrict = true
	syscall.ForkLock.RLock()
	raw, directErr := fuse.NewServer(fs, dir, &direct)
	if directErr == nil {
		directErr = closeDeviceOnExec()
	}
	syscall.ForkLock.RUnlock()
	if directErr == nil || raw != nil || helperPath() == "" {
		return raw, directErr
	}
	raw, err := fuse.NewServer(fs, dir, o)
	if err != nil {
		err = fmt.Errorf("mount: %w; with fusermount3: %s", directErr, strings.TrimSpace(err.Error()))
	}
	return raw, err
}

// closeDeviceOnExec marks every open FUSE device of this process.
func closeDeviceOnExec() error { return fuseDevices(func(fd int) { unix.CloseOnExec(fd) }) }

// fuseDevices calls f for every open FUSE device of this process.
func fuseDevices(f func(fd int)) error {
	const open = "/proc/self/fd"
	entries, err := os.ReadDir(open)
	if err != nil {
		return err
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(open, e.Name()))
		if err != nil || target != fuseDevice {
			continue // gone, such as the one that read the directory
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		f(fd)
	}
	return nil
}

func mountOptions(cfg Config) *fuse.MountOptions {
	o := &fuse.MountOptions{
		Name:       subtype,
		FsName:     cfg.FsName,
		AllowOther: cfg.AllowOther,

		// For fusermount3 and, as flags, for mount(2). default_permissions has the kernel check
		// modes by itself.
		Options:          []string{"ro", "nosuid", "nodev", "default_permissions"},
		DirectMountFlags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV,

		MaxWrite:      maxRequest,
		MaxBackground: maxBackground,
		// Direct reads at depth: one request need not wait for the one before.
		ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		// Content never changes, so no attribute that does may throw pages away or be checked
		// before a read.
		ExplicitDataCacheControl: true,
		// A plain ls must not open every disk: with READDIRPLUS each entry comes with its size.
		DisableReadDirPlus: true,
		DisableSplice:      true, // reads are answered from memory
		MaxStackDepth:      2,    // a backing file may lie on overlayfs

		Debug:  cfg.Debug,
		Logger: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		PanicHandler: func(p any) fuse.Status {
			cfg.Log.Error("panic while answering a request", "panic", p, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	if o.FsName == "" {
		o.FsName = subtype
	}
	if !cfg.Passthrough {
		// It makes the mount count as stacked, which keeps overlayfs off it.
		o.DisabledCapabilities = fuse.CAP_PASSTHROUGH
	}
	if cfg.Debug {
		o.Logger = log.New(os.Stderr, "fuse: ", log.Lmicroseconds)
	}
	return o
}
