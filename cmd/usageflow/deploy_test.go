package main

import (
	"debug/elf"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// installed is where the deployment files have the program.
const installed = "/usr/local/bin/usageflow"

func deployFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs/deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// commandLine checks a command line of serve or broker as the program does, and returns its settings.
func commandLine(t *testing.T, args []string) *flag.FlagSet {
	t.Helper()
	var flags *flag.FlagSet
	var check func() error
	switch args[0] {
	case "serve":
		var o serveOptions
		flags = serveFlags(&o, io.Discard)
		check = func() error {
			_, err := o.check(io.Discard)
			return err
		}
	case "broker":
		var o brokerOptions
		flags = brokerFlags(&o, io.Discard)
		check = func() error {
			_, err := o.address(slog.New(slog.DiscardHandler))
			return errors.Join(o.check(), err)
		}
	default:
		t.Fatalf("%q begins with no command that goes on", args)
	}
	if err := parse(flags, args[1:], "", io.Discard); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	if err := check(); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	return flags
}

// drain is how long a command line lets requests go on after SIGTERM.
func drain(t *testing.T, flags *flag.FlagSet) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(flags.Lookup("drain").Value.String())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// unit has the settings of a systemd unit, by section and name: "Service.ExecStart".
func unit(t *testing.T, text string) map[string][]string {
	t.Helper()
	settings := map[string][]string{}
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, value, isSetting := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' && line[len(line)-1] == ']':
			section = line[1 : len(line)-1]
		case section == "" || !isSetting:
			t.Errorf("%q is no line of a unit", line)
		default:
			settings[section+"."+name] = append(settings[section+"."+name], value)
		}
	}
	return settings
}

// The units call commands and flags that exist, have time to drain, and may do little else.
func TestSystemdUnits(t *testing.T) {
	for name, want := range map[string]struct{ command, state, user string }{
		"usageflow.service":        {"serve", "usageflow", "User=usageflow"},
		"usageflow-broker.service": {"broker", "usageflow-broker", "DynamicUser=yes"},
	} {
		settings := unit(t, deployFile(t, name))
		one := func(setting string) string {
			t.Helper()
			if len(settings["Service."+setting]) != 1 {
				t.Fatalf("%s: %s is there %d times", name, setting, len(settings["Service."+setting]))
			}
			return settings["Service."+setting][0]
		}
		line := strings.Fields(one("ExecStart"))
		if line[0] != installed || line[1] != want.command || !slices.ContainsFunc(commands(), func(c command) bool { return c.name == line[1] }) {
			t.Errorf("%s: it runs %q", name, line)
		}
		flags := commandLine(t, line[1:])
		stop, err := time.ParseDuration(one("TimeoutStopSec"))
		if err != nil || stop < drain(t, flags)+10*time.Second {
			t.Errorf("%s: it is killed after %v (%v), and drains for %v", name, stop, err, drain(t, flags))
		}
		for _, setting := range []string{
			"Restart=always", "KillSignal=SIGTERM", "ExecReload=/bin/kill -HUP $MAINPID", "ProtectSystem=strict", "NoNewPrivileges=yes", "ProtectHome=yes",
			"PrivateTmp=yes", "PrivateDevices=yes", "CapabilityBoundingSet=", "StateDirectory=" + want.state, want.user,
		} {
			if key, value, _ := strings.Cut(setting, "="); one(key) != value {
				t.Errorf("%s: %s is %q", name, key, one(key))
			}
		}
		if !strings.HasPrefix(strings.TrimPrefix(one("EnvironmentFile"), "-"), "/etc/usageflow/") || len(settings["Service.Environment"]) > 0 {
			t.Errorf("%s: secrets come from %q and %q", name, one("EnvironmentFile"), settings["Service.Environment"])
		}
		switch want.command {
		case "serve":
			if data := flags.Lookup("data").Value.String(); data != "/var/lib/"+want.state {
				t.Errorf("%s: the data is in %s", name, data)
			}
		case "broker":
			credential, _, _ := strings.Cut(one("LoadCredential"), ":")
			if file := flags.Lookup("token-file").Value.String(); file != "%d/"+credential {
				t.Errorf("%s: the token is in %s, the credential is %s", name, file, credential)
			}
			if folder := one("WorkingDirectory"); folder != "/var/lib/"+want.state {
				t.Errorf("%s: it stands in %s", name, folder)
			}
		}
	}
}

// What the test reads of kubernetes.yaml.
type (
	kubernetesObject struct {
		Kind       string
		Metadata   struct{ Name string }
		StringData map[string]string `yaml:"stringData"`
		Spec       struct {
			Template struct{ Spec podSpec }
		}
	}
	podSpec struct {
		Grace           int `yaml:"terminationGracePeriodSeconds"`
		SecurityContext struct {
			NonRoot bool `yaml:"runAsNonRoot"`
			User    int  `yaml:"runAsUser"`
		} `yaml:"securityContext"`
		InitContainers []container `yaml:"initContainers"`
		Containers     []container
	}
	container struct {
		Name, Image     string
		RestartPolicy   string `yaml:"restartPolicy"`
		Args            []string
		Env             []environmentVariable
		Ports           []containerPort
		Startup         probe `yaml:"startupProbe"`
		Liveness        probe `yaml:"livenessProbe"`
		Readiness       probe `yaml:"readinessProbe"`
		Resources       struct{ Requests, Limits map[string]string }
		SecurityContext struct {
			Escalation   *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnly     bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities struct{ Drop []string }
		} `yaml:"securityContext"`
	}
	environmentVariable struct {
		Name, Value string
		From        struct {
			Secret struct{ Name, Key string } `yaml:"secretKeyRef"`
		} `yaml:"valueFrom"`
	}
	containerPort struct {
		Name string
		Port string `yaml:"containerPort"`
	}
	probe struct {
		HTTP struct{ Path, Port string } `yaml:"httpGet"`
	}
)

