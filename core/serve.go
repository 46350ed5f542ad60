package core

import "net/http"

// Serve serves a request that a router has matched: next as it is where nothing applies to the route, else the denial, or
// next between Begin and End, with a writer that the call sees through. A panic of next goes on. It is all that an adapter
// for a router over net/http needs; Applies, asked before, spares it the making of a Request. Safe for concurrent use.
func (f *Flow) Serve(w http.ResponseWriter, r *Request, next http.Handler) {
	call, denial := f.Begin(r.Context(), r)
	switch {
	case denial != nil:
		denial.ServeHTTP(w, r.Request)
	case call == nil:
		next.ServeHTTP(w, r.Request)
	default:
		writer := call.Writer(w)
		call.Run(func() int {
			next.ServeHTTP(writer, call.Request(r.Request))
			return writer.Status()
		})
	}
}
