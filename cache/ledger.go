package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrFull is the error for bytes that are not kept because there is no room: the cache is at its
// limit with entries in use, or the file system has too little space left.
var ErrFull = errors.New("the cache is full")

// A ledger is the account of all bytes that the cache occupies. The balance lies in the file usage,
// under a lock, so that all processes book into one account. Each takes credit from it, up to 512
// KiB more than it needs at the moment, and spends that without a system call. The account is an
// estimate: files that callers append to are not booked, nor is a killed process's credit returned.
// Therefore it is replaced by a count of all files now and then, and always before something is
// evicted or refused.
//
//	0   int64   the bytes taken
//	8   int64   those of them that were taken since the last count
//	16  uint32  CRC32C of bytes 0-15; all little endian
type ledger struct {
	cache   *Cache
	limit   int64 // 0: none
	reserve int64 // bytes of the file system that stay free; 0: the default, < 0: none
	credit  atomic.Int64

	mu sync.Mutex // one booking at a time

	// full is the answer to bookings of fullFor bytes or more until fullUntil. So the files of a
	// full cache are not counted for each.
	full      error
	fullFor   int64
	fullUntil time.Time
}

const (
	ledgerBytes  = 20
	maxCredit    = 512 << 10
	recountAfter = 128 << 20 // bytes booked, after which the files are counted
	maxReserve   = 1 << 30   // the default reserve is 5 % of the file system, but no more than this
)

type balance struct{ used, sinceCount int64 }

func (b balance) marshal() []byte {
	p := binary.LittleEndian.AppendUint64(nil, uint64(b.used))
	p = binary.LittleEndian.AppendUint64(p, uint64(b.sinceCount))
	return binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
}

func parseBalance(p []byte) (b balance, ok bool) {
	if len(p) != ledgerBytes || binary.LittleEndian.Uint32(p[16:]) != crc32.Checksum(p[:16], castagnoli) {
		return b, false
	}
	b = balance{int64(binary.LittleEndian.Uint64(p)), int64(binary.LittleEndian.Uint64(p[8:]))}
	return b, b.used >= 0 && b.sinceCount >= 0
}

// take books n bytes that are about to be written, after it has made room for them where it has to
// and can.
func (l *ledger) take(n int64) error {
	if n <= 0 || l.boundless() || l.spend(n) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spend(n) {
		return nil
	}
	if l.full != nil && n >= l.fullFor && time.Now().Before(l.fullUntil) {
		return l.full
	}
	began := time.Now()
	extra, err := l.book(n)
	if l.full = err; err != nil {
		l.fullFor = n
		l.fullUntil = time.Now().Add(max(20*time.Millisecond, 20*time.Since(began)))
		return err
	}
	l.credit.Add(extra)
	return nil
}

// takeFor books the bytes that a write of [off, off+n) is about to add to a file.
func (l *ledger) takeFor(f *os.File, off, n int64) error {
	if l.boundless() {
		return nil
	}
	fd := int(f.Fd())
	if at, err := unix.Seek(fd, off, unix.SEEK_DATA); err == nil && at == off {
		if hole, err := unix.Seek(fd, off, unix.SEEK_HOLE); err == nil && hole >= off+n {
			return nil // written over in place
		}
	}
	return l.take(pageCeil(off+n) - pageFloor(off))
}

// boundless reports that nothing is booked, because there is neither a limit nor a reserve.
func (l *ledger) boundless() bool { return l.limit == 0 && l.reserve < 0 }

// note books n bytes without asking for room.
func (l *ledger) note(n int64) {
	if n > 0 && !l.boundless() && !l.spend(n) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.change(n)
	}
}

// give books n bytes that were freed.
func (l *ledger) give(n int64) {
	if n <= 0 || l.boundless() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = nil
	if l.credit.Add(n) > 2*maxCredit {
		l.change(-l.credit.Swap(0))
	}
}

// settle returns the credit that is left.
func (l *ledger) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.credit.Swap(0); n > 0 {
		l.change(-n)
	}
}

// retry makes the next booking look again whether there is room: something may have become
// evictable.
func (l *ledger) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = nil
}

func (l *ledger) spend(n int64) bool {
	for {
		have := l.credit.Load()
		if have < n {
			return false
		}
		if l.credit.CompareAndSwap(have, have-n) {
			return true
		}
	}
}

