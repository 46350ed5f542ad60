package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	// jobTimeout bounds a job, its wait for a worker included.
	jobTimeout = 10 * time.Second
	// maxJobBytes is the longest job, maxMetadataBytes the longest field that goes on to the worker.
	maxJobBytes      = 4 << 10
	maxMetadataBytes = 256
)

// job asks for a picture, so many pixels wide.
type job struct {
	Image string `json:"image"`
	Width int    `json:"width"`
}

func (j *job) check() error {
	if j.Image == "" || j.Width < minWidth || j.Width > paintedWidth {
		return fmt.Errorf("image, and a width from %d to %d, are required", minWidth, paintedWidth)
	}
	return nil
}

// runJob has a worker do a job, and passes its answer on as it comes. The worker is told whose the job is and which request it
// belongs to, so that both are charged to one customer, and seen as one request.
func (a *api) runJob(c *gin.Context) {
	var j job
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxJobBytes)
	err := c.ShouldBindJSON(&j)
	if err == nil {
		err = j.check()
	}
	if err != nil {
		c.JSON(http.StatusBadRequest, gin.H{"error": "bad_job", "message": err.Error()})
		return
	}
	call := core.FromContext(c.Request.Context())
	metadata := call.Metadata()
	for header, key := range map[string]string{"Idempotency-Key": socket.MetadataIdempotencyKey, "Traceparent": socket.MetadataTraceparent} {
		value := c.GetHeader(header)
		if len(value) > maxMetadataBytes {
			c.JSON(http.StatusBadRequest, gin.H{"error": "bad_job", "message": fmt.Sprintf("%s is longer than %d bytes", header, maxMetadataBytes)})
			return
		}
		if value != "" {
			metadata[key] = value
		}
	}
	body, err := json.Marshal(j)
	if err != nil {
		_ = c.Error(err)
		c.Status(http.StatusInternalServerError)
		return
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), jobTimeout)
	defer cancel()
	answer, err := a.workers.SendContext(ctx, bytes.NewReader(body), socket.WithMetadata(metadata))
	if err == nil {
		defer func() { _ = answer.Close() }() // it has been read, or nobody wants it any more
		c.Header("Content-Type", "image/png")
		_, err = io.Copy(c.Writer, answer)
	}
	if err != nil {
		call.Void() // nobody has got a picture
		jobFailed(c, err)
	}
}

// jobFailed answers in the place of a job that came to nothing.
func jobFailed(c *gin.Context, err error) {
	if c.Writer.Written() { // half a picture must not look like a whole one: the answer's end can't be written any more
		_ = c.Error(errors.Join(err, http.NewResponseController(c.Writer).SetWriteDeadline(time.Now())))
		return
	}
	if denial := core.Denied(err); denial != nil {
		denial.ServeHTTP(c.Writer, c.Request)
		return
	}
	status, code := http.StatusBadGateway, "job_failed"
	switch {
	case socket.Retryable(err): // no worker, none with room, or all about to end
		status, code = http.StatusServiceUnavailable, "no_worker"
		c.Header("Retry-After", "1")
	case errors.Is(err, context.DeadlineExceeded):
		status, code = http.StatusGatewayTimeout, "job_timeout"
	}
	c.JSON(status, gin.H{"error": code, "message": err.Error()})
}
