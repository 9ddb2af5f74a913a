internal import BackupStore
internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import DiskImage
public import Geometry
public import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Where a restore goes.
public enum RestoreTarget: Hashable, Sendable {
    /// A new disk folder with one expandable image.
    case disk(folder: String, clusterSize: ClusterSize = .standard, version: ImageVersion = .v2)
    /// A new sparse file with the plain content.
    case raw(file: String)

    var isFolder: Bool { if case .disk = self { true } else { false } }

    /// Without slashes at its end.
    var path: String {
        switch self {
        case .disk(let folder, _, _): PathText.withoutEndSlashes(folder)
        case .raw(let file): PathText.withoutEndSlashes(file)
        }
    }
}

/// Gives chunks their places in the target, in ascending order from one thread, and takes their bytes from any.
protocol ChunkSink: Sendable {
    /// Where the first `length` bytes of the chunk go in the target's file.
    mutating func place(_ index: UInt64, length: Int) throws(BackupError) -> UInt64
    /// Ends the placing.
    mutating func finishPlacing() throws(BackupError)
    /// Ranges that have to be written as zeros since the last call.
    mutating func takeZeroes() -> [ByteRange]
    var writer: any ChunkWriter { get }
}

protocol ChunkWriter: AnyObject, Sendable {
    func write(at offset: UInt64, from memory: UnsafeRawBufferPointer) throws(BackupError)
}

// MARK: A raw file

struct RawSink: ChunkSink {
    private final class Writer: ChunkWriter {
        let file: any StorageFile
        init(file: any StorageFile) { self.file = file }
        func write(at offset: UInt64, from memory: UnsafeRawBufferPointer) throws(BackupError) {
            do throws(SystemError) { try unsafe file.write(at: offset, from: memory) } catch {
                throw BackupError(error.isOutOfSpace ? .outOfSpace : .io, error.description)
            }
        }
    }
    let chunkBytes: UInt64
    let writer: any ChunkWriter

    init(file: any StorageFile, chunkBytes: UInt32) {
        writer = Writer(file: file)
        self.chunkBytes = UInt64(chunkBytes)
    }

    mutating func place(_ index: UInt64, length: Int) -> UInt64 { index * chunkBytes }
    mutating func finishPlacing() {}
    mutating func takeZeroes() -> [ByteRange] { [] }
}

// MARK: A disk

/// A cluster is written in whole: where a chunk of it is zeros, they are written.
struct DiskSink: ChunkSink {
    private final class Writer: ChunkWriter {
        let builder: DiskBuilder
        init(builder: DiskBuilder) { self.builder = builder }
        func write(at offset: UInt64, from memory: UnsafeRawBufferPointer) throws(BackupError) {
            do throws(DiskError) { try unsafe builder.write(at: offset, from: memory) } catch {
                throw BackupError(error)
            }
        }
    }
    private let builder: DiskBuilder
    private let chunkBytes: UInt64
    private var zeroes: [ByteRange] = []
    /// Offset on the device behind the clusters that have a place, and behind the bytes that are taken care of.
    private var placedTo: UInt64 = 0
    private var coveredTo: UInt64 = 0
    /// Device offset plus this is file offset, in the clusters placed last.
    private var fileOffset: UInt64 = 0
    private var deviceOffset: UInt64 = 0
    let writer: any ChunkWriter

    init(builder: DiskBuilder, chunkBytes: UInt32) {
        self.builder = builder
        self.chunkBytes = UInt64(chunkBytes)
        writer = Writer(builder: builder)
    }

    mutating func place(_ index: UInt64, length: Int) throws(BackupError) -> UInt64 {
        let start = index * chunkBytes
        let end = start + UInt64(length)
        if start >= placedTo {
            coverRest()
            let cluster = start / builder.clusterBytes
            fileOffset = try onDisk { () throws(DiskError) in try builder.place(cluster) }
            deviceOffset = cluster * builder.clusterBytes
            coveredTo = deviceOffset
            placedTo = deviceOffset + builder.clusterBytes
        }
        // A chunk may be larger than a cluster; the next one lies behind it in the file, too.
        while placedTo < end {
            let cluster = placedTo / builder.clusterBytes
            _ = try onDisk { () throws(DiskError) in try builder.place(cluster) }
            placedTo += builder.clusterBytes
        }
        cover(to: start)
        coveredTo = end
        return fileOffset + (start - deviceOffset)
    }

    private mutating func cover(to offset: UInt64) {
        guard offset > coveredTo else { return }
        zeroes.append(ByteRange(offset: fileOffset + (coveredTo - deviceOffset), count: offset - coveredTo))
        coveredTo = offset
    }
    private mutating func coverRest() { cover(to: placedTo) }

    mutating func finishPlacing() { coverRest() }
    mutating func takeZeroes() -> [ByteRange] {
        defer { zeroes = [] }
        return zeroes
    }
}
