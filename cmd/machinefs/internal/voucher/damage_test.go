package voucher

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"
)

// damages calls harm with a name and the file, damaged in each way: every byte, every cut, swapped
// and copied slots.
func damages(file []byte, slot int, other []byte, harm func(name string, file []byte)) {
	for i := range file {
		if i%slot >= slotHead && i%7 > 0 {
			continue // every byte of the numbers, and some of the hash's state and of the zeros
		}
		b := slices.Clone(file)
		b[i] ^= 1 << (i % 8)
		harm(fmt.Sprint("a bit of byte ", i), b)
	}
	for n := 0; n < len(file); n += slot / 2 {
		harm(fmt.Sprint("cut off at ", n), slices.Clone(file[:n]))
		harm(fmt.Sprint("zeros from ", n), append(slices.Clone(file[:n]), make([]byte, len(file)-n)...))
		harm(fmt.Sprint("zeros up to ", n), append(make([]byte, n), file[n:]...))
	}
	for i := 0; i < len(file); i += slot {
		for j := 0; j < len(file); j += slot {
			b := slices.Clone(file)
			copy(b[i:], file[j:j+slot])
			harm(fmt.Sprintf("slot %d in the place of %d", j/slot, i/slot), b)
			copy(b[j:], file[i:i+slot])
			harm(fmt.Sprintf("slots %d and %d swapped", j/slot, i/slot), b)
		}
	}
	harm("another blob's", other)
	for i := 0; i+slot <= len(other); i += slot {
		b := slices.Clone(file)
		copy(b[i:], other[i:i+slot])
		harm(fmt.Sprintf("slot %d of another blob", i/slot), b)
	}
}

// halfway is a chain that was killed with two links and a part hashed, and some bytes ahead. wrong
// says that a byte ahead was used that was not the blob's.
func halfway(t *testing.T, data []byte, wrong bool) (*bench, *memory, []byte) {
	b := newSHA256(t, data)
	m := newMemory(int64(len(data)))
	b.store = func(v *Voucher) Store { m.v = v; return m }
	if wrong {
		b.src.flip = flipOnce(2*linkLen + 9000)
	}
	v := b.open(false)
	for _, r := range [][2]int64{{2*linkLen + 8000, 2*linkLen + 20000}, {0, 2*linkLen + 300}} {
		if _, err := use(v, r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	kill(v)
	file, err := os.ReadFile(b.chain)
	if err != nil {
		t.Fatal(err)
	}
	return b, m, file
}

// Whatever part of the chain is damaged while nobody has it open: reads give the right bytes, a
// wrong byte fetched is refused, a wrong byte that was used is never verified, and bytes that were
// right are, unless all is forgotten.
func TestADamagedChain(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen+30000)
	size := int64(len(data))
	_, _, other := halfway(t, bytesOf(testRand(t), len(data)), false)
	for _, wrong := range []bool{false, true} {
		b, m, file := halfway(t, data, wrong)
		kept, known := slices.Clone(m.data), slices.Clone(m.known)
		believed := 0
		damages(file, slotLen(len(stateOf(sha256.New()))), other, func(name string, file []byte) {
			copy(m.data, kept)
			copy(m.known, known)
			if err := os.WriteFile(b.chain, file, 0o600); err != nil {
				t.Fatal(err)
			}
			v, ok, err := b.tryOpen()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			defer kill(v)
			if v.Verified() {
				t.Fatalf("%s: verified at once", name)
			}
			if ok {
				believed++
				b.src.setFlip(flipAt(linkLen + 5)) // the source's fault, each time
				if _, err := use(v, linkLen, linkLen+10); v.Progress() > linkLen+10 && !isMismatch(err) {
					t.Errorf("%s: a wrong byte in a later fetch: %v", name, err)
				}
				b.src.setFlip(nil)
				if v.Progress() < 2*linkLen {
					t.Errorf("%s: known, and at %d", name, v.Progress())
				}
			}
			b.mustUse(v, linkLen, linkLen+10)
			b.mustUse(v, 5, linkLen+100)
			err = v.Settle(bg, size)
			switch {
			case wrong && ok && !isMismatch(err) && !isLossy(err):
				t.Errorf("%s: a wrong byte was used: %v", name, err)
			case !(wrong && ok) && err != nil:
				t.Errorf("%s: all bytes were right: %v", name, err)
			}
		})
		if believed == 0 {
			t.Error("nothing was believed: nothing was tested")
		}
	}
}

// Lost states are written anew by the first comparison that crosses them.
func TestLostStatesAreMended(t *testing.T) {
	data := bytesOf(testRand(t), 6*linkLen)
	b := newSHA256(t, data)
	v := b.open(false)
	b.mustUse(v, 0, 5*linkLen+5)
	for k := range int64(4) {
		if _, err := v.chain.f.WriteAt(make([]byte, v.chain.slot), (tipSlots+k)*int64(v.chain.slot)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int64{5 * linkLen, linkLen} {
		before := b.src.fetched
		b.mustUse(v, 2*linkLen, 2*linkLen+10)
		if got := b.src.fetched - before; got != want {
			t.Errorf("%d bytes fetched, want %d", got, want)
		}
		v.recent.clear()
	}
	for k := range int64(5) {
		if _, ok := v.chain.behind(k, v.tip.gen); !ok {
			t.Errorf("state %d was not mended", k)
		}
	}
}

// If the tip cannot be written, nothing is handed out, and the next attempt goes on where the last
// one stood.
func TestTheChainCannotBeWritten(t *testing.T) {
	data := bytesOf(testRand(t), linkLen+5000)
	b := newSHA256(t, data)
	v := b.open(false)
	b.mustUse(v, 0, 100)
	good := v.chain.f
	bad, err := os.Open(b.chain)
	if err != nil {
		t.Fatal(err)
	}
	v.chain.f = bad
	for _, off := range []int64{100, linkLen} {
		if _, err := use(v, off, off+500); !errors.Is(err, fs.ErrPermission) && !isPathError(err) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	v.chain.f = good
	bad.Close()
	if v.Progress() != 100 {
		t.Errorf("at %d, want 100", v.Progress())
	}
	b.mustUse(v, linkLen, linkLen+500)
	b.mustSettle(v, 2*linkLen)
}

func isPathError(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok
}

// A state that this version of the hash cannot read counts as lost; a tip of that kind, as no
// chain.
func TestAStateOfAnotherHash(t *testing.T) {
	data := bytesOf(testRand(t), 3*linkLen)
	b := newSHA256(t, data)
	v := b.open(false)
	b.mustUse(v, 0, 2*linkLen+9)
	s, ok := v.chain.behind(0, v.tip.gen)
	if !ok {
		t.Fatal("no state")
	}
	s.sum = bytes.Repeat([]byte("x"), len(s.sum))
	if err := v.chain.setBehind(0, s); err != nil {
		t.Fatal(err)
	}
	b.src.setFlip(flipOnce(linkLen + 7))
	b.mustUse(v, linkLen, linkLen+9)
	b.mustUse(v, 2*linkLen, 3*linkLen)
	b.mustSettle(v, 0)
	tip := v.tip
	tip.sum, tip.seq = s.sum, tip.seq+1
	if err := v.chain.setTip(tip); err != nil {
		t.Fatal(err)
	}
	if _, err := use(v, 0, 9); !errors.Is(err, ErrForgotten) {
		t.Errorf("a tip that cannot be read: %v", err)
	}
	b.mustSettle(b.open(false), 3*linkLen)
}
