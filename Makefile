# The developer's commands. `make test` is all that CI runs.
#
#	make build         bin/machinefs
#	make check         the fast part: gofmt, vet, staticcheck, go.mod, import graph
#	make test          everything that CI runs
#	make integration   the tests with real mounts, registries and virtual machines only
#	make soak          kills, damage and every form of the long tests, for an hour or more; SEED=N repeats a run
#	make demo          boot a virtual machine from an image in a registry, and see what it cost
#	make fuzz          each fuzz target for FUZZTIME
#	make bench         benchmarks, as ratios to other tools
#	make bench-boot    boot a real Debian over a link of RATE Mbit/s and LATENCY in all ways, RUNS times each; draws docs/boot.svg
#	make cross         build and vet for the other systems (part of check)
#	make deps          install the Debian packages and the Go that the others need (as root), or name them
#	make clean         remove what was built, and the images kept for tests and demo

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
RATE ?= 200
LATENCY ?= 20ms
RUNS ?= 3
.PHONY: build check cross test integration soak raced demo fuzz bench bench-boot deps go packages fuse clean

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 30s
ROUNDS ?= 200
SEED ?=

# A Go that `make deps` fetched comes first, the usual place of Go's own archive last. sbin holds mkfs and sfdisk, which an ordinary user's PATH lacks.
export PATH := $(CURDIR)/.cache/go/bin:$(PATH):/usr/local/go/bin:/usr/sbin:/sbin

build: go
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/machinefs ./cmd/machinefs

check: go cross
	@unformatted=$$(gofmt -l */)
	if [ -n "$$unformatted" ]; then
		echo "not formatted (gofmt -w): $$unformatted" >&2
		exit 1
	fi
	go vet ./...
	go vet -tags soak ./integration
	go run $(STATICCHECK) ./...
	go mod tidy -diff
	go test -run '^TestImportGraph$$' ./integration/image

# Systems that materialize, cat, inspect, index and cache are for. Mounts are for Linux.
SYSTEMS := linux/arm64 linux/riscv64 darwin/arm64 darwin/amd64 freebsd/amd64
PORTABLE := ./cmd/... ./cache ./disk ./blobfetch ./seekable/...

cross: go
	for system in $(SYSTEMS); do
		export GOOS=$${system%/*} GOARCH=$${system#*/} CGO_ENABLED=0
		go build -o /dev/null ./cmd/machinefs
		go vet $(PORTABLE)
	done

# Nothing is concurrent in these packages, or it is in a program that they start: the race detector would find nothing, in ten times the time.
SERIAL := ./integration ./integration/image ./integration/slowest ./integration/bench ./integration/demo \
	./seekable/internal/xz ./seekable/internal/lz4 ./seekable/internal/codec ./seekable/internal/codectest

# In these packages some things are concurrent. They are tested without the race detector, and with it but for the tests that only sweep.
MIXED := ./seekable/... ./disk/...
SWEEPS := Damaged|Forged|Flip|Truncated|Every|QemuIO|Converted|ManyStreams

# list prints the packages of $(1) that are not among $(2).
list = $$(go list $(1) | grep -v -F -x "$$(go list $(2))")

# The programs of the integration tests: as it is released, and with the race detector for what is concurrent in it.
RACED := .cache/machinefs-race
PROGRAMS := MACHINEFS=$(CURDIR)/bin/machinefs MACHINEFS_RACE=$(CURDIR)/$(RACED)

raced: build
	mkdir -p .cache
	go build -race -o $(RACED) ./cmd/machinefs

# All packages are tested, also when one fails. One that hangs must fail well before CI gives up. The longest package comes first.
test: deps build check raced
	status=$$(mktemp)
	{
		$(PROGRAMS) CGO_ENABLED=0 go test -trimpath -json -timeout 15m $(SERIAL) $(call list,$(MIXED),$(SERIAL)) || echo failed >>$$status
		go test -race -json -timeout 15m $(call list,./...,$(SERIAL) $(MIXED)) || echo failed >>$$status
		go test -race -json -timeout 15m -skip '$(SWEEPS)' $(call list,$(MIXED),$(SERIAL)) || echo failed >>$$status
	} | go run ./integration/slowest
	if [ -s $$status ]; then
		rm -f $$status
		exit 1
	fi
	rm -f $$status

integration: deps build raced
	$(PROGRAMS) CGO_ENABLED=0 go test -trimpath -timeout 15m ./integration/...

