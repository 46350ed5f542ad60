package core

import "sync/atomic"

// inbox carries calls from the requests' goroutines to the sender: a push is one compare-and-swap, and
// neither locks nor allocates. The sender takes all at once.
type inbox struct {
	head atomic.Pointer[inboxNode] // the last pushed; a list to the first
	wake chan struct{}             // capacity 1
}

// inboxNode is one end of a call: its beginning or its end. It is pushed at most once.
type inboxNode struct {
	next *inboxNode
	call *Call
	end  bool
}

func (q *inbox) push(n *inboxNode) {
	for {
		head := q.head.Load()
		n.next = head
		if q.head.CompareAndSwap(head, n) {
			if head == nil {
				q.signal()
			}
			return
		}
	}
}

// signal wakes the sender. It never blocks.
func (q *inbox) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox and returns the list of nodes in the order in which they were pushed. Who walks it cuts each
// node off with pop: a call that lasts must not hold on to all that were pushed after it.
func (q *inbox) take() *inboxNode {
	var first *inboxNode
	for n := q.head.Swap(nil); n != nil; {
		next := n.next
		n.next = first
		first, n = n, next
	}
	return first
}

// pop takes the first node off a list.
func (n *inboxNode) pop() (rest *inboxNode) {
	rest, n.next = n.next, nil
	return rest
}
