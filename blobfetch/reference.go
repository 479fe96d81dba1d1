package blobfetch

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Transport is the kind of place that a reference points to; its value is the prefix in a
// reference's full form.
type Transport string

const (
	Registry Transport = "docker"
	Layout   Transport = "oci-dir"
	Archive  Transport = "oci-archive"
	Web      Transport = "http" // http:// and https://
	File     Transport = "file"
)

// Reference is a parsed reference. The Transport decides which fields are set.
type Reference struct {
	Transport Transport
	Repo      name.Repository // Registry
	Tag       string          // Registry, Layout, Archive: "" if none was given
	Digest    string          // any: "" if none was given
	Path      string          // Layout, Archive, File
	URL       *url.URL        // Web; may hold a user's name and password, see String
	Default   bool            // "docker://" alone
}

// maxReference bounds a reference in bytes: paths go to 4096, signed URLs to about 2000.
const maxReference = 8 << 10

// From the distribution specification, "Pulling manifests". Without these a name such as
// "host.io/../x" would reach a URL's path.
var (
	repoForm = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// ParseReference parses a reference of at most 8 KiB; errors are of kind ErrReference. A name
// without a prefix is a registry's if its first part is a host (it has a dot or a port, or is
// localhost), a path if it starts with /, ./ or ../, else a file of that name, if there is one.
func ParseReference(s string) (Reference, error) { return parseReference(s, exists) }

func parseReference(s string, exists func(string) bool) (Reference, error) {
	ref, err := parsePrefixed(s, exists)
	if err != nil {
		return Reference{}, wrap("parse reference", quoted(withoutSecrets(s)), err)
	}
	return ref, nil
}

// withoutSecrets returns s, which could not be parsed, without user, password and query, for
// messages.
func withoutSecrets(s string) string {
	s, _, _ = strings.Cut(s, "?")
	prefix, rest := "", s
	if i := strings.Index(s, "://"); i >= 0 {
		prefix, rest = s[:i+3], s[i+3:]
	}
	host, path, slash := strings.Cut(rest, "/")
	if i := strings.LastIndex(host, "@"); i >= 0 {
		host = "…" + host[i:]
	}
	if slash {
		path = "/" + path
	}
	return prefix + host + path
}

func parsePrefixed(s string, exists func(string) bool) (Reference, error) {
	if len(s) > maxReference {
		return Reference{}, failf(ErrReference, "", "it is %d bytes long, at most %d are read", len(s), maxReference)
	}
	if s == "" {
		return Reference{}, failf(ErrReference, "give a registry's name, a folder, a URL or a file", "it is empty")
	}
	if strings.ContainsRune(s, 0) {
		return Reference{}, failf(ErrReference, "", "it holds a zero byte")
	}
	prefix, rest, _ := strings.Cut(s, ":")
	switch prefix {
	case "docker":
		rest, ok := strings.CutPrefix(rest, "//")
		if !ok {
			break // a short name with a tag
		}
		if rest == "" {
			return Reference{Transport: Registry, Default: true}, nil
		}
		return parseRegistry(rest)
	case "oci-dir", "oci":
		return parseLayout(Layout, strings.TrimPrefix(rest, "//"), exists)
	case "oci-archive":
		return parseLayout(Archive, strings.TrimPrefix(rest, "//"), exists)
	case "http", "https":
		return parseURL(s)
	case "file":
		if rest, ok := strings.CutPrefix(rest, "//"); ok {
			return parseFile(rest)
		}
	}
	if i := strings.Index(s, "://"); i >= 0 {
		return Reference{}, failf(ErrReference, "use docker://, oci-dir://, oci-archive:, http://, https://, file:// or a path", "unknown transport %s", quoted(s[:i]))
	}
	switch {
	case strings.HasPrefix(s, "/"), strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"), s == ".", s == "..":
		return parseFile(s)
	case !hasHost(s) && exists(s):
		return parseFile(s)
	}
	return parseRegistry(s)
}

// hasHost reports whether a name's first part is a host, by docker's and podman's rule. A hidden
// folder is none.
func hasHost(s string) bool {
	first, _, found := strings.Cut(s, "/")
	return found && !strings.HasPrefix(first, ".") && (first == "localhost" || strings.ContainsAny(first, ".:"))
}

func parseRegistry(s string) (Reference, error) {
	if !hasHost(s) {
		return Reference{}, failf(ErrReference, "use a fully-qualified name such as quay.io/podman/machine-os:5.6, or ./NAME for a file", "it is a short name, without a registry's host")
	}
	if first, _, _ := strings.Cut(s, "/"); strings.Contains(first, "@") {
		return Reference{}, failf(ErrReference, "use --creds, --creds-file or a login", "malformed name: a user name and a password do not go into it")
	}
	ref := Reference{Transport: Registry}
	base, digest, pinned := strings.Cut(s, "@")
	if pinned {
		h, err := parseDigest(digest)
		if err != nil {
			return ref, err
		}
		ref.Digest = h.String()
	}
	host, path, _ := strings.Cut(base, "/")
	path, ref.Tag, _ = strings.Cut(path, ":")
	if strings.HasSuffix(base, ":") || ref.Tag != "" && !tagForm.MatchString(ref.Tag) {
		return ref, failf(ErrReference, "", "malformed tag %s", quoted(ref.Tag))
	}
	if !repoForm.MatchString(path) {
		return ref, failf(ErrReference, "repository names are lower-case letters and digits, parted by . _ - and /", "malformed repository %s", quoted(path))
	}
	repo, err := name.NewRepository(host + "/" + path)
	if err != nil {
		return ref, failf(ErrReference, "", "%w", err)
	}
	ref.Repo = repo
	return ref, nil
}

// parseLayout splits PATH[:tag][@digest]. A path that exists as it stands has no tag, even with
// colons.
func parseLayout(t Transport, s string, exists func(string) bool) (Reference, error) {
	ref := Reference{Transport: t, Path: s}
	if i := strings.LastIndex(s, "@"); i >= 0 {
		if h, err := parseDigest(s[i+1:]); err == nil {
			ref.Path, ref.Digest = s[:i], h.String()
		}
	}
	// A tag here is the annotation org.opencontainers.image.ref.name, which may itself be a name
	// with slashes and a colon.
	if !exists(ref.Path) {
		for i, c := range ref.Path {
			if c == ':' && exists(ref.Path[:i]) {
				ref.Path, ref.Tag = ref.Path[:i], ref.Path[i+1:]
				break
			}
		}
		if i := strings.LastIndex(ref.Path, ":"); ref.Tag == "" && i > 0 && !strings.Contains(ref.Path[i:], "/") {
			ref.Path, ref.Tag = ref.Path[:i], ref.Path[i+1:]
		}
	}
	if ref.Path == "" {
		return ref, failf(ErrReference, "write "+string(t)+":PATH", "it names no path")
	}
	return ref, nil
}

func parseURL(s string) (Reference, error) {
	u, err := url.Parse(s)
	if err != nil { // whose words quote parts of it, which can be a password's
		return Reference{}, failf(ErrReference, "write %XX for all but letters and digits in a user name and a password", "malformed URL")
	}
	if u.Host == "" || u.Opaque != "" {
		return Reference{}, failf(ErrReference, "", "it names no host")
	}
	ref := Reference{Transport: Web, URL: u}
	if strings.HasPrefix(u.Fragment, "sha256:") || strings.HasPrefix(u.Fragment, "sha512:") {
		h, err := parseDigest(u.Fragment)
		if err != nil {
			return ref, err
		}
		ref.Digest = h.String()
	}
	u.Fragment, u.RawFragment = "", ""
	return ref, nil
}

func parseFile(path string) (Reference, error) {
	ref := Reference{Transport: File, Path: path}
	if path == "" {
		return ref, failf(ErrReference, "write file:///PATH", "it names no path")
	}
	return ref, nil
}

// String gives the reference in its full form, without passwords and without a URL's query.
func (r Reference) String() string {
	var s string
	switch r.Transport {
	case Registry:
		if r.Default {
			return "docker://"
		}
		s = "docker://" + r.Repo.Name()
	case Layout, Archive:
		s = string(r.Transport) + ":" + r.Path
		if r.Transport == Layout {
			s = "oci-dir://" + r.Path
		}
	case Web:
		s = showURL(r.URL)
		if r.Digest != "" {
			s += "#" + r.Digest
		}
		return s
	case File:
		if abs, err := filepath.Abs(r.Path); err == nil {
			return abs
		}
		return r.Path
	}
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// showURL returns a URL for messages: without its user and password, and without the query, which
// can hold a signature.
func showURL(u *url.URL) string {
	s := u.Scheme + "://" + u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		s += "?…"
	}
	return s
}

// showHost returns an address that a server gave, for messages: the path may be a secret as well.
func showHost(u *url.URL) string { return u.Scheme + "://" + u.Host + "/…" }

// Host returns HOST or HOST:PORT of a reference that is asked for over the network, else "".
func (r Reference) Host() string {
	switch {
	case r.Transport == Registry && r.Repo != (name.Repository{}):
		return r.Repo.RegistryStr()
	case r.Transport == Web && r.URL != nil:
		return r.URL.Host
	}
	return ""
}
