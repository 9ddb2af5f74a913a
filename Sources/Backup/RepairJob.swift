public import BackupStore
internal import Codecs

/// Makes the index of a store anew, sets aside what is damaged, and tells which points are whole after that.
public struct RepairJob: Sendable {
    public struct Outcome: Sendable {
        public var repair: RepairReport
        public var points = 0
        /// Points that can't be restored in whole.
        public var damagedPoints: [String] = []
        /// Of these, the ones that were taken out of the store.
        public var pointsSetAside: [String] = []
        /// Why not all of them were.
        public var setAsideFailure: BackupError?
        public var problems: [PointProblem] = []
    }

    /// Points that can't be restored in whole, with all that could be saved, are taken out of the store: nothing but
    /// a backup of the same content could make them whole again.
    public var setsLostPointsAside = false

    public init() {}

    /// - Parameter progress: bytes read and in all; `false` ends it.
    public func run(
        store: any StoreBackend, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(BackupError) -> Outcome {
        guard let local = store as? LocalStore else {
            throw BackupError(
                .invalid, "\(store.address) is a store of another host: repair it there, with `godwit store repair`")
        }
        let found = try onStore { () throws(StoreError) in try local.repair(progress: progress) }
        guard let found else {
            throw BackupError(.cancelled, "the repair was stopped; nothing was taken away, begin it again")
        }
        var outcome = Outcome(repair: found)
        let (packs, damage, notes) = try onStore { () throws(StoreError) in
            (try local.list(.pack), try local.knownDamage(), try local.lackingPoints())
        }
        let places = PlaceCheck(store: local, listed: packs, damage: damage, suspects: [])
        let total = packs.reduce(UInt64(0)) { $0 &+ $1.byteCount }
        let points = try PointCheck.run(local, places) { progress(total, total) }
        guard let points else {
            throw BackupError(.cancelled, "the repair is done; the look at the points was stopped")
        }
        try onStore { () throws(StoreError) in try points.note(in: local, notedBefore: notes) }
        outcome.points = points.points
        outcome.damagedPoints = points.damaged
        outcome.problems = points.problems
        // What can't be read now may be read another time.
        guard setsLostPointsAside, found.unreadable.isEmpty, !points.problems.contains(where: \.isUnreadable) else {
            return outcome
        }
        for name in outcome.damagedPoints {
            do throws(StoreError) {
                // A backup may have put in what it lacks since it was looked at.
                let now = try PointCheck.problems(of: name, in: local) { progress(total, total) }
                guard let problems = now else {
                    outcome.setAsideFailure = BackupError(.cancelled, "the last look at the points was stopped")
                    break
                }
                if problems.isEmpty {
                    outcome.damagedPoints.removeAll { $0 == name }
                    outcome.problems.removeAll { $0.point == name }
                }
                guard !problems.isEmpty, !problems.contains(where: \.isUnreadable) else { continue }
                if try local.setAside(point: name) { outcome.pointsSetAside.append(name) }
            } catch {
                // Which were moved is told in any case.
                outcome.setAsideFailure = BackupError(error)
                break
            }
        }
        return outcome
    }
}
