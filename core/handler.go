package core

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Handler returns h with every request metered as a Job of that name, for socket.Provider's Serve. The request's metadata
// say whose it is (socket.MetadataIdentity), which HTTP request it comes from (MetadataRequestID) and what makes it the
// same work as another (MetadataIdempotencyKey, which becomes Job.ID); see Call.Metadata. In h, FromContext finds the call.
//
// The job is Durable, and over when its answer is: when h has returned, or, where the answer is a stream, at the stream's
// end, which reaches the consumer after the settlement is safe. So what a consumer has read to its end is charged, whatever
// becomes of the worker then. A denial is the request's answer, a socket.RemoteError at the consumer, which Denied understands.
func (f *Flow) Handler(name string, h socket.Handler) socket.Handler {
	return func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		run, err := f.beginJob(ctx, Job{
			Name: name, Identity: r.Metadata[socket.MetadataIdentity], ID: r.Metadata[socket.MetadataIdempotencyKey],
			RequestID: r.Metadata[socket.MetadataRequestID], Durable: true,
		})
		if denied := (*DeniedError)(nil); errors.As(err, &denied) {
			return nil, remoteDenial{denied}
		}
		if err != nil {
			return nil, err
		}
		streams := false
		defer func() {
			if !streams {
				run.abort()
			}
		}()
		answer, err := h(run.ctx, r)
		if err == nil && isStream(answer) {
			streams = true
			return &jobAnswer{answer, run}, nil
		}
		run.end()
		return answer, err
	}
}

// isStream reports whether reading r is a part of the work.
func isStream(r io.Reader) bool {
	switch r.(type) {
	case nil, *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return false
	}
	return true
}

// jobAnswer is the answer of a job that is over when that is read.
type jobAnswer struct {
	io.Reader
	run *jobRun
}

func (a *jobAnswer) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err != nil {
		a.run.end()
	}
	return n, err
}

// Close is called when nobody reads on.
func (a *jobAnswer) Close() error {
	a.run.end()
	if closer, ok := a.Reader.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// Metadata says, for socket.WithMetadata, to whom and to which request the work belongs that a call hands to a worker:
//
//	answer, err := consumer.SendContext(ctx, body, socket.WithMetadata(core.FromContext(ctx).Metadata()))
func (c *Call) Metadata() map[string]string {
	m := map[string]string{}
	if c == nil {
		return m
	}
	m[socket.MetadataRequestID] = c.requestID
	if identity := strings.TrimPrefix(c.alias[len(c.rule.alias):], " "); identity != "" {
		m[socket.MetadataIdentity] = identity
	}
	return m
}

// remoteDenial is a denial as it goes to the consumer.
type remoteDenial struct{ *DeniedError }

// denialPrefix begins the text of a remoteDenial, and the Denial as JSON follows.
const denialPrefix = "usageflow denial: "

func (e remoteDenial) Error() string { return denialPrefix + string(marshal(e.Denial)) }

// Denied returns the denial in err: that of a Do, or that with which a worker's Handler answered a socket.Consumer's request;
// nil if err is none. It serves as an http.Handler for the request that the work was for.
func Denied(err error) *Denial {
	var remote *socket.RemoteError
	var denied *DeniedError
	switch {
	case errors.As(err, &denied):
		return denied.Denial
	case errors.As(err, &remote):
		text, ok := strings.CutPrefix(remote.Message, denialPrefix)
		d := &Denial{}
		if ok && json.Unmarshal([]byte(text), d) == nil && d.Status >= 400 && d.Status < 600 {
			return d
		}
	}
	return nil
}
