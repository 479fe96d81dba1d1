package blobfetch

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	defaultRepository = "docker://quay.io/podman/machine-os"
	// The tag of the default image where there is no podman to ask for its version.
	defaultTag = "5.6"
)

// defaultImage returns the reference that "docker://" alone stands for.
func (c *Client) defaultImage(ctx context.Context) (Reference, error) {
	image, source := c.cfg.DefaultImage, "--default-image"
	if image == "" {
		image, source = containersConfImage()
	}
	if image == "" {
		image = defaultRepository
	}
	ref, err := ParseReference(image)
	if err != nil || ref.Default {
		if err == nil {
			err = failf(ErrReference, "name a registry and a repository", "it means itself")
		}
		return ref, wrap("read default image from", source, err)
	}
	if ref.Transport == Registry && ref.Tag == "" && ref.Digest == "" {
		ref.Tag = podmanVersion(ctx)
	}
	return ref, nil
}

// containersConfImage reads [machine] image from the containers.conf files, later ones first; see
// containers.conf(5).
func containersConfImage() (image, path string) {
	var files []string
	if one := os.Getenv("CONTAINERS_CONF"); one != "" {
		files = []string{one}
	} else {
		roots := []string{"/usr/share/containers", "/etc/containers"}
		if conf, err := os.UserConfigDir(); err == nil {
			roots = append(roots, filepath.Join(conf, "containers"))
		}
		for _, root := range roots {
			files = append(files, filepath.Join(root, "containers.conf"))
			more, _ := filepath.Glob(filepath.Join(root, "containers.conf.d", "*.conf"))
			files = append(files, more...)
		}
	}
	if last := os.Getenv("CONTAINERS_CONF_OVERRIDE"); last != "" {
		files = append(files, last)
	}
	for i := len(files) - 1; i >= 0; i-- {
		if image := machineImage(files[i]); image != "" {
			return image, files[i]
		}
	}
	return "", ""
}

var tomlImage = regexp.MustCompile(`^image\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?$`)

// machineImage finds one string in one table of a TOML file, which takes no TOML parser.
func machineImage(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	in := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			table, _, _ := strings.Cut(line, "#")
			in = strings.TrimSpace(table) == "[machine]"
			continue
		}
		m := tomlImage.FindStringSubmatch(line)
		switch {
		case !in || m == nil:
		case m[2] != "":
			return m[2]
		default:
			if s, err := strconv.Unquote(`"` + m[1] + `"`); err == nil {
				return s
			}
		}
	}
	return ""
}

var versionForm = regexp.MustCompile(`\b(\d+\.\d+)\.\d+`)

// podmanVersion returns X.Y of the podman on PATH within 5 s, else defaultTag: the images are
// tagged so, and a guest should match.
func podmanVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "podman", "--version").Output()
	if m := versionForm.FindSubmatch(out); err == nil && m != nil {
		return string(m[1])
	}
	return defaultTag
}
