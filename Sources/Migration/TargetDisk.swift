public import DiskImage
public import Geometry

/// The copy that is being written. ``DiskImage/Disk`` is the real one.
public protocol TargetDisk: AnyObject, Sendable {
    var byteCount: UInt64 { get }
    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError)
    func write(at offset: UInt64, from memory: UnsafeRawBufferPointer, durable: Bool) throws(DiskError)
    func writeZeroes(_ range: ByteRange, mayDiscard: Bool, durable: Bool) throws(DiskError)
    func flush() throws(DiskError)
    func extents(in range: ByteRange, limit: Int) throws(DiskError) -> [DiskExtent]
    /// Durable and closed; dropping it without leaves what a crash leaves.
    func close() throws(DiskError)
}

extension Disk: TargetDisk {}

/// What a new disk has to be like.
public struct TargetDiskShape: Hashable, Sendable {
    public var sizeBytes: UInt64
    public var clusterBytes: UInt64
    public var imageVersion: Int
    public init(sizeBytes: UInt64, clusterBytes: UInt64, imageVersion: Int) {
        self.sizeBytes = sizeBytes
        self.clusterBytes = clusterBytes
        self.imageVersion = imageVersion
    }
}

/// Makes and opens the target's disks.
public protocol TargetDisks: Sendable {
    /// What can't be made here, or `nil`.
    func objection(to shape: TargetDiskShape) -> String?
    /// Makes `folder`/root.hds and its descriptor in a folder that exists. Durable when this returns.
    func create(_ shape: TargetDiskShape, in folder: String) throws(DiskError)
    /// Opens the image by itself: the descriptor is not in place yet.
    func open(image path: String) throws(DiskError) -> any TargetDisk
}
