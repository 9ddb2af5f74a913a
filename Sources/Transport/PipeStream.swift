internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// A stream over two descriptors of this process: the far side's standard input and output, or a socket.
public final class PipeStream: ByteStream {
    private let input: CInt
    private let output: CInt
    private let restore: (input: Bool, output: Bool)
    private let limit: TimeLimit
    private let closing: WakeEvent
    private let isClosed = Atomic(false)

    /// What were this process's standard input and output. From now on both are something else, so that neither a stray
    /// `print` nor a child's output damages the stream.
    public static func standard(silenceMilliseconds: Int = 30_000) throws(TransportError) -> PipeStream {
        let streams: (input: CInt, output: CInt)
        do throws(SystemError) { streams = try takeStandardStreams() } catch {
            throw TransportError(.system, error.description)
        }
        return try PipeStream(input: streams.input, output: streams.output, silenceMilliseconds: silenceMilliseconds)
    }

    /// Borrows both descriptors, which may be the same, for the life of this.
    public init(input: CInt, output: CInt, silenceMilliseconds: Int = 30_000) throws(TransportError) {
        self.input = input
        self.output = output
        limit = TimeLimit(milliseconds: silenceMilliseconds, time: SystemTime())
        do throws(SystemError) {
            closing = try WakeEvent()
            // A blocking write(2) of more than fits would not come back at the time limit.
            let inputWas = try setNonblocking(input, true)
            restore = (inputWas, input == output ? inputWas : try setNonblocking(output, true))
        } catch {
            throw TransportError(.system, error.description)
        }
    }

    deinit {
        _ = try? setNonblocking(input, restore.input)
        _ = try? setNonblocking(output, restore.output)
    }

    public func read(into memory: UnsafeMutableRawBufferPointer) throws(TransportError) -> Int {
        while true {
            try checkOpen()
            do throws(SystemError) {
                return try unsafe readDescriptor(input, into: memory)
            } catch {
                guard error.errno == .wouldBlock else { throw TransportError(.closed, "the peer's pipe: \(error)") }
            }
            try wait(for: input, .readable)
        }
    }

    public func write(_ memory: UnsafeRawBufferPointer) throws(TransportError) {
        var next = 0
        while next < memory.count {
            try checkOpen()
            do throws(SystemError) {
                next += try unsafe writeDescriptor(output, UnsafeRawBufferPointer(rebasing: memory[next...]))
                continue
            } catch {
                guard error.errno == .wouldBlock else {
                    throw TransportError(.closed, "the peer has closed the connection (\(error.errno))")
                }
            }
            try wait(for: output, .writable)
        }
    }

    /// Ends all calls. The descriptors stay open: they are their owner's.
    public func close() {
        isClosed.store(true, ordering: .releasing)
        closing.wake()
    }

    private func checkOpen() throws(TransportError) {
        if isClosed.load(ordering: .acquiring) { throw TransportError(.closed, "the connection to the peer is closed") }
    }

    private func wait(for descriptor: CInt, _ events: PollEvents) throws(TransportError) {
        var entries = [PollEntry(descriptor, events), PollEntry(closing.descriptor, .readable)]
        do throws(SystemError) {
            let ready = try pollDescriptors(&entries, deadlineMilliseconds: limit.milliseconds)
            guard ready > 0 else { throw SystemError(errno: .timedOut, operation: "wait for", subject: "the peer") }
        } catch {
            throw error.errno == .timedOut ? limit.error("the peer") : TransportError(.system, error.description)
        }
    }
}
