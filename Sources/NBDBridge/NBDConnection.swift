internal import CNBD
internal import Glibc
public import Geometry
internal import SystemPackage

/// What a server says of its export.
public struct NBDExport: Hashable, Sendable {
    public var byteCount: UInt64
    /// Unit of requests in bytes; 0 where the server does not say.
    public var blockMinimum: UInt32
    public var blockPreferred: UInt32
    public var blockMaximum: UInt32
    public var isReadOnly: Bool
    public var canFlush: Bool
    public var canZero: Bool
    public var canTrim: Bool
    public var canForceUnitAccess: Bool
    public var canMultiConnect: Bool
    public var canBlockStatus: Bool
}

/// A run of an export, as its block status tells.
public struct NBDExtent: Hashable, Sendable {
    public var range: ByteRange
    /// Takes no space at the server.
    public var isHole: Bool
    /// Reads as zeros.
    public var isZero: Bool
}

/// A connection to an NBD server. One owner, one thread at a time; dropping it hangs up.
///
/// After a failed transfer the connection is of no use: drop it, and the memory of the transfer is left alone.
@safe public struct NBDConnection: ~Copyable, Sendable {
    // OpaquePointer is not Sendable by itself: the connection has one owner and is not copyable, and libnbd ties
    // nothing to the thread that made a handle.
    private nonisolated(unsafe) let handle: OpaquePointer
    /// Where it leads to, for messages.
    private let name: String
    private let stop: Stop
    public let export: NBDExport

    /// Bytes of one request; larger ones only hold up the small ones behind them.
    private static let requestMax: UInt32 = 256 << 10
    private static let requestsInFlightMax: UInt32 = 32
    /// Silence after which a server counts as dead.
    public static let silenceMaxMillisecondsStandard: Int32 = 60_000
    /// The same while it makes writes durable.
    public static let flushMaxMillisecondsStandard: Int32 = 600_000
    /// A block-status request covers at most this, which its 32-bit length can hold at any alignment.
    private static let statusMax: UInt64 = 2 << 30

    /// Asked some times a second while a call waits for the server.
    private final class Stop: Sendable {
        let isWanted: @Sendable () -> Bool
        let silenceMaxMilliseconds: Int32
        let flushMaxMilliseconds: Int32
        init(
            _ isWanted: @escaping @Sendable () -> Bool, _ silenceMaxMilliseconds: Int32, _ flushMaxMilliseconds: Int32
        ) {
            self.isWanted = isWanted
            self.silenceMaxMilliseconds = silenceMaxMilliseconds
            self.flushMaxMilliseconds = flushMaxMilliseconds
        }

        /// Runs a call of the library with the time that it may wait. Whoever holds this must live as long.
        func within(milliseconds: Int32? = nil, _ body: (cnbd_patience) -> Int32) -> Int32 {
            unsafe body(
                cnbd_patience(
                    silence_ms: milliseconds ?? silenceMaxMilliseconds,
                    stopped: { context in
                        guard let context = unsafe context else { return 0 }
                        return unsafe Unmanaged<Stop>.fromOpaque(context).takeUnretainedValue().isWanted() ? 1 : 0
                    },
                    context: unsafe Unmanaged.passUnretained(self).toOpaque()))
        }
    }

    /// Connects to the server that listens at a unix socket.
    /// - Parameters:
    ///   - silenceMaxMilliseconds: a call fails when nothing at all comes from the server for so long.
    ///   - flushMaxMilliseconds: the same for a flush.
    ///   - shouldStop: asked some times a second by a call that waits; it fails then.
    public init(
        unixSocket path: String, silenceMaxMilliseconds: Int32 = Self.silenceMaxMillisecondsStandard,
        flushMaxMilliseconds: Int32 = Self.flushMaxMillisecondsStandard,
        shouldStop: @escaping @Sendable () -> Bool = { false }
    ) throws(NBDError) {
        try unsafe self.init(name: path, Stop(shouldStop, silenceMaxMilliseconds, flushMaxMilliseconds)) {
            handle, patience in
            unsafe path.withCString { unsafe cnbd_connect_unix(handle, $0, patience) }
        }
    }

    /// Connects to `nbd://…`, `nbd+unix://…`.
    public init(uri: String) throws(NBDError) {
        let stop = Stop({ false }, Self.silenceMaxMillisecondsStandard, Self.flushMaxMillisecondsStandard)
        try unsafe self.init(name: uri, stop) { handle, patience in
            unsafe uri.withCString { unsafe cnbd_connect_uri(handle, $0, patience) }
        }
    }

    private init(
        name: String, _ stop: Stop, connect: (OpaquePointer, cnbd_patience) -> Int32
    ) throws(NBDError) {
        guard let made = unsafe cnbd_new() else { throw NBDError(.failed, "out of memory for an NBD connection") }
        var info = cnbd_export()
        var result = unsafe stop.within { unsafe connect(made, $0) }
        if result == 0 { result = unsafe cnbd_export_info(made, &info) }
        guard result == 0 else {
            let reason =
                result == -ETIMEDOUT || result == -ECANCELED || result == -ENAMETOOLONG
                ? Self.reason(result, stop.silenceMaxMilliseconds) : unsafe String(cString: cnbd_message())
            unsafe cnbd_free(made)
            throw NBDError(.unreachable, "cannot connect to the NBD server at \(name): \(reason)")
        }
        unsafe handle = made
        self.name = name
        self.stop = stop
        export = NBDExport(
            byteCount: info.size, blockMinimum: info.block_minimum, blockPreferred: info.block_preferred,
            blockMaximum: info.block_maximum, isReadOnly: info.read_only != 0, canFlush: info.can_flush != 0,
            canZero: info.can_zero != 0, canTrim: info.can_trim != 0, canForceUnitAccess: info.can_fua != 0,
            canMultiConnect: info.can_multi_conn != 0, canBlockStatus: info.can_block_status != 0)
    }

