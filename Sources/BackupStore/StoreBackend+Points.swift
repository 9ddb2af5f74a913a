extension StoreBackend {
    /// All restore points, oldest first.
    public func points() throws(StoreError) -> [RestorePoint] {
        var found: [RestorePoint] = []
        for object in try list(.point) { found.append(try point(object)) }
        return found.sorted { ($0.content.time, $0.id) < ($1.content.time, $1.id) }
    }

    /// The point of that name, or `nil` when there is none.
    public func point(_ id: String) throws(StoreError) -> RestorePoint? {
        guard let object = try list(.point).first(where: { $0.name == id }) else { return nil }
        return try point(object)
    }

    private func point(_ object: StoredObject) throws(StoreError) -> RestorePoint {
        guard object.byteCount <= StoreLimits.pointMax else {
            throw StoreError(.corrupt, "\(address): the file of point \(object.name) is too long")
        }
        return try RestorePoint(parsing: contents(.point, object.name, byteCount: object.byteCount), id: object.name)
    }
}
