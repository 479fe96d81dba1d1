package blobfetch

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The steps of a pull, a push and a look at a URL, at which a server may repeat what it was sent.
const (
	stepHandshake = iota
	stepToken
	stepManifest
	stepBlob
	stepStore
	stepUpload
	stepURL
	steps
)

const secretWord = "hunter2" // part of every secret

// echo is a registry with tokens, whose blobs lie in a store with signed addresses. At one step it
// gives another answer, in which byte 0 stands for all that it was sent.
type echo struct {
	*httptest.Server
	blob []byte
	raw  string
	step int
}

func newEcho(t testing.TB) *echo {
	e := &echo{blob: noise(5, 5000)}
	e.Server = httptest.NewUnstartedServer(e)
	e.Config.ErrorLog = log.New(io.Discard, "", 0)
	e.Start()
	t.Cleanup(e.Close)
	return e
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	step := stepHandshake
	switch path := r.URL.Path; {
	case path == "/token":
		step = stepToken
	case strings.Contains(path, "/uploads"):
		step = stepUpload
	case strings.Contains(path, "/manifests/"):
		step = stepManifest
	case strings.Contains(path, "/blobs/"):
		step = stepBlob
	case path == "/store":
		step = stepStore
	case path == "/disk.raw":
		step = stepURL
	}
	if step == e.step {
		e.repeat(w, r)
		return
	}
	switch {
	case step == stepHandshake, strings.HasPrefix(r.URL.Path, "/v2/") && !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token?key=%s-key",service="%[2]s-service"`, e.URL, secretWord))
		w.WriteHeader(http.StatusUnauthorized)
	case step == stepToken:
		fmt.Fprintf(w, `{"token":"%s-token"}`, secretWord)
	case step == stepUpload:
		w.WriteHeader(http.StatusForbidden)
	case step == stepManifest:
		raw, _ := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIEmptyJSON, Size: 2, Digest: hashOf("{}")},
			Layers: []v1.Descriptor{{MediaType: "application/zstd", Size: int64(len(e.blob)), Digest: digestOf(e.blob)}}})
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		w.Write(raw)
	case step == stepBlob:
		http.Redirect(w, r, e.URL+"/store?sig="+secretWord+"-sig", http.StatusTemporaryRedirect)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(e.blob))
	}
}

// repeat writes the raw answer, and ends the connection.
func (e *echo) repeat(w http.ResponseWriter, r *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sent := r.URL.RequestURI() + " " + r.Header.Get("Authorization") + " " + secretWord
	io.WriteString(conn, strings.ReplaceAll(e.raw, "\x00", strings.NewReplacer("\r", "", "\n", "").Replace(sent)))
}

