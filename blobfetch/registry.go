package blobfetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// repository is a store over the network, with the kept documents in front of it.
type repository struct {
	c    *Client
	repo name.Repository
	once bool // ask once, without retries
}

var acceptManifests = http.Header{"Accept": {strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1), string(types.DockerManifestList), string(types.DockerManifestSchema2),
}, ", ")}}

func (r repository) document(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	// A descriptor may bring its bytes along (image-spec, "data").
	if len(d.Data) > 0 && checkDigest(d.Data, d.Digest) == nil {
		return d.Data, nil
	}
	if b := r.c.keep.document(d.Digest); b != nil {
		return b, nil
	}
	kind := "manifests"
	if d.MediaType != "" && !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
		kind = "blobs"
	}
	b, _, err := r.get(ctx, kind, d.Digest.String())
	if err != nil {
		return nil, err
	}
	if err := checkDigest(b, d.Digest); err != nil {
		return nil, err
	}
	r.c.kept(r.c.keep.putDocument(d.Digest, b))
	return b, nil
}

// get fetches a document of at most maxDocument bytes, with a resolve's patience.
func (r repository) get(ctx context.Context, kind, id string) (body []byte, mediaType string, err error) {
	if r.c.cfg.Offline {
		return nil, "", failf(ErrOffline, "run it once without --offline", "%s %s of %s is not kept here", strings.TrimSuffix(kind, "s"), id, r.repo.Name())
	}
	ends, err := r.c.endpoints(r.repo, strings.Contains(id, ":"))
	if err != nil {
		return nil, "", err
	}
	p := r.c.resolvePatience(r.repo.RegistryStr())
	p.once = r.once
	defer func() { p.end(err == nil) }()
	if err := p.ready(); err != nil {
		return nil, "", err
	}
	for {
		body, mediaType, err = r.tryAll(ctx, ends, kind, id, p)
		if err == nil {
			p.progressed(nil)
			return body, mediaType, nil
		}
		if ctx.Err() != nil {
			return nil, "", context.Cause(ctx)
		}
		if err := p.wait(ctx, err); err != nil {
			return nil, "", err
		}
	}
}

// tryAll asks each endpoint until one has the document.
func (r repository) tryAll(ctx context.Context, ends []endpoint, kind, id string, p *patience) (body []byte, mediaType string, err error) {
	for i, e := range ends {
		p.mirror = e.mirror
		if e.mirror && i < len(ends)-1 && !r.c.mirrorWorks(e.key()) {
			continue
		}
		body, mediaType, err = r.try(ctx, e, kind, id, p)
		if err == nil || ctx.Err() != nil {
			return body, mediaType, err
		}
		if e.mirror && !missing(err) {
			r.c.failMirror(e.key(), err)
		}
	}
	return nil, "", err
}

// missing reports a fault that says nothing of the host but that it has no such thing.
func missing(err error) bool {
	var fault *passingError
	return errors.As(err, &fault) && errors.Is(fault.err, ErrNotFound)
}

// key names an endpoint among the mirrors that failed; "" for the last place to ask.
func (e endpoint) key() string {
	if !e.mirror {
		return ""
	}
	return e.repo.Name()
}

func (r repository) try(ctx context.Context, e endpoint, kind, id string, p *patience) ([]byte, string, error) {
	s := r.c.session(e, pullActions)
	early, cancel := p.within(ctx)
	err := s.ready(early)
	cancel()
	if err != nil {
		return nil, "", err
	}
	header := http.Header{}
	if kind == "manifests" {
		header = acceptManifests
	}
	resp, _, err := follow(ctx, s, s.url(kind, id), header, p)
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", statusFault(resp)
	}
	defer resp.Body.Close()
	if page := webPage(resp); page != nil {
		return nil, "", page
	}
	b, err := readAll(resp.Body, maxDocument)
	if err == nil && resp.ContentLength >= 0 && int64(len(b)) != resp.ContentLength {
		err = passing("the connection ended early")
	}
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return b, strings.TrimSpace(mediaType), err
}

// pinTag turns a reference into a digest. Tags are asked for each time (they move), and their
// answer is kept for --offline.
func (c *Client) pinTag(ctx context.Context, ref Reference, once bool) (v1.Descriptor, error) {
	if ref.Digest != "" {
		h, err := parseDigest(ref.Digest)
		return v1.Descriptor{Digest: h}, err
	}
	tag := ref.Tag
	if tag == "" {
		tag = "latest"
	}
	question := "docker://" + ref.Repo.Name() + ":" + tag
	if c.cfg.Offline {
		a, found := c.keep.answer(question)
		if h, err := parseDigest(a.Digest); found && err == nil {
			return v1.Descriptor{Digest: h, MediaType: types.MediaType(a.MediaType)}, nil
		}
		return v1.Descriptor{}, failf(ErrOffline, "run it once without --offline", "the meaning of tag %s of %s is not kept here", tag, ref.Repo.Name())
	}
	if err := c.known(ref.Repo.Name(), tag); err != nil {
		return v1.Descriptor{}, err
	}
	body, mediaType, err := repository{c, ref.Repo, once}.get(ctx, "manifests", tag)
	if err != nil {
		if Kind(err) == ErrNotFound {
			c.noteAbsent(ref.Repo.Name(), tag)
		}
		if a, found := c.keep.answer(question); found && Kind(err) == ErrNetwork {
			return v1.Descriptor{}, failf(ErrNetwork, fmt.Sprintf("--offline would use the answer of %s", a.Asked.Local().Format(time.DateTime)), "%w", err)
		}
		return v1.Descriptor{}, err
	}
	h, _, err := v1.SHA256(strings.NewReader(string(body)))
	if err != nil {
		return v1.Descriptor{}, err
	}
	c.kept(c.keep.putDocument(h, body))
	c.kept(c.keep.putAnswer(answer{Question: question, Digest: h.String(), MediaType: mediaType, Size: int64(len(body)), Asked: c.clock.now().UTC()}))
	return v1.Descriptor{Digest: h, MediaType: types.MediaType(mediaType), Data: body}, nil
}

// kept logs an answer that could not be kept; the work goes on without.
func (c *Client) kept(err error) {
	if err != nil {
		c.log.Warn("answer is not kept for --offline", "cause", err.Error())
	}
}

// openRegistry needs no request: size and digest are the manifest's.
func (c *Client) openRegistry(d Disk) (*Blob, error) {
	repo := d.place.ref.Repo
	ends, err := c.endpoints(repo, true)
	if err != nil {
		return nil, err
	}
	n := &counters{}
	r := newRanged(c, repo.RegistryStr(), d.Size, n)
	for _, e := range ends {
		s := c.session(e, pullActions)
		r.locations = append(r.locations, &location{mirror: e.key(), open: func(ctx context.Context) (origin, *url.URL, error) {
			if err := s.ready(ctx); err != nil {
				return nil, nil, err
			}
			return s, s.url("blobs", d.Digest), nil
		}})
	}
	return &Blob{src: r, key: d.Key, digest: d.Digest, size: d.Size, n: n}, nil
}
