internal import Geometry

/// The locks of whole files (flock) that are held, as the kernel lists them.
public struct LockTable: Hashable, Sendable {
    public struct Entry: Hashable, Sendable {
        /// The process that took it; none that this one can see when it is not positive.
        public var process: Int32
        /// `major:minor` of the file system, in hexadecimal as the kernel writes it.
        public var device: String
        public var inode: UInt64
        public var isExclusive: Bool
    }
    public var entries: [Entry]

    public static func current() throws(SystemError) -> LockTable {
        LockTable(parsing: try kernelText("/proc/locks") ?? "")
    }

    /// The locks in the kernel's text; other kinds, and those that are still waited for, are left out.
    public init(parsing text: String) {
        entries = text.parts(between: "\n").compactMap { Self.entry(parsing: $0) }
    }

    // 1: FLOCK  ADVISORY  WRITE 1234 fe:01:131077 0 EOF
    private static func entry(parsing line: Substring) -> Entry? {
        let words = line.parts(between: " ")
        guard words.count >= 6, words[1] == "FLOCK", let process = Int32(words[4]) else { return nil }
        let place = words[5].parts(between: ":")
        guard place.count == 3, let inode = UInt64(place[2]) else { return nil }
        return Entry(
            process: process, device: "\(place[0]):\(place[1])", inode: inode, isExclusive: words[3] == "WRITE")
    }

    /// Who holds locks of a file. Where the kernel lists the file system under another number than stat(2) has for the
    /// file, as btrfs does, the inode decides alone.
    public func holders(device: UInt64, inode: UInt64) -> [Entry] {
        let found = entries.filter { $0.inode == inode }
        // As glibc's makedev(3) packs them.
        let major = (device >> 8 & 0xFFF) | (device >> 32 & ~0xFFF)
        let minor = (device & 0xFF) | (device >> 12 & ~0xFF)
        let exact = found.filter { entry in
            let parts = entry.device.parts(between: ":").compactMap { UInt64($0, radix: 16) }
            return parts == [major, minor]
        }
        return exact.isEmpty ? found : exact
    }
}

/// A process by its number and the name of its program.
public struct NamedProcess: Hashable, Sendable, CustomStringConvertible {
    public var process: Int32
    /// Empty when it is not known.
    public var name: String

    public init(process: Int32, name: String) {
        self.process = process
        self.name = name
    }

    /// Asks the kernel for the name; the process may be gone, or out of sight.
    public init(_ process: Int32) {
        self.process = process
        let text = process > 0 ? (try? kernelText("/proc/\(process)/comm")) ?? "" : ""
        name = String(text.prefix { $0 != "\n" })
    }

    public var description: String {
        guard process > 0 else { return "a process that can't be seen from here" }
        return name.isEmpty ? "process \(process)" : "process \(process) (\(name))"
    }
}
