package cache

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func FuzzMeta(f *testing.F) {
	m := meta{Version: formatVersion, Key: "sha256:00", Name: "docker://x/y:1", Size: 12345}
	m.Created = time.Unix(1e9, 0).UTC()
	good, err := m.marshal("id")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("12345"), []byte("12346"), 1))
	f.Add([]byte(`{"version":1,"size":-2}`))
	f.Add([]byte(`{"version":1,"size":99999999999999999999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b, "id")
		if err != nil {
			return
		}
		if m.Size < -1 || m.Size > maxSize || m.Version != formatVersion {
			t.Fatalf("accepted %+v", m)
		}
		if _, err := m.marshal("id"); err != nil {
			t.Fatal(err)
		}
	})
}

// No byte of meta.json can be changed, and no end be cut off, so that another size is believed.
func TestMetaFlips(t *testing.T) {
	m := meta{Version: formatVersion, Key: "k", Name: "n", Size: 12345, Created: time.Unix(1e9, 0).UTC()}
	good, err := m.marshal("id")
	if err != nil {
		t.Fatal(err)
	}
	m.Check = string(good[len(good)-10 : len(good)-2])
	if got, err := parseMeta(good, "id"); err != nil || got != m {
		t.Fatal(got, err)
	}
	if got, err := parseMeta(good, "other"); err == nil {
		t.Errorf("another entry's was taken: %+v", got)
	}
	for i := range good {
		if got, err := parseMeta(good[:i], "id"); err == nil {
			t.Errorf("cut off at %d: %+v", i, got)
		}
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if got, err := parseMeta(bad, "id"); err == nil && got.Size != m.Size {
				t.Errorf("bit %d of byte %d flipped: %+v", bit, i, got)
			}
		}
	}
}

// An entry whose files hold anything at all serves the source's bytes.
func FuzzEntry(f *testing.F) {
	var image []byte
	for i := range 5*pageSize + 100 {
		image = append(image, byte(i*i>>8))
	}
	clear(image[2*pageSize : 3*pageSize])
	words := make([]byte, 24)
	f.Add([]byte(nil), []byte(nil), []byte(nil), []byte(nil), []byte(nil))
	f.Add(image, words, make([]byte, 96), []byte("{}"), make([]byte, epochBytes))
	f.Add(image[:100], bytes.Repeat([]byte{0x89, 0x41, 0xf9, 0x98}, 6), []byte("x"), []byte(nil), []byte("short"))
	f.Fuzz(func(t *testing.T, data, table, edges, metaJSON, epoch []byte) {
		c, err := Open(Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		e, err := c.Entry("k", "k")
		if err != nil {
			t.Fatal(err)
		}
		e.Close()
		files := map[string][]byte{"data": data, "table": table, "edges": edges, "meta.json": metaJSON, "epoch": epoch}
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(e.dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.List(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Verify(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		if e, err = c.Entry("k", "k"); err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		file, err := e.File(evenSpans(image, 5000))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range [][2]int{{5000, 10}, {4990, 20}, {0, len(image)}} {
			p := make([]byte, r[1])
			if err := file.ReadAt(context.Background(), p, int64(r[0])); err != nil || !bytes.Equal(p, image[r[0]:r[0]+r[1]]) {
				t.Fatalf("read %v: %v or wrong bytes", r, err)
			}
		}
		settle(t, file)
		if !file.Complete() {
			t.Fatal("not complete after all was read")
		}
	})
}

// No bytes but those that seal made for a place are taken for a document of it.
func FuzzUnseal(f *testing.F) {
	good := append(seal("entry/rec-a", []byte("content")), "content"...)
	f.Add("entry/rec-a", good)
	f.Add("entry/rec-b", good)
	f.Add("entry/rec-a", good[:sealBytes])
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, place string, b []byte) {
		content, ok := unseal(place, b)
		if ok && !bytes.Equal(b, append(seal(place, content), content...)) {
			t.Fatalf("%q was taken for a document of %q", b, place)
		}
		sealed := append(seal(place, b), b...)
		if got, ok := unseal(place, sealed); !ok || !bytes.Equal(got, b) {
			t.Fatalf("%q is not read back", b)
		}
		if _, ok := unseal(place+"x", sealed); ok {
			t.Fatal("a document of another place was taken")
		}
	})
}

// No bytes but a balance's are taken for one, and none that is negative.
func FuzzBalance(f *testing.F) {
	f.Add(balance{5, 3}.marshal())
	f.Add(balance{-5, 3}.marshal())
	f.Add(make([]byte, ledgerBytes))
	f.Fuzz(func(t *testing.T, p []byte) {
		if b, ok := parseBalance(p); ok && (!bytes.Equal(b.marshal(), p) || b.used < 0 || b.sinceCount < 0) {
			t.Fatalf("%x was taken for %+v", p, b)
		}
	})
}
