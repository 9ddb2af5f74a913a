public import BackupStore
internal import ChunkTree
internal import Codecs

/// Whether a point can be built on in a store that is known to be damaged.
public enum BaseCheck {
    /// Looks everything that the point needs up; nothing of its content is read.
    /// - Parameter progress: `false` ends it.
    public static func isWhole(
        _ point: RestorePoint, in store: any StoreBackend, progress: (UInt64, UInt64) -> Bool
    ) throws(BackupError) -> Bool {
        try withoutActuallyEscaping(progress) { (progress) throws(BackupError) in
            var walker = PointWalker(store: store) { (ids, _) throws(StoreError) in
                var result: [PointProblem?] = []
                for start in stride(from: 0, to: ids.count, by: StoreLimits.batchMax) {
                    let part = Array(ids[start..<min(start + StoreLimits.batchMax, ids.count)])
                    result += try store.known(part).map { $0 ? nil : PointProblem("it is missing, or damaged") }
                }
                guard result.count == ids.count else {
                    throw StoreError(.remote, "store \(store.address) answered for \(result.count) of \(ids.count) ids")
                }
                return result
            }
            let found = try onStore { () throws(StoreError) in
                try walker.walk(point.content.root, goesOn: { progress(0, 0) })
            }
            guard let problems = found else {
                throw BackupError(.cancelled, "the backup was stopped")
            }
            return problems.isEmpty
        }
    }
}
