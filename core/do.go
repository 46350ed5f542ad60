package core

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/uuid"
)

// Job is work that is not HTTP.
type Job struct {
	// Name of the job; its ledger is `JOB <name>`, a space and the identity.
	Name     string
	Identity string
	// Amount that is reserved, and charged unless fn says otherwise. 0 stands for 1.
	Amount float64
	// ID is the same where the same work is done again, after a worker was lost for one: jobs of one ledger with the same
	// ID are charged once, for as long as the service remembers them (usageflow serve: --retention). A run that panics leaves
	// its reservation to the next one. "" is an ID that no other job has.
	ID string
	// RequestID is that of the HTTP request that the job comes from (see Call.RequestID), a UUID; otherwise it is that of
	// the call that the context belongs to, or a new one.
	RequestID string
	// Durable makes Do return only when the settlement can't be lost any more: the service has confirmed it, or it is in
	// Config.SpoolDir. Do waits for that for at most Config.Timeout, and not at all where there is no connection and no
	// SpoolDir; it is sent in any case.
	Durable bool
}

// Do meters fn: it reserves, runs fn and settles. fn's context holds the Call (FromContext), for SetAmount, AddAmount and
// Void. Where a policy of type FUNCTION, or of method JOB, with the job's name has a limit, Do waits for the
// decision first, and returns a *DeniedError where that is no. Otherwise it returns what fn returns. An error of fn is
// charged like a success; a panic is charged what was set, else nothing, and goes on.
func (f *Flow) Do(ctx context.Context, job Job, fn func(ctx context.Context) error) error {
	run, err := f.beginJob(ctx, job)
	if err != nil {
		return err
	}
	defer run.abort()
	err = fn(run.ctx)
	run.end()
	return err
}

// jobRun is one run of a job that was let in.
type jobRun struct {
	ctx     context.Context // with the call in it
	call    *Call           // nil where it is not metered
	durable bool
	over    bool
}

// beginJob lets a job in, or returns why not.
func (f *Flow) beginJob(ctx context.Context, job Job) (*jobRun, error) {
	if job.Name == "" {
		return nil, errors.New("core: a job without a name has no ledger")
	}
	c, denial := f.admitJob(ctx, job)
	if denial != nil {
		return nil, &DeniedError{denial}
	}
	run := &jobRun{ctx: ctx, call: c, durable: job.Durable}
	if c != nil {
		run.ctx = c.Context()
	}
	return run, nil
}

// end says that the work is done, whatever became of its context. Only the first end or abort counts.
func (r *jobRun) end() {
	if r.over {
		return
	}
	r.over = true
	r.call.handlerReturned(http.StatusOK, false, true)
	if r.call != nil && r.durable {
		r.call.flow.awaitReceipt(r.call)
	}
}

// abort says that the work has panicked, unless it has ended.
func (r *jobRun) abort() {
	if !r.over {
		r.over = true
		r.call.Abort()
	}
}

func (f *Flow) admitJob(ctx context.Context, job Job) (*Call, *Denial) {
	if len(job.Name) > maxIdentityBytes {
		job.Name = shortHash(job.Name) // an alias has to fit into a message
	}
	if f.stopped.Load() {
		return nil, nil
	}
	conf := f.current(ctx)
	if conf == nil {
		return nil, nil
	}
	rl := conf.rule(jobMethod, job.Name)
	if rl.idle() {
		return nil, nil
	}
	if rl.blocks(job.Identity, job.Identity) {
		if denial := f.blocked(rl); denial != nil {
			return nil, denial
		}
	}
	if !rl.metered {
		return nil, nil
	}
	amount := job.Amount
	switch {
	case !validAmount(amount):
		f.invalidAmount(rl.alias)
		amount = 1
	case amount == 0:
		amount = 1
	}
	identity := safeIdentity(job.Identity)
	if !f.callMemory.take(callBytes) {
		return nil, f.noMemory(rl, rl.ledger(identity))
	}
	c := f.newCall(ctx, rl, identity, amount)
	c.method = jobMethod
	c.takeJob(job)
	return f.admit(ctx, c)
}

// takeJob notes what a job says of itself.
func (c *Call) takeJob(job Job) {
	if job.ID != "" {
		id := uuid.NewSHA1(jobIDs, []byte(c.alias+"\x00"+job.ID))
		c.ids = id.String() + c.ids[uuidLen:]
		c.repeatable = true
	}
	if id, err := uuid.Parse(job.RequestID); err == nil {
		c.requestID = id.String()
	}
	if job.Durable {
		c.receipt = newReceipt()
	}
}

// jobIDs is the namespace of the allocation ids that are made of Job.ID.
var jobIDs = uuid.UUID{0x6a, 0x6f, 0x62, 0x73, 0x75, 0x73, 0x4a, 0x67, 0x9d, 0x66, 0x6c, 0x6f, 0x77, 0x69, 0x64, 0x73}
