package xz

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	stateVersion = 1
	stateFixed   = 56

	flagNeedProps = 1 << 7
)

// appendState appends the decoder's State; the package comment describes its bytes.
func (d *decoder) appendState(b []byte) []byte {
	flags := byte(d.phase)
	if d.needProps {
		flags |= flagNeedProps
	}
	leftIn, leftOut, rng, code := 0, d.leftOut, uint32(0), uint32(0)
	switch d.phase {
	case phaseSymbols:
		leftIn, rng, code = d.leftIn-d.ip, d.rng, d.code
	case phaseChunk, phaseEnd:
		leftOut = 0
	}
	b = append(b, stateVersion, flags, byte(d.blk.Check), d.dictCode, d.props(), byte(d.state))
	b = binary.LittleEndian.AppendUint16(b, uint16(d.pending))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.out))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.since))
	for _, v := range [...]uint32{d.rep[0], d.rep[1], d.rep[2], d.rep[3], uint32(leftOut), uint32(leftIn), rng, code} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = d.sum.appendState(b, d.out)
	if d.modelMatters() {
		b = d.model.pack(b, d.pb, d.lc+d.lp)
	}
	return b
}

// modelMatters tells whether a later symbol depends on the probabilities. Only then are they in a
// State.
func (d *decoder) modelMatters() bool { return !d.needProps && d.phase != phaseEnd }

// restore sets the decoder to a State. It refuses numbers that no decoder of this block can have
// reached, as far as that can be told. The decoder relies on these checks.
func (d *decoder) restore(at codec.Point) error {
	b := at.State
	if len(b) < stateFixed {
		return d.badState("it has %d bytes, want %d or more", len(b), stateFixed)
	}
	if b[0] != stateVersion {
		return d.badState("its version is %d, want %d", b[0], stateVersion)
	}
	d.phase, d.needProps, d.needDict = phase(b[1]&^flagNeedProps), b[1]&flagNeedProps != 0, false
	if d.phase > phaseEnd {
		return d.badState("its flags are %#02x", b[1])
	}
	if Check(b[2]) != d.blk.Check {
		return d.badState("its check is %v, want %v", Check(b[2]), d.blk.Check)
	}
	if err := d.setDictionary(b[3]); err != nil {
		return err
	}
	if !d.setProps(b[4]) {
		return d.badState("its LZMA properties are %d", b[4])
	}
	d.state, d.pending = uint32(b[5]), int(binary.LittleEndian.Uint16(b[6:]))
	d.out, d.since = int64(binary.LittleEndian.Uint64(b[8:])), int64(binary.LittleEndian.Uint64(b[16:]))
	var u [8]uint32
	for i := range u {
		u[i] = binary.LittleEndian.Uint32(b[24+4*i:])
	}
	d.rep = [4]uint32(u[:4])
	d.rng, d.code = u[6], u[7]
	if err := d.checkState(int64(u[4]), int64(u[5]), d.blk.InLen-at.In); err != nil {
		return err
	}
	d.leftOut, d.leftIn = int(u[4]), int(u[5])
	rest, ok := d.sum.restore(d.blk.Check, b[stateFixed:], d.out)
	if !ok {
		return d.badState("it ends within its check")
	}
	if !d.modelMatters() {
		if len(rest) > 0 {
			return d.badState("%d bytes follow it", len(rest))
		}
		return nil
	}
	if err := d.model.unpack(rest, d.pb, d.lc+d.lp); err != nil {
		return d.badState("%v", err)
	}
	return nil
}

// checkState checks the numbers in a State against each other and against the inLen bytes of the
// block that are left.
func (d *decoder) checkState(leftOut, leftIn, inLen int64) error {
	switch {
	case d.out < 1 || d.out > d.blk.OutLen || d.since < 1 || d.since > d.out:
		return d.badState("%d decoded bytes, %d since the dictionary's start, in a block of %d", d.out, d.since,
			d.blk.OutLen)
	case d.phase == phaseEnd && d.out != d.blk.OutLen:
		return d.badState("it is at the end after %d of %d decoded bytes", d.out, d.blk.OutLen)
	case d.state >= states:
		return d.badState("LZMA state is %d, want less than %d", d.state, states)
	case max(d.rep[0], d.rep[1], d.rep[2], d.rep[3]) >= d.window:
		return d.badState("its distances are %d, want less than %d", d.rep, d.window)
	}
	stored, symbols := d.phase == phaseStored, d.phase == phaseSymbols
	switch {
	case (stored || symbols) != (leftOut > 0) || leftOut > min(chunkOut, d.blk.OutLen-d.out):
		return d.badState("%d decoded bytes are left of its chunk", leftOut)
	case leftIn > min(chunkIn, inLen) || leftIn > 0 && !symbols:
		return d.badState("%d compressed bytes are left of its chunk", leftIn)
	case symbols != (d.rng > 0) || d.code >= d.rng && d.code > 0:
		return d.badState("its range coder is at %#x of %#x", d.code, d.rng)
	case d.pending > 0 && (!symbols || int64(d.pending) > leftOut || d.pending > 272) || symbols && d.needProps:
		return d.badState("%d bytes are left of its match", d.pending)
	}
	return nil
}

// badState makes the FormatError of a State that no decoder of the block writes.
func (d *decoder) badState(format string, args ...any) error {
	return &codec.FormatError{Format: "xz", Off: d.blk.In + d.off,
		Msg: "a state that cannot be: " + fmt.Sprintf(format, args...)}
}

// start readies the decoder for the block at a Point, of which src yields the compressed bytes.
func (d *decoder) start(src io.Reader, blk Block, at codec.Point) error {
	d.blk, d.src, d.off = blk, src, at.In
	d.history, d.pending, d.leftOut, d.leftIn, d.ip, d.avail = history{}, 0, 0, 0, 0, 0
	d.out, d.since, d.phase = 0, 0, phaseChunk
	d.state, d.rep = 0, [4]uint32{}
	d.setProps(0)
	d.sum.start(blk.Check)
	if blk.In < 0 || blk.InLen < minHeader || blk.In+blk.InLen < 0 || blk.OutLen < 0 || blk.Check > 15 {
		return d.malformed("a block of %d compressed and %d decoded bytes at %d, check %d, is not one", blk.InLen,
			blk.OutLen, blk.In, byte(blk.Check))
	}
	if at.In < 0 || at.In > blk.InLen || at.Lead != 0 {
		return d.badState("it is at byte %d of a block of %d, with %d bytes of lead, want none", at.In, blk.InLen,
			at.Lead)
	}
	if at.State == nil {
		if at.In != 0 {
			return d.badState("there is none, at byte %d of a block: only its start needs none", at.In)
		}
		return d.readHeader()
	}
	if err := d.restore(at); err != nil {
		return err
	}
	if d.phase == phaseSymbols {
		n, err := d.take(d.in[:d.leftIn])
		d.avail = n
		return err
	}
	return nil
}
