package seekable

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
)

// Remembered is a blob whose first reads, those by which its layers and tables are found, are answered from a file the next time. Opening
// reads the same ranges every time, so that one mechanism serves every format's headers, seek tables and indexes, and an image can be opened
// without its source.
//
// The file, little-endian: "mfsnote1", u64 size of the blob; then for each range u64 offset, u32 length, u32 CRC32C of the bytes, the bytes.
type Remembered struct {
	Blob
	path string

	mu    sync.Mutex
	notes []note
	added bool
	shut  bool
}

type note struct {
	off  int64
	data []byte
}

const (
	noteMagic = "mfsnote1"
	maxNotes  = 64 << 20 // bytes kept of one blob
)

// Remember returns b with what the file at path knows of it. A file that is missing, damaged or another blob's is not used.
func Remember(b Blob, path string) *Remembered {
	r := &Remembered{Blob: b, path: path}
	if data, err := os.ReadFile(path); err == nil && len(data) <= 2*maxNotes {
		r.notes = parseNotes(data, b.Size())
	}
	return r
}

func parseNotes(data []byte, size int64) (notes []note) {
	if len(data) < 16 || string(data[:8]) != noteMagic || le.Uint64(data[8:]) != uint64(size) {
		return nil
	}
	for data = data[16:]; len(data) > 0; {
		if len(data) < 16 {
			return nil
		}
		off, n, sum := le.Uint64(data), int64(le.Uint32(data[8:])), le.Uint32(data[12:])
		data = data[16:]
		if off > uint64(size) || n > size-int64(off) || n > int64(len(data)) || crc32.Checksum(data[:n], castagnoli) != sum {
			return nil
		}
		notes = append(notes, note{int64(off), data[:n:n]})
		data = data[n:]
	}
	return notes
}

// ReadAt reads from what is remembered, else from the blob.
func (r *Remembered) ReadAt(ctx context.Context, p []byte, off int64) error {
	if r.recall(p, off) {
		return nil
	}
	if err := r.Blob.ReadAt(ctx, p, off); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	have := len(p)
	for _, n := range r.notes {
		have += len(n.data)
	}
	if !r.shut && have <= maxNotes {
		r.notes = append(r.notes, note{off, append([]byte(nil), p...)})
		r.added = true
	}
	return nil
}

func (r *Remembered) recall(p []byte, off int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.notes {
		if off >= n.off && off+int64(len(p)) <= n.off+int64(len(n.data)) {
			copy(p, n.data[off-n.off:])
			return true
		}
	}
	return false
}

// Resume goes on with noting what is read, after Seal.
func (r *Remembered) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = false
}

// Seal writes what was read so far to the file. What is read from now on is not noted; the notes stay usable.
func (r *Remembered) Seal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = true
	if !r.added || r.path == "" {
		return nil
	}
	data := le.AppendUint64([]byte(noteMagic), uint64(r.Blob.Size()))
	for _, n := range r.notes {
		data = le.AppendUint64(data, uint64(n.off))
		data = le.AppendUint32(data, uint32(len(n.data)))
		data = le.AppendUint32(data, crc32.Checksum(n.data, castagnoli))
		data = append(data, n.data...)
	}
	f, err := os.CreateTemp(filepath.Dir(r.path), filepath.Base(r.path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("remember %s: %w", r.path, err)
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(f.Name(), r.path)
	}
	if err != nil {
		return fmt.Errorf("remember %s: %w", r.path, err)
	}
	r.added = false
	return nil
}
