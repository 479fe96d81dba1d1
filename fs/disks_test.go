package fs

import "context"

// A panicDisk panics when read.
type panicDisk struct{ *memDisk }

func (panicDisk) ReadAt(context.Context, []byte, int64) error { panic("a bug") }

// A bareDisk has no optional interface.
type bareDisk struct{ d *memDisk }

func (b bareDisk) Size() int64 { return b.d.Size() }

func (b bareDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	return b.d.ReadAt(ctx, p, off)
}
