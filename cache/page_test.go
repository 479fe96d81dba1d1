package cache

import (
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"testing"
)

// crcPreimage changes the first four bytes of p so that its CRC32C becomes want. CRC is linear:
// each bit flips a fixed set of bits.
func crcPreimage(t *testing.T, p []byte, want uint32) {
	var columns [32]uint32
	clear(p[:4])
	base := crc32.Checksum(p, castagnoli)
	for i := range columns {
		binary.LittleEndian.PutUint32(p, 1<<i)
		columns[i] = crc32.Checksum(p, castagnoli) ^ base
	}
	target, x := want^base, uint32(0)
	var picks [32]uint32
	for i := range picks {
		picks[i] = 1 << i
	}
	for bit := range 32 { // Gauss-Jordan elimination
		for i := bit; i < 32; i++ {
			if columns[i]>>bit&1 == 1 {
				columns[bit], columns[i] = columns[i], columns[bit]
				picks[bit], picks[i] = picks[i], picks[bit]
				break
			}
		}
		for i := range 32 {
			if i != bit && columns[i]>>bit&1 == 1 {
				columns[i] ^= columns[bit]
				picks[i] ^= picks[bit]
			}
		}
		if target>>bit&1 == 1 {
			x ^= picks[bit]
			target ^= columns[bit]
		}
	}
	binary.LittleEndian.PutUint32(p, x)
	if got := crc32.Checksum(p, castagnoli); got != want {
		t.Fatalf("made CRC %#x, want %#x", got, want)
	}
}

// A hostile image can hold pages with any CRC. None may look absent, and none but zeros may be
// served as zeros.
func TestWordOfCraftedPages(t *testing.T) {
	r := testRand(t)
	data := imageBytes(r, 8*pageSize)
	crcPreimage(t, data[pageSize:2*pageSize], 0)
	crcPreimage(t, data[3*pageSize:4*pageSize], zeroCRC)
	clear(data[5*pageSize : 6*pageSize])
	const salt = salt(0)
	for i, want := range map[int]uint32{1: salt.of(1, 0), 3: salt.zero(3), 5: salt.zero(5)} {
		if w := salt.word(int64(i), data[i*pageSize:(i+1)*pageSize]); w != want {
			t.Errorf("page %d has the word %#x, want %#x", i, w, want)
		}
	}
	crcPreimage(t, data[6*pageSize:7*pageSize], uint32(saltOf("x"))^uint32(6*0x9E3779B1&0xffffffff))
	if w := saltOf("x").word(6, data[6*pageSize:7*pageSize]); w != 1 {
		t.Errorf("a page that looks absent has the word %#x, want 1", w)
	}
	src := evenSpans(data, 3*pageSize)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	id := saltOf(filepath.Base(f.dir))
	// Looks absent in this entry.
	crcPreimage(t, src.data[7*pageSize:8*pageSize], uint32(id)^uint32(7*0x9E3779B1&0xffffffff))
	for range 2 {
		checkRead(t, f, data, 0, len(data))
	}
	if most, _ := src.most(); most != 1 {
		t.Errorf("a span was decoded %d times", most)
	}
}

func TestIsZero(t *testing.T) {
	b := make([]byte, 3*pageSize)
	for n := range len(b) {
		if n%611 != 0 {
			continue
		}
		if !isZero(b[:n]) {
			t.Fatalf("%d zeros are not zero", n)
		}
		if n > 0 {
			b[n-1] = 1
			if isZero(b[:n]) {
				t.Fatalf("a one at %d is not seen", n-1)
			}
			b[n-1] = 0
		}
	}
}
