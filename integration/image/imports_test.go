package image

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImportGraph holds the packages to a star: cmd/machinefs knows the five below it, and none of
// these knows another. Tests of all may use integration/readtest, which knows the standard library
// alone and whose own tests know all. It lives with the test images because every other folder is
// one of the packages it judges.
func TestImportGraph(t *testing.T) {
	const module = "github.com/machinefs/machinefs/"
	const contract = module + "integration/readtest"
	layers := map[string]bool{"fs": true, "disk": true, "cache": true, "seekable": true, "blobfetch": true}
	// Libraries that one package alone may import, besides the integration tests.
	only := map[string]string{
		"github.com/hanwen/go-fuse/":              "fs",
		"github.com/google/go-containerregistry/": "blobfetch",
		"github.com/spf13/":                       "cmd",
	}
	// The rooms of seekable, from the bottom up: arrows go down. The packages of formats know codec alone.
	rooms := map[string]int{
		"seekable/internal/codec": 1, "seekable/internal/spans": 3, "seekable/internal/ledger": 4, "seekable/internal/walk": 5,
		"seekable/internal/proof": 6, "seekable": 7, "seekable/internal/codectest": 2,
	}
	room := func(path string) int {
		name := strings.TrimPrefix(path, module)
		if n := rooms[name]; n > 0 || !strings.HasPrefix(name, "seekable/") {
			return n
		}
		return 2 // a format
	}
	list := exec.Command("go", "list", "-f",
		`{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}} program{{"\n"}}{{end}}{{range .TestImports}}{{$p}} {{.}} test{{"\n"}}{{end}}`+
			`{{range .XTestImports}}{{$p}} {{.}} test{{"\n"}}{{end}}`,
		module+"...")
	var said strings.Builder
	list.Stderr = &said
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, said.String())
	}
	top := func(path string) string {
		first, _, _ := strings.Cut(strings.TrimPrefix(path, module), "/")
		return first
	}
	judged := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		from, to, test := fields[0], fields[1], fields[2] == "test"
		judged++
		if from == contract && !test && strings.Contains(to, ".") {
			t.Errorf("%s imports %s: only the standard library is allowed there", from, to)
		}
		if strings.HasPrefix(to, module) && top(to) != top(from) {
			switch {
			case top(from) == "cmd" && layers[top(to)]:
			case test && to == contract:
			case test && from == contract && layers[top(to)]:
			default:
				t.Errorf("%s imports %s: only cmd may import another package of this module, and only the five below it",
					from, to)
			}
		}
		if a, b := room(from), room(to); a > 0 && b > 0 && a <= b && from != to && !strings.HasSuffix(to, "/codectest") {
			t.Errorf("%s imports %s, which is no room below", from, to)
		}
		for library, owner := range only {
			if strings.HasPrefix(to, library) && top(from) != owner && top(from) != "integration" {
				t.Errorf("%s imports %s, which is for %s alone", from, to, owner)
			}
		}
	}
	if judged < 20 {
		t.Fatalf("go list named %d imports; the graph was not seen", judged)
	}
}
