package deflate

import (
	"errors"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// The input of a decoder is in[pos:], with the low nb bits of b before it. Outside of fastSymbols,
// the bits of b above nb are zero.

// maxEmpty is how often a reader may yield nothing.
const maxEmpty = 100

// used returns how many bytes of in have been used, a byte of which some bits are used among them.
func (d *decoder) used() int { return d.pos - int(d.nb>>3) }

// bitsUsed returns the place in the stream, in bits.
func (d *decoder) bitsUsed() int64 { return (d.base+int64(d.pos))*8 - int64(d.nb) + int64(d.skip) }

// unread gives whole bytes in b back to in.
func (d *decoder) unread() {
	d.pos -= int(d.nb >> 3)
	d.nb &= 7
	d.b &= 1<<d.nb - 1
}

// want reads until in[pos:] holds n bytes, or all that is left. n is at most half of inputSize.
func (d *decoder) want(n int) error {
	d.unread()
	if len(d.in)-d.pos < n && d.r != nil {
		// The byte before pos is kept: some of its bits may be in b, and copyHeader looks at it.
		keep := min(d.pos, 1)
		d.base += int64(d.pos - keep)
		d.in = d.in[:copy(d.in[:cap(d.in)], d.in[d.pos-keep:])]
		d.pos = keep
		for empty := 0; len(d.in)-d.pos < n && d.r != nil; {
			k, err := d.r.Read(d.in[len(d.in):cap(d.in)])
			d.in = d.in[:len(d.in)+k]
			switch {
			case err == io.EOF:
				d.r = nil
			case err != nil:
				return fmt.Errorf("read %v stream at byte %d: %w", d.format, d.base+int64(len(d.in)), err)
			case k > 0:
				empty = 0
			default:
				if empty++; empty == maxEmpty {
					return fmt.Errorf("read %v stream at byte %d: %w",
						d.format, d.base+int64(len(d.in)), io.ErrNoProgress)
				}
			}
		}
	}
	if d.skip > 0 && len(d.in) > d.pos { // a Point's first bits, which are already used
		d.b, d.nb = uint64(d.in[d.pos])>>d.skip, 8-d.skip
		d.pos++
		d.skip = 0
	}
	return nil
}

// fill tops b up to more than 56 bits from in, as far as in goes.
func (d *decoder) fill() {
	for d.nb <= 56 && d.pos < len(d.in) {
		d.b |= uint64(d.in[d.pos]) << d.nb
		d.pos++
		d.nb += 8
	}
}

// take returns the next n bits, at most 16.
func (d *decoder) take(n uint) (uint32, error) {
	if d.nb < n {
		d.fill()
		if d.nb < n {
			return 0, d.truncated()
		}
	}
	v := uint32(d.b) & (1<<n - 1)
	d.b >>= n
	d.nb -= n
	return v, nil
}

// release drops the references to the buffers of the caller, so that a pooled decoder does not keep
// them alive.
func (d *decoder) release() {
	d.r, d.in, d.pos, d.nb, d.marks = nil, nil, 0, 0, nil
}

func (d *decoder) off() int64 { return d.bitsUsed() / 8 }

// errorf makes a FormatError at the current byte.
func (d *decoder) errorf(format string, args ...any) error {
	return &codec.FormatError{Format: d.format.String(), Off: d.off(), Msg: fmt.Sprintf(format, args...)}
}

// truncated tells that the input ends too early: the stream, or the bytes that a Point says are
// enough.
func (d *decoder) truncated() error {
	e := &codec.FormatError{Format: d.format.String(), Off: d.base + int64(len(d.in)),
		Msg: "the input ends in the middle", Err: io.ErrUnexpectedEOF}
	if d.span {
		e.Err = errors.Join(errSpan, io.ErrUnexpectedEOF)
	}
	return e
}

// spanErrorf makes a FormatError that wraps errSpan: the stream may be right and the Point wrong.
func (d *decoder) spanErrorf(format string, args ...any) error {
	return &codec.FormatError{Format: d.format.String(), Off: d.off(), Msg: fmt.Sprintf(format, args...), Err: errSpan}
}

// stateErrorf makes the FormatError of a State that no decoder writes.
func (d *decoder) stateErrorf(format string, args ...any) error {
	return &codec.FormatError{Format: d.format.String(), Off: d.base, Msg: "a bad state",
		Err: fmt.Errorf(format, args...)}
}
