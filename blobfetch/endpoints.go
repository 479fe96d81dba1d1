package blobfetch

import (
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
)

// An endpoint is a place where a repository's documents and blobs can be asked for.
type endpoint struct {
	repo     name.Repository
	insecure bool // certificates are not checked, and plain http is tried
	mirror   bool // of the registry that the reference names, which is the last endpoint
}

// endpoints returns the places of a repository in the order in which they are asked, as
// registries.conf and its drop-in files have it (containers-registries.conf(5)): the mirrors, then
// the registry, each under its own name. byDigest tells that the request names a digest. A blocked
// registry is an ErrNetwork.
func (c *Client) endpoints(repo name.Repository, byDigest bool) ([]endpoint, error) {
	self := []endpoint{{repo: repo, insecure: c.cfg.Insecure}}
	named, err := podmanName(repo, byDigest)
	if err != nil {
		return self, nil // no name of podman's, so none of registries.conf
	}
	reg, err := sysregistriesv2.FindRegistry(nil, named.Name())
	if err != nil {
		return nil, failf(ErrLocal, "", "registries.conf: %w", err)
	}
	if reg == nil {
		return self, nil
	}
	if reg.Blocked {
		return nil, failf(ErrNetwork, "see "+sysregistriesv2.ConfigurationSourceDescription(nil), "%s is blocked in registries.conf", reg.Prefix)
	}
	sources, err := reg.PullSourcesFromReference(named)
	if err != nil {
		return nil, failf(ErrLocal, "", "registries.conf: %w", err)
	}
	var list []endpoint
	for i, s := range sources {
		at, err := name.NewRepository(s.Reference.Name())
		if err != nil {
			return nil, failf(ErrLocal, "", "registries.conf: %w", err)
		}
		list = append(list, endpoint{repo: at, insecure: c.cfg.Insecure || s.Endpoint.Insecure, mirror: i < len(sources)-1})
	}
	return list, nil
}

// podmanName returns a repository as podman names it, with a tag or a digest, on which the choice of
// mirrors depends.
func podmanName(repo name.Repository, byDigest bool) (reference.Named, error) {
	host := repo.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	text := host + "/" + repo.RepositoryStr() + ":latest"
	if byDigest {
		text = strings.TrimSuffix(text, ":latest") + "@sha256:" + strings.Repeat("0", 64)
	}
	return reference.ParseNamed(text)
}

// systemHelpers lists the credential helpers of registries.conf. The auth files, which are one of
// podman's own, were asked before.
func systemHelpers() ([]string, error) {
	list, err := sysregistriesv2.CredentialHelpers(nil)
	if err != nil {
		return nil, failf(ErrLocal, "", "registries.conf: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == sysregistriesv2.AuthenticationFileHelper }), nil
}
