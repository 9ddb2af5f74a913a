/// The numbers of the NBD protocol that this server knows ("Values" and the sections that are named below).
enum NBDNumbers {
    // "Fixed newstyle negotiation"
    static let greeting: UInt64 = 0x4E42_444D_4147_4943
    static let option: UInt64 = 0x4948_4156_454F_5054
    static let optionReply: UInt64 = 0x0003_E889_0455_65A9
    // "Transmission"
    static let request: UInt32 = 0x2560_9513
    static let simpleReply: UInt32 = 0x6744_6698
    static let structuredReply: UInt32 = 0x668E_33EF

    static let requestBytes = 28
    static let simpleReplyBytes = 16
    static let chunkBytes = 20
    /// What follows a chunk's header in one with data: its offset.
    static let chunkOffsetBytes = 8

    // "Block size constraints", in bytes.
    static let blockMin: UInt32 = 512
    static let blockPreferred: UInt32 = 4096
    static let payloadMax: UInt32 = 32 << 20

    /// The number that stands for base:allocation in replies.
    static let allocationContext: UInt32 = 1
    static let allocationName = "base:allocation"
    // "base:allocation metadata context"
    static let stateHole: UInt32 = 1
    static let stateZero: UInt32 = 2

    // "Structured reply types"
    static let chunkIsLast: UInt16 = 1
    static let chunkData: UInt16 = 1
    static let chunkBlockStatus: UInt16 = 5
    static let chunkError: UInt16 = 1 << 15 | 1
}

/// "Handshake flags", of both sides.
struct HandshakeFlags: OptionSet, Hashable, Sendable {
    let rawValue: UInt32
    static let fixedNewstyle = HandshakeFlags(rawValue: 1)
    static let noZeroes = HandshakeFlags(rawValue: 2)
}

/// "Transmission flags"
struct ExportFlags: OptionSet, Hashable, Sendable {
    let rawValue: UInt16
    static let hasFlags = ExportFlags(rawValue: 1 << 0)
    static let readOnly = ExportFlags(rawValue: 1 << 1)
    static let canFlush = ExportFlags(rawValue: 1 << 2)
    static let canForceAccess = ExportFlags(rawValue: 1 << 3)
    static let canTrim = ExportFlags(rawValue: 1 << 5)
    static let canWriteZeroes = ExportFlags(rawValue: 1 << 6)
    static let canNotFragment = ExportFlags(rawValue: 1 << 7)
    static let canMultiConnect = ExportFlags(rawValue: 1 << 8)
}

/// "Option types"
enum OptionType {
    static let exportName: UInt32 = 1
    static let abort: UInt32 = 2
    static let list: UInt32 = 3
    static let info: UInt32 = 6
    static let go: UInt32 = 7
    static let structuredReply: UInt32 = 8
    static let listMetaContext: UInt32 = 9
    static let setMetaContext: UInt32 = 10
}

/// "Option reply types"
enum OptionReply {
    static let ack: UInt32 = 1
    static let server: UInt32 = 2
    static let info: UInt32 = 3
    static let metaContext: UInt32 = 4
    static let unsupported: UInt32 = 1 << 31 | 1
    static let invalid: UInt32 = 1 << 31 | 3
    static let shutdown: UInt32 = 1 << 31 | 7
    // Types of information.
    static let infoExport: UInt16 = 0
    static let infoName: UInt16 = 1
    static let infoBlockSize: UInt16 = 3
}

/// "Request types"
enum CommandType {
    static let read: UInt16 = 0
    static let write: UInt16 = 1
    static let disconnect: UInt16 = 2
    static let flush: UInt16 = 3
    static let trim: UInt16 = 4
    static let writeZeroes: UInt16 = 6
    static let blockStatus: UInt16 = 7
}

/// "Command flags"
struct CommandFlags: OptionSet, Hashable, Sendable {
    let rawValue: UInt16
    /// FUA: durable before the reply.
    static let durable = CommandFlags(rawValue: 1 << 0)
    static let noHole = CommandFlags(rawValue: 1 << 1)
    /// DF: one chunk, or an error.
    static let notFragmented = CommandFlags(rawValue: 1 << 2)
    static let oneExtent = CommandFlags(rawValue: 1 << 3)
    static let fastZero = CommandFlags(rawValue: 1 << 4)
}

/// "Error values"
enum NBDErrorNumber: UInt32 {
    case none = 0
    case notPermitted = 1
    case io = 5
    case noMemory = 12
    case invalid = 22
    case noSpace = 28
    case overflow = 75
    case notSupported = 95
    case shutdown = 108

    /// - Parameter number: as in errno(3).
    init(errno number: CInt) {
        self =
            switch number {
            case 30: .notPermitted  // EROFS
            case 122, 27: .noSpace  // EDQUOT, EFBIG
            default: NBDErrorNumber(rawValue: UInt32(clamping: number)) ?? .io
            }
    }
}
