internal import DeviceServer

/// What was agreed on with a client, for the rest of its connection.
struct Session: Sendable {
    /// In bytes. A disk that grows does so for later connections: clients keep the size that they were told.
    var byteCount: UInt64
    var isReadOnly: Bool
    var hasStructuredReplies = false
    /// Block status may be asked for.
    var hasAllocationContext = false
    /// A TRIM leaves zeros, at the cost of space where that needs it: for a client that means zeros by it.
    var trimsToZero = false
    /// The name of the export for such a client; any other name is the disk all the same.
    static let trimsToZeroName = "trim-zeroes"

    /// "Transmission flags"
    var exportFlags: ExportFlags {
        // One disk serves all connections, so a flush on any covers the writes of all.
        var flags: ExportFlags = [.hasFlags, .canFlush, .canMultiConnect]
        if hasStructuredReplies { flags.insert(.canNotFragment) }
        flags.formUnion(isReadOnly ? .readOnly : [.canForceAccess, .canTrim, .canWriteZeroes])
        return flags
    }
}

/// A client as the disk's owner counts it: from its choice of the export until this is dropped.
final class Presence: Sendable {
    private let device: DeviceServer
    private let identifier: UInt64

    init(_ device: DeviceServer, process: Int32) {
        self.device = device
        identifier = device.connected(process)
    }

    deinit { device.disconnected(identifier) }
}
