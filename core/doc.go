// Package core is the allocation and usage flow: it reserves before work starts and settles the real
// amount when it has ended, per customer, over a socket.Transport. It knows net/http and no router; a
// router's adapter calls Begin before the handler and End after it.
//
//	flow, err := core.New(core.Config{APIKey: key})
//	if err != nil {
//		return err
//	}
//	defer flow.Shutdown(context.Background())
//	router.Use(usageflow.Middleware(flow)) // middleware/gin, for one
//
// A Flow is safe for concurrent use, and so is a Call. Two goroutines belong to a Flow over the pool: one refreshes
// the configuration, one sends reservations and settlements; a third decodes, for as long as it lasts, an encoded response in which
// a policy tracks an amount. The request's own goroutine waits for the service
// only on rate-limited routes.
package core
