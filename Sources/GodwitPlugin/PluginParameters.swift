internal import AgentAPI
internal import DeviceServer
internal import DiskImage
internal import LinuxSystem

/// A parameter of the plugin that can't be used.
struct PluginError: Error {
    var message: String
    static let invalidArgument: CInt = 22  // EINVAL
    static let notStarted: CInt = 108  // ESHUTDOWN
}

/// What nbdkit's command line says, `key=value` by `key=value`.
struct PluginParameters {
    var configuration = DeviceConfiguration(disk: "")
    var report = StartReport()
    var outlivesParent = false

    mutating func set(_ key: String, _ value: String) throws(PluginError) {
        switch key {
        case "disk": configuration.disk = value
        case "control": configuration.controlSocket = value
        case "readonly": configuration.options.readOnly = try Self.flag(key, value)
        case "outlive-parent": outlivesParent = try Self.flag(key, value)
        case "cache":
            switch value {
            case "none": configuration.options.direct = true
            case "host": configuration.options.direct = false
            default: throw PluginError(message: "cache=\(value): use none or host")
            }
        case "ready-fd":
            guard let number = CInt(value), number >= 0 else {
                throw PluginError(message: "ready-fd=\(value): use the number of a descriptor")
            }
            report = try StartReport(to: number)
        default: throw PluginError(message: "unknown parameter \(key); see nbdkit --help with this plugin")
        }
    }

    private static func flag(_ key: String, _ value: String) throws(PluginError) -> Bool {
        switch value {
        case "1", "true", "yes", "on": return true
        case "0", "false", "no", "off": return false
        default: throw PluginError(message: "\(key)=\(value): use true or false")
        }
    }
}

/// Tells who started nbdkit how the start went, by one ``ControlReply`` line.
struct StartReport: Sendable {
    private let channel: LineChannel?

    /// Reports to nobody.
    init() { channel = nil }

    /// Takes a descriptor of its own at once: nbdkit replaces the standard streams before it serves.
    init(to descriptor: CInt) throws(PluginError) {
        do {
            channel = LineChannel(adopting: try OwnedDescriptor(duplicating: descriptor))
        } catch {
            throw PluginError(message: "ready-fd=\(descriptor): \(error)")
        }
    }

    // Who is gone needs no report.
    func succeeded() { try? channel?.send(ControlReply.done) }
    func failed(_ error: DiskError) {
        try? channel?.send(ControlReply.failed(code: error.code.rawValue, message: error.message))
    }
}
