/// A client's request ("Request message"), and what may be said of it before anything is done.
struct Request: Hashable, Sendable {
    var flags: CommandFlags
    var type: UInt16
    /// The client's name for it, to be sent back.
    var cookie: UInt64
    var offset: UInt64
    var count: UInt32

    /// - Parameter bytes: ``NBDNumbers/requestBytes`` of them.
    /// - Returns: `nil` when the magic number is wrong: nothing that follows can be understood.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == NBDNumbers.requestBytes,
            unsafe UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self)) == NBDNumbers.request
        else { return nil }
        flags = CommandFlags(
            rawValue: unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)))
        type = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
        cookie = unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        offset = unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        count = unsafe UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
    }

    var isDurable: Bool { flags.contains(.durable) }

    /// Why the request can't be done, whatever the disk says.
    func refusal(in session: Session) -> NBDErrorNumber? {
        var allowed: CommandFlags = .durable
        switch type {
        case CommandType.read:
            if session.hasStructuredReplies { allowed.insert(.notFragmented) }
        case CommandType.write, CommandType.trim:
            guard !session.isReadOnly else { return .notPermitted }
        case CommandType.writeZeroes:
            guard !session.isReadOnly else { return .notPermitted }
            // Never advertised.
            if flags.contains(.fastZero) { return .notSupported }
            allowed.insert(.noHole)
        case CommandType.blockStatus:
            guard session.hasAllocationContext else { return .invalid }
            allowed.insert(.oneExtent)
        case CommandType.flush:
            return flags.subtracting(allowed).isEmpty && offset == 0 && count == 0 ? nil : .invalid
        default: return .invalid
        }
        guard flags.subtracting(allowed).isEmpty, count > 0 else { return .invalid }
        let carriesData = type == CommandType.read || type == CommandType.write
        guard !carriesData || count <= NBDNumbers.payloadMax else { return .invalid }
        guard offset <= session.byteCount, UInt64(count) <= session.byteCount - offset else {
            return type == CommandType.write || type == CommandType.writeZeroes ? .noSpace : .invalid
        }
        return nil
    }
}
