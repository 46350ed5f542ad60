package core

import (
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// Codes of denials.
const (
	CodeRateLimited = "rate_limit_exceeded" // 429
	CodeBlocked     = "endpoint_blocked"    // 403
	CodeUnavailable = "service_unavailable" // 503
)

// maxAcceptBytes bounds the Accept field that is looked at: a denial must stay cheap.
const maxAcceptBytes = 2 << 10

// Denial is an answer to a request that must not run. It is a value, not an error: an outage is not a denial.
type Denial struct {
	Status  int
	Code    string
	Message string
	Header  http.Header // Retry-After, and the fields that Config.RateLimitHeaders names, where they apply

	violated string // the policy whose limit is reached
	flow     *Flow  // with a Config.OnDeny; nil where there is none
}

// ServeHTTP answers with the denial: as Config.OnDeny does, else as {"error":code,"message":message}, or as a problem (RFC 9457)
// where the request's Accept asks for application/problem+json. A nil request asks for nothing.
func (d *Denial) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, values := range d.Header {
		w.Header()[name] = values
	}
	if d.flow != nil && d.flow.callOnDeny(w, r, d) {
		return
	}
	contentType, body := "application/json; charset=utf-8", d.Body()
	if r != nil && asksForProblem(r.Header.Values("Accept")) {
		contentType, body = "application/problem+json", d.Problem()
	}
	w.Header().Add("Vary", "Accept")
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(d.Status)
	_, _ = w.Write(body) // the client may be gone
}

// Body is the JSON text of the answer.
func (d *Denial) Body() []byte {
	return marshal(struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}{d.Code, d.Message})
}

// Problem is the answer as a problem document (RFC 9457). The type of a 429 is that of
// https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/.
func (d *Denial) Problem() []byte {
	p := struct {
		Type     string   `json:"type"`
		Title    string   `json:"title"`
		Status   int      `json:"status"`
		Detail   string   `json:"detail"`
		Error    string   `json:"error"`
		Violated []string `json:"violated-policies,omitempty"`
	}{Type: "about:blank", Title: http.StatusText(d.Status), Status: d.Status, Detail: d.Message, Error: d.Code}
	if d.Code == CodeRateLimited {
		p.Type, p.Title = "https://iana.org/assignments/http-problem-types#quota-exceeded", "The quota is used up"
	}
	if d.violated != "" {
		p.Violated = []string{d.violated}
	}
	return marshal(p)
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil { // strings and a number always marshal
		return []byte(`{"error":"` + CodeUnavailable + `"}`)
	}
	return text
}

// asksForProblem reports whether an Accept field names application/problem+json and does not prefer application/json.
func asksForProblem(accept []string) bool {
	list := strings.Join(accept, ",")
	if list == "" || len(list) > maxAcceptBytes {
		return false
	}
	var problem, plain float64
	for item := range strings.SplitSeq(list, ",") {
		mediaType, params, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, ok := params["q"]; ok {
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		switch mediaType {
		case "application/problem+json":
			problem = quality
		case "application/json":
			plain = quality
		}
	}
	return problem > 0 && problem >= plain
}

// DeniedError is a Denial where an error is due: Do returns it for a job.
type DeniedError struct{ Denial *Denial }

func (e *DeniedError) Error() string {
	return "usageflow: " + e.Denial.Code + ": " + e.Denial.Message
}

func blockedDenial() *Denial {
	return &Denial{Status: http.StatusForbidden, Code: CodeBlocked, Message: "This endpoint is blocked.", Header: http.Header{}}
}

func unavailableDenial() *Denial {
	return &Denial{
		Status: http.StatusServiceUnavailable, Code: CodeUnavailable,
		Message: "Usage limits cannot be checked at the moment.", Header: http.Header{"Retry-After": {"5"}},
	}
}
