package disk

import "context"

const (
	// pageSize is the unit in which tables are read and cached. 16 KiB of a qcow2 L2 table map 128
	// MiB of disk at the usual 64 KiB clusters.
	pageSize = 16 << 10
	// pageBudget bounds the tables that one Disk keeps: enough for 32 GiB of disk at 64 KiB
	// clusters.
	pageBudget = 4 << 20
)

// pages reads tables that are too large to hold, a page of the image file at a time.
type pages struct {
	file   File
	format string
	kept   *memo
}

func newPages(f File, format string) *pages {
	return &pages{file: f, format: format, kept: newMemo(pageBudget / pageSize)}
}

// at gives the bytes of the image file from off to the end of its page, need of them at least. An
// entry must not cross a page: tables are aligned to the size of their entries, and that divides
// pageSize. The bytes are shared: read only.
func (t *pages) at(ctx context.Context, off, need int64) ([]byte, error) {
	page := off / pageSize
	b := t.kept.lookup(page)
	if b == nil {
		var err error
		if b, err = t.load(ctx, off, page); err != nil {
			return nil, err
		}
	}
	if in := off - page*pageSize; in+need <= int64(len(b)) {
		return b[in:], nil
	}
	return nil, formatErrorf(t.format, off, "a table ends past the end of the file at %d", t.file.Size())
}

func (t *pages) load(ctx context.Context, off, page int64) ([]byte, error) {
	if off < 0 || off >= t.file.Size() {
		return nil, formatErrorf(t.format, off, "a table lies past the end of the file at %d", t.file.Size())
	}
	return t.kept.load(ctx, page, func(ctx context.Context) ([]byte, error) {
		start := page * pageSize
		b := make([]byte, min(pageSize, t.file.Size()-start))
		if err := t.file.ReadAt(ctx, b, start); err != nil {
			return nil, err
		}
		return b, nil
	})
}
