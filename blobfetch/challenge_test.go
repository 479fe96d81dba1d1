package blobfetch

import (
	"net/http"
	"testing"
)

func TestChallenges(t *testing.T) {
	for value, want := range map[string]challenge{
		`Bearer realm="https://a/token",service="b",scope="repository:c:pull"`: {"bearer", "https://a/token", "b", "repository:c:pull"},
		`bearer Realm = "https://a/token" , service=b`:                         {scheme: "bearer", realm: "https://a/token", service: "b"},
		`Basic realm="x, y=\"z\"", Bearer realm="https://a/token"`:             {scheme: "bearer", realm: "https://a/token"},
		`Basic realm="x"`:            {scheme: "basic", realm: "x"},
		`Negotiate, Basic realm="x"`: {scheme: "basic", realm: "x"},
		`Negotiate`:                  {},
		``:                           {},
		`realm="x"`:                  {},
		`Bearer realm="unended`:      {scheme: "bearer", realm: "unended"},
		`Bearer realm="a",realm="b"`: {scheme: "bearer", realm: "a"},
		`Bearer error="invalid_token",realm="a",error_description="it, has=\"ended\""`: {scheme: "bearer", realm: "a"},
	} {
		if got := challengeOf(http.Header{"Www-Authenticate": {value}}); got != want {
			t.Errorf("%s: %+v, want %+v", value, got, want)
		}
	}
	two := http.Header{"Www-Authenticate": {`Basic realm="x"`, `Bearer realm="y"`}}
	if got := challengeOf(two); got.realm != "y" {
		t.Errorf("of two headers: %+v", got)
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`)
	f.Add(`Basic realm="Registry Realm", Negotiate`)
	f.Add(`a="b\`)
	f.Fuzz(func(t *testing.T, value string) {
		for _, c := range parseChallenges(value) {
			if len(c.scheme)+len(c.realm)+len(c.service)+len(c.scope) > len(value) {
				t.Errorf("more was read of %q than there is: %+v", value, c)
			}
		}
	})
}
