package service

import (
	"net/http"
	"strings"
	"unicode/utf8"
)

// route is one operation of /api/v1.
type route struct {
	method, path string
	handle       http.HandlerFunc
	// open says that it needs no token.
	open bool
}

// api are the operations of /api/v1. openapi.json describes the same ones.
func (s *Service) api() []route {
	const app = "/api/v1/applications/{application}"
	return []route{
		{method: "GET", path: "/api/v1/session", handle: s.serveSession, open: true},
		{method: "POST", path: "/api/v1/session", handle: s.serveSignIn, open: true},
		{method: "DELETE", path: "/api/v1/session", handle: s.serveSignOut},

		{method: "GET", path: "/api/v1/applications", handle: s.serveApplications},
		{method: "POST", path: "/api/v1/applications", handle: s.createApplication},
		{method: "GET", path: app, handle: s.serveApplication},
		{method: "PUT", path: app, handle: s.replaceApplication},
		{method: "DELETE", path: app, handle: s.deleteApplication},
		{method: "POST", path: app + "/keys", handle: s.createKey},
		{method: "DELETE", path: app + "/keys/{key}", handle: s.deleteKey},
		{method: "GET", path: app + "/policies", handle: s.servePolicies},
		{method: "POST", path: app + "/policies", handle: s.createPolicy},
		{method: "GET", path: app + "/policies/{policy}", handle: s.servePolicy},
		{method: "PUT", path: app + "/policies/{policy}", handle: s.replacePolicy},
		{method: "DELETE", path: app + "/policies/{policy}", handle: s.deletePolicy},
		{method: "POST", path: app + "/blocked", handle: s.createBlocked},
		{method: "DELETE", path: app + "/blocked", handle: s.deleteBlocked},
		{method: "POST", path: app + "/match", handle: s.serveMatch},
		{method: "POST", path: "/api/v1/apply", handle: s.serveApply},

		{method: "GET", path: "/api/v1/events", handle: s.serveEvents},
		{method: "GET", path: "/api/v1/rates", handle: s.serveRates},
		{method: "GET", path: "/api/v1/stats", handle: s.serveStats},
		{method: "GET", path: "/api/v1/ledgers", handle: query(s.serveLedgers)},
		{method: "GET", path: "/api/v1/ledger", handle: query(s.serveLedger)},
		{method: "GET", path: "/api/v1/usage", handle: query(s.serveUsage)},
		{method: "GET", path: "/api/v1/allocations", handle: query(s.serveAllocations)},
		{method: "POST", path: "/api/v1/backup", handle: s.serveBackup},
		{method: "GET", path: "/api/v1/openapi.json", handle: serveOpenAPI},
	}
}

// readable refuses parameters that no store can look for.
func readable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, values := range r.URL.Query() {
			for _, value := range values {
				if strings.IndexByte(value, 0) >= 0 || !utf8.ValidString(value) {
					writeError(w, http.StatusBadRequest, "invalid_parameter", "a parameter is not text")
					return
				}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// routes puts the service's handlers behind what protects them.
func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("GET /metrics", s.guard(s.authorized(s.metrics.ServeHTTP)))
	mux.Handle("GET /ws", s.guard(http.HandlerFunc(s.serveAgent)))
	for _, r := range s.api() {
		var handler http.Handler = r.handle
		if !r.open {
			handler = s.authorized(r.handle)
		}
		mux.Handle(r.method+" "+r.path, s.guard(readable(handler)))
	}
	mux.Handle("/api/v1/", s.guard(s.authorized(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not_found", "there is no such route or method")
	})))
	mux.Handle("/", s.guard(page()))
	return mux
}
