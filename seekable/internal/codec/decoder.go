package codec

import (
	"context"
	"io"
)

// A Blob is immutable bytes that are read by range. ReadAt fills all of p or fails; parallel calls are allowed.
type Blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// A Decoder is one format's way to decode a part, which begins at a natural start. Points count compressed bytes from the
// start of the part.
type Decoder struct {
	// NewWalker starts a walk; r yields the compressed bytes from at.In on to the end of the part.
	NewWalker func(r io.Reader, at Point, window []byte) (Walker, error)
	// Decode decodes one span, or the whole part with the zero Point, without I/O. It is safe for parallel use.
	Decode func(dst, src []byte, at Point, window []byte) error
	// Memory is how many bytes a walk takes at the most beside its window and the caller's buffer.
	Memory int64
}
