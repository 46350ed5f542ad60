package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// workerCommand is the argument that makes this program a worker.
const workerCommand = "worker"

const (
	// The size of a picture as it is painted, and the least width that is made of it.
	paintedWidth, paintedHeight = 640, 480
	minWidth                    = 4
	// configTimeout is how long a worker takes no jobs because it does not know its limits yet.
	configTimeout = 5 * time.Second
)

type workerOptions struct {
	broker string
	data   string
}

// runWorker is the program as a worker; it returns the exit status. The API starts it, and says by SIGTERM, or by the end of
// stdin, which comes with its own, that it is over. An interrupt reaches all processes of a terminal: it is for the API.
func runWorker(args []string, stdin io.Reader, stderr io.Writer) int {
	opts, err := parseWorker(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // nothing comes but the end
		stop()
	}()
	if err := work(ctx, opts, slog.New(slog.NewTextHandler(stderr, nil)).With("process", workerCommand)); err != nil {
		fmt.Fprintln(stderr, "example-app worker:", err)
		return 1
	}
	return 0
}

func parseWorker(args []string, stderr io.Writer) (opts workerOptions, err error) {
	flags := flag.NewFlagSet("example-app worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.broker, "broker", defaultBroker, "`address` of the broker")
	flags.StringVar(&opts.data, "data", "", "`folder` of the example's data, for what is to be settled")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "example-app worker does the jobs of an example-app, which starts it. It ends when its stdin does.\n\nFlags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "example-app worker: unexpected argument %q\n", flags.Arg(0))
		return opts, errors.New("unexpected argument")
	}
	return opts, nil
}

// work does jobs until ctx ends; then it ends those that it has, and settles.
func work(ctx context.Context, opts workerOptions, log *slog.Logger) (err error) {
	folder, err := dataFolder(opts.data)
	if err != nil {
		return err
	}
	messages, err := socket.NewConsumer(opts.broker, socket.SidecarChannel, socket.WithLogger(log))
	if err != nil {
		return fmt.Errorf("-broker %s: %w", opts.broker, err)
	}
	transport := socket.NewBrokerTransport(messages)
	defer func() { err = errors.Join(err, transport.Close()) }()
	flow, err := core.New(core.Config{Transport: transport, SpoolDir: filepath.Join(folder, "worker-spool"), Logger: log})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout/2) // the rest is in the spool
		defer cancel()
		err = errors.Join(err, flow.Shutdown(ctx))
	}()
	known, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	if err := flow.Ready(known); err != nil && ctx.Err() == nil {
		log.Warn("the worker begins without the service", "error", err)
	}
	provider, err := socket.NewProvider(opts.broker, jobsChannel, socket.WithLogger(log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()
	return provider.Serve(ctx, flow.Handler("resize", resize))
}

// resize is a job: the picture of that name, as wide as is asked, as a PNG. It costs 1 for a thousand pixels.
func resize(ctx context.Context, r *socket.Request) (io.Reader, error) {
	call := core.FromContext(ctx)
	var j job
	err := json.NewDecoder(io.LimitReader(r.Reader, maxJobBytes)).Decode(&j)
	if err == nil {
		err = j.check()
	}
	if err != nil {
		call.Void()
		return nil, err
	}
	picture := shrink(paint(j.Image), j.Width)
	var file bytes.Buffer
	if err := png.Encode(&file, picture); err != nil {
		call.Void()
		return nil, err
	}
	call.SetAmount(float64(picture.Rect.Dx()*picture.Rect.Dy()) / 1000)
	return &file, nil
}

// paint returns the picture of a name: one colour runs into another, and the name says which.
func paint(name string) *image.RGBA {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, name) // a hash takes everything
	seed := hash.Sum64()
	picture := image.NewRGBA(image.Rect(0, 0, paintedWidth, paintedHeight))
	mix := func(shift, x, y int) uint8 {
		from, to := int(seed>>shift&0xff), int(seed>>(shift+24)&0xff)
		return uint8((from*(paintedWidth+paintedHeight-x-y) + to*(x+y)) / (paintedWidth + paintedHeight))
	}
	for y := range paintedHeight {
		for x := range paintedWidth {
			picture.SetRGBA(x, y, color.RGBA{mix(0, x, y), mix(8, x, y), mix(16, x, y), 255})
		}
	}
	return picture
}

// shrink makes a painted picture as wide as width: each pixel is the mean of those that it stands for.
func shrink(from *image.RGBA, width int) *image.RGBA {
	height := width * paintedHeight / paintedWidth
	to := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			area := image.Rect(x*paintedWidth/width, y*paintedHeight/height, (x+1)*paintedWidth/width, (y+1)*paintedHeight/height)
			to.SetRGBA(x, y, mean(from, area))
		}
	}
	return to
}

func mean(picture *image.RGBA, area image.Rectangle) color.RGBA {
	var r, g, b int
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			c := picture.RGBAAt(x, y)
			r, g, b = r+int(c.R), g+int(c.G), b+int(c.B)
		}
	}
	n := area.Dx() * area.Dy()
	return color.RGBA{uint8(r / n), uint8(g / n), uint8(b / n), 255}
}
