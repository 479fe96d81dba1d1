package xz

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// benchData is a program of C, compressed as one block, in a file for xz to read.
var benchData = sync.OnceValues(func() (plain []byte, err error) {
	return os.ReadFile("/usr/bin/qemu-system-x86_64")
})

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano())
}

// benchAgainstXz reports decode's speed in processor time, and its ratio to that of `xz -dc -T1` in
// turns with it.
func benchAgainstXz(b *testing.B, decode func(b *testing.B, dst, file []byte, blk Block)) {
	plain, err := benchData()
	if err != nil {
		b.Fatalf("%v: apt-get install qemu-system-x86", err)
	}
	file := xz(b, plain, "-6")
	if p := os.Getenv("XZ_BENCH"); p != "" {
		file, _ = os.ReadFile(p + ".xz")
		plain, _ = os.ReadFile(p)
	}
	name := filepath.Join(b.TempDir(), "file.xz")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		b.Fatal(err)
	}
	blk := readIndex(b, file)[0]
	dst := make([]byte, len(plain))
	ours, theirs := time.Hour, time.Hour // the best of all turns
	for b.Loop() {
		start := cpu()
		decode(b, dst, file[blk.In:], blk)
		ours = min(ours, cpu()-start)
		cmd := exec.Command("xz", "-dc", "-T1", name)
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		theirs = min(theirs, cmd.ProcessState.UserTime())
	}
	if !bytes.Equal(dst, plain) {
		b.Fatal("the output differs")
	}
	mb := float64(len(plain)) / 1e6
	b.ReportMetric(mb/ours.Seconds(), "MB/s")
	b.ReportMetric(mb/theirs.Seconds(), "xz-MB/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-xz")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkDecode(b *testing.B) {
	benchAgainstXz(b, func(b *testing.B, dst, file []byte, blk Block) {
		if err := Decode(dst, file[:blk.InLen], blk, codec.Point{}, nil); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkWalk is the same with a Point every 4 MiB.
func BenchmarkWalk(b *testing.B) {
	benchAgainstXz(b, func(b *testing.B, dst, file []byte, blk Block) {
		w, err := NewWalker(bytes.NewReader(file), blk, codec.Point{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer w.Close()
		for at := 0; at < len(dst); {
			n, _, err := w.Next(dst[:min(at+4<<20, len(dst))], at)
			if err != nil && err != io.EOF {
				b.Fatal(err)
			}
			at += n
		}
	})
}
