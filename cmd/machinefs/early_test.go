package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLooksRaw(t *testing.T) {
	disk := make([]byte, 256<<10)
	disk[510], disk[511] = 0x55, 0xaa
	iso := bytes.Clone(disk)
	copy(iso[0x8001:], "CD001")
	begins := func(s string) []byte { return append([]byte(s), disk[len(s):]...) }
	for name, c := range map[string]struct {
		head []byte
		want bool
	}{
		"disk":        {disk, true},
		"small disk":  {disk[:1024], false}, // decoding that twice costs nothing
		"iso":         {iso, true},
		"no sector":   {disk[:100], false},
		"qcow2":       {begins("QFI\xfb\x00\x00\x00\x03"), false},
		"gzip":        {begins("\x1f\x8b\x08"), false},
		"text":        {bytes.Repeat([]byte("<html>\n"), 1000), false},
		"vmdk's text": {begins("# Disk DescriptorFile\n"), false},
	} {
		if got := looksRaw(t.Context(), c.head); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestEarlyOutputIsTakenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	e := &early{path: path}
	defer e.discard()
	if out, done, err := e.take(10); out != nil || done != 0 || err != nil {
		t.Fatalf("of nothing: %v, %d, %v", out, done, err)
	}
	var err error
	if e.out, err = createOutput(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := e.out.WriteAt([]byte("0123456789"), 0); err != nil {
		t.Fatal(err)
	}
	e.done = 10
	out, done, err := e.take(8)
	if err != nil || done != 8 {
		t.Fatalf("%d bytes, %v", done, err)
	}
	if again, _, _ := e.take(8); again != nil {
		t.Fatal("taken twice")
	}
	e.discard() // it is not e's any more
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("it has its name before it is whole: %v", err)
	}
	if err := out.commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "01234567" {
		t.Fatalf("%q, %v", got, err)
	}
}
