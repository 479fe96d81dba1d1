package blobfetch

import (
	"path"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The rules by which manifests are read. They do no I/O; resolve.go brings the documents.

const (
	defaultDiskType = "qemu"
	titleKey        = "org.opencontainers.image.title"
	refNameKey      = "org.opencontainers.image.ref.name"
	diskTypeKey     = "disktype"
)

// emptyLayers are the digests of an empty tar: gzipped as Docker always did, and plain.
var emptyLayers = map[string]bool{
	"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4": true,
	"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef": true,
}

// variants lists the entries of an index that can hold a disk: not attestations and signatures,
// and, where some entries have a disktype, not those without (podman's index lists bootable
// containers beside its disks).
func variants(ix *v1.IndexManifest) []v1.Descriptor {
	var out []v1.Descriptor
	typed := slices.ContainsFunc(ix.Manifests, func(d v1.Descriptor) bool { return d.Annotations[diskTypeKey] != "" })
	for _, d := range ix.Manifests {
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "", d.Platform != nil && d.Platform.OS == "unknown",
			typed && d.Annotations[diskTypeKey] == "",
			!d.MediaType.IsImage() && !d.MediaType.IsIndex() && d.MediaType != "":
			continue
		}
		out = append(out, d)
	}
	return out
}

func variantOf(d v1.Descriptor) Variant {
	v := Variant{DiskType: d.Annotations[diskTypeKey], Digest: d.Digest.String()}
	if d.Platform != nil {
		v.OS, v.Arch = d.Platform.OS, goArch(d.Platform.Architecture)
	}
	return v
}

// pickVariants leaves the entries that sel means; most often one.
func pickVariants(entries []v1.Descriptor, sel Select) ([]v1.Descriptor, error) {
	arch, diskType := sel.Arch, sel.DiskType
	if arch == "" {
		arch = runtime.GOARCH
	}
	typed := len(entries) > 0 && entries[0].Annotations[diskTypeKey] != ""
	if typed && diskType == "" {
		diskType = defaultDiskType
	}
	if typed && diskType == "wsl" {
		return nil, failf(ErrNotImage, "pick qemu, applehv or hyperv with --disktype", "disktype wsl is a root file system for Windows, not a disk")
	}
	var left []v1.Descriptor
	for _, d := range entries {
		v := variantOf(d)
		if matches(v.Arch, arch, sameArch) && (!typed || strings.EqualFold(v.DiskType, diskType)) {
			left = append(left, d)
		}
	}
	if linux := slices.DeleteFunc(slices.Clone(left), func(d v1.Descriptor) bool {
		return d.Platform != nil && d.Platform.OS != "" && d.Platform.OS != "linux"
	}); len(linux) > 0 {
		left = linux
	}
	if len(left) == 0 {
		want := "arch " + arch
		if typed {
			want += ", disktype " + diskType
		}
		return nil, failf(ErrNotFound, "pick one with --arch and --disktype", "nothing is for %s; there is %s", want, listVariants(entries))
	}
	return left, nil
}

func listVariants(entries []v1.Descriptor) string {
	var out []string
	for _, d := range entries {
		v := variantOf(d)
		words := strings.Trim(quoted(strings.Trim(v.OS+"/"+v.Arch+" "+v.DiskType, "/ ")), `"`)
		if words == "" {
			words = v.Digest
		}
		if !slices.Contains(out, words) {
			out = append(out, words)
		}
	}
	return enumerate(out)
}

