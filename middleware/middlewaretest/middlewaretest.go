// Package middlewaretest is the suite that every adapter of a router passes: the same requests, over HTTP, have the same
// ledgers, decisions, bodies and headers whatever the router, and what an adapter does not refuse goes out as if it were not
// there.
//
//	func TestAdapter(t *testing.T) {
//		middlewaretest.Run(t, middlewaretest.Adapter{New: newRouter})
//	}
//
// newRouter builds a router as its Setup says. The package's example does so for net/http's ServeMux.
package middlewaretest

import (
	"net/http"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// Adapter makes routers with the middleware that is tested.
type Adapter struct {
	// New makes a router. It fails nothing: what it can't build, it panics over.
	New func(Setup) http.Handler
	// NoRecovery says that the router has no middleware of its own that recovers from panics.
	NoRecovery bool
	// HeadIsGet says that the router answers HEAD with the routes for GET.
	HeadIsGet bool
}

// Setup says what a router is made of.
type Setup struct {
	// Before, Flows and Behind stand before all routes, in this order. Each of the Flows is the adapter's middleware, once; that of
	// a nil flow lets requests pass.
	Before, Behind []Middleware
	Flows          []*core.Flow
	// RecoverBefore and RecoverBehind ask for the router's own recovery, as the first and the last of these.
	RecoverBefore, RecoverBehind bool

	Routes []Route
	Groups []Group
}

// Root is the group of all that stands behind Before, Flows and Behind.
func (s Setup) Root() Group { return Group{Routes: s.Routes, Groups: s.Groups} }

// Middleware is net/http's kind, which the router's own form wraps.
type Middleware = func(http.Handler) http.Handler

// Route is a handler for a method and a pattern: /users/:id, or /files/* for all that begins with /files/. Its Flows stand
// before it alone.
type Route struct {
	Method, Pattern string
	Handler         http.HandlerFunc
	Flows           []*core.Flow
}

// Group is a number of routes below a prefix, with Flows before them. A group's groups are below its own prefix.
type Group struct {
	Prefix string
	Flows  []*core.Flow
	Routes []Route
	Groups []Group
}

// Run runs the suite. Its parts are subtests.
func Run(t *testing.T, adapter Adapter) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Adapter)
	}{
		{"decisions", testDecisions},
		{"unmatched requests", testUnmatched},
		{"patterns", testPatterns},
		{"groups", testGroups},
		{"installed twice", testInstalledTwice},
		{"blocks", testBlocks},
		{"the order of policies", testPolicyOrder},
		{"denials", testDenials},
		{"problems", testProblems},
		{"OnDeny", testOnDeny},
		{"shadow mode", testShadow},
		{"amounts", testAmounts},
		{"holds", testHolds},
		{"amounts of a response", testTrackedAmounts},
		{"answers", testAnswers},
		{"the writer's interfaces", testInterfaces},
		{"the response controller", testResponseController},
		{"full duplex", testFullDuplex},
		{"pushes", testPush},
		{"server-sent events", testServerSentEvents},
		{"compression", testCompression},
		{"WebSockets", testWebSocket},
		{"clients that leave", testCutOff},
		{"timeouts", testTimeout},
		{"a proxy's aborts", testProxyAborts},
		{"panics", testPanics},
		{"bodies", testBodies},
		{"long uploads", testLongUpload},
		{"uploaded files", testUploadedFiles},
		{"no configuration", testWithoutFlow},
		{"options", testOptions},
		{"failing closed", testFailClosed},
		{"traffic", testTraffic},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, adapter) })
	}
}
