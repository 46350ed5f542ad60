package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// api is the API that is metered: a shop with users, orders, reports, a text completion, and pictures that workers make.
type api struct {
	workers *socket.Consumer
	// wordDelay is the time between two events of a completion.
	wordDelay time.Duration

	mu     sync.Mutex // guards orders
	orders []order
}

type order struct {
	ID       int    `json:"id"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// maxOrders bounds the memory of the example; the oldest go first.
const maxOrders = 10_000

// newRouter returns the API behind the metering middleware.
func newRouter(flow *core.Flow, workers *socket.Consumer) *gin.Engine {
	a := &api{workers: workers, wordDelay: 40 * time.Millisecond}
	r := gin.New()
	r.Use(gin.Recovery())
	r.GET("/debug/usage", gin.WrapH(flow.StatsHandler())) // before the middleware: it is not metered. For usageflow doctor; not for the public
	r.Use(usageflow.Middleware(flow))                     // the one line; usageflow.Gin(key) where nothing needs configuring

	r.GET("/health", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	r.GET("/api/users/:id", a.user)
	r.GET("/api/reports", a.report)
	r.POST("/api/completions", a.complete)
	r.POST("/api/orders", a.placeOrder)
	r.POST("/api/jobs", a.runJob)
	r.GET("/api/legacy", func(c *gin.Context) { c.String(http.StatusOK, "the old API\n") })
	return r
}

func (a *api) user(c *gin.Context) {
	id := c.Param("id")
	a.mu.Lock()
	defer a.mu.Unlock()
	count := 0
	for _, o := range a.orders {
		if o.Customer == id {
			count++
		}
	}
	c.JSON(http.StatusOK, gin.H{"id": id, "orders": count})
}

func (a *api) placeOrder(c *gin.Context) {
	var o order
	if err := c.ShouldBindJSON(&o); err != nil {
		c.JSON(http.StatusBadRequest, gin.H{"error": "bad_order", "message": err.Error()})
		return
	}
	if o.Customer == "" || o.Item == "" || o.Quantity < 1 {
		c.JSON(http.StatusBadRequest, gin.H{"error": "bad_order", "message": "customer, item and a quantity of at least 1 are required"})
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o.ID = 1
	if n := len(a.orders); n > 0 {
		o.ID = a.orders[n-1].ID + 1
	}
	if len(a.orders) >= maxOrders {
		a.orders = slices.Delete(a.orders, 0, 1)
	}
	a.orders = append(a.orders, o)
	c.JSON(http.StatusCreated, o)
}

func (a *api) report(c *gin.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := make(map[string]int)
	for _, o := range a.orders {
		items[o.Item] += o.Quantity
	}
	c.JSON(http.StatusOK, gin.H{"orders": len(a.orders), "items": items})
}

// complete answers a prompt as language models' APIs do: a stream of server-sent events, the last of which
// says how many tokens were used. This "model" repeats the prompt backwards; a token is a word.
func (a *api) complete(c *gin.Context) {
	var request struct {
		Prompt string `json:"prompt"`
	}
	if err := c.ShouldBindJSON(&request); err != nil {
		c.JSON(http.StatusBadRequest, gin.H{"error": "bad_request", "message": err.Error()})
		return
	}
	words := strings.Fields(request.Prompt)
	c.Header("Content-Type", "text/event-stream")
	c.Header("Cache-Control", "no-cache")
	for i := range words {
		if !sendEvent(c, gin.H{"text": words[len(words)-1-i] + " "}) {
			return
		}
		select {
		case <-time.After(a.wordDelay):
		case <-c.Request.Context().Done():
			return // the client has gone; the tokens so far were not told, and are not charged
		}
	}
	n := len(words)
	_ = sendEvent(c, gin.H{"usage": gin.H{"prompt_tokens": n, "completion_tokens": n, "total_tokens": 2 * n}})
	_, _ = c.Writer.WriteString("data: [DONE]\n\n") // the client may be gone
	c.Writer.Flush()
}

// sendEvent writes one server-sent event; false if the client can't be reached.
func sendEvent(c *gin.Context, data any) bool {
	text, err := json.Marshal(data)
	if err != nil {
		_ = c.Error(err)
		return false
	}
	if _, err := c.Writer.WriteString("data: " + string(text) + "\n\n"); err != nil {
		return false
	}
	c.Writer.Flush()
	return true
}

// tryThis is what the program prints for a person to try.
func tryThis(apiURL, consoleURL string, needsToken bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("The API is at %s", apiURL)
	if consoleURL != "" {
		line("Watch its usage at %s", consoleURL)
	}
	line("")
	line("Try:")
	line("  curl -H 'X-User: acme' %s/api/users/7                # metered for acme", apiURL)
	line("  for i in 1 2 3 4 5 6; do curl -i -H 'X-User: acme' %s/api/reports; done   # the sixth in a minute is a 429", apiURL)
	line("  curl -N -H 'X-User: acme' -d '{\"prompt\":\"one two three\"}' %s/api/completions   # streams, and costs what its last event says", apiURL)
	line("  curl -d '{\"customer\":\"acme\",\"item\":\"pen\",\"quantity\":3}' %s/api/orders   # the customer is in the body", apiURL)
	line("  curl -H 'X-User: acme' -d '{\"image\":\"sunset\",\"width\":200}' -o sunset.png %s/api/jobs   # a worker makes it, for 1 per 1000 pixels; the fifth in a minute is a 429", apiURL)
	line("  curl -i %s/api/legacy   # blocked", apiURL)
	if consoleURL != "" {
		auth := ""
		if needsToken {
			auth = "-H \"Authorization: Bearer $USAGEFLOW_ADMIN_TOKEN\" "
		}
		line("  curl %s%sapi/v1/ledgers   # what was counted", auth, consoleURL)
	}
	return b.String()
}
