package sockettest

// An Option changes a Server at its construction.
type Option func(*options)

type options struct {
	key        string
	style      ReplyStyle
	readBuffer int
	inMemory   bool
	unrecorded bool
}

// WithAPIKey refuses with 401 every handshake whose x-usage-key header is not key. Without it any key,
// and none, will do.
func WithAPIKey(key string) Option { return func(o *options) { o.key = key } }

// WithReplyStyle says how replies name the message that they answer, unless [Reply.Styled] says otherwise
// for one of them. The default is ByReplyTo.
func WithReplyStyle(style ReplyStyle) Option { return func(o *options) { o.style = style } }

// WithReceiveBuffer sets the size in bytes of the kernel's receive buffer on every connection, so that
// StopReading is felt by the client after few bytes. The kernel treats it as a hint.
func WithReceiveBuffer(bytes int) Option { return func(o *options) { o.readBuffer = bytes } }

// WithInMemory serves over unbuffered in-memory pipes in place of TCP. Clients reach the server through
// [Server.Dial] only. Everything blocks in a way that testing/synctest understands.
func WithInMemory() Option { return func(o *options) { o.inMemory = true } }

// WithoutRecording keeps counts and no messages, for benchmarks: Messages stays empty, and CheckOrder
// and CheckProtocol return an error.
func WithoutRecording() Option { return func(o *options) { o.unrecorded = true } }
