package seekable

import (
	"bytes"
	"context"
)

// A Layer is what Peel found around an image file.
type Layer struct {
	Format string // "zstd", "xz", "gzip", "bzip2", "lz4", "tar", "zip"
	Member string // of a tar or zip: the file in it
	Index  string // what names the index that the stream was opened with (Indexed); empty: none

	// One of the two is set.
	Stream *Stream // a compressed stream
	Blob   Blob    // a stretch of the outer blob's own bytes: nothing to decode, nothing to cache
}

// sniffLen bytes tell every format that is peeled off.
const sniffLen = 512

// Peel looks at the bytes of b and takes the outermost layer off it. It returns nil when b is no compressed stream and no container of files: then it is
// an image file. A file name is never asked: bytes decide.
//
// Errors: *FormatError when the layer is malformed or not supported, *MemberError when a container holds no such file, and the blob's own.
func Peel(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	head := make([]byte, min(sniffLen, b.Size()))
	if err := b.ReadAt(ctx, head, 0); err != nil {
		return nil, err
	}
	for _, f := range formats {
		if f.is(head) {
			return f.open(ctx, b, opt)
		}
	}
	return nil, nil
}

// formats are tried in this order. A new one goes here.
var formats = []struct {
	name string
	is   func(head []byte) bool
	open func(ctx context.Context, b Blob, opt Options) (*Layer, error)
}{
	{"zstd", magic("\x28\xb5\x2f\xfd"), openZstd},
	{"zstd", isSkippable, openZstd},
	{"xz", magic("\xfd7zXZ\x00"), openXz},
	{"gzip", magic("\x1f\x8b\x08"), openGzip},
	{"bzip2", isBzip2, openBzip2},
	{"lz4", magic("\x04\x22\x4d\x18"), openLz4},
	{"lz4", magic("\x02\x21\x4c\x18"), openLz4},
	{"apple-lz4", magic("bv41"), openLz4},
	{"apple-lz4", magic("bv4-"), openLz4},
	{"zip", magic("PK\x03\x04"), openZip},
	{"tar", isTar, openTar},
}

func magic(m string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(m)) }
}

// isSkippable tells a skippable frame, of zstd (RFC 8878 §3.1.2) and lz4 alike.
func isSkippable(head []byte) bool {
	return len(head) >= 8 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}

// isBzip2 tells "BZh", the level, and the magic of a block or of an empty stream's end.
func isBzip2(head []byte) bool {
	return len(head) >= 10 && bytes.HasPrefix(head, []byte("BZh")) && head[3] >= '1' && head[3] <= '9' &&
		(bytes.Equal(head[4:10], []byte("\x31\x41\x59\x26\x53\x59")) || bytes.Equal(head[4:10], []byte("\x17\x72\x45\x38\x50\x90")))
}
