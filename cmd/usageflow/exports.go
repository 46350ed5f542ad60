package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/export"
)

// The environment variables of secrets, which have no flags.
const (
	cloudEventsTokenEnv = "USAGEFLOW_CLOUDEVENTS_TOKEN"
	stripeKeyEnv        = "USAGEFLOW_STRIPE_KEY"
)

// exportOptions say where settled usage is pushed.
type exportOptions struct {
	cloudEvents, stripe, stripeURL string
	stripeUnit                     float64
}

func (o *exportOptions) flags(flags *flag.FlagSet) {
	flags.StringVar(&o.cloudEvents, "export-cloudevents", "", "`URL` to which settled usage is posted as batches of CloudEvents; "+cloudEventsTokenEnv+" is its bearer token")
	flags.StringVar(&o.stripe, "export-stripe", "", "`name` of the Stripe meter event that settled usage becomes, for the customer that the identity names; needs "+stripeKeyEnv)
	flags.Float64Var(&o.stripeUnit, "stripe-unit", 1, "`amount` that is one unit at Stripe, which takes whole ones only")
	flags.StringVar(&o.stripeURL, "stripe-url", export.StripeURL, "`URL` that takes meter events")
}

func (o *exportOptions) check() error {
	for name, text := range map[string]string{"export-cloudevents": o.cloudEvents, "stripe-url": o.stripeURL} {
		if u, err := url.Parse(text); text != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("--%s is a URL that begins with https:// or http://", name)
		}
	}
	switch {
	case o.stripe != "" && os.Getenv(stripeKeyEnv) == "":
		return errors.New("--export-stripe needs the account's secret key in " + stripeKeyEnv)
	case !(o.stripeUnit > 0):
		return errors.New("--stripe-unit must be more than nothing")
	}
	return nil
}

// start begins the exports and returns what ends them.
func (o *exportOptions) start(ctx context.Context, outbox service.Outbox, log *slog.Logger) (stop func(), err error) {
	receivers := map[string]export.Receiver{}
	var names []string
	if o.cloudEvents != "" {
		receivers["cloudevents"] = export.NewCloudEvents(o.cloudEvents, os.Getenv(cloudEventsTokenEnv))
		names = append(names, "cloudevents")
	}
	if o.stripe != "" {
		stripe := export.NewStripe(os.Getenv(stripeKeyEnv), o.stripe, o.stripeUnit)
		stripe.URL = o.stripeURL
		receivers["stripe"] = stripe
		names = append(names, "stripe")
	}
	if err := outbox.SetExports(ctx, names); err != nil {
		return nil, fmt.Errorf("prepare the exports: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for name, receiver := range receivers {
		e := &export.Exporter{Name: name, Outbox: outbox, Receiver: receiver, Logger: log}
		running.Go(func() { e.Run(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
	}, nil
}