// shown returns everything that is said about a pull, a push and a look at a URL.
func (e *echo) shown(t testing.TB, raw string, step int) string {
	e.raw, e.step = raw, step
	said := &logLines{}
	host := strings.TrimPrefix(e.URL, "http://")
	c, err := New(Config{
		Creds: "ann:" + secretWord + "-password", CredsFor: []string{"docker://" + host + "/a/b"}, StallTimeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var fake fakeTime
	c.clock = fake.clock()
	c.idle = time.Second
	web := url.URL{Scheme: "http", Host: host, Path: "/disk.raw", User: url.UserPassword("bob", secretWord+"-web"), RawQuery: "signature=" + secretWord}
	refs := []string{"docker://" + host + "/a/b:1", web.String()}
	if step == stepURL {
		refs = refs[1:]
	} else if step != stepStore && step != stepBlob {
		refs = refs[:1]
	}
	for _, ref := range refs {
		e.pull(t, c, ref, said)
	}
	if step <= stepManifest || step == stepUpload {
		file := t.TempDir() + "/artifact"
		writeFile(t, file, []byte("x"))
		_, err := c.Push(t.Context(), "docker://"+host+"/a/b", Artifact{File: file, Type: "application/x", Tag: "t"})
		fmt.Fprintln(said, err)
	}
	return said.String()
}

func (e *echo) pull(t testing.TB, c *Client, ref string, said io.Writer) {
	im, err := c.Resolve(t.Context(), ref, Select{})
	if err != nil {
		fmt.Fprintln(said, err)
		return
	}
	d, err := im.Choose(Select{})
	if err != nil {
		return // names what the image holds, which may be anything
	}
	b, err := c.Open(t.Context(), d)
	if err != nil {
		fmt.Fprintln(said, err)
		return
	}
	defer b.Close()
	err = b.ReadAt(t.Context(), make([]byte, min(1000, b.Size())), 0)
	fmt.Fprintln(said, err, b.Name())
}

// secretForms are how a secret looks in a text: as it is, and in the header of Basic.
func secretForms() []string {
	forms := []string{secretWord}
	for _, s := range []string{"ann:" + secretWord + "-password", "bob:" + secretWord + "-web"} {
		forms = append(forms, base64.StdEncoding.EncodeToString([]byte(s)))
	}
	return forms
}

// FuzzNoSecretIsShown has a server repeat what it was sent, in every part of its answers. None of it
// may be in an error, or in the log at its most talkative. Its seeds are all statuses and headers that
// are treated in some way.
func FuzzNoSecretIsShown(f *testing.F) {
	home(f)
	statuses := []string{"200 OK", "206 Partial Content", "301 Moved", "307 Temporary Redirect", "400 \x00", "401 Unauthorized", "403 Forbidden",
		"404 Not Found", "407 Proxy", "416 Range", "429 Many", "500 \x00", "503 Away", "511 Portal", "\x00", "99 \x00", "777 What"}
	headers := []string{
		"X-Echo: \x00", "Location: \x00", "Location: http://localhost:1/\x00", "Location: http://ann:\x00@127.0.0.1:1/x?y=z", "Location: http://[\x00",
		"Location: ftp://h/\x00", "WWW-Authenticate: \x00", "WWW-Authenticate: Bearer realm=\"\x00\"", "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/\x00\"",
		"WWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/?a=b\",service=\"\x00\",scope=\"\x00\"", "WWW-Authenticate: Basic realm=\"\x00\"",
		"Content-Range: bytes 0-\x00/5000", "Content-Range: \x00", "Content-Type: text/html; x=\x00", "Content-Type: \x00", "ETag: \"\x00\"", "Last-Modified: \x00",
		"Retry-After: \x00", "Content-Length: \x00", "Transfer-Encoding: \x00", "Docker-Content-Digest: sha256:\x00", "Docker-Upload-Location: \x00", "\x00", "Date: \x00",
		"Content-Encoding: \x00", "Content-Length: 5\r\nConnection: keep-alive\r\n\r\n12345HTTP/1.1 400 \x00\r\nX: \x00",
	}
	bodies := []string{"", "\x00", `{"errors":[{"code":"\x00","message":"` + "\x00" + `"}]}`, `{"errors":[{"code":"` + "\x00" + `"}]}`, "<html>\x00</html>",
		`{"token":1,"data":"` + "\x00" + `"}`, `{"schemaVersion":2,"mediaType":"` + "\x00" + `","manifests":[]}`,
		`{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[{"digest":"` + "\x00" + `"}]}`,
		`{"schemaVersion":2,"layers":[{"mediaType":"` + "\x00" + `","size":5000,"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`}
	n := 0
	for step := range steps {
		for i := range max(len(statuses), len(headers)) { // each status, header and body at each step, in some company
			raw := "HTTP/1.1 " + statuses[i%len(statuses)] + "\r\n" + headers[(i+step)%len(headers)] + "\r\nConnection: close\r\n\r\n" + bodies[n%len(bodies)]
			f.Add(raw, uint8(step))
			n++
		}
		for _, code := range []string{"401 U", "307 R"} {
			for _, h := range headers[1:11] {
				f.Add("HTTP/1.1 "+code+"\r\n"+h+"\r\n\r\n", uint8(step))
			}
		}
		for _, b := range bodies {
			f.Add("HTTP/1.1 200 OK\r\n\r\n"+b, uint8(step))
		}
	}
	f.Add("\x00", uint8(stepBlob))
	f.Add("HTTP/1.1 \x00", uint8(stepManifest))
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x00\r\n", uint8(stepManifest))
	e := newEcho(f)
	f.Fuzz(func(t *testing.T, raw string, step uint8) {
		said := e.shown(t, raw, int(step)%steps)
		if said == "" {
			t.Error("nothing was said at all")
		}
		for _, form := range secretForms() {
			if i := strings.Index(said, form); i >= 0 {
				t.Errorf("a secret is shown at step %d: …%s… for the answer %q", step, said[max(0, i-200):min(len(said), i+100)], raw)
				return
			}
		}
	})
}
