package postgres

import "context"

const MergeLockSQL = mergeLockSQL

// MergeHours is the janitor's.
func (s *Store) MergeHours(ctx context.Context, cutoff int64) error { return s.mergeHours(ctx, cutoff) }

// Retire is the janitor's.
func (s *Store) Retire(ctx context.Context, cutoff int64) error { return s.retireAll(ctx, cutoff) }
