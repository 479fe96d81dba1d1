package codectest

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// Readers walks a stream from readers that yield little at a time, and from readers that fail, at
// every byte.
func (c Codec) Readers(t *testing.T, stream []byte) {
	t.Helper()
	whole, spans := c.walkWhole(t, "plain reader", stream, spanSize)
	for name, r := range map[string]io.Reader{
		"a byte a time":      iotest.OneByteReader(bytes.NewReader(stream)),
		"half":               iotest.HalfReader(bytes.NewReader(stream)),
		"data with the EOF":  iotest.DataErrReader(bytes.NewReader(stream)),
		"sometimes no bytes": &lazyReader{r: bytes.NewReader(stream)},
	} {
		out, again, err := c.WalkAll(r, spanSize, 1<<30)
		if err != io.EOF || !bytes.Equal(out, whole) {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range again {
			if describe(again[i].Point) != describe(spans[i].Point) {
				t.Fatalf("%s: span %d: other point", name, i)
			}
		}
	}
	broken := errors.New("the cable is out")
	for _, n := range sweep(len(stream)) {
		r := io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken))
		if out, _, err := c.WalkAll(r, spanSize, 1<<30); !errors.Is(err, broken) || !bytes.HasPrefix(whole, out) {
			t.Fatalf("reader fails at %d: %v", n, err)
		}
	}
	if _, _, err := c.WalkAll(&lazyReader{}, 10, 10); !errors.Is(err, io.ErrNoProgress) {
		t.Fatalf("a reader that yields nothing: %v", err)
	}
}

// lazyReader yields nothing every other time, and without a reader always.
type lazyReader struct {
	r    io.Reader
	turn int
}

func (l *lazyReader) Read(p []byte) (int, error) {
	if l.turn++; l.turn%2 == 0 || l.r == nil {
		return 0, nil
	}
	return l.r.Read(p[:min(len(p), 77)])
}
