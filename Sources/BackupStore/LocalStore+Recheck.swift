internal import BlockIO
public import Codecs
internal import Synchronization

extension LocalStore {
    public func recheck(_ ids: [Digest]) throws(StoreError) {
        var damage: [Digest: PackDamage] = [:]
        let check = PackFileCheck()
        for (id, place) in zip(ids, try locate(ids)) {
            guard let place else { continue }
            forgetOpen(pack: place.pack.description)
            do throws(StoreError) {
                let (file, size) = try open(.pack, place.pack.description)
                if UInt64(place.frameOffset) + UInt64(place.storedBytes) <= size {
                    if try check.isWhole(id, at: place, in: file) { continue }
                }
            } catch {
                guard error.code == .missing || error.code == .io else { throw error }
            }
            damage[place.pack, default: PackDamage()].frames.insert(place.frameOffset)
        }
        if session != nil { try note(damage) }
        // The user begins anew, so what others have found and taken out until now has to show in all answers.
        let aside = try asideContent()
        try reloadIndex()
        forgetCensus()
        state.withLock { state in
            state.asideAtStart = aside
            // Another writer may have put packs in that no index file names yet.
            state.isFilledUp = false
            state.used = ([], [])
        }
    }
}
