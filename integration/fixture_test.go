package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// A fixture is a disk and a blob of it, made once for all tests. Nobody may change its files.
type fixture struct {
	raw     string // path
	content []byte
	sum     string // SHA-256 of the disk
	blob    string // path
	size    int64  // of the blob, bytes
}

var fixtures sync.Map // from a name to a func() (fixture, error)

// mixed makes a disk of size bytes that compresses to about half, and a blob of it. Extra options
// go to the tool that compresses.
func mixed(t testing.TB, size int, kind image.Kind, extra ...string) fixture {
	t.Helper()
	name := fmt.Sprintf("%d %s %s", size, kind, strings.Join(extra, " "))
	made, _ := fixtures.LoadOrStore(name, sync.OnceValues(func() (fixture, error) {
		return makeFixture(size, kind, extra)
	}))
	f, err := made.(func() (fixture, error))()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func makeFixture(size int, kind image.Kind, extra []string) (f fixture, err error) {
	dir, err := os.MkdirTemp(builds, "disk-")
	if err != nil {
		return f, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return f, err
	}
	f.content = mixedContent(size, 0)
	sum := sha256.Sum256(f.content)
	f.sum = hex.EncodeToString(sum[:])
	f.raw, f.blob = filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.raw"+kind.Suffix())
	if kind == image.Plain {
		f.blob += ".img"
	}
	if err := os.WriteFile(f.raw, f.content, 0o644); err != nil {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := image.Compress(ctx, kind, f.raw, f.blob, extra...); err != nil {
		return f, err
	}
	st, err := os.Stat(f.blob)
	if err == nil {
		f.size = st.Size()
	}
	return f, err
}

// mixedContent is size bytes in which zeros, text and random bytes take turns; another seed, other
// bytes.
func mixedContent(size int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 13))
	p := make([]byte, size)
	text := content(64<<10, false, rnd)
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 8<<10+rnd.IntN(192<<10))
		switch rnd.IntN(5) {
		case 0:
		case 1, 2:
			for done := 0; done < n; {
				done += copy(rest[done:n], text[rnd.IntN(len(text)-512):][:16+rnd.IntN(496)])
			}
		default:
			copy(rest, content(n, true, rnd))
		}
		rest = rest[n:]
	}
	copy(p, content(min(size, 4<<10), true, rnd)) // a file that begins with text is no disk
	return p
}

// A library is a registry that holds blobs of several tests; each test counts at a server of its
// own.
type library struct{ registry *image.Registry }

func newLibrary(t testing.TB) *library {
	t.Helper()
	registry, err := image.StartRegistry(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Stop() })
	return &library{registry}
}

// push puts a blob into the registry, as the only layer of the image that path (repository:tag)
// names.
func (l *library) push(t testing.TB, path, blob string) {
	t.Helper()
	what, err := image.Single(image.Disk{File: blob, Title: filepath.Base(blob)})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(context.Background(), l.registry.Direct+"/"+path, what); err != nil {
		t.Fatal(err)
	}
}
