package service

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
)

// configFile is the YAML form of a Config.
type configFile struct {
	Server       map[string]string `yaml:"server"`
	Broker       map[string]string `yaml:"broker"`
	Applications []applicationFile `yaml:"applications"`
}

type applicationFile struct {
	Name     string   `yaml:"name"`
	Keys     []string `yaml:"keys"`
	Settings settings `yaml:",inline"`
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
	return parseConfig(name, data, true)
}

// parseConfig is ParseConfig; needKeys says whether each application must have a key.
func parseConfig(name string, data []byte, needKeys bool) (*Config, error) {
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
	c, err := file.config(needKeys)
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

// config checks the file and turns it into what the service uses. A file that is the broker's needs no application.
func (f *configFile) config(needKeys bool) (*Config, error) {
	if len(f.Applications) == 0 && len(f.Broker) == 0 {
		return nil, invalid("$.applications", "there is no application")
	}
	apps := make([]*Application, len(f.Applications))
	for i := range f.Applications {
		a, err := f.Applications[i].application(fmt.Sprintf("$.applications[%d]", i), needKeys)
		if err != nil {
			return nil, err
		}
		apps[i] = a
	}
	c, err := newConfig(apps)
	if err != nil {
		return nil, err
	}
	c.Server, c.Broker = f.Server, f.Broker
	return c, nil
}

func (f *applicationFile) application(path string, needKey bool) (*Application, error) {
	if f.Name == "" {
		return nil, invalid(path, "the application has no name")
	}
	if err := checkName(path, f.Name); err != nil {
		return nil, err
	}
	if needKey && len(f.Keys) == 0 {
		return nil, invalid(path, "application %q has no keys", f.Name)
	}
	a, err := f.Settings.check(path)
	if err != nil {
		return nil, err
	}
	a.Name, a.Source, a.Version = f.Name, SourceFile, 1
	for i, key := range f.Keys {
		if key == "" {
			return nil, invalid(fmt.Sprintf("%s.keys[%d]", path, i), "the key is empty")
		}
		a.Keys = append(a.Keys, newKey(key, "", SourceFile))
	}
	a.fingerprint = a.fileFingerprint()
	a.identifyPolicies(nil)
	return a, nil
}

// maxName bounds what names in the configuration may have in bytes.
const maxName = 200

// checkName says whether an application may have a name: it stands in URLs.
func checkName(path, name string) error {
	if len(name) > maxName {
		return invalid(path+".name", "the name is longer than %d bytes", maxName)
	}
	if name == "." || name == ".." {
		return invalid(path+".name", "%q is no name", name)
	}
	return nil
}

// fileFingerprint is that of what the file says: its form, comments and the order of keys change nothing.
func (a *Application) fileFingerprint() string {
	hashes := make([]string, len(a.Keys))
	for i, k := range a.Keys {
		hashes[i] = hex.EncodeToString(k.hash[:])
	}
	slices.Sort(hashes)
	return fingerprint([]any{a.Name, hashes, settingsOf(a)})
}

// identifyPolicies gives ids to the policies that have none.
func (a *Application) identifyPolicies(old []policySpec) {
	specs := settingsOf(a).Policies
	identify(old, specs)
	for i := range specs {
		a.Policies[i].ID = specs[i].ID
	}
}
