public import BlockIO
public import DiskImage
internal import Geometry
internal import ImageFormat

/// The target's disks as they are in earnest: ploop images.
public struct DiskFolders: TargetDisks {
    private let fs: any FileSystem
    private let options: DiskOptions

    /// - Parameter options: `nil`: through the page cache. What arrives are small writes one after the other, which
    ///   would
    ///   each wait for the medium otherwise; the rounds' syncs bound what the cache holds back.
    public init(fs: any FileSystem, options: DiskOptions? = nil) {
        self.fs = fs
        var standard = DiskOptions.standard
        standard.direct = false
        self.options = options ?? standard
    }

    public func objection(to shape: TargetDiskShape) -> String? {
        createOptions(shape) == nil
            ? "images of version \(shape.imageVersion) can't be made here" : nil
    }

    public func create(_ shape: TargetDiskShape, in folder: String) throws(DiskError) {
        guard let options = createOptions(shape) else {
            throw DiskError(.invalid, objection(to: shape) ?? "no such disk can be made", path: folder)
        }
        try createDisk(at: folder, options: options, in: fs)
    }

    public func open(image path: String) throws(DiskError) -> any TargetDisk {
        try Disk.open(path, in: fs, options: options)
    }

    /// Like the source's, with the largest cluster size up to the source's that the disk's size is a multiple of, if
    /// there is one: a copy has exactly the source's size.
    private func createOptions(_ shape: TargetDiskShape) -> CreateOptions? {
        guard let version = ImageVersion(rawValue: shape.imageVersion) else { return nil }
        let size = (ClusterSize(bytes: shape.clusterBytes) ?? .standard).fitting(shape.sizeBytes)
        var options = CreateOptions(byteCount: shape.sizeBytes, clusterSize: size, version: version)
        options.isRounded = false
        options.isPlacedByCaller = true
        return options
    }
}