    deinit { unsafe cnbd_free(handle) }

    /// Reads the ranges, one behind the other, into `memory`, many requests at once.
    /// - Precondition: `memory` has as many bytes as the ranges together.
    public func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(NBDError) {
        try unsafe transfer(CNBD_READ, ranges, memory, "read")
    }

    /// Writes `memory` to the ranges, one behind the other.
    public func write(_ ranges: [ByteRange], from memory: UnsafeRawBufferPointer) throws(NBDError) {
        // A write only reads its memory.
        try unsafe transfer(CNBD_WRITE, ranges, UnsafeMutableRawBufferPointer(mutating: memory), "write")
    }

    private func transfer<Direction: BinaryInteger>(
        _ direction: Direction, _ ranges: [ByteRange], _ memory: UnsafeMutableRawBufferPointer, _ verb: String
    ) throws(NBDError) {
        var transfers: [cnbd_transfer] = unsafe []
        var position = 0
        for range in ranges {
            try checkBounds(range)
            let start = unsafe memory.baseAddress?.advanced(by: position).assumingMemoryBound(to: UInt8.self)
            unsafe transfers.append(cnbd_transfer(offset: range.offset, count: range.count, memory: start))
            position += Int(range.count)
        }
        precondition(position == memory.count, "the memory must hold the ranges exactly")
        let requestMax = export.blockMaximum == 0 ? Self.requestMax : min(Self.requestMax, export.blockMaximum)
        let result = unsafe stop.within { patience in
            unsafe cnbd_transfer_all(
                handle, Int32(direction), transfers, UInt32(transfers.count), requestMax, Self.requestsInFlightMax,
                patience)
        }
        try checkResult(result, verb)
    }

    /// Makes all writes that have returned durable at the server.
    public func flush() throws(NBDError) {
        // A server says nothing meanwhile, and a slow medium may have much to write.
        let limit = stop.flushMaxMilliseconds
        let result = unsafe stop.within(milliseconds: limit) { unsafe cnbd_flush(handle, $0) }
        try checkResult(result, "flush", milliseconds: limit)
    }

    /// - Parameter mayTrim: whether the server may give the space back.
    public func zero(_ range: ByteRange, mayTrim: Bool) throws(NBDError) {
        try checkBounds(range)
        let result = unsafe stop.within { unsafe cnbd_zero(handle, range.offset, range.count, mayTrim ? 1 : 0, $0) }
        try checkResult(result, "zero")
    }

    public func trim(_ range: ByteRange) throws(NBDError) {
        try checkBounds(range)
        try checkResult(unsafe stop.within { unsafe cnbd_trim(handle, range.offset, range.count, $0) }, "trim")
    }

    /// Runs from the start of `range`, ascending and without gaps. They may end before the range does: ask again from
    /// there. A server without block status has one run of data.
    public func extents(in range: ByteRange, limit: Int = 1024) throws(NBDError) -> [NBDExtent] {
        try checkBounds(range)
        guard !range.isEmpty else { return [] }
        guard export.canBlockStatus else { return [NBDExtent(range: range, isHole: false, isZero: false)] }
        var found = [cnbd_extent](repeating: cnbd_extent(), count: max(limit, 1))
        let asked = min(range.count, Self.statusMax)
        let count = unsafe stop.within { patience in
            unsafe cnbd_block_status(handle, range.offset, asked, &found, UInt32(found.count), patience)
        }
        try checkResult(min(count, 0), "get the block status of")
        var result: [NBDExtent] = []
        var offset = range.offset
        for extent in found.prefix(Int(count)) where offset < range.end && extent.count > 0 {
            // The last run may reach beyond what was asked for.
            let run = ByteRange(offset: offset, count: min(extent.count, range.end - offset))
            result.append(NBDExtent(range: run, isHole: extent.flags & 1 != 0, isZero: extent.flags & 2 != 0))
            offset = run.end
        }
        guard !result.isEmpty else { throw NBDError(.failed, "the NBD server at \(name) told no block status") }
        return result
    }

    private func checkBounds(_ range: ByteRange) throws(NBDError) {
        guard range.end <= export.byteCount else {
            throw NBDError(.outOfBounds, "\(range) is beyond the end of \(name), which has \(export.byteCount) bytes")
        }
    }

    private func checkResult(_ result: Int32, _ verb: String, milliseconds: Int32? = nil) throws(NBDError) {
        guard result != 0 else { return }
        throw NBDError(
            result == -ETIMEDOUT ? .timedOut : .failed,
            "cannot \(verb) the disk at \(name): \(Self.reason(result, milliseconds ?? stop.silenceMaxMilliseconds))")
    }

    private static func reason(_ result: Int32, _ milliseconds: Int32) -> String {
        switch result {
        case -ETIMEDOUT: "no answer for \(milliseconds / 1000) s"
        case -ECANCELED: "stopped"
        default: Errno(rawValue: -result).description
        }
    }
}
