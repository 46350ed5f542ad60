package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// defaultConfig is the configuration that is read where none is named.
const defaultConfig = "usageflow.yaml"

// defaultData is the data folder where none is named.
const defaultData = "usageflow-data"

// errNoConfig begins the error for a configuration file that is not there.
var errNoConfig = errors.New("there is no")

// newFlags makes the flags of a command, whose --help prints summary and them.
func newFlags(name string, stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("usageflow "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintf(stderr, "%s --help lists the flags.\n", flags.Name()) }
	return flags
}

// parse reads a command line that has flags only. For --help it prints summary and the flags, and returns flag.ErrHelp.
func parse(flags *flag.FlagSet, args []string, summary string, stdout io.Writer) error {
	_, err := parseFiles(flags, args, summary, stdout)
	return err
}

// parseFiles is parse for a command line with files, of which names has the words for --help, between the flags.
func parseFiles(flags *flag.FlagSet, args []string, summary string, stdout io.Writer, names ...string) (files []string, err error) {
	if slices.ContainsFunc(args, func(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }) {
		fmt.Fprintf(stdout, "%s\n\nUsage: %s [flags]\n\nFlags:\n", summary, strings.Join(append([]string{flags.Name()}, names...), " "))
		flags.VisitAll(func(f *flag.Flag) {
			kind, text := flag.UnquoteUsage(f)
			if f.DefValue != "" && f.DefValue != "false" {
				text += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(stdout, "  --%s\n        %s\n", strings.TrimSpace(f.Name+" "+kind), text)
		})
		return nil, flag.ErrHelp
	}
	for {
		if err := flags.Parse(args); err != nil {
			return nil, errUsage // the flag package has said what is wrong
		}
		if flags.NArg() == 0 {
			break
		}
		if len(files) == len(names) {
			fmt.Fprintf(flags.Output(), "%s: unexpected argument %q\n", flags.Name(), flags.Arg(0))
			return nil, errUsage
		}
		files, args = append(files, flags.Arg(0)), flags.Args()[1:]
	}
	if len(files) < len(names) {
		fmt.Fprintf(flags.Output(), "%s: %s is missing\n", flags.Name(), names[len(files)])
		return nil, errUsage
	}
	return files, nil
}

// envOf is the environment variable of a flag: USAGEFLOW_TLS_CERT for tls-cert.
func envOf(flagName string) string {
	return "USAGEFLOW_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// fromEnvironment sets the flags that the command line has not set and the environment has.
func fromEnvironment(flags *flag.FlagSet) error {
	return setRest(flags, func(name string) (value, source string) { return os.Getenv(envOf(name)), envOf(name) })
}

// fromConfig sets the flags that are not set yet from the configuration's server section. A name there that is no flag is an error.
func fromConfig(flags *flag.FlagSet, path string, config *service.Config) error {
	return fromSection(path, "server", config.Server, flags)
}

// fromSection sets the flags that are not set yet from a section of the configuration. A name there that none of sets has is an error.
func fromSection(path, section string, values map[string]string, sets ...*flag.FlagSet) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		known := slices.ContainsFunc(sets, func(flags *flag.FlagSet) bool { return flags.Lookup(name) != nil })
		if !known || name == "config" {
			return fmt.Errorf("%s: %s.%s: there is no such setting", path, section, name)
		}
	}
	var errs []error
	for _, flags := range sets {
		errs = append(errs, setRest(flags, func(name string) (value, source string) {
			return values[name], fmt.Sprintf("%s: %s.%s", path, section, name)
		}))
	}
	return errors.Join(errs...)
}

func setRest(flags *flag.FlagSet, value func(name string) (value, source string)) error {
	set := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	var errs []error
	flags.VisitAll(func(f *flag.Flag) {
		text, source := value(f.Name)
		if set[f.Name] || text == "" {
			return
		}
		if err := flags.Set(f.Name, text); err != nil {
			kind, _ := flag.UnquoteUsage(f)
			errs = append(errs, fmt.Errorf("%s: %q is no %s such as %s: %w", source, text, kind, f.DefValue, err))
		}
	})
	return errors.Join(errs...)
}

// isSet reports whether the command line or the environment has set a flag.
func isSet(flags *flag.FlagSet, name string) bool {
	found := false
	flags.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// loadConfig reads the configuration at path, and explains where there is none.
func loadConfig(path string) (*service.Config, error) {
	config, err := service.LoadConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %s: usageflow init writes one, and --config names another", errNoConfig, path)
	}
	return config, err
}

// newLog makes the log of a program.
func newLog(stderr io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(stderr, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(stderr, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q is neither json nor text", format)
}
