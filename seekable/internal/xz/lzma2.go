package xz

import (
	"errors"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	// MaxWindow bounds the history that a block may demand: the smaller of its dictionary and its
	// decoded size. xz -9 wants 64 MiB.
	MaxWindow = 256 << 20

	chunkIn  = 1 << 16 // a chunk's compressed bytes, at most
	chunkOut = 1 << 21 // a chunk's decoded bytes, at most

	// One symbol takes at most 21 bytes of input: a match with a distance is 22 modelled bits of at
	// most 6.05 bits each and 26 direct ones. With so much room after the input, one comparison a
	// symbol is enough.
	inputSlack = 32
)

// A phase names the next part of the block.
type phase byte

const (
	phaseChunk   phase = iota // a chunk's control byte
	phaseStored               // the rest of an uncompressed chunk
	phaseSymbols              // the rest of an LZMA chunk
	phaseEnd                  // nothing: the block's check has been read
)

// A decoder decodes one block. Its compressed input is read a chunk at a time; its dictionary is
// the caller's: the slice that it decodes into and the history before that.
type decoder struct {
	in [chunkIn + inputSlack]byte // the rest of the LZMA chunk

	model model

	// The range coder. ip is the place in in of the next byte, avail is where the input that has
	// been read ends.
	rng, code uint32
	ip, avail int

	state     uint32
	rep       [4]uint32 // the last four distances, less one
	pending   int       // bytes left of a match that the end of a span has cut; its distance is rep[0]
	window    uint32    // the largest distance allowed
	pos       uint32    // dictionary position of dst[0]
	lc        uint
	prevShift uint // 8 - lc
	lpMask    uint32
	pbMask    uint32
	lp, pb    uint
	history   history

	phase     phase
	needDict  bool // the next chunk must reset the dictionary
	needProps bool // the next LZMA chunk must bring lc, lp and pb
	dictCode  byte // the dictionary size, as in the block header
	leftOut   int  // decoded bytes left in the chunk
	leftIn    int  // bytes of the LZMA chunk from in[0] on; more than avail where a span's input ends within the chunk

	blk   Block
	src   io.Reader
	off   int64 // bytes of the block read from src, or lying before it
	out   int64 // decoded bytes of the block so far
	since int64 // the same since the last dictionary reset
	sum   checksum
}

// offset returns how much of the block has been used, and not only read.
func (d *decoder) offset() int64 {
	if d.phase == phaseSymbols {
		return d.off - int64(d.avail-d.ip)
	}
	return d.off
}

// malformed makes a FormatError at the first byte not used.
func (d *decoder) malformed(format string, args ...any) error {
	return &codec.FormatError{Format: "xz", Off: d.blk.In + d.offset(), Msg: fmt.Sprintf(format, args...)}
}

// truncated makes the FormatError of an input that ends too early.
func (d *decoder) truncated() error {
	return &codec.FormatError{Format: "xz", Off: d.blk.In + d.off, Msg: "the input ends within a block",
		Err: io.ErrUnexpectedEOF}
}

// take reads p, or less of it where the input ends.
func (d *decoder) take(p []byte) (int, error) {
	n, empty := 0, 0 // empty: reads in a row that yielded nothing
	for n < len(p) {
		k, err := d.src.Read(p[n:])
		n += k
		d.off += int64(k)
		if errors.Is(err, io.EOF) {
			break
		}
		if empty++; k > 0 {
			empty = 0
		} else if empty == 100 && err == nil {
			err = io.ErrNoProgress
		}
		if err != nil && n < len(p) {
			return n, fmt.Errorf("read xz block at byte %d: %w", d.blk.In+d.off, err)
		}
	}
	return n, nil
}

// takeAll reads all of p, or fails.
func (d *decoder) takeAll(p []byte) error {
	n, err := d.take(p)
	if err == nil && n < len(p) {
		err = d.truncated()
	}
	return err
}

// decode fills dst, or as much of it as the block has. The history ends where dst begins; bytes of
// it that matches refer to are marked in used.
func (d *decoder) decode(dst, before []byte, used *codec.Marks) (int, error) {
	dst = dst[:min(int64(len(dst)), d.blk.OutLen-d.out)]
	reach := min(int64(len(before)), d.reach())
	d.history = history{before[int64(len(before))-reach:], used}
	base, n := 0, 0 // base: where in dst the dictionary begins
	for n < len(dst) {
		if d.phase == phaseChunk {
			if err := d.nextChunk(); err != nil {
				return n, err
			}
			if d.since == 0 {
				base, d.history = n, history{}
			}
		}
		limit := min(len(dst), n+d.leftOut)
		k, err := 0, error(nil)
		if d.phase == phaseStored {
			k, err = d.take(dst[n:limit])
			if err == nil && k < limit-n {
				err = d.truncated()
			}
		} else {
			d.pos = uint32(d.since - int64(n-base))
			k, err = d.takeSymbols(dst[base:limit], n-base)
		}
		d.sum.write(dst[n : n+k])
		n += k
		d.leftOut -= k
		d.out += int64(k)
		d.since += int64(k)
		if err == nil && d.leftOut == 0 {
			err = d.endChunk()
		}
		if err != nil {
			return n, err
		}
	}
	if d.out == d.blk.OutLen && d.phase != phaseEnd {
		if err := d.endBlock(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// takeSymbols decodes the LZMA chunk's symbols into dst[at:].
func (d *decoder) takeSymbols(dst []byte, at int) (int, error) {
	end, fault := at, noFault
	if d.pending > 0 {
		if end, d.pending = d.copyMatch(dst, at, int(d.rep[0])+1, d.pending); d.pending < 0 {
			fault = faultDistance
		}
	}
	if fault == noFault {
		end, fault = d.symbols(dst, end)
	}
	// A symbol that ran past the input has decoded bytes that are not there.
	if d.ip > d.avail {
		d.ip = d.avail
		if d.avail < d.leftIn {
			return end - at, d.truncated()
		}
		return end - at, d.malformed("an LZMA chunk's symbols go on after its last byte, %d decoded bytes are missing",
			d.leftOut-(end-at))
	}
	if fault == faultDistance {
		return end - at, d.malformed("a match at decoded byte %d goes %d bytes back, beyond dictionary or window",
			d.out+int64(end-at), int64(d.rep[0])+1)
	}
	return end - at, nil
}
