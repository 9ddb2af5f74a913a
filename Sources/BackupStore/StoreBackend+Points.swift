extension StoreBackend {
    /// The point of that name, or `nil` when there is none.
    public func point(_ id: String) throws(StoreError) -> RestorePoint? {
        guard let object = try list(.point).first(where: { $0.name == id }) else { return nil }
        return try point(object)
    }

    /// All restore points, oldest first. Those that are damaged or can't be read are reported by their name, and left
    /// out.
    public func points(bad: (String, StoreError) -> Void) throws(StoreError) -> [RestorePoint] {
        var points: [RestorePoint] = []
        for object in try list(.point) {
            do throws(StoreError) { points.append(try point(object)) } catch {
                guard [.corrupt, .unsupported, .missing, .io].contains(error.code) else { throw error }
                bad(object.name, error)
            }
        }
        return points.sorted { ($0.content.time, $0.id) < ($1.content.time, $1.id) }
    }

    func point(_ object: StoredObject) throws(StoreError) -> RestorePoint {
        guard object.byteCount <= UInt64(StoreLimits.pointMax) else {
            throw StoreError(.corrupt, "restore point \(object.name) is damaged: it is too long")
        }
        return try RestorePoint(
            parsing: try contents(.point, object.name, byteCount: object.byteCount), id: object.name)
    }
}
