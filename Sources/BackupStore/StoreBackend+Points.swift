extension StoreBackend {
    /// The point of that name, or `nil` when there is none.
    public func point(_ id: String) throws(StoreError) -> RestorePoint? {
        guard let object = try list(.point).first(where: { $0.name == id }) else { return nil }
        return try point(object)
    }

    /// All restore points, oldest first: by their times, but none before the one that it was made from, as a clock may
    /// have been wrong. Those that are damaged or can't be read are reported by their name, and left
    /// out.
    public func points(bad: (String, StoreError) -> Void) throws(StoreError) -> [RestorePoint] {
        var points: [RestorePoint] = []
        for object in try list(.point) {
            do throws(StoreError) { points.append(try point(object)) } catch {
                guard [.corrupt, .unsupported, .missing, .io].contains(error.code) else { throw error }
                bad(object.name, error)
            }
        }
        return Self.inOrder(points)
    }

    private static func inOrder(_ points: [RestorePoint]) -> [RestorePoint] {
        let byName = Dictionary(points.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        // A time for each that is later than its parent's.
        var times: [String: UInt64] = [:]
        for point in points {
            var line: [RestorePoint] = []
            var next: RestorePoint? = point
            // One that names itself among its parents was made up, and has its own time.
            while let one = next, times[one.id] == nil, line.count <= points.count {
                line.append(one)
                next = one.content.parent.flatMap { byName[$0] }
            }
            var after = next.flatMap { times[$0.id] }
            for one in line.reversed() where times[one.id] == nil {
                let time = max(one.content.time, after.map { $0 == .max ? .max : $0 + 1 } ?? 0)
                times[one.id] = time
                after = time
            }
        }
        return points.sorted { (times[$0.id] ?? 0, $0.id) < (times[$1.id] ?? 0, $1.id) }
    }

    func point(_ object: StoredObject) throws(StoreError) -> RestorePoint {
        try object.expectExamined(as: "restore point")
        guard object.byteCount <= UInt64(StoreLimits.pointMax) else {
            throw StoreError(.corrupt, "restore point \(object.name) is damaged: it is too long")
        }
        return try RestorePoint(
            parsing: try contents(.point, object.name, byteCount: object.byteCount), id: object.name)
    }
}
