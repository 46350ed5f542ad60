package book

// Accounts calls yield with each account, in no order.
func (b *Book) Accounts(yield func(*Account) bool) { b.accounts.all(yield) }

// Allocations calls yield with each allocation, in no order.
func (b *Book) Allocations(yield func(*Allocation) bool) { b.allocations.all(yield) }

// all calls yield with every record, in no order.
func (x *index[K, R]) all(yield func(*R) bool) {
	for _, r := range x.buckets {
		for ; r != nil; r = *x.next(r) {
			if !yield(r) {
				return
			}
		}
	}
}
