package service

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
)

// Config is what the service knows of its applications. It is read-only once it is loaded. Keys are
// kept as SHA-256 hashes only.
type Config struct {
	Applications []*Application
	// Server holds settings of the program that runs the service, by name. The service itself does not look at them.
	Server map[string]string

	byKey map[keyHash]*Application
}

// keyHash is what is kept of a key.
type keyHash [sha256.Size]byte

func hashKey(key string) keyHash { return sha256.Sum256([]byte(key)) }

// Application is one tenant: its ledgers are apart from those of every other application.
type Application struct {
	// Name names the application in the store; renaming it starts new ledgers.
	Name               string
	MonitoringPaths    []Endpoint
	WhitelistEndpoints []Endpoint
	BlockedEndpoints   []BlockedEndpoint
	Policies           []Policy
	// AccountReachLimit tells agents to stop metering; DiscoveryDisabled is passed on to them.
	AccountReachLimit bool
	DiscoveryDisabled bool

	limits limitIndex
}

// Endpoint is a method and a url (a route pattern); "*" stands for all of them.
type Endpoint struct {
	Method string `yaml:"method" json:"method"`
	URL    string `yaml:"url" json:"url"`
}

// BlockedEndpoint is an endpoint that agents answer with 403, for one identity or for all.
type BlockedEndpoint struct {
	Method   string `yaml:"method" json:"method"`
	URL      string `yaml:"url" json:"url"`
	Identity string `yaml:"identity" json:"identity"`
}

// Policy says how a route is metered. The fields with a JSON name are those that agents are sent.
type Policy struct {
	Name                      string `json:"-"`
	Method                    string `json:"method"`
	URL                       string `json:"url"`
	Type                      string `json:"type"`
	IdentityFieldName         string `json:"identityFieldName"`
	IdentityFieldLocation     string `json:"identityFieldLocation"`
	HasRateLimit              bool   `json:"hasRateLimit"`
	ResponseTrackingField     string `json:"responseTrackingField"`
	IsResponseTrackingEnabled bool   `json:"isResponseTrackingEnabled"`
	// Limit is what is allowed per Window, where HasRateLimit is true.
	Limit  Micros `json:"-"`
	Window Window `json:"-"`
}

// The types a policy can have. Policies of TypeFunction never limit HTTP routes.
const (
	TypeAPI      = "API"
	TypeFunction = "FUNCTION"
)

// Application returns the application that key belongs to, or nil.
func (c *Config) Application(key string) *Application {
	return c.byKey[hashKey(key)]
}

// LoadConfig reads the YAML file at path. What it does not know, it refuses; errors name the file and,
// where there is one, the line.
func LoadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return ParseConfig(path, data)
}

// ParseConfig is LoadConfig for data that has been read; name stands for the file in errors.
func ParseConfig(name string, data []byte) (*Config, error) {
	var file configFile
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		var e yaml.Error // its own text would quote the file, and with it keys
		if errors.As(err, &e) && e.GetToken() != nil {
			return nil, fmt.Errorf("%s:%d: %s", name, e.GetToken().Position.Line, e.GetMessage())
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c, err := file.config()
	var invalid *invalidError
	if errors.As(err, &invalid) {
		if line := lineOf(data, invalid.path); line > 0 {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// lineOf returns the line of the value at path, 0 where there is none.
func lineOf(data []byte, path string) int {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return 0
	}
	p, err := yaml.PathString(path)
	if err != nil {
		return 0
	}
	node, err := p.FilterFile(file)
	if err != nil || node == nil || node.GetToken() == nil {
		return 0
	}
	return node.GetToken().Position.Line
}
