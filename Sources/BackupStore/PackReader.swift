internal import Codecs

extension StoreBackend {
    /// The directory of a pack, checked against its name.
    public func packDirectory(_ name: String, byteCount: UInt64) throws(StoreError) -> PackDirectory {
        func damaged(_ what: String) -> StoreError {
            StoreError(.corrupt, "pack \(name) in store \(address) is damaged: \(what)")
        }
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
}
