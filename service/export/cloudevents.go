package export

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// cloudEventType is the type of our events.
const cloudEventType = "io.usageflow.usage.settled.v1"

// CloudEvents posts batches of CloudEvents 1.0 in JSON (application/cloudevents-batch+json) to URL. The receiver has a batch when
// it answers 2xx, or 409 for one whose events it has already. An event's source and id name it.
type CloudEvents struct {
	URL string
	// Token, where it is set, is sent as a bearer token.
	Token string

	http *http.Client
}

// NewCloudEvents returns a receiver.
func NewCloudEvents(url, token string) *CloudEvents {
	return &CloudEvents{URL: url, Token: token, http: client()}
}

type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            usageData `json:"data"`
}

// usageData is one settlement. Subject of its event is the identity.
type usageData struct {
	Application  string           `json:"application"`
	Alias        string           `json:"alias"`
	AllocationID string           `json:"allocationId"`
	Amount       float64          `json:"amount"`
	Flags        []string         `json:"flags"`
	Metadata     service.Metadata `json:"metadata"`
}

// Deliver implements Receiver: all or none.
func (c *CloudEvents) Deliver(ctx context.Context, settled []service.Settled) (int, error) {
	events := make([]cloudEvent, len(settled))
	for i := range settled {
		s := &settled[i]
		events[i] = cloudEvent{
			SpecVersion: "1.0", ID: id(s), Source: "/usageflow", Type: cloudEventType, Subject: identity(s.Alias), Time: s.EndedAt, DataContentType: "application/json",
			Data: usageData{s.Application, s.Alias, s.ID, s.Charged.Units(), s.Flags.Names(), s.Metadata},
		}
	}
	body, err := json.Marshal(events)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/cloudevents-batch+json; charset=utf-8")
	if c.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := send(c.http, r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it explains the status, if it can
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusConflict {
		return 0, statusError(resp, text)
	}
	return len(settled), nil
}

// identity is that of a ledger's alias.
func identity(alias string) string {
	_, rest, _ := strings.Cut(alias, " ")
	_, identity, _ := strings.Cut(rest, " ")
	return identity
}
