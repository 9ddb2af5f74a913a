extension Disk {
    /// Removes the state `guid` from the tree: the delta above it is merged into its file while the device is in use.
    /// - Parameter progress: called now and then with clusters done and in all; `false` stops, and a later call goes on.
    /// - Returns: whether it was finished.
    @discardableResult public func deleteSnapshot(
        _ guid: String, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(DiskError) -> Bool { throw DiskError(.unsupported, "not there yet", path: path) }

    /// Makes the device larger; `bytes` is rounded up to whole clusters.
    public func grow(to bytes: UInt64) throws(DiskError) { throw DiskError(.unsupported, "not there yet", path: path) }
}
