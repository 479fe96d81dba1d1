package integration

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// TestADictionaryThatIsTooLargeIsNoUsableImage opens streams that want a window of 2 GiB, in their
// first frame or later, or a dictionary of 400 MiB: exit code 4, and an error with a remedy.
func TestADictionaryThatIsTooLargeIsNoUsableImage(t *testing.T) {
	t.Parallel()
	const large = 400 << 20
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string) string
	}{
		{"a zstd frame", func(t *testing.T, dir string) string {
			disk := mixed(t, 6<<20, image.ZstdOneFrame)
			p, err := os.ReadFile(disk.blob)
			return written(t, filepath.Join(dir, "disk.zst"), statedWindow(t, p), err)
		}},
		{"the second zstd frame", func(t *testing.T, dir string) string {
			disk := mixed(t, 6<<20, image.ZstdOneFrame)
			p, err := os.ReadFile(disk.blob)
			return written(t, filepath.Join(dir, "disk.zst"), append(bytes.Clone(p), statedWindow(t, p)...), err)
		}},
		{"an xz block", func(t *testing.T, dir string) string {
			raw := written(t, filepath.Join(dir, "disk.raw"), contentOf(8<<10), nil)
			if err := os.Truncate(raw, large); err != nil {
				t.Fatal(err)
			}
			file := raw + image.XZOneBlock.Suffix()
			if err := image.Compress(t.Context(), image.XZOneBlock, raw, file, "-0"); err != nil {
				t.Fatal(err)
			}
			p, err := os.ReadFile(file)
			statedDictionary(t, p)
			return written(t, file, p, err)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := c.make(t, t.TempDir())
			out := filepath.Join(t.TempDir(), "copy.raw")
			r := machinefs(t, "materialize", "--cache", t.TempDir(), file, out)
			if r.code != 4 || !strings.Contains(r.stderr, "compress") {
				t.Errorf("exit code %d, wanted 4 and how to compress it: %s%s", r.code, r.stdout, r.stderr)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("materialize left its output")
			}
		})
	}
}

// written writes a file, unless there was an error before, and returns its path.
func written(t *testing.T, path string, p []byte, err error) string {
	t.Helper()
	if err == nil {
		err = os.WriteFile(path, p, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// statedWindow makes a zstd frame state a window of 2 GiB: RFC 8878, section 3.1.1.1.
func statedWindow(t *testing.T, p []byte) []byte {
	t.Helper()
	const magic, singleSegment = 4, 1 << 5
	if p[magic]&singleSegment != 0 {
		t.Fatal("the frame has no window descriptor")
	}
	p[magic+1] = (31 - 10) << 3
	return p
}

// statedDictionary makes the first block of an xz file state a dictionary of 4 GiB - 1:
// https://tukaani.org/xz/xz-file-format.txt, sections 3.1 and 5.3.1.
func statedDictionary(t *testing.T, p []byte) {
	t.Helper()
	const streamHeader = 12
	block := p[streamHeader:]
	header := block[:(int(block[0])+1)*4]
	at := bytes.Index(header[2:], []byte{0x21, 1}) // LZMA2, one byte of properties
	if at < 0 {
		t.Fatal("the first block names no LZMA2 filter")
	}
	header[2+at+2] = 40
	binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
}

// small runs a copy with a tmpfs of a few MiB as the cache folder or as the place of the output, in
// a mount namespace of its own. Arguments: the program, a work folder, the reference, the small
// folder.
const small = `cd "$2"
mount -t tmpfs -o size=3m,mode=700 tmpfs "$4"
"$1" materialize --quiet --cache cache "$3" out/copy.raw
code=$?
[ $code = 0 ] && sha256sum <out/copy.raw
ls -A out
exit $code
`

// TestAFullLocalDiskIsExitCode8 has no room for the output or for the cache: exit code 8, a cause,
// and no file. A copy may also go on without keeping anything.
func TestAFullLocalDiskIsExitCode8(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"cache", "out"} {
		for _, format := range []string{"raw", "qcow2c"} {
			t.Run(place+"/"+format, func(t *testing.T) {
				disk := mixed(t, 12<<20, image.Plain)
				dir := t.TempDir()
				file, blob := disk.raw, filepath.Join(dir, "disk.zst")
				if format != "raw" {
					file = filepath.Join(dir, "disk.qcow2")
					if err := image.ToQCOW2(t.Context(), disk.raw, file, true); err != nil {
						t.Fatal(err)
					}
				}
				if err := image.Compress(t.Context(), image.ZstdOneFrame, file, blob); err != nil {
					t.Fatal(err)
				}
				s := serveRanges(t, blob, 0)
				work := t.TempDir()
				for _, dir := range []string{"cache", "out"} {
					if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
						t.Fatal(err)
					}
				}
				r := finish(t, inNamespace(t, small, program, work, s.url(), place))
				switch {
				case r.code == 0 && place == "cache": // it went on without keeping anything
					if !strings.Contains(r.stdout, disk.sum) {
						t.Errorf("the copy is not the disk: %s", r.stdout)
					}
				case r.code != 8 || strings.Count(r.stderr, "no space left")+strings.Count(r.stderr, "the cache is full") == 0:
					t.Errorf("exit code %d, wanted 8 and the cause: %s", r.code, r.stderr)
				case r.stdout != "":
					t.Errorf("left: %s", r.stdout)
				}
				if strings.Contains(r.stderr, "context canceled") {
					t.Errorf("the error tells of the end of other work: %s", r.stderr)
				}
			})
		}
	}
}

// inNamespace prepares a shell script that may mount, with arguments.
func inNamespace(t testing.TB, script string, args ...string) *exec.Cmd {
	t.Helper()
	flags := []string{"--mount", "--propagation", "private"}
	if os.Geteuid() != 0 {
		flags = append(flags, "--user", "--map-root-user")
	}
	path, err := image.Lookup("unshare")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(append(flags, "sh", "-c", script, "sh"), args...)...)
	cmd.Env = environ(t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}
