package xz

import (
	"errors"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	// MaxWindow bounds the history that a block may demand: the smaller of its dictionary and its decoded size. xz -9 wants 64 MiB.
	MaxWindow = 256 << 20

	chunkIn  = 1 << 16 // a chunk's compressed bytes, at most
	chunkOut = 1 << 21 // a chunk's decoded bytes, at most

	// One symbol takes at most 21 bytes of input: a match with a distance is 22 modelled bits of at most 6.05 bits each and 26 direct ones.
	// With so much room after the input, one comparison a symbol is enough.
	inputSlack = 32
)

// A phase says what comes next in the block.
type phase byte

const (
	phaseChunk   phase = iota // a chunk's control byte
	phaseStored               // the rest of an uncompressed chunk
	phaseSymbols              // the rest of an LZMA chunk
	phaseEnd                  // nothing: the block's check has been read
)

// A decoder decodes one block. Its compressed input is read a chunk at a time; its dictionary is the caller's: the slice that it
// decodes into and the history before that.
type decoder struct {
	in [chunkIn + inputSlack]byte // what is left of the LZMA chunk

	model model

	// The range coder. ip is the place in in of the next byte, avail is where the input that has been read ends.
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

func (d *decoder) malformed(format string, args ...any) error {
	return &codec.FormatError{Format: "xz", Off: d.blk.In + d.offset(), Msg: fmt.Sprintf(format, args...)}
}

func (d *decoder) truncated() error {
	return &codec.FormatError{Format: "xz", Off: d.blk.In + d.off, Msg: "the input ends within a block", Err: io.ErrUnexpectedEOF}
}

// take reads p, or less of it where the input ends.
func (d *decoder) take(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k, err := d.src.Read(p[n:])
		n += k
		d.off += int64(k)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && n < len(p) {
			return n, fmt.Errorf("read xz block at byte %d: %w", d.blk.In+d.off, err)
		}
	}
	return n, nil
}

func (d *decoder) takeAll(p []byte) error {
	n, err := d.take(p)
	if err == nil && n < len(p) {
		err = d.truncated()
	}
	return err
}

// decode fills dst, or as much of it as the block has. The history ends where dst begins; what is referred to in it is marked in used.
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
		return end - at, d.malformed("an LZMA chunk's symbols go on after its last byte, %d decoded bytes are missing", d.leftOut-(end-at))
	}
	if fault == faultDistance {
		return end - at, d.malformed("a match at decoded byte %d refers to %d bytes before it, beyond the dictionary or the window given",
			d.out+int64(end-at), int64(d.rep[0])+1)
	}
	return end - at, nil
}

// nextChunk reads a chunk's header, and the data of an LZMA chunk as far as there is.
func (d *decoder) nextChunk() error {
	var h [6]byte
	if err := d.takeAll(h[:1]); err != nil {
		return err
	}
	control := h[0]
	if control == 0 {
		return d.malformed("the block's chunks end after %d decoded bytes, want %d", d.out, d.blk.OutLen)
	}
	if control >= 0xe0 || control == 1 {
		d.needDict, d.needProps, d.since = false, true, 0
	} else if d.needDict {
		return d.malformed("the first chunk has control byte %#02x, want a dictionary reset (1 or from 0xe0)", control)
	}
	if control < 0x80 {
		if control > 2 {
			return d.malformed("chunk control byte is %#02x, want 0, 1, 2 or from 0x80", control)
		}
		if err := d.takeAll(h[1:3]); err != nil {
			return err
		}
		d.phase, d.leftOut = phaseStored, int(h[1])<<8+int(h[2])+1
		return d.checkChunk(d.leftOut)
	}
	if err := d.takeAll(h[1:5]); err != nil {
		return err
	}
	d.leftOut = int(control&0x1f)<<16 + int(h[1])<<8 + int(h[2]) + 1
	d.leftIn = int(h[3])<<8 + int(h[4]) + 1
	if control >= 0xc0 {
		if err := d.takeAll(h[5:6]); err != nil {
			return err
		}
		if !d.setProps(h[5]) {
			return d.malformed("chunk's LZMA properties are %d, want lc+lp of at most 4 and pb of at most 4", h[5])
		}
		d.needProps = false
	} else if d.needProps {
		return d.malformed("chunk control byte is %#02x, want LZMA properties (from 0xc0) after a dictionary reset", control)
	}
	if control >= 0xa0 {
		d.resetState()
	}
	if err := d.checkChunk(d.leftIn); err != nil {
		return err
	}
	return d.startSymbols()
}

