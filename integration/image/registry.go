package image

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Registry is a process of Debian's docker-registry, reached through a Server that counts.
type Registry struct {
	*Server
	Direct string // 127.0.0.1:PORT of the registry itself, past the counts and limits

	process *exec.Cmd
	exited  chan error
}

// StartRegistry starts a registry that keeps its blobs below dir, and returns when it answers.
// Extra sections of its configuration, in YAML ("auth:\n  htpasswd: …"), are appended to ours.
func StartRegistry(ctx context.Context, dir string, extra ...string) (*Registry, error) {
	var err error
	// Another process may take the port between our looking and the registry's: look again.
	for range 5 {
		var r *Registry
		if r, err = startOn(ctx, dir, extra); err == nil {
			return r, nil
		}
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, err
}

func startOn(ctx context.Context, dir string, extra []string) (*Registry, error) {
	addr, err := freePort()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs"), 0o755); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"+
		"storage:\n  filesystem:\n    rootdirectory: %q\n  delete:\n    enabled: true\n"+
		"  maintenance:\n    uploadpurging:\n      enabled: false\nhttp:\n  addr: %s\n%s",
		filepath.Join(dir, "blobs"), addr, strings.Join(extra, ""))
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	// Not ctx: the registry lives until Stop, whatever becomes of the caller's deadline for starting
	// it.
	cmd, err := command(context.Background(), "docker-registry", "serve", file)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	said := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &Registry{Direct: addr, process: cmd, exited: make(chan error, 1)}
	go func() { r.exited <- cmd.Wait() }()
	if err := r.ready(ctx); err != nil {
		r.kill()
		return nil, fmt.Errorf("start docker-registry on %s: %w: %s", addr, err, tail(said.String(), 600))
	}
	if r.Server, err = Serve(proxyTo(addr)); err != nil {
		r.kill()
		return nil, err
	}
	return r, nil
}

// ready asks until the registry answers (with any status: it may want credentials), exits or ctx
// ends.
func (r *Registry) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Direct+"/v2/", nil)
		if err != nil {
			return err
		}
		if answer, err := http.DefaultClient.Do(ask); err == nil {
			return answer.Body.Close()
		}
		select {
		case err := <-r.exited:
			r.exited <- err
			return fmt.Errorf("it exited: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

func (r *Registry) kill() {
	r.process.Process.Kill()
	<-r.exited
}

// Stop ends the registry and the server before it. Its files stay.
func (r *Registry) Stop() error {
	err := r.Server.Stop()
	r.kill()
	return err
}

// freePort is a local address that nothing listens on at this moment.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
