package blobfetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Source is what a Verifier watches; a *Blob is one.
type Source interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Verifier passes reads on to a Source and hashes what passes, in order, until all of it has. Ranges that arrive ahead of the hash
// wait in an unlinked temporary file. It is safe for parallel use.
//
// What cannot be kept waiting (a full disk) counts as not seen; Finish fetches it again.
type Verifier struct {
	src  Source
	name string
	want v1.Hash
	size int64

	hashed atomic.Int64 // the same as pos, for a look without the lock

	mu      sync.Mutex
	turn    *sync.Cond // signalled whenever busy ends
	sum     hash.Hash
	pos     int64 // all bytes before it have been hashed
	busy    bool  // somebody hashes, without mu: sum and pos are theirs
	busyEnd int64 // and will have hashed up to here
	ahead   spool
	closed  bool

	finishing sync.Mutex
}

// IncompleteError says that more of a blob than Finish was allowed to fetch has not passed.
type IncompleteError struct{ Missing int64 } // bytes

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%d bytes have not been read, so the digest cannot be compared", e.Missing)
}

// NewVerifier watches src, whose digest is known. dir is where waiting ranges are kept, "" for the system's temporary folder.
func NewVerifier(src Source, digest, dir string) (*Verifier, error) {
	h, err := parseDigest(digest)
	if err != nil {
		return nil, wrap("verify", quoted(digest), err)
	}
	v := &Verifier{src: src, name: "blob " + digest, want: h, size: src.Size(), ahead: spool{dir: dir}}
	v.turn = sync.NewCond(&v.mu)
	if v.sum, err = v1.Hasher(h.Algorithm); err != nil {
		return nil, wrap("verify", v.name, failf(ErrReference, "", "%w", err))
	}
	return v, nil
}

func (v *Verifier) Size() int64 { return v.size }

// ReadAt is the source's, and hashes what it brought.
func (v *Verifier) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := v.src.ReadAt(ctx, p, off); err != nil {
		return err
	}
	v.feed(p, off)
	return nil
}

// hashStep bounds how long State and a reader that is next in line wait for whoever hashes.
const hashStep = 1 << 20

func (v *Verifier) feed(p []byte, off int64) {
	end := off + int64(len(p))
	if end <= v.hashed.Load() {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	// Next in line: wait for the one before. That is cheaper than the way through the temporary file.
	for v.busy && !v.closed && off <= v.busyEnd && end > v.busyEnd {
		v.turn.Wait()
	}
	if v.closed || end <= v.pos {
		return
	}
	if v.busy || off > v.pos {
		if skip := v.pos - off; skip > 0 {
			p, off = p[skip:], off+skip
		}
		if v.ahead.put(p, off) && !v.busy { // it may have closed the gap
			v.drain()
		}
		return
	}
	v.advance(p[v.pos-off:])
	v.drain()
}

// advance hashes p, which is at pos. mu is held on entry and on return, and not between.
func (v *Verifier) advance(p []byte) {
	v.busy, v.busyEnd = true, v.pos+int64(len(p))
	v.mu.Unlock()
	v.sum.Write(p)
	v.mu.Lock()
	v.pos += int64(len(p))
	v.hashed.Store(v.pos)
	v.busy = false
	v.turn.Broadcast()
}

// drain lets a goroutine hash what waits at pos, so that no reader pays for what others left. mu is held.
func (v *Verifier) drain() {
	if v.closed || v.busy || v.ahead.run(v.pos) == 0 {
		return
	}
	v.busy, v.busyEnd = true, v.pos
	go func() {
		buf := make([]byte, hashStep)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.busy = false
		for !v.closed {
			n := min(v.ahead.run(v.pos), hashStep)
			if n == 0 || v.busy { // whoever is busy calls drain when done
				break
			}
			if !v.ahead.get(buf[:n], v.pos) {
				break // lost; it counts as not seen
			}
			v.advance(buf[:n])
			v.ahead.forget(v.pos)
		}
		v.turn.Broadcast()
	}()
}

// Progress is how many bytes from the start have been hashed.
func (v *Verifier) Progress() int64 { return v.hashed.Load() }

// Finish sees to it that all has been hashed, and compares. It fetches what is missing if that is at most maxGap bytes; else the error is
// an *IncompleteError. A mismatch is an ErrVerify.
func (v *Verifier) Finish(ctx context.Context, maxGap int64) error {
	v.finishing.Lock()
	defer v.finishing.Unlock()
	if missing := v.missing(); missing > maxGap {
		return &IncompleteError{missing}
	}
	var buf []byte
	for {
		start, n, err := v.gap(ctx)
		if err != nil {
			return wrap("verify", v.name, err)
		}
		if n == 0 {
			break
		}
		if int64(len(buf)) < n {
			buf = make([]byte, n)
		}
		if err := v.ReadAt(ctx, buf[:n], start); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	got := v1.Hash{Algorithm: v.want.Algorithm, Hex: hex.EncodeToString(v.sum.Sum(nil))}
	if got != v.want {
		return wrap("verify", v.name, failf(ErrVerify, "remove what was kept of it and fetch it anew; if it happens again the server's copy is damaged", "its bytes have the digest %s, want %s", got, v.want))
	}
	return nil
}

func (v *Verifier) missing() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.size - v.pos - v.ahead.total(v.pos)
}

// gap waits until nobody hashes, and returns the first bytes that have not been seen; n is 0 when all have been hashed.
func (v *Verifier) gap(ctx context.Context) (start, n int64, err error) {
	stop := context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.turn.Broadcast()
	})
	defer stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.busy && ctx.Err() == nil {
		v.turn.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return 0, 0, context.Cause(ctx)
	case v.closed:
		return 0, 0, failf(ErrLocal, "", "it is closed")
	case v.pos == v.size:
		return 0, 0, nil
	}
	next := min(v.ahead.next(v.pos), v.size)
	if next == v.pos { // what waits there could not be read back
		v.ahead.drop(v.pos)
		next = min(v.ahead.next(v.pos), v.size)
	}
	return v.pos, min(next-v.pos, pieceSize), nil
}

