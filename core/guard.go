package core

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
)

var (
	errNotJWT   = errors.New("core: not a JWT")
	errPanicked = errors.New("core: a function of the configuration panicked")
)

// The functions that the user gave us must not end a request that would live without us: a panic in
// one of them is logged, and counts as no answer.

func (f *Flow) recovered(name string) {
	if v := recover(); v != nil {
		f.log.Error("usageflow: a function of the configuration panicked", "function", name, "panic", fmt.Sprint(v))
	}
}

func (f *Flow) callIdentify(r *Request) (identity string, ok bool) {
	defer f.recovered("Identify")
	identity, ok = f.cfg.Identify(r)
	return identity, ok
}

func (f *Flow) callSkip(r *Request) (skip bool) {
	defer f.recovered("Skip")
	return f.cfg.Skip(r)
}

func (f *Flow) callVerifyJWT(token string) (claims map[string]any, err error) {
	defer f.recovered("VerifyJWT")
	err = errPanicked //nolint:wastedassign // it is the result where VerifyJWT does not return
	claims, err = f.cfg.VerifyJWT(token)
	return claims, err
}

func (f *Flow) callVoidStatus(status int) (void bool) {
	defer f.recovered("VoidStatus")
	return f.cfg.VoidStatus != nil && f.cfg.VoidStatus(status)
}

// callOnDeny reports whether the request is answered; if not, the header is as it was. The user's function gets a denial of its
// own, whose ServeHTTP is the flow's answer.
func (f *Flow) callOnDeny(w http.ResponseWriter, r *http.Request, d *Denial) bool {
	writer := (*Call)(nil).Writer(w)
	own := *d
	own.flow = nil
	before := w.Header().Clone()
	if f.tryOnDeny(writer, r, &own) && writer.Status() != 0 {
		return true
	}
	if writer.Status() != 0 {
		panic(http.ErrAbortHandler) // what has gone out is not the whole answer
	}
	clear(w.Header())
	maps.Copy(w.Header(), before)
	return false
}

// tryOnDeny reports whether OnDeny has returned.
func (f *Flow) tryOnDeny(w http.ResponseWriter, r *http.Request, d *Denial) (returned bool) {
	defer f.recovered("OnDeny")
	f.cfg.OnDeny(w, r, d)
	return true
}

func (f *Flow) observe(e Event) {
	if f.cfg.Observe == nil {
		return
	}
	defer f.recovered("Observe")
	f.cfg.Observe(e)
}
