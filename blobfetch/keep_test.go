package blobfetch

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// documents is a Keeper in memory.
type documents struct {
	mu    sync.Mutex
	named map[string][]byte
}

func newDocuments() *documents { return &documents{named: map[string][]byte{}} }

func (d *documents) Get(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b, ok := d.named[name]; ok {
		return append([]byte(nil), b...), nil
	}
	return nil, fs.ErrNotExist
}

func (d *documents) Put(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.named[name] = append([]byte(nil), data...)
	return nil
}

// damage flips a bit in the middle of each document whose name begins with prefix, and counts them.
func (d *documents) damage(prefix string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, b := range d.named {
		if strings.HasPrefix(name, prefix) {
			b[len(b)/2] ^= 1
			n++
		}
	}
	return n
}

// scratches makes Scratch files in memory, of at most room bytes each, and counts them.
type scratches struct {
	room       int64
	refuse     bool // make fails
	unreadable bool // ReadAt fails
	made, open atomic.Int64
}

type scratchFile struct {
	of *scratches
	mu sync.Mutex
	b  []byte
}

var errScratch = errors.New("injected fault of a scratch file")

func (s *scratches) make() (Scratch, error) {
	if s.refuse {
		return nil, errScratch
	}
	s.made.Add(1)
	s.open.Add(1)
	return &scratchFile{of: s}, nil
}

func (f *scratchFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of.unreadable {
		return 0, errScratch
	}
	if off > int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *scratchFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := off + int64(len(p))
	if end > f.of.room {
		return 0, errScratch
	}
	if end > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, end-int64(len(f.b)))...)
	}
	return copy(f.b[off:], p), nil
}

func (f *scratchFile) Close() error {
	f.of.open.Add(-1)
	return nil
}

func TestNamesOfKeptDocuments(t *testing.T) {
	kept := newDocuments()
	k := keep{kept}
	b := noise(1, 100)
	if err := k.putDocument(digestOf(b), b); err != nil {
		t.Fatal(err)
	}
	if err := k.putAnswer(answer{Question: "docker://host.io/a:1", Digest: digestOf(b).String()}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"document-sha256-" + digestOf(b).Hex, "answer-" + digestOf([]byte("docker://host.io/a:1")).Hex} {
		if _, err := kept.Get(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantBytes(t, k.document(digestOf(b)), b)
	if a, found := k.answer("docker://host.io/a:1"); !found || a.Digest != digestOf(b).String() {
		t.Errorf("answer is %+v, %v", a, found)
	}
}

func TestKeptDocumentsAreCheckedAgainstTheirNames(t *testing.T) {
	kept := newDocuments()
	k := keep{kept}
	b, other := noise(1, 100), noise(2, 100)
	for name, data := range map[string][]byte{"another": other, "cut": b[:99], "longer": append(b[:100:100], 0), "empty": nil, "huge": make([]byte, maxDocument+1)} {
		if err := kept.Put(documentName(digestOf(b)), data); err != nil {
			t.Fatal(err)
		}
		if got := k.document(digestOf(b)); got != nil {
			t.Errorf("%s: %d bytes were taken for the document", name, len(got))
		}
	}
	if got := k.document(v1.Hash{Algorithm: "md5", Hex: "00"}); got != nil {
		t.Errorf("%d bytes were taken for a digest of an unknown algorithm", len(got))
	}
}

func TestKeptAnswersAreCheckedFieldByField(t *testing.T) {
	const question = "docker://host.io/a:1"
	good := answer{Question: question, Digest: "sha256:" + digestOf(nil).Hex, Size: 7, ETag: `"v1"`}
	for name, tc := range map[string]struct {
		change func(*answer)
		taken  bool
	}{
		"as it is":             {func(*answer) {}, true},
		"no digest":            {func(a *answer) { a.Digest = "" }, true},
		"the largest size":     {func(a *answer) { a.Size = maxBlob }, true},
		"of another question":  {func(a *answer) { a.Question += "x" }, false},
		"negative size":        {func(a *answer) { a.Size = -1 }, false},
		"size out of bounds":   {func(a *answer) { a.Size = maxBlob + 1 }, false},
		"malformed digest":     {func(a *answer) { a.Digest = "sha256:../../etc/passwd" }, false},
		"digest of no use":     {func(a *answer) { a.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }, false},
		"digest of one letter": {func(a *answer) { a.Digest = "sha256:a" }, false},
		"weak ETag":            {func(a *answer) { a.ETag = `W/"v1"` }, false},
		"long ETag":            {func(a *answer) { a.ETag = strings.Repeat("x", 1025) }, false},
		"longer than it may":   {func(a *answer) { a.Host = strings.Repeat("x", maxAnswer) }, false},
	} {
		a := good
		tc.change(&a)
		raw, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		kept := newDocuments()
		if err := kept.Put(answerName(question), raw); err != nil {
			t.Fatal(err)
		}
		if got, found := (keep{kept}).answer(question); found != tc.taken || found && got != a {
			t.Errorf("%s: taken is %v, want %v", name, found, tc.taken)
		}
	}
	kept := newDocuments()
	if err := kept.Put(answerName(question), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if a, found := (keep{kept}).answer(question); found || a != (answer{}) {
		t.Errorf("took %+v from torn JSON", a)
	}
}

// TestPinnedFileOfADeadServer: with a digest given, what was kept of a file's server opens it; a file
// without one may have changed.
func TestPinnedFileOfADeadServer(t *testing.T) {
	data := noise(3, 1000)
	s := serve(t, data, nil)
	ref := s.URL + "/disk.raw"
	pinned := ref + "#" + digestOf(data).String()
	kept := newDocuments()
	for _, r := range []string{ref, pinned} {
		open(t, newClient(t, Config{Keep: kept}), r, Select{})
	}
	s.CloseClientConnections()
	s.Close()
	c := newClient(t, Config{Keep: kept})
	var fake fakeTime
	c.clock = fake.clock()
	b, d, _ := open(t, c, pinned, Select{})
	if b.Size() != 1000 || d.Digest != digestOf(data).String() {
		t.Errorf("%d bytes of %s", b.Size(), d.Digest)
	}
	fake.advance(time.Minute)
	_, err := c.Resolve(t.Context(), ref, Select{})
	wantKind(t, err, ErrNetwork)
	fake.advance(time.Minute)
	_, err = c.Resolve(t.Context(), s.URL+"/other.raw#"+digestOf(data).String(), Select{})
	wantKind(t, err, ErrNetwork)
}
