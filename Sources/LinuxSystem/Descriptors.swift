internal import CSystemShims
internal import SystemPackage

/// The two ends of a pipe.
@frozen public struct Pipe: ~Copyable, Sendable {
    public let reading: OwnedDescriptor
    public let writing: OwnedDescriptor

    public init() throws(SystemError) {
        var ends: (CInt, CInt) = (-1, -1)
        let result = unsafe withUnsafeMutableBytes(of: &ends) { memory in
            unsafe shim_pipe(memory.baseAddress?.assumingMemoryBound(to: CInt.self))
        }
        _ = try check(result, "make", "a pipe")
        reading = OwnedDescriptor(adopting: ends.0)
        writing = OwnedDescriptor(adopting: ends.1)
    }

    /// The reading end; the other is closed.
    public consuming func keepReading() -> OwnedDescriptor { reading }
    /// The writing end; the other is closed.
    public consuming func keepWriting() -> OwnedDescriptor { writing }
}

/// Stream sockets with a path for an address.
public enum UnixSocket {
    /// The socket's file has the mode 0600.
    /// - Throws: EADDRINUSE when there is something at `path`, be it a dead socket: remove that first.
    public static func listen(at path: String, backlog: Int = 16) throws(SystemError) -> OwnedDescriptor {
        OwnedDescriptor(adopting: try check(unsafe shim_unix_listen(path, CInt(backlog)), "listen at", path))
    }

    /// - Throws: ECONNREFUSED when nobody listens at the socket any more, ENOENT when there is none.
    public static func connect(to path: String) throws(SystemError) -> OwnedDescriptor {
        OwnedDescriptor(adopting: try check(unsafe shim_unix_connect(path), "connect to", path))
    }

    /// The next connection to a listening socket; waits for one.
    public static func accept(from listener: CInt) throws(SystemError) -> OwnedDescriptor {
        OwnedDescriptor(adopting: try check(shim_unix_accept(listener), "accept", "a connection"))
    }

    /// Accepts connections until the socket is ended (``end(_:)``), or fails.
    /// - Parameters:
    ///   - listener: lent.
    ///   - isStopping: asked before each wait.
    ///   - serve: takes over a connection; does not block.
    public static func acceptAll(
        from listener: CInt, until isStopping: () -> Bool, _ serve: (consuming OwnedDescriptor) -> Void
    ) {
        while !isStopping() {
            do throws(SystemError) { serve(try accept(from: listener)) } catch {
                switch error.errno {
                case .connectionAbort, .interrupted: continue
                case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory:
                    // A pause for others to close theirs; the listener's end wakes it.
                    var entries = [PollEntry(listener, [])]
                    _ = try? pollDescriptors(&entries, deadlineMilliseconds: 100)
                default: return
                }
            }
        }
    }

    /// A write to the socket fails after that time in which the other end has taken nothing.
    public static func limitSending(_ socket: CInt, seconds: Int) {
        shim_limit_sending(socket, CInt(clamping: seconds))
    }

    /// The user at the other end of a connection, as the kernel knows him.
    public static func peerUser(of connection: CInt) throws(SystemError) -> UInt32 {
        var user: UInt32 = 0
        _ = try check(unsafe shim_peer_uid(connection, &user), "identify", "the peer of a socket")
        return user
    }
}

/// Writes what fits to a lent descriptor.
func writeSome(_ bytes: ArraySlice<UInt8>, to descriptor: CInt) throws(SystemError) -> Int {
    let result = unsafe bytes.withUnsafeBytes { memory in
        unsafe shim_write(descriptor, memory.baseAddress, UInt64(memory.count))
    }
    return Int(try check(result, "write", "descriptor \(descriptor)"))
}

extension OwnedDescriptor {
    /// Reads what there is, at most `memory.count` bytes; waits for the first. - Returns: 0 at the end.
    public func readSome(into memory: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
        Int(
            try check(
                unsafe shim_read(number, memory.baseAddress, UInt64(memory.count)), "read", "descriptor \(number)"))
    }

