package zstd

import (
	"bytes"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// A frame that no known encoder writes: its second and third blocks repeat tables that the first
// one sent in RLE mode. Each block has one sequence: 5 literals and a match of 7 bytes from 5 bytes
// back.
var repeatedRLE = []byte("\x28\xb5\x2f\xfd\x00\x00" +
	"\x64\x00\x00" + "\x28abcde" + "\x01\x54" + "\x05\x03\x04" + "\x08" +
	"\x4c\x00\x00" + "\x28ABCDE" + "\x01\xfc" + "\x08" +
	"\x4d\x00\x00" + "\x2812345" + "\x01\xfc" + "\x08")

func TestRLETablesAreRepeated(t *testing.T) {
	want := []byte("abcdeabcdeabABCDEABCDEAB123451234512")
	if !bytes.Equal(plain(t, repeatedRLE), want) {
		t.Fatal("the reference yields something else")
	}
	for _, n := range []int{12, 7, 1} {
		tested.Prove(t, repeatedRLE, want, n)
	}
}

// A checksum or a content size that is wrong is found, in every way in which a frame can be
// decoded.
func TestWrongChecks(t *testing.T) {
	data := corpus(t)["program"][:100_000]
	for _, c := range []compressor{
		{"one frame in spans", zstdFile("-1")},
		{"whole frames", frames(15_000, nil, oneShot(zstd.SpeedFastest))},
		{"whole frames of unknown size", frames(15_000, nil, klauspost(zstd.SpeedFastest))},
	} {
		src := c.f(t, data)
		bad := bytes.Clone(src)
		bad[len(bad)-1]++
		_, _, err := tested.WalkAll(bytes.NewReader(bad), 30_000, 1<<20)
		sum, ok := err.(*codec.ChecksumError)
		if !ok || sum.Kind != "XXH64" || sum.Got == sum.Want || sum.Off < 0 || sum.Off >= int64(len(bad)) {
			t.Errorf("%s: %v, want a ChecksumError", c.name, err)
		}
		h, err := Header(src)
		if err != nil || h.ContentSize < 0 {
			continue
		}
		bad = bytes.Clone(src)
		bad[h.Len-1]-- // the highest byte of a size of 4 bytes, or of 2
		bad[h.Len-2]++
		if _, _, err := tested.WalkAll(bytes.NewReader(bad), 30_000, 1<<20); !codectest.Known(err) {
			t.Errorf("%s: a wrong content size: %v", c.name, err)
		}
	}
}

func TestWindowsBeyondTheLimit(t *testing.T) {
	src := "\x28\xb5\x2f\xfd\x00\x89" + "\x01\x00\x00" // 128 MiB and an eighth
	_, err := NewWalker(strings.NewReader(src), codec.Point{}, nil)
	if err == nil || !strings.Contains(err.Error(), "compress it again without --long=31") {
		t.Error(err)
	}
	// In a later frame, Next says so.
	w, err := NewWalker(strings.NewReader(string(emptyFrame)+src), codec.Point{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, _, err = w.Next(make([]byte, 10), 0)
	if !codectest.Known(err) || !strings.Contains(err.Error(), "near compressed byte 13") {
		t.Error(err)
	}
}
