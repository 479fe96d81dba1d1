package blobfetch

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestReferences(t *testing.T) {
	files := map[string]bool{"here.raw": true, "/srv/a:b": true, "/srv/l": true}
	for _, tc := range []struct {
		in, out string // out: its full form, or
		words   string // in the error
	}{
		{in: "docker://quay.io/podman/machine-os:5.3", out: "docker://quay.io/podman/machine-os:5.3"},
		{in: "quay.io/podman/machine-os", out: "docker://quay.io/podman/machine-os"},
		{in: "localhost:5000/a/b:T_1.x-y", out: "docker://localhost:5000/a/b:T_1.x-y"},
		{in: "localhost/a", out: "docker://localhost/a"},
		{in: "[::1]:5000/a:1", out: "docker://[::1]:5000/a:1"},
		{in: "docker.io/alpine:1", out: "docker://index.docker.io/library/alpine:1"},
		{in: "quay.io/a@" + someDigest, out: "docker://quay.io/a@" + someDigest},
		{in: "quay.io/a:t@" + someDigest, out: "docker://quay.io/a:t@" + someDigest},
		{in: "docker://", out: "docker://"},
		{in: "oci-dir:///srv/l", out: "oci-dir:///srv/l"},
		{in: "oci-dir:///srv/l:5.6", out: "oci-dir:///srv/l:5.6"},
		{in: "oci-dir:///srv/l:quay.io/a/b:5.6", out: "oci-dir:///srv/l:quay.io/a/b:5.6"},
		{in: "oci:/srv/a:b", out: "oci-dir:///srv/a:b"},
		{in: "oci:/srv/a:b:c", out: "oci-dir:///srv/a:b:c"},
		{in: "oci:/new/l:t@" + someDigest, out: "oci-dir:///new/l:t@" + someDigest},
		{in: "oci-archive:/srv/x.tar", out: "oci-archive:/srv/x.tar"},
		{in: "https://host/a%20b.raw?sig=secret", out: "https://host/a%20b.raw?…"},
		{in: "https://ann:pw@host/a#" + someDigest, out: "https://host/a#" + someDigest},
		{in: "/abs/file.raw", out: "/abs/file.raw"},
		{in: "file:///abs/file.raw", out: "/abs/file.raw"},
		{in: "here.raw", out: "FILE"},
		{in: "./docker:5", out: "FILE"},
		{in: "", words: "empty"},
		{in: "alpine", words: "use a fully-qualified name"},
		{in: "podman/machine-os:5.3", words: "use a fully-qualified name"},
		{in: "docker:5", words: "use a fully-qualified name"},
		{in: "docker://alpine:3", words: "use a fully-qualified name"},
		{in: "quay.io/", words: "malformed repository"},
		{in: "quay.io/../../etc", words: "malformed repository"},
		{in: "quay.io/A", words: "lower-case"},
		{in: "quay.io/a:", words: "malformed tag"},
		{in: "quay.io/a:.t", words: "malformed tag"},
		{in: "quay.io/a:" + strings.Repeat("t", 129), words: "malformed tag"},
		{in: "quay.io/a@sha256:12", words: "malformed digest"},
		{in: "quay.io/a@sha384:" + strings.Repeat("a", 96), words: "malformed digest"},
		{in: "user:pw@quay.io/a", words: "malformed"},
		{in: "ftp://host/x", words: "unknown transport"},
		{in: "https:///x", words: "names no host"},
		{in: "https://host/x#sha256:zz", words: "malformed digest"},
		{in: "oci-dir://", words: "names no path"},
		{in: "file://", words: "names no path"},
		{in: "a\x00b", words: "zero byte"},
		{in: "https://ann:s3cret@ho st/", words: "parse reference"},
		{in: "docker://ann:s3cret@quay.io/a", words: "malformed"},
		{in: "ftp://ann:s3cret@host/x?key=s3cret", words: "ftp"},
		{in: "quay.io/" + strings.Repeat("a", maxReference), words: "bytes long"},
	} {
		ref, err := parseReference(tc.in, func(p string) bool { return files[p] })
		switch {
		case tc.words != "":
			wantKind(t, err, ErrReference, tc.words)
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("a password is shown: %v", err)
			}
		case err != nil:
			t.Errorf("%q: %v", tc.in, err)
		case tc.out == "FILE":
			if ref.Transport != File {
				t.Errorf("%q is %v", tc.in, ref)
			}
		case ref.String() != tc.out:
			t.Errorf("%q is %q, want %q", tc.in, ref, tc.out)
		}
	}
}

