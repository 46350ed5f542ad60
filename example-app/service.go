package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

//go:embed usageflow.yaml
var policies []byte

// embeddedService is the UsageFlow service inside this process.
type embeddedService struct {
	service  *service.Service
	ledger   service.Ledger
	listener net.Listener
	ended    chan error
}

// startService opens the ledger and serves on opts.service.
func startService(opts options, log *slog.Logger) (*embeddedService, error) {
	config, err := loadConfig(opts.config)
	if err != nil {
		return nil, err
	}
	folder, err := dataFolder(opts.data)
	if err != nil {
		return nil, err
	}
	ledger, err := sqlite.Open(sqlite.Options{Dir: folder, Logger: log})
	if errors.Is(err, sqlite.ErrInUse) {
		return nil, fmt.Errorf("the data folder %s is in use by another process; choose another with -data", folder)
	}
	if err != nil {
		return nil, fmt.Errorf("-data %s: %w", folder, err)
	}
	s, err := service.New(service.Options{Config: config, Documents: ledger, Ledger: ledger, AdminToken: os.Getenv(service.AdminTokenEnv), Logger: log})
	if err != nil {
		return nil, errors.Join(err, ledger.Close())
	}
	listener, err := s.Listen(opts.service)
	if err != nil {
		return nil, errors.Join(explain(err, opts.service, "-service"), ledger.Close())
	}
	e := &embeddedService{service: s, ledger: ledger, listener: listener, ended: make(chan error, 1)}
	go func() { e.ended <- s.Serve(listener) }()
	return e, nil
}

func loadConfig(path string) (*service.Config, error) {
	if path == "" {
		return service.ParseConfig("usageflow.yaml", policies)
	}
	return service.LoadConfig(path)
}

// dataFolder returns the folder for the ledger, made if it is not there.
func dataFolder(folder string) (string, error) {
	if folder == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("there is no cache folder; choose one with -data: %w", err)
		}
		folder = filepath.Join(cache, "usageflow-example-app")
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("-data: %w", err)
	}
	return folder, nil
}

// failed gives the error with which the service ends by itself; nothing where there is no service.
func (e *embeddedService) failed() <-chan error {
	if e == nil {
		return nil
	}
	return e.ended
}

// stop drains the connections and closes the ledger.
func (e *embeddedService) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return errors.Join(e.service.Shutdown(ctx), e.ledger.Close())
}
