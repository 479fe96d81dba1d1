package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Booted tells how a disk of Bootable started.
type Booted struct {
	Line    string        // the guest's own line, from Marker on
	Elapsed time.Duration // from qemu's start to the line
	Accel   string        // "kvm" or "tcg"
}

// BootCommand is how Boot starts qemu.
func BootCommand(accel, file, format string) []string {
	args := []string{"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "pc", "-m", "512",
		"-accel", accel, "-serial", "stdio",
		// A comma ends a value in qemu's options; two are one.
		"-drive", "file=" + strings.ReplaceAll(file, ",", ",,") + ",format=" + format + ",if=virtio,snapshot=on"}
	if accel == "kvm" {
		args = append(args, "-cpu", "host")
	}
	return args
}

// Boot starts qemu, accelerated by accel ("kvm" or "tcg"), from the disk in file (format "raw" or
// "qcow2") and waits for its marker line and for it to power off. What the guest writes goes to a
// temporary file, so the disk may be read-only. It is an error when the guest found a file that
// differs from what was put on the disk.
func Boot(ctx context.Context, accel, file, format string) (Booted, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	booted := Booted{Accel: accel}
	args := BootCommand(accel, file, format)
	cmd, err := command(ctx, args[0], args[1:]...)
	if err != nil {
		return booted, err
	}
	said := &complaints{stuck: cancel}
	cmd.Stderr = said
	console, err := cmd.StdoutPipe()
	if err != nil {
		return booted, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return booted, err
	}
	var seen strings.Builder
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		if at := strings.Index(lines.Text(), Marker); at >= 0 && booted.Line == "" {
			booted.Elapsed = time.Since(start)
			booted.Line = strings.TrimSpace(lines.Text()[at:])
		}
		fmt.Fprintln(&seen, lines.Text())
	}
	err = errors.Join(lines.Err(), cmd.Wait())
	switch {
	case ctx.Err() != nil:
		return booted, fmt.Errorf("boot %s: %w; the console ended with %q", file, context.Cause(ctx), tail(seen.String(), 600))
	case err != nil:
		return booted, fmt.Errorf("boot %s: %w: %s", file, err, tail(said.text.String(), 600))
	case booted.Line == "":
		return booted, fmt.Errorf("boot %s: powered off without its marker; the console ended with %q", file, tail(seen.String(), 600))
	case !strings.Contains(booted.Line, "sha256=ok"):
		return booted, fmt.Errorf("boot %s: the guest read wrong bytes: %s", file, booted.Line)
	}
	return booted, nil
}

// complaints keeps what qemu says and gives up on a guest that KVM cannot go on with, which qemu
// would keep forever.
type complaints struct {
	text  strings.Builder
	stuck func(error)
}

func (c *complaints) Write(p []byte) (int, error) {
	c.text.Write(p)
	if strings.Contains(c.text.String(), "KVM internal error") {
		c.stuck(errors.New("KVM internal error"))
	}
	return len(p), nil
}

// probeTime is how long a boot under KVM may take before KVM is not believed to work; 2 s are
// usual.
const probeTime = 15 * time.Second

// Accel is "kvm" where the disk in file, raw and on the host's own file system, boots under it,
// else "tcg". A whole boot, because KVM may be there and fail when it is opened, when a processor
// is made or in the middle of a guest, as it does inside some virtual machines.
func Accel(ctx context.Context, file string) string {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg"
	}
	kvm.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if _, err := Boot(ctx, "kvm", file, "raw"); err != nil {
		return "tcg"
	}
	return "kvm"
}
