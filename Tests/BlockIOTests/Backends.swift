import BlockIO
import Testing
import LinuxSystem
import TestSupport

/// The kinds of file that must behave alike.
enum Backend: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case linux, linuxDirect, simulated, simulatedDirect
    /// Without io_uring.
    case linuxThreads, linuxDirectThreads
    case linuxDirectSequential
    var testDescription: String { rawValue }
    var isDirect: Bool { rawValue.contains("Direct") }
    var isLinux: Bool { rawValue.hasPrefix("linux") }
    var batching: LinuxFileSystem.Batching {
        if rawValue.hasSuffix("Threads") { return .threads }
        return rawValue.hasSuffix("Sequential") ? .sequential : .automatic
    }
}

/// A file system of one kind with an empty folder.
struct Bench {
    let backend: Backend
    let fileSystem: any FileSystem
    let folder: String
    private let temporary: TemporaryFolder?

    init(_ backend: Backend) throws {
        self.backend = backend
        if backend.isLinux {
            let temporary = try TemporaryFolder()
            self.temporary = temporary
            folder = temporary.path
            fileSystem = LinuxFileSystem(batching: backend.batching)
        } else {
            temporary = nil
            folder = "/folder"
            fileSystem = SimulatedFileSystem()
            try fileSystem.createFolder(folder)
        }
    }

    func path(_ name: String) -> String { "\(folder)/\(name)" }

    func file(_ name: String = "file") throws -> any StorageFile {
        try fileSystem.open(path(name), OpenMode(writable: true, creation: .ifMissing, direct: backend.isDirect))
    }
}

extension StorageFile {
    /// Writes through memory that suits the file.
    func put(_ bytes: [UInt8], at offset: UInt64) throws {
        let buffer = AlignedBuffer(byteCount: bytes.count)
        buffer.memory.copyBytes(from: bytes)
        try write(at: offset, from: UnsafeRawBufferPointer(buffer.memory))
    }

    /// Reads through memory that suits the file.
    func take(at offset: UInt64, count: Int) throws -> [UInt8] {
        let buffer = AlignedBuffer(byteCount: count)
        buffer.memory.initializeMemory(as: UInt8.self, repeating: 0xaa)
        try read(at: offset, into: buffer.memory)
        return [UInt8](buffer.memory)
    }
}
