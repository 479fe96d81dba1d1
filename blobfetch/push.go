package blobfetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	ociremote "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Artifact is a file to be stored beside images: an OCI artifact of one layer.
// https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage
type Artifact struct {
	File        string // its path
	Type        string // artifactType, and its layer's media type
	Tag         string // that it is found by
	Title       string
	Annotations map[string]string // of the manifest
	Subject     *Image            // the image that it is about; it becomes a referrer where it lies in the image's repository
}

// emptyConfig is the config of an artifact (image-spec 1.1, manifest.md, "Guidance for an Empty
// Descriptor").
const (
	emptyConfig     = "{}"
	emptyConfigType = "application/vnd.oci.empty.v1+json"
)

// Push stores an artifact under its tag in the repository or OCI layout folder that to names; a tag
// in to is ignored, a missing folder is made. It replaces the artifact that had the tag before, and
// returns a reference pinned to the new one's digest.
func (c *Client) Push(ctx context.Context, to string, a Artifact) (pinned string, err error) {
	ref, err := ParseReference(to)
	if err != nil {
		return "", err
	}
	file, err := newFileLayer(a.File, a.Type)
	if err != nil {
		return "", wrap("push", a.File, localFault(err))
	}
	switch {
	case c.cfg.Offline:
		err = failf(ErrOffline, "push without --offline", "nothing is sent over the network")
	case ref.Transport == Registry:
		pinned, err = c.pushRegistry(ctx, ref, a, file)
	case ref.Transport == Layout:
		pinned, err = pushLayout(ref, a, file)
	default:
		err = failf(ErrReference, "give a registry's repository, or oci-dir:PATH", "it is neither a repository nor an OCI layout folder")
	}
	if err != nil {
		return "", wrap("push", ref.String(), err)
	}
	return pinned, nil
}

// manifest returns the artifact's manifest.
func (a Artifact) manifest(file *fileLayer, subject *v1.Descriptor) ([]byte, error) {
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config:      v1.Descriptor{MediaType: emptyConfigType, Size: int64(len(emptyConfig)), Digest: hashOf(emptyConfig)},
		Layers:      []v1.Descriptor{{MediaType: types.MediaType(a.Type), Size: file.size, Digest: file.hash, Annotations: map[string]string{titleKey: a.Title}}},
		Annotations: a.Annotations, Subject: subject,
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	// go-containerregistry's Manifest has no artifactType.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	if fields["artifactType"], err = json.Marshal(a.Type); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func hashOf(s string) v1.Hash {
	h, _, err := v1.SHA256(bytes.NewReader([]byte(s)))
	if err != nil {
		panic(err) // a reader of memory does not fail
	}
	return h
}

// pushRegistry pushes to the registry itself, never to a mirror. All of it is begun again after a
// fault that may pass: what arrived is not sent twice.
func (c *Client) pushRegistry(ctx context.Context, ref Reference, a Artifact, file *fileLayer) (pinned string, err error) {
	ends, err := c.endpoints(ref.Repo, false)
	if err != nil {
		return "", err
	}
	s := c.session(ends[len(ends)-1], pushActions)
	p := c.resolvePatience(ref.Repo.RegistryStr())
	defer func() { p.end(err == nil) }()
	farthest := 0
	for {
		pinned, err = c.tryPush(ctx, s, ref, a, file, &pushWay{s: s, p: p, farthest: &farthest})
		if err == nil {
			return pinned, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err := p.wait(ctx, err); err != nil {
			return "", err
		}
	}
}

func (c *Client) tryPush(ctx context.Context, s *session, ref Reference, a Artifact, file *fileLayer, way *pushWay) (string, error) {
	p := way.p
	early, cancel := p.within(ctx)
	err := s.ready(early)
	cancel()
	if err != nil {
		return "", err
	}
	if p.resolving { // it answers: from here on, outages are waited for
		p.resolving, p.begun, p.limit, p.since = false, true, c.cfg.StallTimeout, c.clock.now()
	}
	opts := []name.Option{name.StrictValidation}
	if s.address().Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(s.end.repo.Name(), opts...)
	if err != nil {
		return "", failf(ErrReference, "", "%w", err)
	}
	// Credentials are the session's: to go-containerregistry the registry seems open to everybody.
	// It tries nothing again, which the caller does.
	remoteOpts := []ociremote.Option{
		ociremote.WithContext(ctx), ociremote.WithAuth(authn.Anonymous), ociremote.WithTransport(way), ociremote.WithUserAgent(c.cfg.UserAgent),
		ociremote.WithRetryBackoff(ociremote.Backoff{Steps: 1}), ociremote.WithRetryPredicate(func(error) bool { return false }),
	}
	var subject *v1.Descriptor
	if im := a.Subject; im != nil && im.Digest != "" {
		if at, err := ParseReference(im.Pinned); err == nil && at.Transport == Registry && at.Repo.Name() == ref.Repo.Name() {
			d, err := ociremote.Head(repo.Digest(im.Digest), remoteOpts...)
			if err != nil {
				return "", way.fault(ctx, err)
			}
			subject = &v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest}
		}
	}
	raw, err := a.manifest(file, subject)
	if err != nil {
		return "", err
	}
	for _, l := range []v1.Layer{&memLayer{data: emptyConfig, kind: emptyConfigType}, file} {
		if err := ociremote.WriteLayer(repo, l, remoteOpts...); err != nil {
			return "", way.fault(ctx, err)
		}
	}
	if err := ociremote.Put(repo.Tag(a.Tag), rawManifest(raw), remoteOpts...); err != nil {
		return "", way.fault(ctx, err)
	}
	return "docker://" + ref.Repo.Name() + "@" + hashOf(string(raw)).String(), nil
}

