/// Formats of other software that would be mistaken for the plain content of a device: a container for a disk, or
/// something compressed.
public enum ForeignFormat: String, Hashable, Sendable, CaseIterable {
    case qcow, qcow2, qed, vmdk, vdi, vhdx, vpc
    case gzip, bzip2, xz, zstd, lz4

    /// Bytes at either end of a file that are looked at.
    public static let probeBytes = 512

    /// What a file looks like.
    /// - Parameters:
    ///   - head: its first ``probeBytes``, fewer of a shorter file.
    ///   - tail: its last ones.
    public init?(head: [UInt8], tail: [UInt8]) {
        func starts(_ bytes: [UInt8], at offset: Int = 0) -> Bool {
            head.count >= offset + bytes.count && head[offset...].starts(with: bytes)
        }
        func starts(_ text: String) -> Bool { starts([UInt8](text.utf8)) }
        if starts([0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 1]) {
            self = .qcow
        } else if starts([0x51, 0x46, 0x49, 0xFB]) {
            self = .qcow2
        } else if starts("QED\0") {
            self = .qed
        } else if starts("KDMV") || starts("COWD") || starts("# Disk DescriptorFile") {
            self = .vmdk
        } else if starts([0x7F, 0x10, 0xDA, 0xBE], at: 64) {
            self = .vdi
        } else if starts("vhdxfile") {
            self = .vhdx
        } else if starts("conectix") || tail.starts(with: "conectix".utf8) {
            // One of fixed size is the plain content with a footer.
            self = .vpc
        } else if starts([0x1F, 0x8B, 8]) {
            self = .gzip
        } else if starts("BZh"), starts([0x31, 0x41, 0x59, 0x26, 0x53, 0x59], at: 4) {
            self = .bzip2
        } else if starts([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0]) {
            self = .xz
        } else if starts([0x28, 0xB5, 0x2F, 0xFD]) {
            self = .zstd
        } else if starts([0x04, 0x22, 0x4D, 0x18]) {
            self = .lz4
        } else {
            return nil
        }
    }

    /// What to do with a file of this format.
    public var remedy: String {
        switch self {
        case .qcow, .qcow2, .qed, .vmdk, .vdi, .vhdx, .vpc:
            "convert it first with 'qemu-img convert -f \(rawValue) -O raw'"
        case .gzip, .bzip2, .xz, .zstd, .lz4: "decompress it first with '\(rawValue) -d'"
        }
    }
}
