internal import BlockIO
internal import Geometry
internal import ImageFormat

/// The deltas of a disk, base first, at one moment. A change of the stack makes another chain.
final class Chain: Sendable {
    let deltas: [DeltaFile]
    /// The last delta as it is written to; `nil` while only reading.
    let writable: WritableDelta?
    /// Size of the device in bytes.
    let byteCount: UInt64
    let clusterSize: ClusterSize
    /// What direct transfers to every file of the chain are aligned to.
    let alignment: Int

    var topLevel: UInt8 { UInt8(deltas.count - 1) }
    var top: DeltaFile? { deltas.last }

    /// - Precondition: there is at least one delta, and all are of one cluster size.
    init(deltas: [DeltaFile], writable: WritableDelta?) {
        precondition(!deltas.isEmpty && deltas.count <= MapEntry.levelsMax, "a chain has a base and a bound")
        self.deltas = deltas
        self.writable = writable
        byteCount = deltas[deltas.count - 1].byteCount
        clusterSize = deltas[deltas.count - 1].clusterSize
        alignment = deltas.reduce(1) { max($0, $1.file.alignment) }
    }

    /// The chain without the delta at `path`, and with `merged` for the one of its name.
    func without(_ path: String, putting merged: DeltaFile) -> Chain {
        let left = deltas.compactMap { delta -> DeltaFile? in
            if delta.path.isSame(as: path) { return nil }
            return delta.path.isSame(as: merged.path) ? merged : delta
        }
        return Chain(deltas: left, writable: writable)
    }

    /// Refuses deltas that do not belong together.
    static func check(_ deltas: [DeltaFile], path: String) throws(DiskError) {
        guard let base = deltas.first else { throw DiskError(.corrupt, "\(path) names no image", path: path) }
        guard deltas.count <= 127 else {
            throw DiskError(.unsupported, "\(path): a chain of more than 127 images", path: path)
        }
        let version = deltas.compactMap(\.header).first?.version
        for (lower, upper) in zip(deltas, deltas.dropFirst()) {
            guard !upper.isRaw else {
                throw DiskError(.corrupt, "\(upper.path) is raw, but only the base of a chain can be", path: upper.path)
            }
            guard upper.clusterSize == base.clusterSize else {
                throw DiskError(.corrupt, "\(upper.path) has another cluster size than the base", path: upper.path)
            }
            guard upper.header?.version == version else {
                throw DiskError(.corrupt, "\(upper.path) has another format version than the base", path: upper.path)
            }
            guard upper.byteCount >= lower.byteCount else {
                throw DiskError(.corrupt, "\(upper.path) is a smaller device than the image below it", path: upper.path)
            }
        }
        if base.isRaw, deltas.count > 1, base.byteCount % base.clusterSize.bytes != 0 {
            throw DiskError(
                .corrupt, "\(base.path): a raw base has to be a multiple of the cluster in size", path: base.path)
        }
    }
}
