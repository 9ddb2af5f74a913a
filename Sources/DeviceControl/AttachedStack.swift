internal import Geometry
public import LinuxSystem

/// What sysfs says of a device's stack.
public struct AttachedStack: Hashable, Sendable {
    public var device: DeviceIndex
    /// As given when it was attached.
    public var cookie: String
    public var isRunning: Bool
    /// The files, base first, as paths.
    public var files: [String]

    /// All devices that have files; none when the driver is not loaded.
    public static func all() throws(SystemError) -> [AttachedStack] {
        // Names all disks, also those without a size.
        guard let text = try kernelText("/proc/diskstats") else { return [] }
        var found: [AttachedStack] = []
        for line in text.parts(between: "\n") {
            let words = line.parts(between: " ", maxSplits: 3)
            guard words.count > 3, let number = words[2].rest(after: "ploop").flatMap({ UInt32($0) })
            else { continue }
            if let stack = try of(DeviceIndex(number)) { found.append(stack) }
        }
        return found
    }

    /// `nil` when the device has no files.
    public static func of(_ device: DeviceIndex) throws(SystemError) -> AttachedStack? {
        let folder = "/sys/block/\(device.name)"
        var files: [String] = []
        while let file = try line("\(folder)/pdelta/\(files.count)/image") { files.append(file) }
        guard !files.isEmpty else { return nil }
        return AttachedStack(
            device: device, cookie: try line("\(folder)/pstate/cookie") ?? "",
            isRunning: try line("\(folder)/pstate/running") == "1", files: files)
    }

    private static func line(_ path: String) throws(SystemError) -> String? {
        try kernelBytes(path).map { bytes in
            String(validating: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self) ?? nameThatIsNoText
        }
    }
}
