internal import AgentCore
internal import ArgumentParser
internal import Geometry

/// A size on the command line: `10G`.
struct SizeArgument: ExpressibleByArgument, Hashable {
    var bytes: UInt64

    init?(argument: String) {
        guard let bytes = SizeText.parse(argument) else { return nil }
        self.bytes = bytes
    }
}

/// A duration on the command line: `300ms`, `10s`, `20h`.
struct DurationArgument: ExpressibleByArgument, Hashable {
    var milliseconds: UInt64

    init(milliseconds: UInt64) { self.milliseconds = milliseconds }

    init?(argument: String) {
        guard let milliseconds = DurationText.parse(argument) else { return nil }
        self.milliseconds = milliseconds
    }

    /// How long a freeze may last: what was given, else what is configured.
    static func freeze(_ given: DurationArgument?, _ configuration: Configuration) throws(CommandFailure) -> UInt64 {
        guard let given else { return configuration.limits.freezeMilliseconds }
        guard (1...Configuration.Limits.freezeMillisecondsMax).contains(given.milliseconds) else {
            throw CommandFailure(.usage, "--freeze-deadline takes 1ms to 5m")
        }
        return given.milliseconds
    }
}

extension ArgumentHelp {
    static let disk: ArgumentHelp = "The disk's folder, or its name in the configuration."
    static let image: ArgumentHelp = "The disk's folder, its name in the configuration, or an image file by itself."
    static let store: ArgumentHelp =
        "The store: a folder, ssh://[user@]host[:port]/folder, or a name of the configuration."
}
