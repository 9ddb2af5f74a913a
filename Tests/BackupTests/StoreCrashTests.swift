import Backup
import BackupStore
import BlockIO
import SystemPackage
import TestSupport
import Testing

/// A store under power cuts, full disks and failing media, at every call that changes something.
@Suite struct StoreCrashTests {
    static let survivals: [Survival] = [.nothing, .everything, .prefix(seed: 1), .random(seed: 2), .random(seed: 3)]

    /// What lives through a cut by halves is the hardest; the rest takes turns.
    static func survivals(_ number: Int) -> [Survival] {
        let seed = UInt64(number)
        return [.random(seed: seed), [.nothing, .everything, .prefix(seed: seed)][number % 3]]
    }

    enum Kind: CaseIterable {
        /// Into an empty store.
        case full
        /// Incremental, with as many index files as there may be: the backup merges them.
        case merging

        var backups: Int { self == .full ? 0 : 8 }
    }

    @Test(
        "a cut at any change of a backup loses no point and shows no half one, and the next backup is right",
        arguments: Kind.allCases)
    func powerCut(kind: Kind) throws {
        let state = try StoreWorld(backups: kind.backups)
        var clean = state.duplicate()
        _ = try clean.backup()
        let changes = clean.calls()
        #expect(changes > 15)
        // What was acknowledged is there for good.
        try clean.afterPowerCut(.nothing).expectSound()
        for number in 1...changes {
            for survival in Self.survivals(number) {
                var world = state.duplicate()
                world.fs.setPlan(.stop(atChange: number))
                do {
                    do throws(BackupError) { _ = try world.backup() } catch {
                        guard world.fs.isStopped else { throw error }
                    }
                    var after = world.afterPowerCut(survival)
                    try after.expectSound()
                    _ = try after.backup()
                    try after.afterPowerCut(.nothing).expectSound()
                } catch {
                    Issue.record("\(kind), \(survival), change \(number) of \(changes): \(error)")
                    return
                }
            }
        }
    }

    struct Fault: Sendable {
        var name: String
        var code: StoreError.Code
        var calls: Set<FaultPlan.Call>
        var plan: @Sendable (Int) -> FaultPlan
    }
    static let faults: [Fault] = [
        Fault(name: "full for good", code: .outOfSpace, calls: FaultPlan.Call.taking) { .outOfSpace(at: $0) },
        Fault(name: "failing medium", code: .io, calls: FaultPlan.Call.changes) {
            .ioError(at: $0, of: FaultPlan.Call.changes)
        },
        Fault(name: "unreadable medium", code: .io, calls: [.read]) { .ioError(at: $0, of: [.read]) },
        // Nothing that a killed process would have done after that has any effect, and nothing is made durable.
        Fault(name: "killed process", code: .io, calls: FaultPlan.Call.changes) {
            FaultPlan(.fail(.ioError), at: $0, isLasting: true)
        },
    ]

    @Test(
        "a full or failing file system at any call of a backup is told, harms no point, and a retry succeeds",
        arguments: Kind.allCases, faults.indices)
    func fault(kind: Kind, index: Int) throws {
        let fault = Self.faults[index]
        let state = try StoreWorld(backups: kind.backups)
        var number = 1
        while true {
            var world = state.duplicate()
            world.fs.setPlan(fault.plan(number))
            var failure: BackupError?
            do throws(BackupError) { _ = try world.backup() } catch { failure = error }
            let isOver = world.calls(fault.calls) < number
            world.fs.setPlan(nil)
            if isOver { break }
            do {
                if let failure, failure.code != .store(fault.code) || failure.message.isEmpty {
                    Issue.record("\(kind), \(fault.name), call \(number): \(failure.code) \(failure)")
                }
                try world.expectSound()
                if failure != nil { _ = try world.backup() }
                // It is there for good, also where the failed attempt had made the names.
                try world.afterPowerCut(.nothing).expectSound()
            } catch {
                Issue.record(
                    "\(kind), \(fault.name), after call \(number) (\(failure?.message ?? "no error")): \(error)")
                return
            }
            number += 1
        }
        #expect(number > 2)
    }

    @Test("a cut while a store is made leaves none or a whole one", arguments: survivals)
    func creationCut(survival: Survival) throws {
        let clean = try StoreWorld()
        let before = clean.calls()
        try clean.create()
        let changes = clean.calls() - before
        for number in 1...changes {
            let world = try StoreWorld()
            world.fs.setPlan(.stop(atChange: number))
            try? world.create()
            var after = world.afterPowerCut(survival)
            do throws(StoreError) { try after.open().close() } catch {
                #expect(error.code == .notAStore, "change \(number): \(error)")
                try after.create()
            }
            do {
                _ = try after.backup()
                try after.afterPowerCut(.nothing).expectSound()
            } catch { Issue.record("\(survival), change \(number): \(error)") }
        }
    }

    @Test(
        "a full or failing file system while a store is made is told, and a retry succeeds", arguments: faults.indices)
    func creationFails(index: Int) throws {
        let fault = Self.faults[index]
        var number = 1
        while true {
            var world = try StoreWorld()
            let before = world.calls(fault.calls)
            world.fs.setPlan(fault.plan(number))
            var failure: StoreError?
            do throws(StoreError) { try world.create() } catch { failure = error }
            let isOver = world.calls(fault.calls) - before < number
            world.fs.setPlan(nil)
            if isOver { break }
            do {
                let failed = try #require(failure, "a fault without effect")
                #expect(failed.code == fault.code, "call \(number): \(failed)")
                do throws(StoreError) { try world.create() } catch {
                    // It was whole, and only that could not be made sure of.
                    #expect(error.code == .exists, "call \(number): \(error)")
                }
                _ = try world.backup()
                try world.afterPowerCut(.nothing).expectSound()
            } catch {
                Issue.record("\(fault.name), after call \(number) (\(failure?.message ?? "no error")): \(error)")
                return
            }
            number += 1
        }
    }
}
