internal import LinuxSystem

/// The socket of one connection, which others may end while a thread waits in it.
final class ClientSocket: Sendable {
    private let descriptor: OwnedDescriptor

    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }

    /// The client's; -1 where it is out of sight.
    var process: Int32 { UnixSocket.peerProcess(of: descriptor.number) ?? -1 }

    /// Reads what there is, at least one byte.
    /// - Parameter deadline: on the monotonic clock in nanoseconds.
    /// - Throws: `.ended`, `.timeout`.
    func receive(
        into memory: UnsafeMutableRawBufferPointer, until deadline: UInt64? = nil
    ) throws(ClientError) -> Int {
        if let deadline { try awaitBytes(until: deadline) }
        // A broken connection is one that has ended.
        guard let count = unsafe try? descriptor.readSome(into: memory), count > 0 else { throw .ended }
        return count
    }

    private func awaitBytes(until deadline: UInt64) throws(ClientError) {
        var entries = [PollEntry(descriptor.number, .readable)]
        let now = SystemTime().monotonic()
        let left = Int(clamping: (deadline - min(deadline, now) + 999_999) / 1_000_000)
        let ready = (try? pollDescriptors(&entries, deadlineMilliseconds: left)) ?? 0
        guard ready > 0 else { throw ClientError(code: .timeout, message: "the client took too long to begin") }
    }

    /// Writes all of it. - Throws: `.ended`.
    func send(_ memory: UnsafeRawBufferPointer) throws(ClientError) {
        do throws(SystemError) { try unsafe descriptor.writeAll(memory) } catch { throw .ended }
    }

    func send(_ bytes: [UInt8]) throws(ClientError) {
        do throws(SystemError) { try descriptor.writeAll(bytes) } catch { throw .ended }
    }

    /// Whether the client has closed its end: it takes no reply any more.
    var isHungUp: Bool {
        // What nobody asks for is told all the same: POLLHUP and POLLERR, poll(2).
        var entries = [PollEntry(descriptor.number, [])]
        return (try? pollDescriptors(&entries, deadlineMilliseconds: 0)) ?? 0 > 0
    }

    /// Both directions, for all threads.
    func end() { UnixSocket.end(descriptor.number) }
    func endReceiving() { UnixSocket.endReceiving(descriptor.number) }
}
