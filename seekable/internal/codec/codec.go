// Package codec is the contract of the decoders below package seekable.
//
// # Concept
//
// A compressed stream is decoded in spans. A Walker decodes it in order and finds for each span a
// Point, from which that span decodes alone. A decoder package (bzip2, deflate, lz4, xz, zstd)
// offers two functions:
//
//	NewWalker(r io.Reader, at Point, window []byte) (Walker, error)
//	Decode(dst, src []byte, at Point, window []byte) error // no I/O; parallel calls are allowed
//
// All else is the same for each format and belongs to package seekable: the window bytes of a span,
// storage, hashes and scheduling.
//
// # Rules
//
//   - A Walker and Decode give the same bytes for a span. Package codectest proves it.
//   - Each check of the format that decoding passes is verified.
//   - Malformed input is a *FormatError, a wrong checksum a *ChecksumError. An error of a reader is
//     wrapped.
//
// # Dangers
//
// Streams, Points and windows are hostile. A wrong State or window gives wrong bytes or an error,
// never a panic, and no number in them decides how much memory is allocated. A State carries no
// check of its own: its keeper adds one.
package codec

import "fmt"

// A Point tells how one span of decoded output is decoded alone.
//
// Decoding starts at compressed byte In, with the decoder in State and with the window (the last
// bytes of output before the place where decoding starts) given. The first Lead bytes that come out
// lie before the span and are dropped.
type Point struct {
	In    int64  // offset of the first compressed byte needed
	InEnd int64  // offset after the last compressed byte needed; 0 while not known (a Walker's Frontier)
	Lead  int    // decoded bytes to drop before the span's first byte
	State []byte // the codec's record of its state at In, without the window; nil: a natural start, no window

	// Used marks the bytes of the window that the span, with its lead, refers to. Position 0 of the
	// marks is the byte just before the place where decoding starts, position 1 the byte before
	// that. Nil where no window is needed.
	Used *Marks
}

// A Walker decodes a stream in order and finds, for every span that it decodes, the Point from
// which that span decodes alone. It is not safe for concurrent use.
type Walker interface {
	// Next decodes the next len(buf)-at bytes of output, one span, into buf[at:].
	//
	// buf[:at] holds the output just before it: at least the last Window() bytes, or all of the
	// output where there was less (the output before a walk that began at a Point in the middle,
	// the window given to NewWalker, counts as such). A decoder may use buf[:at] as its dictionary,
	// or ignore it and keep its own.
	//
	// n is less than len(buf)-at only at the end of the stream, and then err is io.EOF; n may be 0.
	// Checks that the format has (CRC, XXH64, sizes) are verified when they are passed; a mismatch
	// is a *ChecksumError. A stream that ends too early is a *FormatError that wraps
	// io.ErrUnexpectedEOF. An error of the reader is returned wrapped, so that errors.Is finds it.
	Next(buf []byte, at int) (n int, pt Point, err error)

	// Frontier returns the Point at which a new Walker would go on after the last span: InEnd is 0
	// and Used nil, the whole window is needed.
	Frontier() Point

	// Window returns how many bytes of earlier output may be referred to, at the most, in the
	// stream so far. Zero at the start of a walk means not known yet; a Walker learns it no later
	// than in the constructor for formats with one header.
	Window() int

	// Close releases the buffers and goroutines of the walker. It does not close the reader.
	Close()
}

// A FormatError reports input that its format does not allow.
type FormatError struct {
	Format string // "xz", "zstd", …
	Off    int64  // byte offset in the compressed input, as far as it is known; else 0
	Msg    string // the value found and the one wanted
	Err    error  // cause, or nil
}

func (e *FormatError) Error() string {
	s := fmt.Sprintf("decode %s: %s", e.Format, e.Msg)
	if e.Off > 0 {
		s += fmt.Sprintf(", near compressed byte %d", e.Off)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *FormatError) Unwrap() error { return e.Err }

// A ChecksumError reports decoded bytes that do not have the checksum that the stream, or the
// index, says.
type ChecksumError struct {
	Format    string // "xz", "zstd", "index"
	Kind      string // "CRC64", "XXH64", "SHA-256", "size"
	Off       int64  // offset of the checked unit in the compressed input; 0: not known, or all of it
	Got, Want string
}

func (e *ChecksumError) Error() string {
	where := ""
	if e.Off > 0 {
		where = fmt.Sprintf(" of the unit at compressed byte %d", e.Off)
	}
	return fmt.Sprintf("verify %s: %s%s is %s, want %s", e.Format, e.Kind, where, e.Got, e.Want)
}
