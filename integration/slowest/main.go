// Command slowest reads `go test -json` from standard input and prints it as go test does without
// -json, then the ten slowest tests. It judges nothing: the exit code is go test's to give.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// shown is how many of the slowest tests are printed.
const shown = 10

// An event is a line of `go test -json`: https://pkg.go.dev/cmd/test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// A line is one that a test, or a package ("" as the test), has written.
type line struct{ test, text string }

// A report collects the events of all packages.
type report struct {
	lines  map[string][]line          // by package, until the package has ended
	passed map[string]map[string]bool // by package and test
	slow   map[string]float64         // seconds of the longest part of a test, by package and test
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "slowest:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	r := report{map[string][]line{}, map[string]map[string]bool{}, map[string]float64{}}
	lines := bufio.NewReader(in)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			r.add(text, out)
		}
		if err == io.EOF {
			r.finish(out)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// add takes one line of input.
func (r *report) add(text string, out io.Writer) {
	var e event
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &e) != nil {
		fmt.Fprint(out, text) // go's own words, such as those about a module that is fetched
		return
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(out, e.Output)
	case "output":
		r.lines[e.Package] = append(r.lines[e.Package], line{e.Test, e.Output})
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.end(e.Package, out)
			return
		}
		if r.passed[e.Package] == nil {
			r.passed[e.Package] = map[string]bool{}
		}
		r.passed[e.Package][e.Test] = e.Action != "fail"
		top, _, _ := strings.Cut(e.Test, "/")
		name := e.Package + " " + top
		r.slow[name] = max(r.slow[name], e.Elapsed)
	}
}

// end prints the lines of a package that has ended: those of tests that did not pass, and its own
// closing ones.
func (r *report) end(pkg string, out io.Writer) {
	for _, l := range r.lines[pkg] {
		switch {
		case l.test == "" && l.text == "PASS\n":
		case l.test != "" && (r.passed[pkg][l.test] || strings.HasPrefix(l.text, "=== ")):
		default:
			fmt.Fprint(out, l.text)
		}
	}
	delete(r.lines, pkg)
}

// finish prints packages that never ended, and the slowest tests.
func (r *report) finish(out io.Writer) {
	for pkg := range r.lines {
		r.end(pkg, out)
	}
	names := make([]string, 0, len(r.slow))
	for name := range r.slow {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(r.slow[b], r.slow[a]), cmp.Compare(a, b))
	})
	fmt.Fprintln(out, "\nslowest tests, in seconds:")
	for _, name := range names[:min(shown, len(names))] {
		fmt.Fprintf(out, "%8.2f  %s\n", r.slow[name], name)
	}
}
