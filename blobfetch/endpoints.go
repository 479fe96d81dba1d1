package blobfetch

import "github.com/google/go-containerregistry/pkg/name"

// An endpoint is a place where a repository's documents and blobs can be asked for.
type endpoint struct {
	repo     name.Repository
	insecure bool // certificates are not checked, and plain http is tried
	mirror   bool // of the registry that the reference names, which is the last endpoint
}

// endpoints returns the places of a repository in the order in which they are asked. byDigest tells
// that the request names a digest.
func (c *Client) endpoints(repo name.Repository, byDigest bool) ([]endpoint, error) {
	return []endpoint{{repo: repo, insecure: c.cfg.Insecure}}, nil
}
