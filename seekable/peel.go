package seekable

import (
	"context"
)

// A Layer is a wrapping that Peel found around an image file.
type Layer struct {
	Format string // "zstd", "xz", "gzip", "bzip2", "lz4", "apple-lz4", "tar", "zip"
	Member string // of a tar or zip: the file in it
	Index  string // names the index that the stream was opened with (Indexed); empty: none

	// One of the two is set.
	Stream *Stream // a compressed stream
	Blob   Blob    // a stretch of the outer blob's own bytes: nothing to decode, nothing to cache
}

// sniffLen bytes tell every format that is peeled off.
const sniffLen = 512

// Peel looks at the bytes of b and takes the outermost layer off it. It returns nil when b is no
// compressed stream and no container of files: then it is an image file. A file name is never
// asked: bytes decide.
//
// Errors: *FormatError when the layer is malformed or not supported, *MemberError when a container
// holds no such file, and the blob's own.
func Peel(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	head := make([]byte, min(sniffLen, b.Size()))
	if err := b.ReadAt(ctx, head, 0); err != nil {
		return nil, err
	}
	for _, f := range formats() {
		if f.is(head) {
			return f.open(ctx, b, opt)
		}
	}
	return nil, nil
}
