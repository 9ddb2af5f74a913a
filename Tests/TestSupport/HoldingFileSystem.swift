public import BlockIO
import Geometry
public import LinuxSystem

/// A file system whose files hold a write back until they are told to let it go.
public final class HoldingFileSystem: FileSystem {
    public struct State: Sendable {
        public var isHolding = false
        /// Only the first write is held; others pass.
        public var holdsOne = false
        public var isHeld = false
    }
    private let below = LinuxFileSystem()
    public let state = Monitor(State())

    public init() {}

    private final class File: StorageFile {
        let below: any StorageFile
        let owner: HoldingFileSystem
        init(_ below: any StorageFile, _ owner: HoldingFileSystem) {
            self.below = below
            self.owner = owner
        }
        var alignment: Int { below.alignment }
        func identity() throws(SystemError) -> FileIdentity { try below.identity() }
        func size() throws(SystemError) -> UInt64 { try below.size() }
        func allocatedBytes() throws(SystemError) -> UInt64 { try below.allocatedBytes() }
        func perform(_ transfers: [Transfer]) throws(SystemError) {
            if transfers.contains(where: { $0.operation == .write }) {
                let isMine = owner.state.change { state in
                    guard state.isHolding, !(state.holdsOne && state.isHeld) else { return false }
                    state.isHeld = true
                    return true
                }
                if isMine { _ = owner.state.wait { state -> Void? in state.isHolding ? nil : () } }
            }
            try below.perform(transfers)
        }
        func synchronize() throws(SystemError) { try below.synchronize() }
        func truncate(to size: UInt64) throws(SystemError) { try below.truncate(to: size) }
        func reserve(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
            try below.reserve(offset: offset, count: count)
        }
        func zero(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
            try below.zero(offset: offset, count: count)
        }
        func punch(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
            try below.punch(offset: offset, count: count)
        }
        func nextData(from offset: UInt64) throws(SystemError) -> (offset: UInt64, count: UInt64)? {
            try below.nextData(from: offset)
        }
        func unwrittenRanges(in range: ByteRange) throws(SystemError) -> [ByteRange]? {
            try below.unwrittenRanges(in: range)
        }
    }

    public func open(_ path: String, _ mode: OpenMode) throws(SystemError) -> any StorageFile {
        File(try below.open(path, mode), self)
    }
    public func rename(_ source: String, to target: String) throws(SystemError) { try below.rename(source, to: target) }
    public func remove(_ path: String) throws(SystemError) { try below.remove(path) }
    public func synchronizeFolder(_ path: String) throws(SystemError) { try below.synchronizeFolder(path) }
    public func createFolder(_ path: String) throws(SystemError) { try below.createFolder(path) }
    public func removeFolder(_ path: String) throws(SystemError) { try below.removeFolder(path) }
    public func exists(_ path: String) throws(SystemError) -> Bool { try below.exists(path) }
    public func isFolder(_ path: String) throws(SystemError) -> Bool { try below.isFolder(path) }
    public func list(_ path: String) throws(SystemError) -> [String] { try below.list(path) }
    public func space(at path: String) throws(SystemError) -> SpaceInfo { try below.space(at: path) }
    public func lock(_ path: String, wait: Bool) throws(SystemError) -> (any HeldLock)? {
        try below.lock(path, wait: wait)
    }
    public func lease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> LeaseAnswer {
        try below.lease(path, kind)
    }
    public func claim(_ folder: String) throws(SystemError) -> (any HeldClaim)? { try below.claim(folder) }
    public func identity(of path: String) throws(SystemError) -> FileIdentity? { try below.identity(of: path) }
    public func resolve(_ path: String) throws(SystemError) -> String { try below.resolve(path) }
}
