internal import BlockIO
public import Codecs
internal import Synchronization

extension LocalStore {
    public func recheck(_ ids: [Digest]) throws(StoreError) {
        var damage: [Digest: PackDamage] = [:]
        let check = PackFileCheck()
        for (id, place) in zip(ids, try locate(ids)) {
            guard let place else { continue }
            do throws(StoreError) {
                let (file, size) = try open(.pack, place.pack.description)
                if UInt64(place.frameOffset) + UInt64(place.storedBytes) <= size {
                    if try check.isWhole(id, at: place, in: file) { continue }
                }
            } catch {
                guard error.code == .missing || error.code == .io else { throw error }
                if error.code == .missing { state.withLock { $0.census = nil } }
            }
            damage[place.pack, default: PackDamage()].frames.insert(place.frameOffset)
        }
        if session != nil { try note(damage) }
        // The user begins anew.
        let aside = try asideNames()
        let notes = try loadNotes()
        state.withLock { state in
            (state.asideAtStart, state.notesAtStart) = (aside, notes)
            state.used = ([], [])
            for segment in state.segments { segment.forgetUses() }
        }
    }
}
