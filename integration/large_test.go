package integration

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// A large disk of 8 GiB, in units of 1 MiB that are compressed alone. All are zeros but some in the
// middle, and a few sectors in front, where a disk has its partition table. To compress all of it
// takes minutes, so the tools compress one unit of each content, and the units and their table are
// put together here as the tools would.
const (
	unitSize    = 1 << 20
	largeUnits  = 8 << 10
	middle      = largeUnits / 2 // the first of the units in the middle that hold data
	middleUnits = 8
)

// unitContent is what unit i holds, nil for zeros.
func unitContent(i int) []byte {
	switch {
	case i == 0:
		return append(contentOf(17<<10), make([]byte, unitSize-17<<10)...) // as long as a GPT
	case i >= middle && i < middle+middleUnits:
		return contentOf(unitSize + i)[:unitSize]
	}
	return nil
}

// largeDisk writes the disk in the given kind below dir. Frame is the largest compressed unit,
// table what the kind's own table takes.
func largeDisk(t *testing.T, dir string, kind image.Kind) (file string, frame, table int64) {
	t.Helper()
	zeros := make([]byte, unitSize)
	parts := make([][]byte, largeUnits)
	zeroPart := compressUnit(t, dir, kind, zeros)
	for i := range parts {
		parts[i] = zeroPart
		if p := unitContent(i); p != nil {
			parts[i] = compressUnit(t, dir, kind, p)
			frame = max(frame, int64(len(parts[i])))
		}
	}
	join := joinFrames
	if kind == image.XZBlocks {
		join = joinBlocks
	}
	content, table := join(parts)
	file = filepath.Join(dir, "large.raw"+kind.Suffix())
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file, frame, table
}

// compressUnit is what the tool makes of one unit.
func compressUnit(t *testing.T, dir string, kind image.Kind, content []byte) []byte {
	t.Helper()
	in, out := filepath.Join(dir, "unit"), filepath.Join(dir, "unit.compressed")
	if err := os.WriteFile(in, content, 0o644); err != nil {
		t.Fatal(err)
	}
	how := kind
	if kind == image.ZstdSeekTable {
		how = image.ZstdOneFrame
	}
	if err := image.Compress(t.Context(), how, in, out); err != nil {
		t.Fatal(err)
	}
	p, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// joinFrames puts zstd frames in a row, with a seek table behind:
// https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md
func joinFrames(frames [][]byte) (file []byte, table int64) {
	le := binary.LittleEndian
	seek := make([]byte, 0, 8*len(frames))
	for _, f := range frames {
		file = append(file, f...)
		seek = le.AppendUint32(seek, uint32(len(f)))
		seek = le.AppendUint32(seek, unitSize)
	}
	const footer = 9
	head := le.AppendUint32(nil, 0x184D2A5E)
	head = le.AppendUint32(head, uint32(len(seek)+footer))
	seek = le.AppendUint32(append(head, seek...), uint32(len(frames)))
	seek = le.AppendUint32(append(seek, 0), 0x8F92EAB1)
	return append(file, seek...), int64(len(seek))
}

// The parts of an xz file, in bytes: https://tukaani.org/xz/xz-file-format.txt
const (
	xzHeader = 12
	xzFooter = 12
)

// joinBlocks makes one xz stream of the blocks of files that have one block each.
func joinBlocks(files [][]byte) (file []byte, table int64) {
	le := binary.LittleEndian
	file = append(file, files[0][:xzHeader]...)
	index := binary.AppendUvarint([]byte{0}, uint64(len(files)))
	for _, f := range files {
		backward := (int64(le.Uint32(f[len(f)-8:])) + 1) * 4
		own := f[int64(len(f))-xzFooter-backward:]
		unpadded, _ := binary.Uvarint(own[2:]) // behind the indicator and the number 1
		file = append(file, f[xzHeader:int64(len(f))-xzFooter-backward]...)
		index = binary.AppendUvarint(index, unpadded)
		index = binary.AppendUvarint(index, unitSize)
	}
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	index = le.AppendUint32(index, crc32.ChecksumIEEE(index))
	back := le.AppendUint32(nil, uint32(len(index)/4-1))
	back = append(back, files[0][6:8]...) // the stream's flags
	footer := append(le.AppendUint32(nil, crc32.ChecksumIEEE(back)), back...)
	footer = append(footer, 'Y', 'Z')
	return append(append(file, index...), footer...), int64(len(index) + xzFooter)
}

// TestLargeDisksAreReal lets the tools that made the units read what was put together of them.
func TestLargeDisksAreReal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, _, _ := largeDisk(t, dir, image.XZBlocks)
	list := tool(t, "", "xz", "--list", "--robot", file)
	if !bytes.Contains([]byte(list), []byte("\t8589934592\t")) {
		t.Errorf("xz --list does not find 8 GiB: %s", list)
	}
	file, _, _ = largeDisk(t, dir, image.ZstdSeekTable)
	list = tool(t, "", "zstd", "-lv", file)
	if !bytes.Contains([]byte(list), []byte("8589934592 B")) {
		t.Errorf("zstd -lv does not find 8 GiB: %s", list)
	}
}