// The state of a hash in the middle of a blob: what a killed process needs to go on.
//
//	magic "mfhash1\n", then length-prefixed (uvarint): digest wanted, size and position (8 bytes big-endian each), the hash's own
//	binary form (encoding.BinaryMarshaler), then SHA-256 of all that
const stateMagic = "mfhash1\n"

var errState = errors.New("it is not the state of this blob's hash")

// State returns the hash's state at Progress, to be given to Restore in another process.
func (v *Verifier) State() ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.busy {
		v.turn.Wait()
	}
	m, ok := v.sum.(encoding.BinaryMarshaler)
	if !ok {
		return nil, wrap("keep hash state of", v.name, failf(ErrLocal, "", "%s has none", v.want.Algorithm))
	}
	mid, err := m.MarshalBinary()
	if err != nil {
		return nil, wrap("keep hash state of", v.name, failf(ErrLocal, "", "%w", err))
	}
	b := append([]byte(stateMagic), v.stateHead()...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.pos))
	b = append(b, mid...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// stateHead ties a state to its blob.
func (v *Verifier) stateHead() []byte {
	digest := v.want.String()
	b := binary.AppendUvarint(nil, uint64(len(digest)))
	b = append(b, digest...)
	return binary.BigEndian.AppendUint64(b, uint64(v.size))
}

// Restore goes on from a State. If it fails, nothing has changed, and the verifier begins at 0. It must come before the first read.
func (v *Verifier) Restore(state []byte) error {
	fail := wrap("restore hash state of", v.name, failf(ErrLocal, "it is hashed from the start", "%w", errState))
	body, ok := bytes.CutPrefix(state, append([]byte(stateMagic), v.stateHead()...))
	if !ok || len(body) < 8+sha256.Size {
		return fail
	}
	whole, tail := state[:len(state)-sha256.Size], state[len(state)-sha256.Size:]
	if sum := sha256.Sum256(whole); !bytes.Equal(sum[:], tail) {
		return fail
	}
	body = body[:len(body)-sha256.Size]
	pos := binary.BigEndian.Uint64(body)
	sum, err := v1.Hasher(v.want.Algorithm)
	if err != nil || pos > uint64(v.size) {
		return fail
	}
	if m, ok := sum.(encoding.BinaryUnmarshaler); !ok || m.UnmarshalBinary(body[8:]) != nil {
		return fail
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pos != 0 || v.busy {
		return wrap("restore hash state of", v.name, failf(ErrLocal, "", "%d bytes have been hashed already", v.pos))
	}
	v.sum, v.pos = sum, int64(pos)
	v.hashed.Store(v.pos)
	v.ahead.forget(v.pos)
	v.drain()
	return nil
}

// Close frees the temporary file and ends hashing. It does not close the source.
func (v *Verifier) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	v.turn.Broadcast()
	for v.busy {
		v.turn.Wait()
	}
	return v.ahead.close()
}

var _ Source = (*Blob)(nil)
