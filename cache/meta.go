package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"time"
)

const (
	formatVersion = 2
	maxMeta       = 1 << 16
)

// meta is meta.json. It is needed for listings and for a size that only a walk could tell;
// everything else works without it.
type meta struct {
	Version int       `json:"version"`
	Key     string    `json:"key"`
	Name    string    `json:"name"`
	Size    int64     `json:"size"` // -1: not known yet
	Created time.Time `json:"created"`
	Check   string    `json:"crc32c"` // of the ID and of this object with an empty crc32c
}

// marshal makes the meta.json of the entry with an ID: another entry's is not believed.
func (m meta) marshal(id string) ([]byte, error) {
	m.Check = ""
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	m.Check = fmt.Sprintf("%08x", crc32.Update(crc32.Checksum([]byte(id), castagnoli), castagnoli, b))
	return json.Marshal(m)
}

var errBadMeta = errors.New("not a cache entry's meta.json, or damaged")

func parseMeta(b []byte, id string) (meta, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, fmt.Errorf("%w: %w", errBadMeta, err)
	}
	again, err := m.marshal(id)
	if err != nil {
		return meta{}, fmt.Errorf("%w: %w", errBadMeta, err)
	}
	if !bytes.Equal(again, b) {
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
	return parseMeta(b, filepath.Base(dir))
}

func (m meta) write(dir string) error {
	b, err := m.marshal(filepath.Base(dir))
	if err != nil {
		return err
	}
	return replaceFile(dir, "meta.json", false, b)
}
