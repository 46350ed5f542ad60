package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/usageflow/usageflow-go-middleware/socket/natsmesh"
)

// meshOptions are the settings of the mesh that a broker is part of.
type meshOptions struct {
	url, subject, creds, ca string
}

func (o *meshOptions) flags(flags *flag.FlagSet) {
	flags.StringVar(&o.url, "mesh", "", "nats:// `URL` of NATS servers, separated by commas, over which brokers on other hosts are reached; a password goes into the environment")
	flags.StringVar(&o.subject, "mesh-subject", "usageflow.mesh", "what the `subjects` of the mesh begin with: brokers with different ones don't meet")
	flags.StringVar(&o.creds, "mesh-creds", "", "`file` with NATS credentials")
	flags.StringVar(&o.ca, "mesh-ca", "", "PEM `file` with the authorities of NATS' certificates; tls:// in the URL asks for TLS")
}

// mesh makes the broker's part in the mesh, nil where there is none.
func (o *meshOptions) mesh(log *slog.Logger) (*natsmesh.Mesh, error) {
	if o.url == "" {
		if o.creds != "" || o.ca != "" {
			return nil, errors.New("--mesh-creds and --mesh-ca need --mesh")
		}
		return nil, nil
	}
	cfg := natsmesh.Config{URL: o.url, Subject: o.subject, Logger: log}
	if o.creds != "" {
		cfg.Options = append(cfg.Options, nats.UserCredentials(o.creds))
	}
	if o.ca != "" {
		cfg.Options = append(cfg.Options, nats.RootCAs(o.ca))
	}
	m, err := natsmesh.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("--mesh: %w", err)
	}
	return m, nil
}
