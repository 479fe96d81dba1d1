package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A walked span is what Next returned for it.
type walked struct {
	pt       codec.Point
	frontier codec.Point // after it
	off, n   int         // of the output
}

// walkAll walks src from a place on with spans of the given sizes, in turn, and checks the bytes. have is how many bytes of
// want lie before the first span.
func walkAll(t *testing.T, src, want []byte, at codec.Point, have int, sizes []int,
	reader func(io.Reader) io.Reader) (all []walked) {
	t.Helper()
	start := have - at.Lead
	w := openAt(t, reader(bytes.NewReader(src[at.In:])), at, want[:start], src)
	defer w.Close()
	// The history is what the walk itself put out, no longer than it may ask for, and what lay before it.
	full := make([]byte, len(want)+slices.Max(sizes))
	if at.In != 0 || have != 0 {
		copy(full[max(0, have-w.Window()):], want[max(0, have-w.Window()):have])
	}
	for i, pos := 0, have; ; i++ {
		k := sizes[i%len(sizes)]
		hist := min(pos, w.Window())
		buf := full[pos-hist : pos+k]
		n, pt, err := w.Next(buf, hist)
		if err != nil && err != io.EOF {
			t.Fatalf("Next at byte %d of the output: %v", pos, err)
		}
		if !bytes.Equal(buf[hist:][:n], want[pos:min(pos+n, len(want))]) {
			t.Fatalf("the %d bytes from %d on differ", n, pos)
		}
		if n > 0 {
			all = append(all, walked{pt, w.Frontier(), pos, n})
		}
		pos += n
		if err == io.EOF {
			if pos != len(want) {
				t.Fatalf("end of stream at %d, want %d", pos, len(want))
			}
			return all
		}
		if n != k {
			t.Fatalf("%d bytes without io.EOF, want %d", n, k)
		}
	}
}

// openAt is NewWalker with a window as long as the walker can ask for.
func openAt(t *testing.T, r io.Reader, at codec.Point, before, src []byte) codec.Walker {
	t.Helper()
	window := before
	if at.State != nil {
		p, err := decodePlace(at.State, at.In)
		if err != nil {
			t.Fatal(err)
		}
		window = before[max(0, len(before)-p.frame.window):]
	} else {
		window = nil
	}
	w, err := NewWalker(r, at, window)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// sparse returns the window of a Point with zeros in place of everything that Used does not mark.
func sparse(want []byte, start int, pt codec.Point) []byte {
	if pt.Used == nil {
		return nil
	}
	far := 0
	pt.Used.Runs(func(from, n int) { far = max(far, from+n) })
	far = min(far, start)
	w := make([]byte, far)
	pt.Used.Runs(func(from, n int) {
		for i := from; i < min(from+n, far); i++ {
			w[far-1-i] = want[start-1-i]
		}
	})
	return w
}

// checkPoints decodes every span alone, from its sparse window, and compares.
func checkPoints(t *testing.T, src, want []byte, all []walked) {
	t.Helper()
	for _, s := range all {
		pt := s.pt
		if pt.InEnd <= pt.In || pt.InEnd > int64(len(src)) {
			t.Fatalf("span at %d: compressed bytes %d to %d", s.off, pt.In, pt.InEnd)
		}
		dst := bytes.Repeat([]byte{0xdd}, s.n)
		window := sparse(want, s.off-pt.Lead, pt)
		if err := Decode(dst, bytes.Clone(src[pt.In:pt.InEnd]), pt, window); err != nil {
			t.Fatalf("Decode at %d: %v", s.off, err)
		}
		if !bytes.Equal(dst, want[s.off:s.off+s.n]) {
			t.Fatalf("Decode at %d: bytes differ", s.off)
		}
	}
}

func asIs(r io.Reader) io.Reader { return r }

func samePoint(a, b codec.Point) error {
	x, y := a, b
	if x.Used, y.Used = nil, nil; !reflect.DeepEqual(x, y) {
		return fmt.Errorf("%+v, want %+v", x, y)
	}
	if (a.Used == nil) != (b.Used == nil) {
		return errors.New("one has marks")
	}
	if a.Used != nil {
		var x, y [][2]int
		a.Used.Runs(func(from, n int) { x = append(x, [2]int{from, n}) })
		b.Used.Runs(func(from, n int) { y = append(y, [2]int{from, n}) })
		if !slices.Equal(x, y) {
			return errors.New("marks differ")
		}
	}
	return nil
}

func TestEveryPointOfEveryStream(t *testing.T) {
	samples := []struct {
		name string
		data []byte
	}{{"program", sampleProgram(5 << 18 / sparing)}, {"disk", sampleDisk(4 << 20 / min(sparing, 2))}}
	for _, c := range compressors {
		for _, s := range samples {
			t.Run(c.name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				src := c.f(t, s.data)
				if !bytes.Equal(plain(t, src), s.data) {
					t.Fatal("the reference decodes it to something else")
				}
				for i, sizes := range [][]int{{1 << 19 / sparing}, {64 << 10, 77777, 333333}} {
					all := walkAll(t, src, s.data, codec.Point{}, 0, sizes, asIs)
					checkPoints(t, src, s.data, all)
					checkContinued(t, src, s.data, all, sizes)
					if i == 0 {
						t.Logf("%d spans, %d dictionaries", len(all), checkDictionaries(t, src, s.data, all))
					}
				}
			})
		}
	}
}

// checkContinued begins new walks at some of the frontiers and wants the same spans as before.
func checkContinued(t *testing.T, src, want []byte, all []walked, sizes []int) {
	t.Helper()
	for k := 0; k+1 < len(all); k += 1 + len(all)/4 {
		turned := append(append([]int{}, sizes[(k+1)%len(sizes):]...), sizes[:(k+1)%len(sizes)]...)
		again := walkAll(t, src, want, all[k].frontier, all[k].off+all[k].n, turned, asIs)
		if len(again) != len(all)-k-1 {
			t.Fatalf("from %d on: %d spans, want %d", k, len(again), len(all)-k-1)
		}
		for i, s := range again {
			if err := samePoint(s.pt, all[k+1+i].pt); err != nil {
				t.Fatalf("walk from frontier %d, span %d: %v", k, k+1+i, err)
			}
			if err := samePoint(s.frontier, all[k+1+i].frontier); err != nil {
				t.Fatalf("walk from frontier %d, frontier %d: %v", k, k+1+i, err)
			}
		}
	}
}
