package service

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

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
		var wrong *yaml.TypeError
		if errors.As(err, &wrong) && wrong.Token != nil {
			return nil, fmt.Errorf("%s:%d: here is a %s, where a %s is expected", name, wrong.Token.Position.Line, kindOf(wrong.SrcType), kindOf(wrong.DstType))
		}
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

// kindOf is what a person calls values of a type.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Float64, reflect.Int64, reflect.Uint64:
		return "number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "list"
	default:
		return "group of settings"
	}
}

// Warnings are what is allowed and probably not meant, a line each; where says which policy.
func (c *Config) Warnings() (list []string) {
	for _, a := range c.Applications {
		for i, p := range a.Policies {
			warn := func(format string, args ...any) {
				list = append(list, fmt.Sprintf("application %s, policy %d (%s): ", a.Name, i+1, p.Name)+fmt.Sprintf(format, args...))
			}
			if p.Type == TypeAPI && !slices.Contains(methods, strings.ToUpper(strings.TrimSpace(p.Method))) {
				warn("%s is no method of HTTP's", p.Method)
			}
			if (p.IdentityFieldName == "") != (p.IdentityFieldLocation == "") {
				warn("identityFieldName and identityFieldLocation go together; all callers count as one")
			}
			if strings.HasSuffix(strings.TrimSpace(p.ResponseTrackingField), "+") || strings.HasPrefix(strings.TrimSpace(p.ResponseTrackingField), "+") {
				warn("responseTrackingField %q has an empty part", p.ResponseTrackingField)
			}
			for _, other := range a.Policies[:i] {
				if p.HasRateLimit && other.HasRateLimit && p.Type == other.Type && p.Method == other.Method && p.URL == other.URL {
					warn("another policy limits the same route; the stricter one counts")
				}
			}
		}
	}
	return list
}

// methods are those that policies may well name.
var methods = []string{"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "JOB"}

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