// disksOf applies rules 2 to 5 to one manifest. containers tells that they are layers of an
// ordinary image, whose config can say that it is a bootable container.
func disksOf(doc *document, digest string, v Variant) (disks []Disk, layout string, err error) {
	m := doc.manifest
	var refused, others []string
	tars := 0
	for i, l := range m.Layers {
		d := Disk{OS: v.OS, Arch: v.Arch, DiskType: v.DiskType, MediaType: string(l.MediaType), Title: l.Annotations[titleKey],
			Digest: l.Digest.String(), Key: l.Digest.String(), Size: l.Size, Annotations: l.Annotations, Manifest: digest, Layer: i}
		switch kind := string(l.MediaType); {
		case strings.HasPrefix(kind, "application/vnd.cirruslabs.tart.disk."):
			refused = append(refused, "tart")
			continue
		case strings.HasPrefix(kind, "application/vnd.cirruslabs.vetu.disk."):
			refused = append(refused, "vetu")
			continue
		case emptyLayers[d.Digest]:
			continue
		case noDisk(l):
			others = append(others, strings.Trim(quoted(d.Title+" "+kind), `"`))
			continue
		}
		// oras gives plain files a tar layer's type, and a title, which container layers do not
		// have.
		d.Tar = tarType(l.MediaType) && d.Title == ""
		if d.Tar {
			tars++
		}
		d.Name = d.Title
		if d.Name == "" {
			d.Name = l.Annotations["io.kubevirt.disk.name"]
		}
		if d.Name == "" {
			d.Name = l.Digest.Hex[:12]
		}
		disks = append(disks, d)
	}
	switch {
	case len(refused) > 0:
		return nil, "", failf(ErrNotImage, "convert it with "+refused[0]+" itself", "it is a %s VM of %s, a format that is not read yet", refused[0], plural(len(refused), "disk layer"))
	case len(disks) == 0 && len(others) > 0:
		return nil, "", failf(ErrNotImage, "", "no layer can be a disk; there is %s", enumerate(others))
	case len(disks) == 0:
		return nil, "", failf(ErrNotImage, "", "it has no layers")
	case tars == len(disks):
		return disks, "tar layers", nil
	case tars > 0: // an artifact that brings a tar along
		disks = slices.DeleteFunc(disks, func(d Disk) bool { return d.Tar })
	}
	switch {
	case m.ArtifactType == "application/vnd.kubevirt.virtualmachine.v1":
		layout = "KubeVirt export"
	case v.DiskType != "":
		layout = "index with disktype"
	default:
		layout = "artifact"
	}
	return disks, layout, nil
}

func tarType(t types.MediaType) bool {
	s := string(t)
	return t.IsLayer() || strings.HasPrefix(s, "application/vnd.oci.image.layer.") || s == "application/x-tar" || strings.HasSuffix(s, ".tar") || strings.Contains(s, ".tar+")
}

// noDisk reports layers that lie beside disks, by media type or title: signatures, bills of
// materials, checksums, texts. All others stay in: names are hints, and the first bytes decide
// later.
func noDisk(l v1.Descriptor) bool {
	kind := string(l.MediaType)
	for _, part := range []string{"in-toto", "spdx", "cyclonedx", "cosign", "sigstore", "helm"} {
		if strings.Contains(kind, part) {
			return true
		}
	}
	if strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "json") || kind == "application/yaml" || kind == "application/pdf" {
		return true
	}
	switch strings.ToLower(path.Ext(l.Annotations[titleKey])) {
	case ".json", ".txt", ".md", ".sha256", ".sha512", ".sha256sum", ".sha512sum", ".md5", ".sig", ".asc", ".pem", ".pub", ".yaml", ".yml", ".toml", ".log", ".sh", ".pdf", ".html", ".xml", ".ovf", ".mf", ".ign":
		return true
	}
	return false
}

// bootableLabels mark containers that hold an operating system; buildah copies labels to
// annotations.
var bootableLabels = []string{"containers.bootc", "ostree.bootable"}

func bootable(labels map[string]string) bool {
	for _, l := range bootableLabels {
		if v := labels[l]; v == "1" || v == "true" {
			return true
		}
	}
	return false
}

func bootableError() error {
	return failf(ErrNotImage, "make a disk of it with bootc-image-builder or bootc install to-disk, or name a file with --layer and --path",
		"it is a bootable container: a container of an operating system, not a disk")
}

// named leaves the entries of a layout's index.json that a tag means. Layouts without names are
// like any index.
func named(ix *v1.IndexManifest, tag string) (*v1.IndexManifest, error) {
	var names []string
	var left []v1.Descriptor
	for _, d := range ix.Manifests {
		name := d.Annotations[refNameKey]
		if name != "" {
			names = append(names, quoted(name))
		}
		if tag == "" || name == tag {
			left = append(left, d)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(ix.Manifests) == 0:
		return nil, failf(ErrNotFound, "", "the layout is empty")
	case len(left) == 0:
		return nil, failf(ErrNotFound, "pick one with PATH:TAG", "no image is tagged %s; there is %s", quoted(tag), enumerate(names))
	case tag == "" && len(names) > 1:
		return nil, failf(ErrNotFound, "pick one with PATH:TAG", "it holds %s: %s", plural(len(names), "image"), enumerate(names))
	}
	out := *ix
	out.Manifests = left
	return &out, nil
}