func TestDefaultImage(t *testing.T) {
	dir := home(t)
	bin := filepath.Join(dir, "bin")
	t.Setenv("PATH", bin)
	is := func(cfg Config, want string) {
		t.Helper()
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := c.defaultImage(t.Context())
		if err != nil || ref.String() != want {
			t.Errorf("default is %q (%v), want %q", ref, err, want)
		}
	}
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	is(Config{}, "docker://quay.io/podman/machine-os:"+defaultTag)
	put(filepath.Join(bin, "podman"), "#!/bin/sh\necho podman version 5.3.1-dev\n", 0o700)
	is(Config{}, "docker://quay.io/podman/machine-os:5.3")
	is(Config{DefaultImage: "reg.corp:5000/os"}, "docker://reg.corp:5000/os:5.3")
	is(Config{DefaultImage: "reg.corp:5000/os:7"}, "docker://reg.corp:5000/os:7")

	put(filepath.Join(dir, "containers/containers.conf"), "[engine]\nimage = \"not/this\"\n[machine] # here\ncpus = 2\n  image = \"docker://reg.corp/\\u006fs:9\" # ours\n", 0o600)
	is(Config{}, "docker://reg.corp/os:9")
	put(filepath.Join(dir, "containers/containers.conf.d/10.conf"), "[machine]\nimage='reg.corp/later'\n", 0o600)
	is(Config{}, "docker://reg.corp/later:5.3")
	put(filepath.Join(dir, "over.conf"), "[machine]\nimage = \"/srv/x.raw\"\n", 0o600)
	t.Setenv("CONTAINERS_CONF_OVERRIDE", filepath.Join(dir, "over.conf"))
	is(Config{}, "/srv/x.raw")

	c, err := New(Config{DefaultImage: "docker://"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Resolve(context.Background(), "docker://", Select{})
	wantKind(t, err, ErrReference, "means itself")
}

func TestContentRange(t *testing.T) {
	for in, want := range map[string][3]int64{
		"bytes 0-0/1": {0, 1, 1}, "bytes 5-9/*": {5, 10, -1}, "bytes 0-9/10": {0, 10, 10},
	} {
		a, b, n, ok := parseContentRange(in)
		if !ok || [3]int64{a, b, n} != want {
			t.Errorf("%q is %d %d %d %v", in, a, b, n, ok)
		}
	}
	for _, in := range []string{"", "bytes", "bytes */10", "bytes 1-0/10", "bytes 0-10/10", "bytes -1-3/9", "bytes 0-3", "items 0-3/9", "bytes 0-3/-9", "bytes +0-3/9", "bytes 0-99999999999999999999/*", "bytes 0-3/9 "} {
		if a, b, n, ok := parseContentRange(in); ok {
			t.Errorf("%q is %d %d %d", in, a, b, n)
		}
	}
}

func TestRetryAfterForms(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "0": 0, "-1": 0, "soon": 0, "99999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}

// manifests are what skopeo wrote: see testdata/make.sh.
func manifests(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d manifests in testdata: %v", len(paths), err)
	}
	out := map[string][]byte{}
	for _, p := range paths {
		if out[filepath.Base(p)], err = os.ReadFile(p); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// understand puts a document through all rules; whatever it holds, the outcome is disks that can be
// named or an error with a kind.
func understand(t testing.TB, raw []byte, hint string) {
	doc, err := parseDocument(raw, hint)
	if err == nil && doc.index != nil {
		entries := variants(doc.index)
		_, err = pickVariants(entries, Select{})
		if _, nerr := named(doc.index, "t"); nerr != nil && Kind(nerr) == nil {
			t.Fatalf("%v has no kind", nerr)
		}
	} else if err == nil {
		var ds []Disk
		if ds, _, err = disksOf(doc, someDigest, Variant{}); err == nil {
			im := &Image{Disks: ds}
			_, err = im.Choose(Select{})
			for _, d := range ds {
				if d.Size < 0 || d.Size > maxBlob || d.Name == "" || d.Key == "" {
					t.Fatalf("disk is %+v", d)
				}
				if _, err := parseDigest(d.Digest); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err != nil && Kind(err) == nil {
		t.Fatalf("%v has no kind", err)
	}
}

func TestCutAndFlippedManifests(t *testing.T) {
	for name, raw := range manifests(t) {
		if _, err := parseDocument(raw, ""); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range raw {
			if doc, err := parseDocument(raw[:i], ""); err == nil && len(bytes.TrimSpace(raw[i:])) > 0 {
				t.Fatalf("%s cut to %d bytes is %+v", name, i, doc)
			}
			bad := append([]byte(nil), raw...)
			bad[i] ^= 1 << (i % 8)
			understand(t, bad, "")
		}
	}
}

func TestHostileManifests(t *testing.T) {
	for name, tc := range map[string]struct{ raw, words string }{
		"index and manifest": {`{"schemaVersion":2,"manifests":[],"layers":[]}`, "at once"},
		"schema 1":           {`{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		"no version":         {`{}`, "schemaVersion is 0"},
		"negative size":      {`{"schemaVersion":2,"layers":[{"size":-1,"digest":"` + someDigest + `"}]}`, "size is -1"},
		"huge size":          {`{"schemaVersion":2,"layers":[{"size":9000000000000000000,"digest":"` + someDigest + `"}]}`, "2^50"},
		"no digest":          {`{"schemaVersion":2,"layers":[{"size":1}]}`, "no digest"},
		"a path for digest":  {`{"schemaVersion":2,"layers":[{"size":1,"digest":"sha256:../../x"}]}`, "malformed"},
		"too many":           {`{"schemaVersion":2,"layers":[` + strings.Repeat(`{"size":1,"digest":"`+someDigest+`"},`, maxEntries) + `{"size":1,"digest":"` + someDigest + `"}]}`, "at most 4096"},
		"index by type":      {`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}`, "lists no manifests"},
		"manifest by type":   {`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`, "holds manifests"},
		"a web page":         {`<html>`, "malformed manifest"},
	} {
		_, err := parseDocument([]byte(tc.raw), "")
		if err == nil {
			t.Errorf("%s is taken", name)
			continue
		}
		wantKind(t, err, ErrNotImage, tc.words)
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"docker://quay.io/a/b:5@" + someDigest, "oci:/x/y:z", "oci-archive:/a.tar", "https://u:p@h/a?b#c", "./x", "localhost:5000/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		never := func(string) bool { return false }
		ref, err := parseReference(s, never)
		if err != nil {
			if Kind(err) != ErrReference {
				t.Fatalf("%v", err)
			}
			return
		}
		switch ref.Transport {
		case Registry:
			again, err := parseReference(ref.String(), never)
			if err != nil || again.String() != ref.String() {
				t.Fatalf("%q is %q, which is %q (%v)", s, ref, again, err)
			}
			if strings.Contains(ref.Repo.RepositoryStr(), "..") {
				t.Fatalf("%q gives the repository %q", s, ref.Repo.RepositoryStr())
			}
		case Web:
			if ref.URL.Host == "" || ref.URL.Scheme != "http" && ref.URL.Scheme != "https" {
				t.Fatalf("%q is %v", s, ref.URL)
			}
		case Layout, Archive, File:
			if ref.Path == "" {
				t.Fatalf("%q has no path", s)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	for _, raw := range manifests(f) {
		f.Add(raw, "")
		f.Add(raw, "application/vnd.docker.distribution.manifest.v2+json")
	}
	f.Fuzz(func(t *testing.T, raw []byte, hint string) { understand(t, raw, hint) })
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-5/*")
	f.Fuzz(func(t *testing.T, s string) {
		if a, b, n, ok := parseContentRange(s); ok && (a < 0 || b <= a || n >= 0 && b > n) {
			t.Fatalf("%q is %d %d %d", s, a, b, n)
		}
	})
}

func FuzzArchive(f *testing.F) {
	l := newLayout(f)
	l.top(l.artifact("", l.blob([]byte("disk"), "application/zstd", nil)))
	path := filepath.Join(f.TempDir(), "a.tar")
	for _, format := range []string{"gnu", "pax", "v7"} {
		run(f, "tar", "tar", "--format="+format, "-cf", path, "-C", l.path, ".")
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.TrimRight(b, "\x00"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := tarMembers(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if Kind(err) == nil {
				t.Fatal(err)
			}
			return
		}
		for name, m := range members {
			if m.start < 0 || m.size < 0 || m.start+m.size > int64(len(b)) {
				t.Fatalf("member %q is %v of %d bytes", name, m, len(b))
			}
		}
	})
}
