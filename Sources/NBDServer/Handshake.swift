internal import Codecs
internal import DeviceServer
internal import LinuxSystem

/// The beginning of a connection ("Fixed newstyle negotiation"): until the client has chosen the export, or the time is
/// over. By one thread, which holds no more memory than one option takes.
struct Handshake {
    static let optionBytesMax = 64 << 10
    /// So that nobody stays in it for long by asking.
    private static let optionsMax = 64

    private let socket: ClientSocket
    private let device: DeviceServer
    private let deadline: UInt64
    private var inbox = Inbox()
    private var session: Session
    private var sendsZeroes = true
    /// For which name contexts were chosen: a choice for another export says nothing of this one.
    private var contextName: [UInt8]?

    /// - Parameter deadline: on the monotonic clock in nanoseconds.
    init(_ socket: ClientSocket, _ device: DeviceServer, until deadline: UInt64) {
        self.socket = socket
        self.device = device
        self.deadline = deadline
        session = Session(byteCount: 0, isReadOnly: device.isReadOnly)
    }

    /// What was agreed on, and what the client has sent already.
    struct Outcome: Sendable {
        var session: Session
        var presence: Presence
        var inbox: Inbox
    }

    /// - Throws: `.ended` also when the client went by an option of its own.
    mutating func run() throws(ClientError) -> Outcome {
        var greeting: [UInt8] = []
        greeting.append(bigEndian: NBDNumbers.greeting)
        greeting.append(bigEndian: NBDNumbers.option)
        let ours: HandshakeFlags = [.fixedNewstyle, .noZeroes]
        greeting.append(bigEndian: UInt16(ours.rawValue))
        try socket.send(greeting)
        let flags = HandshakeFlags(rawValue: try next())
        guard flags.subtracting(ours).isEmpty else { throw .violation("the client sent unknown handshake flags") }
        sendsZeroes = !flags.contains(.noZeroes)
        for _ in 0..<Self.optionsMax {
            if let presence = try answerOption() {
                return Outcome(session: session, presence: presence, inbox: inbox)
            }
        }
        throw .violation("the client sent \(Self.optionsMax) options and chose no export")
    }

    private mutating func next<T: FixedWidthInteger & BitwiseCopyable>() throws(ClientError) -> T {
        let bytes = try unsafe inbox.next(MemoryLayout<T>.size, from: socket, until: deadline)
        return unsafe T(bigEndian: bytes.loadUnaligned(as: T.self))
    }

    /// - Returns: the client's presence once it has chosen the export.
    private mutating func answerOption() throws(ClientError) -> Presence? {
        guard try next() == NBDNumbers.option else { throw .violation("the client sent no option where one is due") }
        let type: UInt32 = try next()
        let length: UInt32 = try next()
        guard length <= Self.optionBytesMax else { throw .violation("the client sent an option of \(length) bytes") }
        var payload = [UInt8](repeating: 0, count: Int(length))
        if length > 0 {
            var failure: ClientError?
            unsafe payload.withUnsafeMutableBytes { memory in
                do throws(ClientError) {
                    try unsafe inbox.move(into: memory, from: socket, until: deadline)
                } catch { failure = error }
            }
            if let failure { throw failure }
        }
        switch type {
        case OptionType.exportName: return try answerExportName(payload)
        case OptionType.abort:
            try reply(type, OptionReply.ack)
            throw .ended
        case OptionType.list: try answerList(payload)
        case OptionType.info, OptionType.go: return try answerInfo(type, payload)
        case OptionType.structuredReply:
            guard payload.isEmpty else { return try refuse(type) }
            session.hasStructuredReplies = true
            try reply(type, OptionReply.ack)
        case OptionType.listMetaContext, OptionType.setMetaContext: try answerContexts(type, payload)
        default: try reply(type, OptionReply.unsupported)
        }
        return nil
    }

