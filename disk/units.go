package disk

import (
	"context"
	"sync"
)

// neighbours counts the whole compressed units at the start of parts whose bytes lie side by side
// in the image file, so that one read gets them all. Their ranges may overlap: lengths are counted
// in sectors, starts in bytes.
func (d *Disk) neighbours(parts []part) int {
	n := 0
	for _, r := range parts {
		if r.packed == 0 || r.n != d.unitSize {
			break
		}
		if n > 0 {
			prev := parts[n-1]
			if r.pos < prev.pos || r.pos > prev.fileEnd() || r.fileEnd()-parts[0].pos > maxPacked {
				break
			}
		}
		n++
	}
	return n
}

// readUnits decodes neighbouring whole units into their places in p. They are not kept: readers of
// whole units read on, and caches above this package keep the bytes.
func (d *Disk) readUnits(ctx context.Context, p []byte, parts []part) error {
	start, end := parts[0].pos, int64(0)
	for _, r := range parts {
		end = max(end, r.fileEnd())
	}
	buf := packedBuffers.get(end - start)
	defer packedBuffers.put(buf)
	src := (*buf)[:end-start]
	if err := d.file.ReadAt(ctx, src, start); err != nil {
		return err
	}
	for _, r := range parts {
		if err := d.decode(p[r.at:r.at+d.unitSize], src[r.pos-start:r.fileEnd()-start], r.run); err != nil {
			return err
		}
	}
	return nil
}

// loadUnit gives the decoded unit that r lies in, and keeps it: the next read is likely to want the
// rest of it.
func (d *Disk) loadUnit(ctx context.Context, r run) ([]byte, error) {
	return d.units.load(ctx, r.unit/d.unitSize, func(ctx context.Context) ([]byte, error) {
		buf := packedBuffers.get(r.packed)
		defer packedBuffers.put(buf)
		src := (*buf)[:r.packed]
		if err := d.file.ReadAt(ctx, src, r.pos); err != nil {
			return nil, err
		}
		dst := make([]byte, d.unitSize)
		if err := d.decode(dst, src, r); err != nil {
			return nil, err
		}
		return dst, nil
	})
}

func (d *Disk) decode(dst, src []byte, r run) error {
	need := min(d.unitSize, d.size-r.unit) // the last unit may lack its part past the end of the disk
	if err := d.unpack(dst, src, int(need)); err != nil {
		return formatErrorf(d.format, r.pos, "decompress the cluster for disk offset %d: %v", r.unit, err)
	}
	return nil
}

// keepUnits prepares the cache of decoded units.
func (d *Disk) keepUnits(size int64, unpack unpacker) {
	d.unitSize, d.unpack = size, unpack
	d.units = newMemo(min(unitBudget/size, 4096))
}

// buffers recycles the buffers that compressed bytes are read into.
type buffers struct{ pool sync.Pool }

var packedBuffers buffers

func (b *buffers) get(n int64) *[]byte {
	p, _ := b.pool.Get().(*[]byte)
	if p == nil || int64(cap(*p)) < n {
		s := make([]byte, n)
		p = &s
	}
	*p = (*p)[:cap(*p)]
	return p
}

func (b *buffers) put(p *[]byte) { b.pool.Put(p) }
