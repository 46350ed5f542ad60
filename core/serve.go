package core

import "net/http"

// Serve serves a request that a router has matched: next as it is where nothing applies to the route, else the denial, or
// next between Begin and End. It is all that an adapter for a router over net/http needs.
func (f *Flow) Serve(w http.ResponseWriter, r *Request, next http.Handler) {
	call, denial := f.Begin(r.Context(), r)
	if denial != nil {
		denial.ServeHTTP(w, r.Request)
		return
	}
	if call == nil {
		next.ServeHTTP(w, r.Request)
		return
	}
	writer := call.Writer(w)
	returned := false
	defer func() {
		if !returned {
			call.Abort() // the panic goes on
		}
	}()
	next.ServeHTTP(writer, call.Request(r.Request))
	returned = true
	call.End(writer.Status())
}
