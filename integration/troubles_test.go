package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A trouble is what befalls a front for a while: a fault of the registry of faults, or the gate.
type trouble struct {
	name     string
	form     frontForm
	harmless bool                                      // it never shows, however long it lasts
	anywhere bool                                      // it befalls all requests, a first look-up's too
	begin    func(f *front) (end func())               // the trouble itself
	setup    func(t testing.TB, home string, f *front) // of the program's home; may be nil
}

// injected lets faults happen at a server until the end.
func injected(at func(f *front) *rangeServer, faults ...func(f *front) *fault) func(f *front) func() {
	return func(f *front) func() {
		s := at(f)
		var list []*fault
		for _, make := range faults {
			list = append(list, make(f))
		}
		s.add(list...)
		f.mu.Lock()
		f.faults = append(f.faults, list...)
		f.mu.Unlock()
		return s.heal
	}
}

func atContent(f *front) *rangeServer  { return f.content() }
func atRegistry(f *front) *rangeServer { return f.rangeServer }

// instead is a fault that answers in the place of the server, for ever.
func instead(name string, on func(r *http.Request) bool, answer func(w http.ResponseWriter, r *http.Request)) func(*front) *fault {
	return func(*front) *fault {
		f := newFault(always, "%s", name)
		f.on, f.refuse = on, answer
		return f
	}
}

func everything(*http.Request) bool      { return true }
func tokenRequests(r *http.Request) bool { return r.URL.Path == "/token" }
func registryOnly(r *http.Request) bool  { return r.URL.Path != "/token" }

