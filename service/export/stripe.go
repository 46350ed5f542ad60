package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// StripeURL is where Stripe takes meter events.
const StripeURL = "https://api.stripe.com/v1/billing/meter_events"

// Stripe sends a meter event for each settlement whose ledger has an identity, which is to be the Stripe customer's id. The event's
// identifier is a hash of the application and the allocation's id. Stripe tells identifiers apart for 24 hours at least, and takes whole
// numbers only. It checks customers after it has taken an event, and reports what is wrong to the account's owner.
type Stripe struct {
	URL, Key  string
	EventName string
	// Unit is the amount that one unit at Stripe stands for; amounts are rounded to whole ones.
	Unit float64

	http *http.Client
}

// NewStripe returns a receiver for the meter with that event name, of the account that the secret key belongs to.
func NewStripe(key, eventName string, unit float64) *Stripe {
	return &Stripe{URL: StripeURL, Key: key, EventName: eventName, Unit: unit, http: client()}
}

// Deliver implements Receiver, one event at a time.
func (s *Stripe) Deliver(ctx context.Context, settled []service.Settled) (int, error) {
	for i := range settled {
		if err := s.send(ctx, &settled[i]); err != nil {
			return i, err
		}
	}
	return len(settled), nil
}

func (s *Stripe) send(ctx context.Context, settled *service.Settled) error {
	customer := identity(settled.Alias)
	value := math.Round(settled.Charged.Units() / s.Unit)
	if customer == "" || value == 0 {
		return nil // nobody's, or nothing
	}
	sum := sha256.Sum256([]byte(id(settled)))
	identifier := "uf_" + hex.EncodeToString(sum[:])
	form := url.Values{
		"event_name": {s.EventName}, "identifier": {identifier}, "timestamp": {strconv.FormatInt(settled.EndedAt.Unix(), 10)},
		"payload[stripe_customer_id]": {customer}, "payload[value]": {strconv.FormatFloat(value, 'f', 0, 64)},
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Bearer "+s.Key)
	resp, err := send(s.http, r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // it explains the status, if it can
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusBadRequest && isDuplicate(text, identifier) {
		return nil
	}
	return statusError(resp, text)
}

// isDuplicate reports whether a refusal says that Stripe has the event. There is a code for it in some of Stripe's interfaces, and the
// sentence with the identifier in the others.
func isDuplicate(body []byte, identifier string) bool {
	var answer struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal(body, &answer) != nil {
		return false
	}
	return answer.Error.Code == "duplicate_meter_event" ||
		strings.Contains(answer.Error.Message, "already exists") && strings.Contains(answer.Error.Message, identifier)
}