soak: deps build raced
	$(PROGRAMS) MACHINEFS_SEED=$(SEED) MACHINEFS_ROUNDS=$(ROUNDS) CGO_ENABLED=0 go test -trimpath -tags soak -timeout 12h -v \
		-run '^(TestSoak|TestMatrix|TestTroubles|TestVMThroughOutages|TestLongRun|TestAWrongIndexDoesNoHarm|TestNoByteIsFetchedTwice|TestDiskUseIsBoundedWhileItGrows|TestAKilledCopyOfOneSpanGainsSomething|TestKilledCopiesGoOn|TestACopyToAFullDisk|TestDamagedPartsOfACopy)' ./integration

demo: deps build
	go run ./integration/demo

# To minimize an input of some MiB takes longer than FUZZTIME: ten attempts are enough.
fuzz: go
	@for package in $$(go list ./...); do
		for target in $$(go test -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do
			echo "$$package $$target"
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$package"
		done
	done

bench: deps build
	go test -run '^$$' -bench . ./...
	go run ./integration/bench

# Root is needed to make the guest, once: it is kept in .cache/images.
bench-boot: deps build
	mkdir -p docs
	go run ./integration/demo -guest debian -all -runs $(RUNS) -rate $(RATE) -latency $(LATENCY) -svg docs/boot.svg

deps: packages go fuse

# Debian 12 and 13. gcc is for the race detector; the rest are the tools that make, publish, check and boot test images.
PACKAGES := git ca-certificates curl gcc libc6-dev \
	qemu-utils qemu-system-x86 docker-registry skopeo fuse3 attr apache2-utils \
	zstd xz-utils pixz lbzip2 bzip2 lz4 pigz isal tabix zip cpio jq hyperfine \
	e2fsprogs dosfstools mtools fdisk gdisk syslinux syslinux-common mmdebstrap

# docker-registry starts a service on installation, which nobody asked for: a registry that was not there before is stopped.
# The test disk's kernel is fetched from apt's list, which a new machine does not have.
packages:
	@missing=
	for package in $(PACKAGES); do
		[ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null)" = installed ] || missing+=" $$package"
	done
	if [ -z "$$missing" ]; then
		if [ $$(id -u) = 0 ] && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then apt-get update -q; fi
		exit 0
	fi
	if [ $$(id -u) != 0 ]; then
		echo "missing Debian packages; as root: apt-get install --no-install-recommends$$missing" >&2
		exit 1
	fi
	echo "installing Debian packages:$$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-get install -q -y --no-install-recommends $$missing
	if [[ "$$missing " == *' docker-registry '* ]] && [ -d /run/systemd/system ]; then
		systemctl disable --now docker-registry.service || echo "docker-registry.service could not be stopped" >&2
	fi

# Go of at least go.mod's version. From Go 1.21 on an older one fetches it by itself, through the module proxy; Debian 12's 1.19
# can be made to fetch it as a module, whose files lack their executable bits.
go:
	@usable() { command -v go >/dev/null && go list -m >/dev/null 2>&1; }
	if usable; then exit 0; fi
	wanted=$$(awk '$$1 == "go" { print $$2 }' go.mod)
	if ! command -v go >/dev/null; then
		if [ $$(id -u) != 0 ]; then
			echo "Go is not installed; as root: apt-get install golang-go, or get Go $$wanted from https://go.dev/dl" >&2
			exit 1
		fi
		if ! apt-cache show golang-go >/dev/null 2>&1; then apt-get update -q; fi
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends golang-go ca-certificates
	fi
	mkdir -p .cache
	export GOTOOLCHAIN=auto
	if usable; then
		ln -sfn "$$(go env GOROOT)" .cache/go
		exit 0
	fi
	module=golang.org/toolchain@v0.0.1-go$$wanted.$$(go env GOOS)-$$(go env GOARCH)
	echo "$$(go version) is too old for this module; fetching $$module"
	(cd / && GO111MODULE=on GOFLAGS= go mod download "$$module")
	root=$$(cd / && go env GOMODCACHE)/$$module
	chmod -R u+w,a+rX "$$root"
	chmod a+x "$$root"/bin/* "$$root"/pkg/tool/*/*
	ln -sfn "$$root" .cache/go
	hash -r
	usable || { echo "Go $$wanted could not be had: $$(go list -m 2>&1)" >&2; exit 1; }

fuse:
	@if [ ! -e /dev/fuse ] && [ $$(id -u) = 0 ]; then
		modprobe fuse 2>/dev/null || true
		[ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229 || true
	fi
	# Debian's udev rule lets everybody open it; without udev, as in a container, nothing does.
	if [ $$(id -u) = 0 ] && [ -c /dev/fuse ]; then chmod 666 /dev/fuse || true; fi
	if ! { : <>/dev/fuse; } 2>/dev/null; then
		echo "/dev/fuse cannot be opened by $$(id -un); mounts will fail (as root: modprobe fuse; chmod 666 /dev/fuse)" >&2
	fi

clean:
	rm -rf bin .cache
