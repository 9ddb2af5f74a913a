internal import Codecs

extension StoreBackend {
    /// The directory of a pack, checked against its name.
    public func packDirectory(_ name: String, byteCount: UInt64) throws(StoreError) -> PackDirectory {
        func damaged(_ what: String) -> StoreError { StoreError(.corrupt, "pack \(name) in store \(address) is damaged: \(what)") }
        let trailerBytes = UInt64(PackDirectory.trailerBytes)
        guard let digest = Digest(hex: name), byteCount > UInt64(PackDirectory.headerBytes) + trailerBytes else {
            throw damaged("it is cut off")
        }
        let header = try bytes(.pack, name, at: 0, PackDirectory.headerBytes)
        let trailer = try bytes(.pack, name, at: byteCount - trailerBytes, PackDirectory.trailerBytes)
        let place: (offset: UInt64, count: Int)
        do throws(FieldError) { place = try PackDirectory.parseTrailer(trailer, packBytes: byteCount) } catch {
            throw damaged(error.message)
        }
        let directory = try bytes(.pack, name, at: place.offset, place.count)
        do throws(FieldError) {
            return try PackDirectory.parse(
                header: header, directory: directory, trailer: trailer, packBytes: byteCount, name: digest)
        } catch { throw damaged(error.message) }
    }

    /// Bytes of an object, in as many reads as it takes.
    func bytes(_ kind: ObjectKind, _ name: String, at offset: UInt64, _ count: Int) throws(StoreError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var failure: StoreError?
        unsafe bytes.withUnsafeMutableBytes { memory in
            do throws(StoreError) {
                var done = 0
                while done < memory.count {
                    let part = min(memory.count - done, StoreLimits.readMax)
                    let piece = ObjectPiece(kind: kind, name: name, offset: offset + UInt64(done), count: part)
                    try unsafe read([piece], into: UnsafeMutableRawBufferPointer(rebasing: memory[done..<done + part]))
                    done += part
                }
            } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    /// All restore points, oldest first. Damaged ones are reported and left out.
    public func points(damaged: (StoreError) -> Void = { _ in }) throws(StoreError) -> [RestorePoint] {
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
            guard let last = try points().last else {
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
