package cache

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	leafPages = 1 << 16 // 256 MiB of data
	leafBytes = leafPages * 4

	leavesPerNode = 1 << 10
	tableNodes    = maxSize / pageSize / leafPages / leavesPerNode
)

type leaf [leafPages]uint32

type tableNode [leavesPerNode]atomic.Pointer[leaf]

// A table holds the words of all pages. It is mapped shared in leaves, each when it is first
// needed, so that every process sees the words that others store, and so that its cost follows the
// present pages, not a size that may be unknown.
//
// close must not run at the same time as any other method.
type table struct {
	file   *os.File
	ledger *ledger
	broken atomic.Bool // an access faulted: everything is absent, nothing is stored any more
	nodes  [tableNodes]atomic.Pointer[tableNode]
	mu     sync.Mutex // creates nodes, maps leaves
}

var errTableFault = errors.New("table cannot be read: the file was truncated or its disk fails")

// survive turns a fault in mapped memory into *ok = false. It is deferred with the result of
// SetPanicOnFault(true).
func (t *table) survive(old bool, ok *bool) {
	debug.SetPanicOnFault(old)
	r := recover()
	if r == nil {
		return
	}
	if e, is := r.(runtime.Error); is {
		if _, is := e.(interface{ Addr() uintptr }); is {
			*ok = false
			t.broken.Store(true)
			return
		}
	}
	panic(r)
}

// load copies the words from page first on to dst. A page that nothing is known of has the word 0.
func (t *table) load(first int64, dst []uint32) {
	if t.broken.Load() || !t.loadMapped(first, dst) {
		clear(dst)
	}
}

func (t *table) loadMapped(first int64, dst []uint32) (ok bool) {
	defer t.survive(debug.SetPanicOnFault(true), &ok)
	for len(dst) > 0 {
		at := int(first % leafPages)
		n := min(len(dst), leafPages-at)
		l := t.mapped(first / leafPages)
		if l == nil {
			l, _ = t.open(first / leafPages)
		}
		if l == nil {
			clear(dst[:n])
		} else {
			for i := range dst[:n] {
				dst[i] = atomic.LoadUint32(&l[at+i])
			}
		}
		dst, first = dst[n:], first+int64(n)
	}
	return true
}

func (t *table) word(page int64) uint32 {
	var w [1]uint32
	t.load(page, w[:])
	return w[0]
}

// store sets the words from page first on. The pages' bytes must have been written.
func (t *table) store(first int64, words []uint32) error {
	for len(words) > 0 {
		l, err := t.create(first / leafPages)
		if err != nil {
			return err
		}
		at := int(first % leafPages)
		n := min(len(words), leafPages-at)
		if t.broken.Load() || !t.storeMapped(l, at, words[:n]) {
			return errTableFault
		}
		words, first = words[n:], first+int64(n)
	}
	return nil
}

func (t *table) storeMapped(l *leaf, at int, words []uint32) (ok bool) {
	defer t.survive(debug.SetPanicOnFault(true), &ok)
	for i, w := range words {
		atomic.StoreUint32(&l[at+i], w)
	}
	return true
}

// drop makes a page absent if its word is still the one that was found wrong.
func (t *table) drop(page int64, wrong uint32) {
	if l := t.mapped(page / leafPages); l != nil && !t.broken.Load() {
		t.dropMapped(&l[page%leafPages], wrong)
	}
}

func (t *table) dropMapped(w *uint32, wrong uint32) (ok bool) {
	defer t.survive(debug.SetPanicOnFault(true), &ok)
	return atomic.CompareAndSwapUint32(w, wrong, 0)
}

// clear makes all pages in [first, limit) absent and returns how many bytes of data they may
// occupy: those of pages whose word is not that of zeros.
func (t *table) clear(first, limit int64, s salt) (freed int64, err error) {
	for {
		if first = t.scan(first, limit, true); first >= limit {
			break
		}
		l := t.mapped(first / leafPages)
		end := min(limit, (first/leafPages+1)*leafPages)
		if l == nil {
			break // cut off: nothing is present
		}
		if !t.clearMapped(l, first, end, s, &freed) {
			break
		}
		first = end
	}
	if t.broken.Load() {
		return freed, errTableFault
	}
	return freed, nil
}