// open locks the account for this process. A folder that was removed under an open cache has no
// account.
func (l *ledger) open() (f *os.File, b balance, ok bool, err error) {
	path := filepath.Join(l.cache.dir, "usage")
	if f, err = openPlain(path); err != nil {
		return nil, b, false, err
	}
	flock(f, unix.LOCK_EX)
	p := make([]byte, ledgerBytes+1)
	n, _ := f.ReadAt(p, 0)
	b, ok = parseBalance(p[:n])
	return f, b, ok, nil
}

func (b balance) write(f *os.File) {
	f.Truncate(ledgerBytes)
	f.WriteAt(b.marshal(), 0)
}

// change adds n to the balance, if there is one.
func (l *ledger) change(n int64) {
	f, b, ok, err := l.open()
	if err != nil {
		return
	}
	defer f.Close()
	if ok {
		b.used = max(0, b.used+n)
		b.sinceCount += max(0, n)
		b.write(f)
	}
}

// recount replaces the balance by a count of all files.
func (l *ledger) recount() {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, _, _, err := l.open()
	if err != nil {
		return
	}
	defer f.Close()
	balance{used: l.count()}.write(f)
}

// count is the balance as the files show it. The credit of other processes is not in it: at most
// 512 KiB each.
func (l *ledger) count() int64 { return l.cache.occupied() + l.credit.Load() }

// fit makes the cache obey its limit and its reserve, after a run with others.
func (l *ledger) fit() {
	if l.boundless() {
		return
	}
	l.recount()
	l.mu.Lock()
	defer l.mu.Unlock()
	f, b, ok, err := l.open()
	if err != nil || !ok {
		return
	}
	defer f.Close()
	if l.room(b.used, 0) != nil {
		b.used = l.evict(b.used, 0)
		b.write(f)
	}
}

// book takes n bytes from the account, and some extra if there is room for that too.
func (l *ledger) book(n int64) (extra int64, err error) {
	f, b, ok, err := l.open()
	if err != nil {
		return 0, nil
	}
	defer f.Close()
	extra = maxCredit
	if l.limit > 0 {
		extra = min(extra, l.limit/64)
	}
	if !ok || b.sinceCount > recountAfter {
		b = balance{used: l.count()}
	}
	if l.room(b.used, n+extra) != nil {
		extra = 0
		b = balance{used: l.count()}
		if err = l.room(b.used, n); err != nil {
			b.used = l.evict(b.used, n)
			err = l.room(b.used, n)
		}
	}
	if err == nil {
		b.used += n + extra
		b.sinceCount += n + extra
	}
	b.write(f)
	return extra, err
}

// room returns the error, if there is no room for n bytes more than those used.
func (l *ledger) room(used, n int64) error {
	if l.limit > 0 && used+n > l.limit {
		return fmt.Errorf("%w: %d bytes are in use, %d more are needed, and its limit is %d: raise that with --cache-size",
			ErrFull, used, n, l.limit)
	}
	if free, reserve := l.free(); reserve > 0 && free-n < reserve {
		return fmt.Errorf("%w: the file system of %s has %d bytes left, of which %d have to stay free: "+
			"make room there, or choose another with --cache", ErrFull, l.cache.dir, free, reserve)
	}
	return nil
}

// free returns the bytes that are left on the file system, and how many of them have to stay so.
func (l *ledger) free() (free, reserve int64) {
	if l.reserve < 0 {
		return 0, 0
	}
	free, size, err := Space(l.cache.dir)
	if err != nil {
		return 0, 0
	}
	if reserve = l.reserve; reserve == 0 {
		reserve = min(maxReserve, size/20)
	}
	return free, reserve
}

// evict removes the least recently used entries to make room for n bytes, and some more, so that
// the next booking finds room at once.
func (l *ledger) evict(used, n int64) (left int64) {
	target := used
	if l.limit > 0 {
		target = min(target, l.limit-l.limit/32-n)
	}
	if free, reserve := l.free(); reserve > 0 {
		target = min(target, used-(reserve-free)-n-maxCredit)
	}
	r, err := l.cache.prune(PruneOptions{Limit: max(1, target)})
	for _, i := range r.Removed {
		l.cache.log.Info("removed from the cache to make room", "image", i.Name, "bytes", i.Disk)
	}
	if err != nil {
		l.cache.log.Warn("cannot make room in the cache", "cause", err)
	}
	return r.Left + l.credit.Load()
}

// asFull makes the errors for a full disk, and for a full quota, ErrFull too.
func asFull(err error) error {
	if err != nil && !errors.Is(err, ErrFull) && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