// A pushWay is the http.RoundTripper of a push: with the session's credentials, and under a watch
// that also sees what is sent.
type pushWay struct {
	s        *session
	p        *patience
	farthest *int // how many requests of any attempt at this push went well in a row

	steps int // those of this attempt

	mu   sync.Mutex
	last error // the cause of a failure, before go-containerregistry puts it into its words
}

func (w *pushWay) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == w.s.host && req.URL.Scheme != w.s.address().Scheme {
		return nil, errScheme // go-containerregistry tries one after the other
	}
	resp, err := w.send(req)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = err
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// send sends a request, after a fault that may pass again: all but the content of a blob, which is
// read from its file once.
func (w *pushWay) send(req *http.Request) (*http.Response, error) {
	for {
		resp, err := w.s.do(led(req.Context()), req, w.p) // the addresses of uploads are the registry's
		if err == nil && resp.StatusCode >= 400 && resp.StatusCode != http.StatusNotFound {
			err = pushFault(resp)
		}
		if err == nil {
			w.stepped()
			return resp, nil
		}
		if req.Body != nil && req.GetBody == nil {
			return nil, err
		}
		if err := w.p.wait(req.Context(), err); err != nil {
			return nil, err
		}
	}
}

// stepped notes a request that went well. What an attempt before had done, too, is no progress: a
// registry that always fails at the same step is not waited for without an end.
func (w *pushWay) stepped() {
	if w.steps++; w.steps > *w.farthest {
		*w.farthest = w.steps
		w.p.progressed(nil)
	}
}

var errScheme = errors.New("the registry answered by the other scheme")

// pushFault turns a refusal into an error, and closes the answer.
func pushFault(resp *http.Response) error {
	err := statusFault(resp)
	var k *kindError
	if code := resp.StatusCode; (code == http.StatusUnauthorized || code == http.StatusForbidden) && errors.As(err, &k) {
		k.remedy = "the account used may not push there; see --creds and --authfile"
	}
	return err
}

// fault returns the cause of an error of go-containerregistry.
func (w *pushWay) fault(ctx context.Context, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case w.last != nil:
		err, w.last = w.last, nil
		return err
	}
	var (
		status *transport.Error
		local  *os.PathError
	)
	if errors.As(err, &local) {
		return localFault(local)
	}
	if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
		return failf(ErrNotFound, "check the repository's name", "%s answers 404", w.s.host)
	}
	return nonsense("%s gives an answer to a push that is not understood", w.s.host)
}

func pushLayout(ref Reference, a Artifact, file *fileLayer) (string, error) {
	p, err := ocilayout.FromPath(ref.Path)
	if errors.Is(err, os.ErrNotExist) {
		p, err = ocilayout.Write(ref.Path, empty.Index)
	}
	if err != nil {
		return "", localFault(err)
	}
	raw, err := a.manifest(file, nil)
	if err != nil {
		return "", err
	}
	content, err := file.Compressed()
	if err != nil {
		return "", localFault(err)
	}
	hash := hashOf(string(raw))
	for _, b := range []struct {
		hash v1.Hash
		data io.ReadCloser
	}{{file.hash, content}, {hashOf(emptyConfig), io.NopCloser(bytes.NewReader([]byte(emptyConfig)))}, {hash, io.NopCloser(bytes.NewReader(raw))}} {
		if err := p.WriteBlob(b.hash, b.data); err != nil {
			return "", localFault(err)
		}
	}
	if err := p.RemoveDescriptors(match.Annotation(refNameKey, a.Tag)); err != nil {
		return "", localFault(err)
	}
	err = p.AppendDescriptor(v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(raw)), Digest: hash, ArtifactType: a.Type, Annotations: map[string]string{refNameKey: a.Tag}})
	if err != nil {
		return "", localFault(err)
	}
	return "oci-dir:" + ref.Path + "@" + hash.String(), nil
}

// rawManifest is a marshalled manifest for remote.Put.
type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)        { return m, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// fileLayer is a layer whose content stays in its file.
type fileLayer struct {
	path string
	kind string
	hash v1.Hash
	size int64
}

func newFileLayer(path, kind string) (*fileLayer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hash, size, err := v1.SHA256(f)
	if err != nil {
		return nil, err
	}
	return &fileLayer{path, kind, hash, size}, nil
}

func (l *fileLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error)  { return types.MediaType(l.kind), nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

type memLayer struct{ data, kind string }

func (l *memLayer) Digest() (v1.Hash, error)            { return hashOf(l.data), nil }
func (l *memLayer) DiffID() (v1.Hash, error)            { return hashOf(l.data), nil }
func (l *memLayer) Size() (int64, error)                { return int64(len(l.data)), nil }
func (l *memLayer) MediaType() (types.MediaType, error) { return types.MediaType(l.kind), nil }
func (l *memLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader([]byte(l.data))), nil
}
func (l *memLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }
