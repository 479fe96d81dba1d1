//go:build linux

package fs

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// play is what this binary does as a child of a test.
func play(role string, args []string) error {
	roles := map[string]func([]string) error{
		"serve": playServe, "hold": playHold, "mmap": playMmap, "direct": playDirect, "stat": playStat,
		"read": playRead, "read-later": playReadLater, "mount": playMount,
	}
	if roles[role] == nil {
		return fmt.Errorf("no role %q", role)
	}
	return roles[role](args)
}

// playServe mounts one small disk on a directory and serves it until it is killed.
func playServe(args []string) error {
	s, err := Mount(args[0], newTree(map[string]Disk{"a.raw": fullDisk(1 << 20)}, "a.raw"), Config{})
	if err != nil {
		return err
	}
	fmt.Println("mounted")
	s.Wait()
	return nil
}

// playMount mounts in surroundings that lack something, and says what came of it.
func playMount(args []string) error {
	dir, lack, cfg := args[0], args[1], Config{}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	if lack != "capability" {
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	}
	switch lack {
	case "device":
		must(unix.Mount("none", "/dev", "tmpfs", 0, ""))
	case "device-permission":
		must(unix.Mount("none", "/dev", "tmpfs", 0, "mode=755"))
		must(unix.Mknod("/dev/fuse", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))))
		must(syscall.Setuid(65534))
	case "helper":
		must(unix.Mount("/dev/null", helperPath(), "", unix.MS_BIND, ""))
		must(syscall.Setuid(65534))
	case "allow-other":
		empty := filepath.Join(dir, "fuse.conf")
		must(os.WriteFile(empty, nil, 0o644))
		must(unix.Mount(empty, "/etc/fuse.conf", "", unix.MS_BIND, ""))
		must(syscall.Setuid(65534))
		cfg.AllowOther = true
		dir = filepath.Join(dir, "own")
	case "writable":
		must(syscall.Setuid(65534))
	}
	_, err := Mount(dir, newTree(nil), cfg)
	if err == nil {
		return errors.New("it mounted")
	}
	var mount *MountError
	if !errors.As(err, &mount) {
		return fmt.Errorf("not a MountError: %w", err)
	}
	for _, cause := range []error{ErrNoFUSE, ErrNoHelper, ErrPermission, ErrBusy} {
		if errors.Is(err, cause) {
			fmt.Printf("%v | %v\n", cause, err)
			return nil
		}
	}
	return fmt.Errorf("no known cause: %w", err)
}

// playHold opens a file, and prints the hash of its content for every line that it gets.
func playHold(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	fmt.Println("open")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<40)); err != nil {
			return err
		}
		fmt.Printf("%x\n", h.Sum(nil))
	}
	return f.Close()
}

// playMmap maps a file, and prints the hash of the mapping at once and for every line that it gets.
func playMmap(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	f.Close() // the mapping keeps it open
	fmt.Printf("%x\n", sha256.Sum256(data))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Printf("%x\n", sha256.Sum256(data))
	}
	return nil
}

// aligned returns a buffer that O_DIRECT takes.
func aligned(size int) []byte {
	b := make([]byte, size+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+size]
}

// playDirect compares random direct reads of a file, in parallel, with a copy of it.
func playDirect(args []string) error {
	want, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for seed := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(seed), 1))
			buf := aligned(1 << 20)
			for range 40 {
				off := rnd.Int64N(int64(len(want))) &^ 4095
				n := (1 + rnd.IntN(len(buf)/4096)) * 4096
				got, err := f.ReadAt(buf[:n], off)
				if end := min(off+int64(n), int64(len(want))); string(buf[:got]) != string(want[off:end]) {
					errs <- fmt.Errorf("read of %d at %d: %d bytes (%v) differ", n, off, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return err
	}
	fmt.Println("equal")
	return nil
}

// playStat stats a path with one plain system call, while SIGUSR1 has a handler, and prints the
// errno.
func playStat(args []string) error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)
	fmt.Println("ready " + strconv.Itoa(os.Getpid()))
	var st unix.Stat_t
	_, _, errno := unix.RawSyscall(unix.SYS_STAT, uintptr(unsafe.Pointer(unsafe.StringData(args[0]+"\x00"))), uintptr(unsafe.Pointer(&st)), 0)
	fmt.Println("errno " + strconv.Itoa(int(errno)))
	return nil
}

// playRead reads the first page of a file and prints the error.
func playRead(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = unix.Pread(int(f.Fd()), make([]byte, 4096), 0)
	fmt.Println(err)
	return nil
}

// playReadLater prints the hash of a file for every line that it gets, and holds nothing in
// between.
func playReadLater(args []string) error {
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		data, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		fmt.Printf("%x\n", sha256.Sum256(data))
	}
	return nil
}