    private func reply(_ option: UInt32, _ type: UInt32, _ payload: [UInt8] = []) throws(ClientError) {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: NBDNumbers.optionReply)
        bytes.append(bigEndian: option)
        bytes.append(bigEndian: type)
        bytes.append(bigEndian: UInt32(payload.count))
        try socket.send(bytes + payload)
    }

    @discardableResult
    private func refuse(_ option: UInt32) throws(ClientError) -> Presence? {
        try reply(option, OptionReply.invalid)
        return nil
    }

    private func answerList(_ payload: [UInt8]) throws(ClientError) {
        guard payload.isEmpty else {
            try refuse(OptionType.list)
            return
        }
        // One export, without a name.
        try reply(OptionType.list, OptionReply.server, [0, 0, 0, 0])
        try reply(OptionType.list, OptionReply.ack)
    }

    /// There is no way to refuse but to hang up.
    private mutating func answerExportName(_ name: [UInt8]) throws(ClientError) -> Presence? {
        guard let present = arrive() else { throw .ended }
        choose(name: name)
        var bytes: [UInt8] = []
        bytes.append(bigEndian: session.byteCount)
        bytes.append(bigEndian: session.exportFlags.rawValue)
        if sendsZeroes { bytes += [UInt8](repeating: 0, count: 124) }
        try socket.send(bytes)
        return present
    }

    /// The client counts as one from here on. - Returns: `nil` when the disk is closed or another host's.
    private mutating func arrive() -> Presence? {
        let presence = Presence(device, process: socket.process)
        do throws(DeviceFault) { session.byteCount = try device.byteCount() } catch { return nil }
        return presence
    }

    private mutating func choose(name: [UInt8]) {
        if let contextName, name != contextName { session.hasAllocationContext = false }
        session.trimsToZero = name == Array(Session.trimsToZeroName.utf8)
    }

    private mutating func answerInfo(_ type: UInt32, _ payload: [UInt8]) throws(ClientError) -> Presence? {
        guard let (name, wanted) = try? OptionPayload.parseInfo(payload) else { return try refuse(type) }
        guard let present = arrive() else {
            try reply(type, OptionReply.shutdown)
            return nil
        }
        var export: [UInt8] = []
        export.append(bigEndian: OptionReply.infoExport)
        export.append(bigEndian: session.byteCount)
        export.append(bigEndian: session.exportFlags.rawValue)
        try reply(type, OptionReply.info, export)
        if wanted.contains(OptionReply.infoName) {
            var own: [UInt8] = []
            own.append(bigEndian: OptionReply.infoName)
            try reply(type, OptionReply.info, own + name)
        }
        if wanted.contains(OptionReply.infoBlockSize) {
            var sizes: [UInt8] = []
            sizes.append(bigEndian: OptionReply.infoBlockSize)
            sizes.append(bigEndian: NBDNumbers.blockMin)
            sizes.append(bigEndian: NBDNumbers.blockPreferred)
            sizes.append(bigEndian: NBDNumbers.payloadMax)
            try reply(type, OptionReply.info, sizes)
        }
        if type == OptionType.go { choose(name: name) }
        try reply(type, OptionReply.ack)
        return type == OptionType.go ? present : nil
    }

    private mutating func answerContexts(_ type: UInt32, _ payload: [UInt8]) throws(ClientError) {
        guard session.hasStructuredReplies,
            let (name, isMeant) = try? OptionPayload.parseContexts(
                payload, isList: type == OptionType.listMetaContext)
        else {
            try refuse(type)
            return
        }
        if type == OptionType.setMetaContext {
            session.hasAllocationContext = isMeant
            contextName = name
        }
        if isMeant {
            var context: [UInt8] = []
            context.append(bigEndian: NBDNumbers.allocationContext)
            try reply(type, OptionReply.metaContext, context + Array(NBDNumbers.allocationName.utf8))
        }
        try reply(type, OptionReply.ack)
    }
}
