package cache

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	recordPrefix = "rec-"
	maxRecord    = 256 << 20

	// smallRecord bytes and less are stored even in a full cache: a record saves fetching many
	// times its size, and is evicted with its entry.
	smallRecord = 1 << 20
)

// A sealed document is 8 bytes of magic, the SHA-256 of its place and its content, and the content.
// The place is the names of the folder and of the document, so that a copy of another document is
// not believed.
const (
	sealMagic = "mfsealed"
	sealBytes = len(sealMagic) + sha256.Size
)

func seal(place string, content []byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "machinefs cache %d\n%d %s\n", formatVersion, len(place), place)
	h.Write(content)
	return h.Sum([]byte(sealMagic))
}

// unseal returns the content of a sealed document; false if it is damaged or belongs elsewhere.
func unseal(place string, b []byte) ([]byte, bool) {
	if len(b) < sealBytes || !bytes.Equal(b[:sealBytes], seal(place, b[sealBytes:])) {
		return nil, false
	}
	return b[sealBytes:], true
}

// readSealed returns the content of the document NAME in a folder. One that is missing, damaged or
// copied from elsewhere is fs.ErrNotExist.
func readSealed(dir, name string, limit int64) ([]byte, error) {
	b, err := readSmall(filepath.Join(dir, name), limit+int64(sealBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	content, ok := unseal(filepath.Base(dir)+"/"+name, b)
	if !ok {
		return nil, fmt.Errorf("damaged, %d bytes: %w", len(b), fs.ErrNotExist)
	}
	return content, nil
}

// writeSealed stores the document NAME in a folder: wholly or not at all.
func (c *Cache) writeSealed(dir, name string, content []byte, sync bool) error {
	n := pageCeil(int64(sealBytes + len(content)))
	if n <= smallRecord {
		c.ledger.note(n)
	} else if err := c.ledger.take(n); err != nil {
		return err
	}
	old := diskBytes(filepath.Join(dir, name))
	err := replaceFile(dir, name, sync, seal(filepath.Base(dir)+"/"+name, content), content)
	if err != nil {
		old = n
	}
	c.ledger.give(old)
	return err
}

// fileName turns any name into one that can be a file's.
func fileName(prefix, name string) string {
	const plain = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	if name == "" || len(name) > 100 || strings.Trim(name, plain) != "" || strings.HasSuffix(name, ".tmp") {
		name = fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	}
	return prefix + name
}

// RecordPath is where the record with a name lies, or would lie: for records that are appended to,
// which Record does not read. The file is evicted with the entry, and after a power failure may be
// old, cut off or empty, so it has to carry its own checks. Temporary files beside it that are
// named like it with .*.tmp appended are swept when nobody has the entry open.
func (e *Entry) RecordPath(name string) string {
	return filepath.Join(e.dir, fileName(recordPrefix, name))
}

// Record returns the bytes that SetRecord stored under a name. A record that is missing, or differs
// in any bit from the one stored under this name in this entry, is fs.ErrNotExist.
func (e *Entry) Record(name string) ([]byte, error) {
	b, err := readSealed(e.dir, fileName(recordPrefix, name), maxRecord)
	if err != nil {
		return nil, fmt.Errorf("read record %s of %s: %w", name, e.name, err)
	}
	return b, nil
}

// SetRecord stores a record of at most 256 MiB: wholly or not at all, and so that a power failure
// does not tear it. It fails with ErrFull if there is no room.
func (e *Entry) SetRecord(name string, data []byte) error {
	if len(data) > maxRecord {
		return fmt.Errorf("write record %s of %s: %d bytes, want at most %d", name, e.name, len(data), maxRecord)
	}
	if err := e.cache.writeSealed(e.dir, fileName(recordPrefix, name), data, true); err != nil {
		return fmt.Errorf("write record %s of %s: %w", name, e.name, err)
	}
	return nil
}

// RemoveRecord removes a record, also one that was appended to at RecordPath. It is no error if
// there is none.
func (e *Entry) RemoveRecord(name string) error {
	path := e.RecordPath(name)
	freed := diskBytes(path)
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove record %s of %s: %w", name, e.name, err)
	}
	e.cache.ledger.give(freed)
	return nil
}