    /// Reads what there is, at most `count` bytes; waits for the first. - Returns: nothing at the end.
    public func readSome(upTo count: Int) throws(SystemError) -> [UInt8] {
        var result: Int64 = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { memory, initialized in
            result = unsafe shim_read(number, memory.baseAddress, UInt64(count))
            initialized = max(0, Int(result))
        }
        _ = try check(result, "read", "descriptor \(number)")
        return bytes
    }

    /// Writes what fits, at least one byte; waits for room unless the descriptor is non-blocking.
    public func writeSome(_ memory: UnsafeRawBufferPointer) throws(SystemError) -> Int {
        Int(
            try check(
                unsafe shim_write(number, memory.baseAddress, UInt64(memory.count)), "write", "descriptor \(number)"))
    }

    /// Writes all of `memory`. - Throws: EPIPE when the reader is gone (see ``ignoreBrokenPipes()``).
    public func writeAll(_ memory: UnsafeRawBufferPointer) throws(SystemError) {
        var rest = unsafe memory
        while unsafe !rest.isEmpty {
            let written = try unsafe writeSome(rest)
            unsafe rest = UnsafeRawBufferPointer(rebasing: rest[written...])
        }
    }

    public func writeAll(_ bytes: [UInt8]) throws(SystemError) {
        var failure: SystemError?
        unsafe bytes.withUnsafeBytes { memory in
            do throws(SystemError) { try unsafe writeAll(memory) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// From here on a peer that has gone is an EPIPE, not the end of this process; and what
/// ``ignoreFileSizeLimit()`` says.
public func ignoreBrokenPipes() { shim_ignore_sigpipe() }

/// From here on a file at the limit of its size is an EFBIG, not the end of this process. Programs that it starts have
/// the signal's own effect.
public func ignoreFileSizeLimit() { shim_ignore_sigxfsz() }

/// Lets this process have up to `count` files open, or as many as the host allows. Programs that end with it have
/// the limit of before.
public func raiseOpenFileLimit(to count: UInt64) { shim_raise_open_files(count) }

/// What can be waited for on a descriptor.
public struct PollEvents: OptionSet, Hashable, Sendable {
    public let rawValue: Int16
    public init(rawValue: Int16) { self.rawValue = rawValue }
    public static let readable = PollEvents(rawValue: 0x001)
    public static let writable = PollEvents(rawValue: 0x004)
    /// Always reported, asked for or not.
    public static let failed = PollEvents(rawValue: 0x008)
    /// The other end is closed; always reported. There may still be bytes to read.
    public static let hungUp = PollEvents(rawValue: 0x010)
    /// Not an open descriptor; always reported.
    public static let invalid = PollEvents(rawValue: 0x020)
}

/// A descriptor to wait for.
public struct PollEntry: Hashable, Sendable {
    /// Negative ones are skipped.
    public var descriptor: CInt
    public var awaited: PollEvents
    /// What ``pollDescriptors(_:deadlineMilliseconds:)`` found.
    public var ready: PollEvents = []

    public init(_ descriptor: CInt, _ awaited: PollEvents) {
        self.descriptor = descriptor
        self.awaited = awaited
    }
}

/// Waits until something happens on one of the descriptors; `nil`: for ever.
/// - Returns: how many are ready; 0 when the time is over.
@discardableResult
public func pollDescriptors(_ entries: inout [PollEntry], deadlineMilliseconds: Int?) throws(SystemError) -> Int {
    var native = entries.map { shim_poll(fd: $0.descriptor, events: $0.awaited.rawValue, revents: 0) }
    let timeout = deadlineMilliseconds.map { CInt(clamping: max(0, $0)) } ?? -1
    let count = try check(unsafe shim_poll_wait(&native, UInt32(native.count), timeout), "wait for", "descriptors")
    for index in entries.indices { entries[index].ready = PollEvents(rawValue: native[index].revents) }
    return Int(count)
}
