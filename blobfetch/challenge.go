package blobfetch

import (
	"net/http"
	"strings"
)

// A challenge says how a server wants to be asked (RFC 9110 section 11.6.1). The zero value is none.
type challenge struct {
	scheme  string // "bearer" or "basic"
	realm   string
	service string
	scope   string
}

const maxChallenge = 8 << 10 // bytes of a WWW-Authenticate header that are read

// challengeOf returns the challenge of an answer, Bearer before Basic; the zero challenge if there
// is none of the two.
func challengeOf(h http.Header) (best challenge) {
	for _, value := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(value[:min(len(value), maxChallenge)]) {
			if c.scheme == "bearer" && best.scheme != "bearer" || c.scheme == "basic" && best.scheme == "" {
				best = c
			}
		}
	}
	return best
}

// parseChallenges reads a list of challenges. What is malformed ends it.
func parseChallenges(s string) (list []challenge) {
	for {
		s = strings.TrimLeft(s, " \t,")
		word := token(s)
		if word == "" {
			return list
		}
		rest := strings.TrimLeft(s[len(word):], " \t")
		value, after, is := parameter(rest)
		if !is { // a scheme, with its parameters or a new scheme behind it
			list = append(list, challenge{scheme: strings.ToLower(word)})
			s = rest
			continue
		}
		if len(list) == 0 {
			return nil
		}
		list[len(list)-1].set(strings.ToLower(word), value)
		s = after
	}
}

// set sets a parameter, unless it was set before.
func (c *challenge) set(name, value string) {
	for _, field := range []struct {
		name string
		to   *string
	}{{"realm", &c.realm}, {"service", &c.service}, {"scope", &c.scope}} {
		if field.name == name && *field.to == "" {
			*field.to = value
		}
	}
}

// parameter reads the rest of NAME=VALUE behind the name.
func parameter(s string) (value, rest string, is bool) {
	s, is = strings.CutPrefix(s, "=")
	if !is {
		return "", "", false
	}
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		value = token(s)
		return value, s[len(value):], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), "", true
}

// token returns the token that s begins with (RFC 9110 section 5.6.2).
func token(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
	if end < 0 {
		return s
	}
	return s[:end]
}
