// Package handler holds the benchmarks of what the middleware adds to one request, without HTTP around
// it: the engine's ServeHTTP is called with a response writer that does nothing.
package handler
