package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	formatVersion = 1
	maxMeta       = 1 << 16
)

// meta is meta.json. It is needed for listings and for a size that only a walk could tell; everything else works without it.
type meta struct {
	Version int       `json:"version"`
	Key     string    `json:"key"`
	Name    string    `json:"name"`
	Size    int64     `json:"size"` // -1: not known yet
	Created time.Time `json:"created"`
	Check   string    `json:"crc32c"` // of this object with an empty crc32c: a flipped digit must not change the size
}

func (m meta) marshal() ([]byte, error) {
	m.Check = ""
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	m.Check = fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli))
	return json.Marshal(m)
}

var errBadMeta = errors.New("not a cache entry's meta.json, or damaged")

func parseMeta(b []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, fmt.Errorf("%w: %w", errBadMeta, err)
	}
	again, err := m.marshal()
	if err != nil {
		return meta{}, fmt.Errorf("%w: %w", errBadMeta, err)
	}
	var want meta
	if err := json.Unmarshal(again, &want); err != nil || want.Check != m.Check {
		return meta{}, errBadMeta
	}
	if m.Version != formatVersion || m.Size < -1 || m.Size > maxSize {
		return meta{}, errBadMeta
	}
	return m, nil
}

func readMeta(dir string) (meta, error) {
	b, err := readSmall(filepath.Join(dir, "meta.json"), maxMeta)
	if err != nil {
		return meta{}, err
	}
	return parseMeta(b)
}

func (m meta) write(dir string) error {
	b, err := m.marshal()
	if err != nil {
		return err
	}
	return writeAtomic(dir, "meta.json", b, false)
}

func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, limit)
	}
	return b, nil
}

// writeAtomic replaces a file of an entry. Killed in between it leaves a file tmp-*, which the next sole opener of the entry removes.
// Without sync a power failure may leave the file empty.
func writeAtomic(dir, name string, data []byte, sync bool) error {
	t, err := os.CreateTemp(dir, "tmp-*")
	if err != nil {
		return err
	}
	_, err = t.Write(data)
	if err == nil && sync {
		err = t.Sync()
	}
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(t.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(t.Name())
	}
	return err
}
