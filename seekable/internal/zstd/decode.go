package zstd

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A unit is a block with all that is known about it.
type unit struct {
	frame *frame
	in    int64 // offset of the block's header
	end   int64 // offset after it, and after the checksum if it is the frame's last
	first bool  // first block of its frame
	last  bool
	sum   uint32 // the frame's checksum, if it is the last block and there is one

	before, after entropy
	block         block
}

// readUnit reads the next block of frame f, which remains to be resolved.
func readUnit(in *input, p *parser, f *frame, first bool, u *unit) error {
	u.frame, u.in, u.first, u.before = f, in.off, first, p.ent
	h, err := in.peek(blockHeader)
	if err != nil {
		return err
	}
	if len(h) < blockHeader {
		return truncated(in.off, "a block header")
	}
	last, kind, size := header(h)
	n, err := contentSize(kind, size, f.maxBlock)
	if err != nil {
		return damage(u.in, err)
	}
	total := blockHeader + n
	if last && f.Checksum {
		total += checksumSize
	}
	b, err := in.peek(total)
	if err != nil {
		return err
	}
	if len(b) < total {
		return truncated(in.off, "a block")
	}
	if err := p.parse(&u.block, kind, size, b[blockHeader:blockHeader+n:blockHeader+n], f.maxBlock); err != nil {
		return damage(u.in, err)
	}
	if u.last, u.sum = last, 0; last && f.Checksum {
		u.sum = binary.LittleEndian.Uint32(b[blockHeader+n:])
	}
	in.skip(total)
	u.end, u.after = in.off, p.ent
	return nil
}

// resolve completes the unit; rep are the repeat offsets, of the frame's last block if this is not
// its first.
func (u *unit) resolve(rep *[3]uint32) error {
	if u.first {
		*rep = freshEntropy().rep
	}
	u.before.rep = *rep
	if err := u.block.resolve(rep, u.frame.maxBlock); err != nil {
		return damage(u.in, err)
	}
	u.after.rep = *rep
	return nil
}

// finish checks the frame at the end of a block: it must not be longer than its content size, and
// at its end the length and, if digest is not nil, the checksum must match.
func (u *unit) finish(made int64, digest *xxhash.Digest) error {
	f := u.frame
	if f.ContentSize >= 0 && (made > f.ContentSize || u.last && made != f.ContentSize) {
		return malformed(u.in, "frame yields %d bytes so far, want %d in all", made, f.ContentSize)
	}
	if u.last && f.Checksum && digest != nil {
		return checkSum(uint32(digest.Sum64()), u.sum, f.start)
	}
	return nil
}

// checkSum compares the low halves of an XXH64, of the frame at off.
func checkSum(got, want uint32, off int64) error {
	if got == want {
		return nil
	}
	g, w := fmt.Sprintf("%08x", got), fmt.Sprintf("%08x", want)
	return &codec.ChecksumError{Format: format, Kind: "XXH64", Off: off, Got: g, Want: w}
}

// A decoder is the memory of one call of Decode, about 1 MiB, used again by later calls.
type decoder struct {
	parser *parser
	unit   unit
	lead   [maxBlock + slack]byte // output of the block in which the span begins, if it begins in the middle
	tail   [maxBlock + slack]byte // output of a block for which dst has no room
}

var decoders = sync.Pool{New: func() any { return &decoder{parser: newParser()} }}

// Decode decodes one span: see package codec. src may hold the rest of a frame, whole frames and
// the beginning of another, as they come. The checksum of a frame is verified if the frame lies in
// src as a whole.
func Decode(dst, src []byte, at codec.Point, window []byte) error {
	if at.State == nil && at.Lead == 0 {
		if done, err := decodeFrames(dst, src, at.In); done {
			return err
		}
	}
	d := decoders.Get().(*decoder)
	err := d.decode(dst[:len(dst):len(dst)], src, at, window)
	d.unit.frame = nil
	d.unit.block.lits = nil
	d.parser.ent, d.unit.before, d.unit.after = entropy{}, entropy{}, entropy{}
	decoders.Put(d)
	return err
}

// decode is Decode, block by block.
func (d *decoder) decode(dst, src []byte, at codec.Point, window []byte) error {
	if at.Lead < 0 || at.Lead >= maxBlock {
		return malformed(at.In, "lead of %d bytes, want less than %d", at.Lead, maxBlock)
	}
	in := memory(src, at.In)
	out := output{buf: dst}
	var f *frame
	var digest *xxhash.Digest // of the frame, if it began here
	var rep [3]uint32
	if at.State != nil {
		p, err := decodePlace(at.State, at.In)
		if err != nil {
			return err
		}
		if err := d.parser.reset(p.ent); err != nil {
			return damage(at.In, err)
		}
		f = p.frame
		out.window, out.made, out.before[1] = f.window, p.made, window
		rep = p.ent.rep
	}
	u, first, lead := &d.unit, false, at.Lead
	full := false // a block went beyond dst: nothing may follow
	for in.b > in.a {
		if full {
			return malformed(in.off, "%d bytes after the span", in.b-in.a)
		}
		if f == nil {
			var err error
			if f, err = in.nextFrame(); err != nil || f == nil {
				return err
			}
			in.skip(f.Len)
			if err := d.parser.reset(freshEntropy()); err != nil {
				return err
			}
			first, digest = true, nil
			if f.Checksum {
				digest = xxhash.New()
			}
			out.window, out.made = f.window, 0
		}
		if err := readUnit(&in, d.parser, f, first, u); err != nil {
			return err
		}
		if err := u.resolve(&rep); err != nil {
			return err
		}
		first = false
		b, err := d.place(&out, &u.block, &lead)
		if err != nil {
			return damage(u.in, err)
		}
		full = b == nil
		if full {
			continue
		}
		if digest != nil {
			digest.Write(b)
		}
		if err := u.finish(out.made, digest); err != nil {
			return err
		}
		if u.last {
			f = nil
		}
	}
	if out.pos < len(dst) && !full {
		return truncated(in.off, fmt.Sprintf("a span of %d bytes, after %d", len(dst), out.pos))
	}
	return nil
}

// place executes a block into out, without the first *lead bytes that come out. It returns the
// block's output, or nil if that goes beyond out's buffer, which is full then.
func (d *decoder) place(out *output, b *block, lead *int) ([]byte, error) {
	pos := out.pos
	if *lead == 0 && len(out.buf)-pos >= b.size+slack {
		err := out.execute(b)
		return out.buf[pos:out.pos], err
	}
	scratch := output{buf: d.tail[:], window: out.window, made: out.made}
	scratch.before = [3][]byte{out.buf[:pos], out.before[0], out.before[1]}
	if *lead > 0 && b.size > 0 {
		scratch.buf = d.lead[:]
	}
	if err := scratch.execute(b); err != nil {
		return nil, err
	}
	skip := 0
	if *lead > 0 && b.size > 0 {
		if skip = *lead; skip >= b.size {
			return nil, fmt.Errorf("lead of %d bytes, the first block has %d", skip, b.size)
		}
		*lead, out.before[0] = 0, d.lead[:skip]
	}
	n := copy(out.buf[pos:], scratch.buf[skip:b.size])
	out.advance(n)
	out.made += int64(skip)
	if n < b.size-skip {
		return nil, nil
	}
	return scratch.buf[:b.size], nil
}
