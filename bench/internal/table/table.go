// Package table prints results as aligned plain text, and takes medians.
package table

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Head prints what a reader needs to judge the figures below it.
func Head(w io.Writer, what string) {
	fmt.Fprintf(w, "%s\ncommand: go run . %s\n%s %s/%s, %d cores, GOMAXPROCS=%d in every process, %s\n\n",
		what, strings.Join(os.Args[1:], " "), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))
}

// Print prints rows in columns, the first row being the heads. All but the first column are right-aligned.
func Print(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for _, row := range rows {
		fmt.Fprintf(tw, "%-*s\t%s\t\n", width, row[0], strings.Join(row[1:], "\t"))
	}
	_ = tw.Flush() // an error of w shows elsewhere
	fmt.Fprintln(w)
}

// Median is the middle of values, of which there is at least one.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Spread is the lowest and the highest of values, as text.
func Spread(format string, values []float64) string {
	return fmt.Sprintf(format+"-"+format, slices.Min(values), slices.Max(values))
}
