package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Disk is one disk of an image and how it is announced.
type Disk struct {
	File      string // a path; its bytes become the layer
	Title     string // org.opencontainers.image.title of the layer; none if empty
	MediaType string // of the layer; podman's choice for the file's first bytes if empty
	Arch      string // platform of the index entry, in podman's spelling: x86_64, aarch64
	DiskType  string // "disktype" annotation of the index entry: qemu, applehv, hyperv, wsl; none if empty
}

const (
	emptyConfig  = "application/vnd.oci.empty.v1+json"
	titleKey     = "org.opencontainers.image.title"
	zstdLayer    = "application/zstd"
	unknownLayer = "application/octet-stream"
)

// Podman makes the index that podman 5 publishes for a machine: a disk for each platform and
// disktype, and bootable containers without a disktype. Only the disk for x86_64 and qemu is file;
// the others are stand-ins of a few bytes, which are no disks.
func Podman(file, title string) (v1.ImageIndex, error) {
	index, err := Index(Disk{File: file, Title: title, Arch: "x86_64", DiskType: "qemu"})
	if err != nil {
		return nil, err
	}
	for _, other := range [][2]string{{"aarch64", "qemu"}, {"x86_64", "applehv"}, {"amd64", ""}, {"arm64", ""}} {
		arch, disktype := other[0], other[1]
		stand := &blob{content: []byte("stand-in for " + arch + " " + disktype + "\n"), mediaType: unknownLayer}
		if err := stand.digest(); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("podman-machine.%s.%s.raw", arch, disktype)
		if disktype == "" {
			stand.mediaType, name = string(types.OCIUncompressedLayer), ""
		}
		img, err := newArtifact(stand, name)
		if err != nil {
			return nil, err
		}
		index = appendEntry(index, img, arch, disktype)
	}
	return index, nil
}

// Index makes an index with one entry for each disk, in their order.
func Index(disks ...Disk) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, disk := range disks {
		img, err := Single(disk)
		if err != nil {
			return nil, err
		}
		index = appendEntry(index, img, disk.Arch, disk.DiskType)
	}
	return index, nil
}

func appendEntry(index v1.ImageIndex, img v1.Image, arch, disktype string) v1.ImageIndex {
	entry := mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	if disktype != "" {
		entry.Annotations = map[string]string{"disktype": disktype}
	}
	return mutate.AppendManifests(index, entry)
}

// Single makes a manifest with the disk as its only layer, which is no tar, and the empty config.
func Single(disk Disk) (v1.Image, error) {
	layer := &blob{path: disk.File, mediaType: disk.MediaType}
	if err := layer.digest(); err != nil {
		return nil, err
	}
	if layer.mediaType == "" {
		layer.mediaType = unknownLayer
		if bytes.HasPrefix(layer.head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			layer.mediaType = zstdLayer
		}
	}
	return newArtifact(layer, disk.Title)
}

// Layered makes an ordinary image, as a container engine builds one, of the layer in a .tar.gz
// file. With docker, its manifest and config are Docker's schema 2, else OCI's.
func Layered(file string, docker bool) (v1.Image, error) {
	layerType, base := types.MediaType(types.DockerLayer), empty.Image
	if !docker {
		layerType = types.OCILayer
		base = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	layer, err := tarball.LayerFromFile(file, tarball.WithMediaType(layerType))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	return mutate.ConfigFile(img, config)
}

// blob is a layer that is a file, or a few bytes, taken as they are.
type blob struct {
	path      string
	content   []byte
	mediaType string
	head      []byte // the first bytes
	hash      v1.Hash
	size      int64
}

func (b *blob) digest() error {
	r, err := b.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	b.head = head[:n]
	sum := sha256.New()
	sum.Write(b.head)
	rest, err := io.Copy(sum, r)
	b.size = int64(n) + rest
	b.hash = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return err
}

func (b *blob) Compressed() (io.ReadCloser, error) {
	if b.content != nil {
		return io.NopCloser(bytes.NewReader(b.content)), nil
	}
	return os.Open(b.path)
}

func (b *blob) Uncompressed() (io.ReadCloser, error) { return b.Compressed() }
func (b *blob) Digest() (v1.Hash, error)             { return b.hash, nil }
func (b *blob) DiffID() (v1.Hash, error)             { return b.hash, nil }
func (b *blob) Size() (int64, error)                 { return b.size, nil }
func (b *blob) MediaType() (types.MediaType, error)  { return types.MediaType(b.mediaType), nil }

// artifact is a manifest with one blob and the empty config, which go-containerregistry's own
// images cannot have.
type artifact struct {
	layer    *blob
	manifest []byte
}

func newArtifact(layer *blob, title string) (*artifact, error) {
	config := []byte("{}")
	m := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: emptyConfig, Size: int64(len(config)), Digest: hashOf(config)},
		Layers:        []v1.Descriptor{{MediaType: types.MediaType(layer.mediaType), Size: layer.size, Digest: layer.hash}},
	}
	if title != "" {
		m.Layers[0].Annotations = map[string]string{titleKey: title}
	}
	raw, err := json.Marshal(m)
	return &artifact{layer, raw}, err
}

func hashOf(p []byte) v1.Hash {
	sum := sha256.Sum256(p)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

var _ v1.Image = (*artifact)(nil)

func (a *artifact) Layers() ([]v1.Layer, error)         { return []v1.Layer{a.layer}, nil }
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (a *artifact) Size() (int64, error)                { return int64(len(a.manifest)), nil }
func (a *artifact) ConfigName() (v1.Hash, error)        { return hashOf([]byte("{}")), nil }
func (a *artifact) ConfigFile() (*v1.ConfigFile, error) { return &v1.ConfigFile{}, nil }
func (a *artifact) RawConfigFile() ([]byte, error)      { return []byte("{}"), nil }
func (a *artifact) Digest() (v1.Hash, error)            { return hashOf(a.manifest), nil }
func (a *artifact) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a *artifact) Manifest() (*v1.Manifest, error) {
	return v1.ParseManifest(bytes.NewReader(a.manifest))
}
func (a *artifact) LayerByDiffID(h v1.Hash) (v1.Layer, error) { return a.LayerByDigest(h) }

// ArtifactType keeps the index entry free of one, as podman's are.
func (a *artifact) ArtifactType() (string, error) { return "", nil }

func (a *artifact) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	if h != a.layer.hash {
		return nil, errors.New("find layer " + h.String() + ": not in the image")
	}
	return a.layer, nil
}
