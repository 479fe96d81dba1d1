package disk

import "context"

// blockMap is the map of formats that have one flat table with an entry per block of the disk: vhd,
// vhdx and vdi. The table may be as long as the file; it is read a page at a time.
type blockMap struct {
	format    string
	pages     *pages
	fileSize  int64
	blockBits uint  // log2 of the block size
	table     int64 // where in the image file; a multiple of entrySize
	entrySize int64
	index     func(block int64) int64             // of a block's entry; nil if it is the block's number
	entry     func(b []byte) (Kind, int64, error) // decodes the entry at the start of b: a kind, and for Data the block's offset
}

var _ layout = (*blockMap)(nil)

func (m *blockMap) next(ctx context.Context, off, max int64) (run, error) {
	block := off >> m.blockBits
	r, err := m.block(ctx, block)
	if err != nil {
		return run{}, err
	}
	skip := off - block<<m.blockBits
	r.n -= skip
	r.pos += skip
	for block++; r.n < max; block++ {
		more, err := m.block(ctx, block)
		if err != nil || more.kind != r.kind || r.kind == Data && more.pos != r.pos+r.n {
			break // an error is of no concern before its block is asked for
		}
		r.n += more.n
	}
	r.n = min(r.n, max)
	return r, withinFile(&r, off, m.fileSize, m.format)
}

// block gives the run of a whole block.
func (m *blockMap) block(ctx context.Context, block int64) (run, error) {
	i := block
	if m.index != nil {
		i = m.index(block)
	}
	at := m.table + i*m.entrySize
	b, err := m.pages.at(ctx, at, m.entrySize)
	if err != nil {
		return run{}, err
	}
	kind, pos, err := m.entry(b)
	if err != nil {
		return run{}, &FormatError{Format: m.format, Off: at, Msg: err.Error()}
	}
	return run{kind: kind, n: 1 << m.blockBits, pos: pos}, nil
}

// withinFile cuts r, which starts at the disk offset off, to the bytes that the image file has. It
// fails if there are none.
func withinFile(r *run, off, fileSize int64, format string) error {
	if r.kind != Data || r.fileEnd() <= fileSize {
		return nil
	}
	if r.pos >= fileSize {
		return formatErrorf(format, r.pos, "the data for disk offset %d lies past the end of the file at %d: the image is truncated", off, fileSize)
	}
	if r.packed > 0 {
		r.packed = fileSize - r.pos
	} else {
		r.n = fileSize - r.pos
	}
	return nil
}

// checkTable refuses a map that does not lie within the file, or is not aligned to align. n entries
// are needed.
func checkTable(format string, field, table, n, entrySize, align, fileSize int64) error {
	switch {
	case table < 0 || table%align != 0:
		return formatErrorf(format, field, "the block map's offset %d is not a multiple of %d", table, align)
	case table > fileSize || n > (fileSize-table)/entrySize:
		return formatErrorf(format, field, "the block map at %d, of %d entries, ends past the end of the file at %d: the image is truncated", table, n, fileSize)
	}
	return nil
}

// blocks is how many blocks of 1<<bits bytes a disk of size bytes has.
func blocks(size int64, bits uint) int64 {
	n := size >> bits
	if size&(1<<bits-1) != 0 {
		n++
	}
	return n
}
