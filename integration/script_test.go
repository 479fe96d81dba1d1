package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the scenarios of the command line. Each is a file of testdata/script in the
// language of https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript, with these commands of
// ours:
//
//	exits CODE machinefs ARGS…   run the program to its end and expect this exit code
//	disk FILE SIZE               make a disk of SIZE MiB: a quarter random bytes, a quarter text, and zeros
//	compress KIND SRC DST        in one of the ways of package image: "zstd one frame", "xz blocks"…
//	push LAYOUT FILE REPO:TAG    into the registry; LAYOUT is podman, single, layered or docker
//	layout LAYOUT FILE DIR TAG   into an OCI layout folder
//	mounted DIR                  wait until DIR is a mount
//	unmounted DIR                wait until it is none
//	truncate FILE SIZE           cut FILE, SIZE bytes
//	same FILE FILE               expect the same bytes, of files that are too large to be shown
//	fetched [NUMBER]             expect that so many requests at most reached registry and web server since the last time
//
// $REGISTRY and $WEB are HOST:PORT of a registry, and of a web server that serves the script's
// folder below its own name, $NAME. $DEAD is a HOST:PORT where nobody listens. The program keeps
// its cache in $CACHE, unless the script says otherwise.
func TestScripts(t *testing.T) {
	work := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	registry, err := image.StartRegistry(ctx, filepath.Join(work, "registry"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Stop() })
	s := &scripts{registry: registry}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		Setup:               s.setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": s.exits, "disk": s.disk, "compress": s.compress, "push": s.push, "layout": s.layout,
			"mounted": s.mounted, "unmounted": s.unmounted, "truncate": s.truncate, "same": s.same, "fetched": s.fetched,
		},
	})
}

// scripts is what all scripts share.
type scripts struct{ registry *image.Registry }

// webKey is under which a script keeps its own web server.
type webKey struct{}

func (s *scripts) setup(e *testscript.Env) error {
	web, err := image.Serve(http.FileServer(http.Dir(e.WorkDir)))
	if err != nil {
		return err
	}
	e.Defer(func() { web.Stop() })
	// A script that fails in the middle leaves its mounts.
	e.Defer(func() {
		table, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return
		}
		for line := range strings.Lines(string(table)) {
			if at := strings.Fields(line)[4]; strings.HasPrefix(at, e.WorkDir+"/") {
				syscall.Unmount(at, syscall.MNT_DETACH)
			}
		}
	})
	e.Values[webKey{}] = web
	// Of a flag that is given twice the second counts.
	bin := filepath.Join(e.WorkDir, ".bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s --cache %s/cache \"$@\"\n", program, e.WorkDir)
	if err := os.WriteFile(filepath.Join(bin, "machinefs"), []byte(wrapper), 0o755); err != nil {
		return err
	}
	e.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
	e.Setenv("CACHE", filepath.Join(e.WorkDir, "cache"))
	e.Setenv("GORACE", fmt.Sprintf("halt_on_error=1 exitcode=%d", raceCode))
	e.Setenv("REGISTRY", s.registry.Addr)
	e.Setenv("WEB", web.Addr)
	e.Setenv("DEAD", "localhost:1")
	return nil
}

// background is a context for what a script does; the script's own deadline is go test's.
func background() context.Context { return context.Background() }

func (s *scripts) exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code is %d, wanted %d", code, want)
	}
}

func (s *scripts) disk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: disk FILE SIZE")
	}
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), smallDisk(size<<20), 0o644))
}

func (s *scripts) compress(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: compress KIND SRC DST")
	}
	if args[0] == "qcow2" {
		ts.Check(image.ToQCOW2(background(), ts.MkAbs(args[1]), ts.MkAbs(args[2]), false))
		return
	}
	ts.Check(image.Compress(background(), image.Kind(args[0]), ts.MkAbs(args[1]), ts.MkAbs(args[2])))
}

// announced is a file as an image of the named layout.
func announced(ts *testscript.TestScript, layout, file string) (what any) {
	var err error
	title := filepath.Base(file)
	file = ts.MkAbs(file)
	switch layout {
	case "podman":
		what, err = image.Podman(file, title)
	case "single":
		what, err = image.Single(image.Disk{File: file, Title: title})
	case "layered", "docker":
		what, err = image.Layered(file, layout == "docker")
	default:
		ts.Fatalf("layout %q: want podman, single, layered or docker", layout)
	}
	ts.Check(err)
	return what
}

func (s *scripts) push(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: push LAYOUT FILE REPO:TAG")
	}
	ts.Check(image.Push(background(), s.registry.Addr+"/"+args[2], announced(ts, args[0], args[1])))
}

func (s *scripts) layout(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: layout LAYOUT FILE DIR TAG")
	}
	ts.Check(image.Layout(ts.MkAbs(args[2]), args[3], announced(ts, args[0], args[1])))
}

func (s *scripts) truncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncate FILE SIZE")
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
}

func (s *scripts) same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] same FILE FILE")
	}
	one, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	other, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if (string(one) == string(other)) == neg {
		ts.Fatalf("%s (%d bytes) and %s (%d bytes): same bytes: %v", args[0], len(one), args[1], len(other), neg)
	}
}

// fetched counts at the script's own web server; the registry is shared by all scripts.
func (s *scripts) fetched(ts *testscript.TestScript, neg bool, args []string) {
	web := ts.Value(webKey{}).(*image.Server)
	if neg || len(args) > 1 {
		ts.Fatalf("usage: fetched [NUMBER]")
	}
	got := web.Total()
	web.Reset()
	ts.Logf("%d requests, %d bytes", got.Requests, got.Bytes)
	if len(args) == 1 {
		most, err := strconv.Atoi(args[0])
		ts.Check(err)
		if got.Requests > most {
			ts.Fatalf("%d requests reached the web server, wanted at most %d", got.Requests, most)
		}
	}
}

func (s *scripts) mounted(ts *testscript.TestScript, neg bool, args []string) {
	s.waitMount(ts, neg, args, true)
}

func (s *scripts) unmounted(ts *testscript.TestScript, neg bool, args []string) {
	s.waitMount(ts, neg, args, false)
}