func (t *table) clearMapped(l *leaf, first, end int64, s salt, freed *int64) (ok bool) {
	defer t.survive(debug.SetPanicOnFault(true), &ok)
	for page := first; page < end; page++ {
		if w := atomic.SwapUint32(&l[page%leafPages], 0); w != 0 && w != s.zero(page) {
			*freed += pageSize
		}
	}
	return true
}

// scan returns the first page in [first, limit) that is present, or absent, as wanted; limit if
// there is none.
func (t *table) scan(first, limit int64, present bool) int64 {
	var words [512]uint32
	for first < limit {
		if t.mapped(first/leafPages) == nil {
			l, next := t.open(first / leafPages)
			if l == nil && !present {
				return first
			}
			if l == nil {
				first = max(first, next)
				continue
			}
		}
		n := min(int64(len(words)), limit-first, leafPages-first%leafPages)
		t.load(first, words[:n])
		for i, w := range words[:n] {
			if (w != 0) == present {
				return first + int64(i)
			}
		}
		first += n
	}
	return limit
}

func (t *table) mapped(i int64) *leaf {
	n := t.nodes[i/leavesPerNode].Load()
	if n == nil {
		return nil
	}
	return n[i%leavesPerNode].Load()
}

// open maps leaf i if the file holds any word of it. Else it returns the first page after it of
// which the file holds words.
func (t *table) open(i int64) (*leaf, int64) {
	next, err := unix.Seek(int(t.file.Fd()), i*leafBytes, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return nil, maxSize / pageSize
	case err == nil && next >= (i+1)*leafBytes:
		return nil, next / leafBytes * leafPages
	}
	if fi, err := t.file.Stat(); err != nil || fi.Size() < (i+1)*leafBytes {
		return nil, (i + 1) * leafPages // cut off by somebody: create would make it whole again
	}
	l, err := t.mapLeaf(i)
	if err != nil {
		return nil, (i + 1) * leafPages
	}
	return l, 0
}

// create maps leaf i, and allocates its space first: a store to a hole of a mapped file on a full
// disk is a SIGBUS.
func (t *table) create(i int64) (*leaf, error) {
	if l := t.mapped(i); l != nil {
		return l, nil
	}
	if err := t.ledger.takeFor(t.file, i*leafBytes, leafBytes); err != nil {
		return nil, err
	}
	err := allocate(t.file, i*leafBytes, leafBytes)
	if errors.Is(err, errors.ErrUnsupported) {
		err = t.extend((i + 1) * leafBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes of table: %w", leafBytes, err)
	}
	return t.mapLeaf(i)
}

// extend makes the file at least size bytes long, where fallocate is missing. The lock keeps
// another process, which extends further at the same time, from being undone.
func (t *table) extend(size int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer lockRange(t.file, 0, 1)()
	fi, err := t.file.Stat()
	if err != nil || fi.Size() >= size {
		return err
	}
	return t.file.Truncate(size)
}

func (t *table) mapLeaf(i int64) (*leaf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[i/leavesPerNode].Load()
	if n == nil {
		n = new(tableNode)
		t.nodes[i/leavesPerNode].Store(n)
	}
	if l := n[i%leavesPerNode].Load(); l != nil {
		return l, nil
	}
	mem, err := unix.Mmap(int(t.file.Fd()), i*leafBytes, leafBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map table: %w", err)
	}
	l := (*leaf)(unsafe.Pointer(&mem[0]))
	n[i%leavesPerNode].Store(l)
	return l, nil
}

func (t *table) close() {
	for i := range t.nodes {
		n := t.nodes[i].Load()
		if n == nil {
			continue
		}
		for j := range n {
			if l := n[j].Load(); l != nil {
				unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(l)), leafBytes))
			}
		}
		t.nodes[i].Store(nil)
	}
	t.file.Close()
}
