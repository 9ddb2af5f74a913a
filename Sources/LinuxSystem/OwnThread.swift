internal import CSystemShims
internal import Synchronization

/// A thread for work that blocks. It ends when its body returns; nothing else ends it.
public final class OwnThread: Sendable {
    /// Ample for anything but deep recursion; only what is touched takes memory.
    public static let standardStackBytes = 2 << 20
    /// The handle, until it is joined.
    private let handle: Mutex<UInt64?>

    /// Starts `body`.
    /// - Parameter name: for debuggers; 15 bytes of it are kept.
    public init(
        name: String, stackBytes: Int = OwnThread.standardStackBytes, _ body: @escaping @Sendable () -> Void
    ) throws(SystemError) {
        let context = unsafe Unmanaged.passRetained(Body(run: body))
        var handle: UInt64 = 0
        let result = unsafe shim_thread_start(
            { context in
                guard let context = unsafe context else { return }
                unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
            }, context.toOpaque(), UInt64(stackBytes), name, &handle)
        if result < 0 { unsafe context.release() }
        _ = try check(result, "start thread", name)
        self.handle = Mutex(handle)
    }

    /// Waits until the body has returned. Later calls return at once. Not to be called by the thread itself.
    public func join() {
        let handle = handle.withLock { handle in
            defer { handle = nil }
            return handle
        }
        if let handle { _ = shim_thread_join(handle) }
    }

    // Whoever drops a thread unjoined lets it run on: joining here could wait for ever, or for itself.
    deinit {
        let left = handle.withLock { $0 }
        if let left { _ = shim_thread_detach(left) }
    }

    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(run: @escaping @Sendable () -> Void) { self.run = run }
    }
}
