extension StoreBackend {
    /// All restore points, oldest first.
    public func points() throws(StoreError) -> [RestorePoint] {
        var failure: StoreError?
        let points = try points { if failure == nil { failure = $0 } }
        if let failure { throw failure }
        return points
    }

    /// The point of that name, or `nil` when there is none.
    public func point(_ id: String) throws(StoreError) -> RestorePoint? {
        guard let object = try list(.point).first(where: { $0.name == id }) else { return nil }
        return try point(object)
    }

    /// All restore points, oldest first. Damaged ones are reported and left out.
    public func points(damaged: (StoreError) -> Void) throws(StoreError) -> [RestorePoint] {
        var points: [RestorePoint] = []
        for object in try list(.point) {
            do throws(StoreError) { points.append(try point(object)) } catch {
                guard error.code == .corrupt || error.code == .unsupported else { throw error }
                damaged(error)
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

    /// The restore point with an id, or the only one whose id starts so; `latest` is the last of all.
    public func point(named text: String) throws(StoreError) -> RestorePoint {
        let objects = try list(.point)
        if text == "latest" {
            guard let last = try points(damaged: { _ in }).last else {
                throw StoreError(.missing, "there is no restore point in store \(address)")
            }
            return last
        }
        let found = objects.filter { $0.name == text || (!text.isEmpty && $0.name.hasPrefix(text)) }
        if let exact = found.first(where: { $0.name == text }) { return try point(exact) }
        guard found.count < 2 else {
            throw StoreError(.invalid, "\(found.count) restore points start with \"\(text)\": give more of the id")
        }
        guard let only = found.first else {
            throw StoreError(.missing, "there is no restore point \"\(text)\" in store \(address): see `godwit points`")
        }
        return try point(only)
    }
}
