package disk

import (
	"context"
	"iter"
)

// Kind says where the bytes of a part of the disk are.
type Kind uint8

const (
	Data Kind = iota // in the image file
	Zero             // nowhere: the map records that they are zero
	Hole             // nowhere: the map has no record of them; they read as zero
)

func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	default:
		return "hole"
	}
}

// maxCompressedExtent cuts compressed extents, so that their file ranges stay near to the part of
// the disk they are for.
const maxCompressedExtent = 8 << 20

// Extent is a part of the disk of one kind. Data extents name the range of the image file that a
// read of them needs; Zero and Hole extents read as zeros without I/O.
type Extent struct {
	Off, Len int64 // bytes of disk
	Kind     Kind

	// FileOff and FileLen are the image-file range of a Data extent. FileLen is Len, unless
	// Compressed is set: then the range holds the whole units (compressed clusters) that the extent
	// lies in.
	FileOff, FileLen int64
	Compressed       bool
}

// end is where the extent ends on the disk.
func (e Extent) end() int64 { return e.Off + e.Len }

// Extents gives the extents of the n bytes of disk at off, in order and without gaps. Neighbours of
// one kind are one extent if their file ranges follow on each other; so a fragmented image has Data
// extents that touch, and a raw image is one extent. Parts of the map that are not cached are read
// from the image file, but no data. An error ends the sequence.
func (d *Disk) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if err := d.checkRange("map", off, n); err != nil {
			yield(Extent{}, err)
			return
		}
		if n == 0 {
			return
		}
		if d.layout == nil {
			yield(Extent{Off: off, Len: n, Kind: Data, FileOff: off, FileLen: n}, nil)
			return
		}
		var held Extent // grows until a run comes that does not belong to it
		for end := off + n; off < end; {
			r, err := d.layout.next(ctx, off, end-off)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				if held.Len == 0 || yield(held, nil) {
					yield(Extent{}, err)
				}
				return
			}
			e := r.extent(off)
			off += r.n
			if held.Len == 0 {
				held = e
				continue
			}
			if !held.absorb(e) {
				if !yield(held, nil) {
					return
				}
				held = e
			}
		}
		yield(held, nil)
	}
}

func (r run) extent(off int64) Extent {
	e := Extent{Off: off, Len: r.n, Kind: r.kind}
	if r.kind == Data {
		e.FileOff, e.FileLen = r.pos, r.n
		if r.packed > 0 {
			e.FileLen, e.Compressed = r.packed, true
		}
	}
	return e
}

// absorb joins the following extent to e if the two are one.
func (e *Extent) absorb(next Extent) bool {
	if e.Kind != next.Kind || e.Compressed != next.Compressed {
		return false
	}
	fileEnd := e.FileOff + e.FileLen
	switch {
	case e.Kind != Data:
	case !e.Compressed:
		if next.FileOff != fileEnd {
			return false
		}
		e.FileLen += next.FileLen
	default:
		// Compressed units are packed byte by byte but their lengths are counted in sectors, so
		// neighbours overlap.
		if next.FileOff < e.FileOff || next.FileOff > fileEnd || e.Len+next.Len > maxCompressedExtent {
			return false
		}
		e.FileLen = max(fileEnd, next.FileOff+next.FileLen) - e.FileOff
	}
	e.Len += next.Len
	return true
}
