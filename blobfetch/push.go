package blobfetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	ociremote "github.com/google/go-containerregistry/pkg/v1/remote"
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

func (c *Client) pushRegistry(ctx context.Context, ref Reference, a Artifact, file *fileLayer) (string, error) {
	s, err := c.session(ctx, ref.Repo)
	if err != nil {
		return "", err
	}
	var opts []name.Option
	if s.base.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(ref.Repo.Name(), opts...)
	if err != nil {
		return "", failf(ErrReference, "", "%w", err)
	}
	remoteOpts := []ociremote.Option{ociremote.WithContext(ctx), ociremote.WithAuthFromKeychain(c.keychain), ociremote.WithTransport(s.rt), ociremote.WithUserAgent(c.cfg.UserAgent)}
	var subject *v1.Descriptor
	if im := a.Subject; im != nil && im.Digest != "" {
		if at, err := ParseReference(im.Pinned); err == nil && at.Transport == Registry && at.Repo.Name() == ref.Repo.Name() {
			d, err := ociremote.Head(repo.Digest(im.Digest), remoteOpts...)
			if err != nil {
				return "", pushFault(ctx, err)
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
			return "", pushFault(ctx, err)
		}
	}
	if err := ociremote.Put(repo.Tag(a.Tag), rawManifest(raw), remoteOpts...); err != nil {
		return "", pushFault(ctx, err)
	}
	return "docker://" + ref.Repo.Name() + "@" + hashOf(string(raw)).String(), nil
}

// pushFault gives errors of go-containerregistry their kind.
func pushFault(ctx context.Context, err error) error {
	err = handshakeFault(ctx, err)
	if Kind(err) == nil && ctx.Err() == nil {
		err = failf(ErrNetwork, "", "%w", err)
	}
	return err
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
