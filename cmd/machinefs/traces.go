package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/spf13/pflag"
)

// defaultTrace is the name of the trace that a mount records and replays.
const defaultTrace = "boot"

// traceFlags say what is recorded.
type traceFlags struct {
	name  string // "off": nothing
	bytes size
	time  time.Duration
	quiet time.Duration
}

var traceName = regexp.MustCompile(`^[a-z0-9._]{1,32}$`)

// register declares the flags; name is that of the trace's name.
func (t *traceFlags) register(fs *pflag.FlagSet, name, usage string) {
	t.bytes = 1 << 30
	fs.StringVar(&t.name, name, defaultTrace, usage)
	fs.Var(&t.bytes, "trace-bytes", "end the recording after so many different bytes")
	fs.DurationVar(&t.time, "trace-time", 10*time.Minute, "end the recording so long after the first read")
	fs.DurationVar(&t.quiet, "trace-quiet", 30*time.Second, "end the recording when nothing new was read for so long")
}

func (t *traceFlags) check() error {
	switch {
	case !traceName.MatchString(t.name):
		return &usageError{fmt.Errorf("trace name %q: want 1 to 32 of a-z 0-9 . _", t.name)}
	case t.bytes <= 0 || t.time <= 0 || t.quiet <= 0:
		return &usageError{errors.New("--trace-bytes, --trace-time and --trace-quiet: want more than 0; --trace=off records nothing")}
	}
	return nil
}

func (t *traceFlags) on() bool { return t.name != "" && t.name != "off" }

func (t *traceFlags) limits() trace.Limits {
	return trace.Limits{Bytes: int64(t.bytes), Time: t.time, Quiet: t.quiet}
}

// A trace is kept on a shelf of the cache, compressed, under the image's key and its own name: it
// outlives the image's bytes.
func traceDocument(key, name string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(key+"\n"+name)))
}

var errNoTrace = errors.New("no reads of it were recorded")

// loadTrace returns the trace of an image. Errors are errNoTrace, or that of a damaged one.
func (h *host) loadTrace(p pin, name string) (*trace.Trace, error) {
	b, err := h.cache.Shelf("traces").Get(traceDocument(p.source.Key, name))
	if err != nil {
		return nil, errNoTrace
	}
	return unpackTrace(b)
}

func (h *host) saveTrace(p pin, name string, t *trace.Trace) error {
	return h.cache.Shelf("traces").Put(traceDocument(p.source.Key, name), packTrace(t))
}

// maxTrace bounds a trace that is unpacked, in bytes.
const maxTrace = 64 << 20

var (
	traceEncoder, _ = zstd.NewWriter(nil)
	traceDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxTrace), zstd.WithDecoderConcurrency(1))
)

func packTrace(t *trace.Trace) []byte {
	var text bytes.Buffer
	t.WriteTo(&text)
	return traceEncoder.EncodeAll(text.Bytes(), nil)
}

func unpackTrace(b []byte) (*trace.Trace, error) {
	text, err := traceDecoder.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	return trace.Parse(bytes.NewReader(text))
}

// fileRanges returns the parts of the image file that extents of the disk lie in, in their order.
func (s *stack) fileRanges(ctx context.Context, t *trace.Trace) (list []trace.Extent, err error) {
	var seen trace.Set
	for _, x := range t.Extents {
		if x.Off >= s.disk.Size() {
			continue
		}
		for e, err := range s.disk.Extents(ctx, x.Off, min(x.Len, s.disk.Size()-x.Off)) {
			if err != nil {
				return nil, err
			}
			if e.FileLen == 0 {
				continue
			}
			// Whole pages, which the cache keeps.
			off := e.FileOff / trace.Page * trace.Page
			end := min((e.FileOff+e.FileLen+trace.Page-1)/trace.Page*trace.Page, s.file.Size())
			seen.Add(off, end-off, func(x trace.Extent) { list = append(list, x) })
		}
	}
	return list, nil
}
