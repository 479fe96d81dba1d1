package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A boot of Debian reads a fifth of what is installed, in pieces that lie together, and has nearly half of
// an image fetched that can be entered at each MiB. So the files are cut, in the order in which they
// lie on the disk, into stretches of about stretch bytes, of which one in six is read, and of these
// every other piece.
const (
	stretch     = 1 << 20
	piece       = 128 << 10
	readLargest = 4 << 20 // a boot reads no larger file
)

// isRead tells whether a boot reads the stretch with a number.
func isRead(number int64) bool { return number%6 == 1 }

// plainName is a name that debugfs and sha256sum take as it is.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_./+=:@,-]+$`)

// listReads writes the list of the files that a boot reads into the ext4 file system img, whose
// files are given. Work is a scratch folder.
func listReads(ctx context.Context, work, img string, files []file) error {
	files = slices.DeleteFunc(files, func(f file) bool { return !plainName.MatchString(f.path) || f.size > readLargest })
	blocks, err := firstBlocks(ctx, work, img, files)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f file) bool { return blocks[f.path] == 0 })
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(blocks[a.path], blocks[b.path]) })
	var parts []string
	var part strings.Builder
	var end, number int64
	for _, f := range files {
		if isRead(number) && end/piece%2 == 0 {
			fmt.Fprintf(&part, "%s  %s\n", f.sum, f.path)
		}
		if end += f.size; end < stretch {
			continue
		}
		end, number = 0, number+1
		if part.Len() > 0 {
			parts = append(parts, part.String())
			part.Reset()
		}
	}
	if len(parts) == 0 {
		return errors.New("list files to read: none; the root file system is too small")
	}
	// By the sum of its first file: a boot goes back and forth.
	slices.Sort(parts)
	list := filepath.Join(work, "list")
	if err := os.WriteFile(list, []byte(strings.Join(parts, "")), 0o644); err != nil {
		return err
	}
	_, err = debugfs(ctx, work, img, []string{"write " + list + " /" + guestList})
	return err
}

// firstBlocks tells where each file begins on the disk; 0 for one without blocks.
func firstBlocks(ctx context.Context, work, img string, files []file) (map[string]int64, error) {
	var ask []string
	for _, f := range files {
		ask = append(ask, "bmap "+f.path+" 0")
	}
	out, err := debugfs(ctx, work, img, ask)
	if err != nil {
		return nil, err
	}
	// debugfs repeats each question and answers on the next line.
	blocks := map[string]int64{}
	var path string
	for line := range strings.Lines(out) {
		if question, ok := strings.CutPrefix(line, "debugfs: bmap "); ok {
			path, _, _ = strings.Cut(question, " ")
			continue
		}
		var block int64
		if _, err := fmt.Sscan(line, &block); err == nil && path != "" {
			blocks[path], path = block, ""
		}
	}
	return blocks, nil
}

// debugfs carries out requests on an ext4 file system. It exits with 0 whatever happens, so what
// comes of them has to be looked at.
func debugfs(ctx context.Context, work, img string, requests []string) (string, error) {
	script := filepath.Join(work, "debugfs.requests")
	if err := os.WriteFile(script, []byte(strings.Join(requests, "\n")+"\n"), 0o644); err != nil {
		return "", err
	}
	return run(ctx, "debugfs", "-w", "-f", script, img)
}
