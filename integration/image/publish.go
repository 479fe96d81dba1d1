package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Push pushes a v1.Image or a v1.ImageIndex to ref, HOST:PORT/REPO:TAG, over plain http.
func Push(ctx context.Context, ref string, what any, opts ...remote.Option) error {
	to, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	opts = append([]remote.Option{remote.WithContext(ctx)}, opts...)
	switch what := what.(type) {
	case v1.ImageIndex:
		return remote.WriteIndex(to, what, opts...)
	case v1.Image:
		return remote.Write(to, what, opts...)
	}
	return fmt.Errorf("push %s: %T is neither an image nor an index", ref, what)
}

// Layout adds a v1.Image or a v1.ImageIndex to the OCI layout folder dir under a tag, and makes the
// folder if it is not there.
func Layout(dir, tag string, what any) error {
	path, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		path, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return err
	}
	var opts []layout.Option
	if tag != "" {
		opts = append(opts, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	}
	switch what := what.(type) {
	case v1.ImageIndex:
		return path.AppendIndex(what, opts...)
	case v1.Image:
		return path.AppendImage(what, opts...)
	}
	return fmt.Errorf("write %s: %T is neither an image nor an index", dir, what)
}
