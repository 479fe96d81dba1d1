package blobfetch

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"

	"golang.org/x/net/http/httpproxy"
)

// proxies chooses the proxy of a request from the environment: HTTPS_PROXY and HTTP_PROXY, for both
// ALL_PROXY, and NO_PROXY, in capital or small letters.
type proxies struct {
	choose func(*url.URL) (*url.URL, error)
	hosts  []string // HOST:PORT of the proxies
}

var proxyPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// newProxies fails for an address that is malformed: to go without the proxy then would pass by
// what it is there for.
func newProxies() (p proxies, err error) {
	conf := httpproxy.FromEnvironment()
	all := os.Getenv("ALL_PROXY")
	if all == "" {
		all = os.Getenv("all_proxy")
	}
	for name, value := range map[string]*string{"HTTPS_PROXY": &conf.HTTPSProxy, "HTTP_PROXY": &conf.HTTPProxy} {
		if *value == "" && all != "" {
			name, *value = "ALL_PROXY", all
		}
		if *value == "" {
			continue
		}
		u, err := parseProxy(*value)
		if err != nil {
			return p, failf(ErrLocal, "write http://USER:PASSWORD@HOST:PORT, with %XX for all but letters and digits in USER and PASSWORD", "%s is malformed", name)
		}
		*value = u.String()
		host := u.Host
		if u.Port() == "" {
			host += ":" + proxyPorts[u.Scheme]
		}
		p.hosts = append(p.hosts, host)
	}
	p.choose = conf.ProxyFunc()
	return p, nil
}

// parseProxy reads a proxy's address; without a scheme it is http.
func parseProxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || proxyPorts[u.Scheme] == "" {
		u, err = url.Parse("http://" + s)
	}
	switch {
	case err != nil:
		return nil, err
	case u.Hostname() == "", proxyPorts[u.Scheme] == "", u.RawQuery != "", u.Fragment != "", u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("not a proxy's address")
	}
	return u, nil
}

// of is http.Transport's Proxy.
func (p proxies) of(req *http.Request) (*url.URL, error) { return p.choose(req.URL) }

// is reports the address of a proxy.
func (p proxies) is(addr string) bool { return slices.Contains(p.hosts, addr) }

// connected looks at a proxy's answer to CONNECT. A refusal is final; that the proxy does not reach
// the host may pass.
func connected(_ context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
	code := resp.StatusCode
	switch {
	case code == http.StatusOK:
		return nil
	case code >= 500:
		return passing("proxy %s does not reach %s: it answers %d", proxy.Host, req.URL.Host, code)
	}
	remedy := "see HTTPS_PROXY and NO_PROXY"
	if code == http.StatusProxyAuthRequired {
		remedy = "put the proxy's user and password into HTTPS_PROXY"
	}
	return failf(ErrNetwork, remedy, "proxy %s refuses to connect to %s: %d %s", proxy.Host, req.URL.Host, code, http.StatusText(code))
}
