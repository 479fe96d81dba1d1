package seekable

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// A slowBlob brings 2.5 MB/s, one range at a time.
type slowBlob struct {
	memBlob
	turn chan struct{}
}

func (b *slowBlob) ReadAt(ctx context.Context, p []byte, off int64) error {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.turn }()
	select {
	case <-time.After(time.Duration(len(p)) * 400 * time.Nanosecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	return b.memBlob.ReadAt(ctx, p, off)
}

// TestAWalkThatIsBrokenOffKeepsNearlyAll ends walks over a slow link after some seconds: all bytes
// but those of the last two seconds are known afterwards, and a later walk goes on there.
func TestAWalkThatIsBrokenOffKeepsNearlyAll(t *testing.T) {
	data := noise(40 << 20)
	for _, c := range []struct {
		name    string
		cmd     []string
		compact bool
	}{
		{"xz", []string{"xz", "-0", "-T1", "-c"}, false},
		{"zstd", []string{"zstd", "-1", "-c"}, false},
		{"zstd compact", []string{"zstd", "-1", "-c"}, true},
		{"gzip", []string{"gzip", "-1", "-c"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			packed := tool(t, data, c.cmd[0], c.cmd[1:]...)
			// Things made once in a process are made outside the bubble.
			if _, err := drain(t, &memBlob{data: packed}); err != nil {
				t.Fatal(err)
			}
			ledger.Encoder.EncodeAll(data[:9], nil)
			ledger.SmallEncoder.EncodeAll(data[:9], nil)
			index := filepath.Join(t.TempDir(), "layer0")
			synctest.Test(t, func(t *testing.T) {
				upto := int64(0)
				for range 3 {
					b := &slowBlob{memBlob: memBlob{data: packed}, turn: make(chan struct{}, 1)}
					s := openLayer(t, b, Options{Index: index, Compact: c.compact})
					s.SetHistory(historyOf(data))
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
					err := s.ReadSpans(ctx, upto, int64(len(data)), func(off int64, p []byte) error {
						upto = max(upto, off+int64(len(p)))
						return nil
					})
					cancel()
					if err == nil || s.Settled() {
						t.Fatal("the walk was not broken off")
					}
					s.Close()
					s = openLayer(t, b, Options{Index: index})
					known := int64(0)
					s.ledger.View(func(lay *spans.Layout, _ int) { known = lay.Segments[0].Front.Out })
					s.Close()
					// 10 MB came, of which the last two ranges, of up to 4 MiB, may not be whole.
					if fetched := b.fetched.Load(); upto-known > 2_500_000*2+1<<20 || known == 0 {
						t.Errorf("%d bytes were handed out, %d are known, %d fetched", upto, known, fetched)
					}
					upto = known
				}
				if upto < 10_000_000 {
					t.Errorf("%d bytes are known after 12 seconds at 2.5 MB/s", upto)
				}
			})
		})
	}
}