// checkChunk checks a chunk's sizes against the block's; in is that of its data.
func (d *decoder) checkChunk(in int) error {
	if left := d.blk.InLen - d.off; int64(in) > left {
		return d.malformed("a chunk of %d bytes, but the block has %d left", in, left)
	}
	if int64(d.leftOut) > d.blk.OutLen-d.out {
		return d.malformed("a chunk of %d decoded bytes follows %d of the block's %d", d.leftOut, d.out, d.blk.OutLen)
	}
	return nil
}

// setProps sets lc, lp and pb. LZMA2 allows lc + lp up to 4.
func (d *decoder) setProps(b byte) bool {
	if b >= 9*5*5 {
		return false
	}
	lc, lp, pb := uint(b%9), uint(b/9%5), uint(b/45)
	if lc+lp > 4 {
		return false
	}
	d.lc, d.lp, d.pb = lc, lp, pb
	d.prevShift, d.lpMask, d.pbMask = 8-lc, 1<<lp-1, 1<<pb-1
	return true
}

func (d *decoder) props() byte { return byte((d.pb*5+d.lp)*9 + d.lc) }

func (d *decoder) resetState() {
	d.state, d.rep = 0, [4]uint32{}
	d.model.reset(d.pb, d.lc+d.lp)
}

// startSymbols reads an LZMA chunk's data and starts the range coder.
func (d *decoder) startSymbols() error {
	n, err := d.take(d.in[:d.leftIn])
	if err != nil {
		return err
	}
	d.phase, d.ip, d.avail, d.pending = phaseSymbols, 5, n, 0
	if n < 5 {
		d.ip = n
		if n < d.leftIn {
			return d.truncated()
		}
		return d.malformed("an LZMA chunk has %d bytes, want 5 or more", n)
	}
	d.rng = 1<<32 - 1
	d.code = uint32(d.in[1])<<24 | uint32(d.in[2])<<16 | uint32(d.in[3])<<8 | uint32(d.in[4])
	if d.in[0] != 0 || d.code == d.rng {
		return d.malformed("an LZMA chunk starts with % x, want 00 and four bytes that are not all ff", d.in[:5])
	}
	return nil
}

// endChunk checks that the chunk's input is used up just where its output is.
func (d *decoder) endChunk() error {
	if d.phase == phaseSymbols {
		if d.pending != 0 {
			return d.malformed("a match goes %d bytes beyond the end of its chunk", d.pending)
		}
		if d.rng < 1<<24 {
			if d.ip >= d.avail {
				if d.avail < d.leftIn {
					return d.truncated()
				}
				return d.malformed("an LZMA chunk lacks its last byte")
			}
			d.rng, d.code = d.rng<<8, d.code<<8|uint32(d.in[d.ip])
			d.ip++
		}
		if d.ip != d.leftIn || d.code != 0 {
			return d.malformed("an LZMA chunk ends with %d bytes left and code %#x, want 0 and 0", d.leftIn-d.ip, d.code)
		}
	}
	d.phase = phaseChunk
	return nil
}

// endBlock reads what follows the last chunk: the end marker, the padding to four bytes and the check.
func (d *decoder) endBlock() error {
	var tail [1 + 3 + 64]byte
	if err := d.takeAll(tail[:1]); err != nil {
		return err
	}
	if tail[0] != 0 {
		return d.malformed("a chunk with control byte %#02x follows the block's %d decoded bytes, want the end marker 0", tail[0], d.out)
	}
	pad := int(-d.off & 3)
	if err := d.takeAll(tail[:pad]); err != nil {
		return err
	}
	for _, b := range tail[:pad] {
		if b != 0 {
			return d.malformed("block padding is % x, want zeros", tail[:pad])
		}
	}
	stored := tail[:d.blk.Check.Size()]
	if err := d.takeAll(stored); err != nil {
		return err
	}
	if d.off != d.blk.InLen {
		return d.malformed("the block is %d bytes long, want %d as in the index", d.off, d.blk.InLen)
	}
	d.phase = phaseEnd
	return d.sum.verify(stored, d.blk)
}
