package core

import (
	"context"
	"errors"
)

// Job is work that is not HTTP.
type Job struct {
	// Name of the job; its ledger is `JOB <name>`, a space and the identity.
	Name     string
	Identity string
	// Amount that is reserved, and charged unless fn says otherwise. 0 stands for 1.
	Amount float64
}

// Do meters fn: it reserves, runs fn and settles. fn's context holds the Call (FromContext), for SetAmount, AddAmount and
// Void. Where a policy of type FUNCTION, or of method JOB, with the job's name has a limit, Do waits for the
// decision first, and returns a *DeniedError where that is no. Otherwise it returns what fn returns. An error of fn is
// charged like a success; a panic is charged what was set, else nothing, and goes on.
func (f *Flow) Do(ctx context.Context, job Job, fn func(ctx context.Context) error) error {
	if job.Name == "" {
		return errors.New("core: a job without a name has no ledger")
	}
	c, denial := f.beginJob(ctx, job)
	if denial != nil {
		return &DeniedError{denial}
	}
	if c == nil {
		return fn(ctx)
	}
	returned := false
	defer func() {
		if !returned {
			c.Abort()
		}
	}()
	err := fn(c.Context())
	returned = true
	c.endJob()
	return err
}

func (f *Flow) beginJob(ctx context.Context, job Job) (*Call, *Denial) {
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
	return f.admit(ctx, c)
}

// endJob is End for a job: one that returns has done its work, whatever became of its context.
func (c *Call) endJob() { c.handlerReturned(200, false, true) }