// The sidecar of kubernetes.yaml has flags that exist, its probes ask where it answers, and it has time to drain.
func TestKubernetes(t *testing.T) {
	var secret, deployment kubernetesObject
	decoder := yaml.NewDecoder(strings.NewReader(deployFile(t, "kubernetes.yaml")))
	for {
		var o kubernetesObject
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch o.Kind {
		case "Secret":
			secret = o
		case "Deployment":
			deployment = o
		default:
			t.Errorf("a %q is not expected", o.Kind)
		}
	}
	pod := deployment.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 || !pod.SecurityContext.NonRoot || pod.SecurityContext.User == 0 {
		t.Fatalf("the pod is %+v", pod)
	}
	b := pod.InitContainers[0]
	if b.RestartPolicy != "Always" {
		t.Error("the broker is no sidecar")
	}
	for _, c := range []container{b, pod.Containers[0]} {
		s := c.SecurityContext
		if s.Escalation == nil || *s.Escalation || !s.ReadOnly || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || c.Resources.Limits["memory"] == "" {
			t.Errorf("%s: %+v, %+v", c.Name, s, c.Resources)
		}
	}
	flags := commandLine(t, b.Args)
	if least := drain(t, flags) + 30*time.Second; time.Duration(pod.Grace)*time.Second < least {
		t.Errorf("the pod has %d s to end, it needs %v", pod.Grace, least)
	}
	var limit, memory size
	if err := errors.Join(limit.Set(strings.TrimSuffix(b.Resources.Limits["memory"], "i")), memory.Set(flags.Lookup("max-memory").Value.String())); err != nil || limit < 3*memory {
		t.Errorf("the broker has %v bytes, its requests may have %v: %v", limit.String(), memory.String(), err)
	}
	_, port, err := net.SplitHostPort(flags.Lookup("metrics").Value.String())
	if err != nil || len(b.Ports) != 1 || b.Ports[0].Port != port {
		t.Errorf("the probes are at port %s (%v), the container has %v", port, err, b.Ports)
	}
	for path, p := range map[string]probe{"/healthz": b.Liveness, "/readyz": b.Readiness} {
		if p.HTTP.Path != path || p.HTTP.Port != b.Ports[0].Name {
			t.Errorf("the probe of %s asks %+v", path, p)
		}
	}
	if b.Startup.HTTP.Path != "/healthz" || b.Startup.HTTP.Port != b.Ports[0].Name {
		t.Errorf("the startup probe asks %+v", b.Startup)
	}
	for _, v := range b.Env {
		known := v.Name == brokerEnvOf("url") || v.Name == brokerEnvOf("api-key")
		isSecret := v.Name == brokerEnvOf("api-key")
		if !known || isSecret != (v.From.Secret.Name == secret.Metadata.Name) || isSecret && secret.StringData[v.From.Secret.Key] == "" {
			t.Errorf("the broker's %+v", v)
		}
	}
	if listen := flags.Lookup("listen").Value.String(); !slices.ContainsFunc(pod.Containers[0].Env, func(v environmentVariable) bool { return v.Value == listen }) {
		t.Errorf("the worker is not told of %s", listen)
	}
}

// The Dockerfile's command makes a program that needs no library, and its image runs it as nobody.
func TestDockerfile(t *testing.T) {
	text := deployFile(t, "Dockerfile")
	build := regexp.MustCompile(`(?m)^RUN (.*\bgo build .*)$`).FindStringSubmatch(text)
	if build == nil || strings.Count(build[1], "/out/") != 1 {
		t.Fatalf("the Dockerfile builds with %q", build)
	}
	for _, line := range []string{"ARG BASE=scratch", "FROM ${BASE}", "COPY --from=build /out/usageflow " + installed, "USER 65532:65532", `ENTRYPOINT ["` + installed + `"]`} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("%q is not in the Dockerfile", line)
		}
	}
	if runtime.GOOS == "windows" {
		t.Skip("the Dockerfile's command is one of a shell")
	}
	out := t.TempDir()
	cmd := exec.Command("sh", "-c", strings.Replace(build[1], "/out/", out+"/", 1))
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "GOOS=linux")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build[1], err, text)
	}
	path := filepath.Join(out, "usageflow")
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a %v", p.Type)
		}
	}
	if runtime.GOOS != "linux" {
		return
	}
	if text, err := exec.Command(path, "help").Output(); err != nil || !strings.Contains(string(text), "broker") {
		t.Errorf("help: %v\n%s", err, text)
	}
}