func answers(code int, header ...string) func(w http.ResponseWriter, _ *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprint(w, "<html><body>Welcome. Please log in.</body></html>")
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// asked parses the range that a request wants.
func asked(r *http.Request) (first, last int64) {
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
	return first, last
}

// partly answers with a 206 of its own making.
func partly(header func(first, last, size int64) string, body func(p []byte) []byte) func(f *front) *fault {
	return func(f *front) *fault {
		return instead("a wrong 206", nil, func(w http.ResponseWriter, r *http.Request) {
			first, last := asked(r)
			content := f.blob[min(first, int64(len(f.blob))):min(last+1, int64(len(f.blob)))]
			if value := header(first, last, int64(len(f.blob))); value != "" {
				w.Header().Set("Content-Range", value)
			}
			p := body(content)
			w.Header().Set("Content-Length", strconv.Itoa(len(p)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(p)
		})(f)
	}
}

func rightRange(first, last, size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", first, last, size)
}

func same(p []byte) []byte { return p }

// slowly sends the right bytes, 100 a second.
func slowly(f *front) *fault {
	return instead("100 bytes a second", nil, func(w http.ResponseWriter, r *http.Request) {
		first, last := asked(r)
		w.Header().Set("Content-Range", rightRange(first, last, int64(len(f.blob))))
		w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
		w.WriteHeader(http.StatusPartialContent)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for at := first; at <= last; at += 10 {
			w.Write(f.blob[at:min(at+10, last+1)])
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})(f)
}

// breaks ends every body after 1,000 bytes.
func breaks(*front) *fault {
	f := newFault(always, "every body ends early")
	f.pass = func(_ context.Context, p []byte, at int64) {
		if at > 0 && f.take() {
			panic(http.ErrAbortHandler)
		}
	}
	return f
}

func shuts(way int) func(f *front) func() {
	return func(f *front) func() {
		f.gate.set(way)
		return func() { f.gate.set(gateOpen) }
	}
}

// during does something again and again, until the end.
func during(every time.Duration, do func(f *front)) func(f *front) func() {
	return func(f *front) func() {
		stop := make(chan struct{})
		do(f)
		f.gate.fired.Add(1)
		go func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					do(f)
				case <-stop:
					return
				}
			}
		}()
		return func() { close(stop) }
	}
}

// both begins two troubles.
func both(a, b func(f *front) func()) func(f *front) func() {
	return func(f *front) func() {
		endA, endB := a(f), b(f)
		return func() { endA(); endB() }
	}
}

// helperIn puts a credential helper into a home, a script that obeys the file "mood".
func helperIn(t testing.TB, home string, f *front) {
	t.Helper()
	script := "#!/bin/sh\ncat >/dev/null\ncase $(cat '" + home + "/mood' 2>/dev/null) in\nfail) echo broken >&2; exit 1;;\nhang) sleep 600;;\nesac\n" +
		`echo '{"Username":"ann","Secret":"s3cret"}'` + "\n"
	docker := filepath.Join(home, ".docker")
	for path, content := range map[string]string{
		filepath.Join(home, "bin", "docker-credential-moody"): script,
		filepath.Join(docker, "config.json"):                  `{"credHelpers":{"` + f.addr() + `":"moody"}}`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.home = home
}

// helperPause is longer than the program goes by a helper's last answer without asking it anew.
const helperPause = 1100 * time.Millisecond

// mood changes what the helper does, and has a new password needed at once.
func mood(what string) func(f *front) func() {
	return func(f *front) func() {
		file := filepath.Join(f.home, "mood")
		os.WriteFile(file, []byte(what), 0o644)
		time.Sleep(helperPause)
		f.expire()
		f.gate.fired.Add(1)
		return func() { os.Remove(file) }
	}
}

// troubles are all of them.
func troubles() (list []trouble) {
	for _, code := range []int{400, 401, 403, 404, 408, 410, 416, 418, 429, 451, 500, 502, 503, 504, 507, 509, 511, 520, 522, 524, 530} {
		list = append(list, trouble{name: strconv.Itoa(code), begin: injected(atContent, instead(strconv.Itoa(code), nil, answers(code)))})
	}
	past := time.Now().Add(-time.Hour).UTC()
	skewed := answers(429, "Date", past.Format(http.TimeFormat), "Retry-After", past.Add(2*time.Second).Format(http.TimeFormat))
	content := func(name string, answer func(w http.ResponseWriter, r *http.Request)) {
		list = append(list, trouble{name: name, begin: injected(atContent, instead(name, nil, answer))})
	}
	content("429 with 1 second", answers(429, "Retry-After", "1"))
	content("503 with 900 seconds", answers(503, "Retry-After", "900"))
	content("429 with a date of a skewed clock", skewed)
	content("a page", page)
	content("a redirect without address", answers(302))
	content("a redirect to itself", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	content("a redirect to nobody", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://localhost:1/x", http.StatusTemporaryRedirect)
	})
	content("no answer", hang)
	content("the end of the connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	content("a header and no body", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", rightRange(0, 9, 10))
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(http.StatusPartialContent)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	content("multipart", answers(206, "Content-Type", "multipart/byteranges; boundary=x"))
	list = append(list,
		trouble{name: "another range", begin: injected(atContent, partly(func(a, b, n int64) string { return rightRange(a+1, b+1, n) }, same))},
		trouble{name: "no Content-Range", begin: injected(atContent, partly(func(_, _, _ int64) string { return "" }, same))},
		trouble{name: "another size", begin: injected(atContent, partly(func(a, b, n int64) string { return rightRange(a, b, n+1) }, same))},
		trouble{name: "more than the range", begin: injected(atContent, partly(rightRange, func(p []byte) []byte { return append(bytes.Clone(p), 1, 2, 3) }))},
		trouble{name: "less than the range", begin: injected(atContent, partly(rightRange, func(p []byte) []byte { return p[:len(p)/2] }))},
		trouble{name: "half of what was asked for", harmless: true, begin: injected(atContent, func(f *front) *fault {
			return instead("half a range", nil, func(w http.ResponseWriter, r *http.Request) {
				first, last := asked(r)
				last = first + (last-first)/2
				w.Header().Set("Content-Range", rightRange(first, last, int64(len(f.blob))))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(f.blob[first : last+1])
			})(f)
		})},
		trouble{name: "all of the file", harmless: true, begin: injected(atContent, func(f *front) *fault {
			return instead("a 200", nil, func(w http.ResponseWriter, _ *http.Request) { w.Write(f.blob) })(f)
		})},
		trouble{name: "100 bytes a second", begin: injected(atContent, slowly)},
		trouble{name: "bodies that end early", begin: injected(atContent, breaks)},

		trouble{name: "nothing listens", anywhere: true, begin: shuts(gateRefuse)},
		trouble{name: "connections are not answered", anywhere: true, begin: shuts(gateSwallow)},
		trouble{name: "connections are reset", anywhere: true, begin: shuts(gateReset)},
		trouble{name: "everything is 503", anywhere: true, begin: injected(atRegistry, instead("503", everything, answers(503)))},
		trouble{name: "everything is 520", anywhere: true, begin: injected(atRegistry, instead("520", everything, answers(520)))},
		trouble{name: "everything is a page", anywhere: true, begin: injected(atRegistry, instead("a page", everything, page))},
		trouble{name: "everything is redirected to a page", anywhere: true, begin: injected(atRegistry, instead("a redirect to a page", everything, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/login" {
				page(w, r)
				return
			}
			http.Redirect(w, r, "http://"+r.Host+"/login", http.StatusFound)
		}))},
		trouble{name: "everything hangs", anywhere: true, begin: injected(atRegistry, instead("silence", everything, hang))},
		trouble{name: "another certificate", anywhere: true, form: frontForm{tls: true}, begin: func(f *front) func() {
			f.gate.disguise(true)
			return func() { f.gate.disguise(false) }
		}},

		trouble{name: "store: 503", form: frontForm{store: true}, begin: injected(atContent, instead("503", nil, answers(503)))},
		trouble{name: "store: a page", form: frontForm{store: true}, begin: injected(atContent, instead("a page", nil, page))},
		trouble{name: "store: no answer", form: frontForm{store: true}, begin: injected(atContent, instead("silence", nil, hang))},
		trouble{name: "store: every signature is refused", form: frontForm{store: true}, begin: injected(atContent, instead("403", nil, answers(403)))},
		trouble{name: "store: signatures end", harmless: true, form: frontForm{store: true}, begin: during(100*time.Millisecond, (*front).sign)},
		trouble{name: "the redirect leads to a page", form: frontForm{store: true}, begin: both(func(f *front) func() { f.sign(); return func() {} },
			injected(atRegistry, instead("a redirect to a page", func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") || r.URL.Path == "/login" }, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/login" {
					page(w, r)
					return
				}
				http.Redirect(w, r, "/login", http.StatusFound)
			})))},

		trouble{name: "tokens end", harmless: true, form: frontForm{tokens: true}, begin: during(50*time.Millisecond, (*front).expire)},
		trouble{name: "everything is 401", form: frontForm{tokens: true}, begin: injected(atRegistry, instead("401", registryOnly, answers(401)))},
	)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"503": answers(503), "429": answers(429, "Retry-After", "1"), "401": answers(401), "404": answers(404), "a page": page, "no answer": hang,
		"no token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{}}`) },
		"garbage":  func(w http.ResponseWriter, _ *http.Request) { w.Write(contentOf(1000)) },
	} {
		begin := both(func(f *front) func() { f.expire(); return func() {} }, injected(atRegistry, instead(name, tokenRequests, answer)))
		list = append(list, trouble{name: "token server: " + name, form: frontForm{tokens: true}, begin: begin})
	}
	for _, what := range []string{"fail", "hang"} {
		list = append(list, trouble{name: "credential helper: " + what, form: frontForm{password: true}, setup: helperIn, begin: mood(what)})
	}
	return list
}
