import BlockIO
import DiskImage
import Geometry
import LinuxSystem
import TestSupport
import Testing

/// The descriptor of a disk whose data the driver moves. The driver itself is not needed: its part is a list of files.
@Suite struct HeldDiskTests {
    private static let survivals: [Survival] = [.nothing, .everything, .prefix(seed: 1), .random(seed: 2)]
    private static let failure = DiskError(.busy, "the driver says no", path: "")

    private func newDisk() throws -> SimulatedFileSystem {
        let fs = SimulatedFileSystem()
        try createDisk(
            at: "/disk", options: CreateOptions(byteCount: 8 * ClusterSize.smallest.bytes, clusterSize: .smallest),
            in: fs)
        let disk = try Disk.open("/disk", in: fs)
        let bytes = [UInt8](repeating: 7, count: 4096)
        try bytes.withUnsafeBytes { memory throws in try disk.write(at: 0, from: memory) }
        try disk.close()
        return fs
    }

    /// The content is what it was, whatever files it is in.
    private func expectWhole(_ fs: SimulatedFileSystem, _ comment: String) throws {
        let disk = try Disk.open("/disk", in: fs)
        var bytes = [UInt8](repeating: 0, count: 4096)
        try bytes.withUnsafeMutableBytes { memory throws in try disk.read(at: 0, into: memory) }
        #expect(bytes == [UInt8](repeating: 7, count: 4096), "\(comment)")
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound, "\(comment)")
    }

    private func files(_ held: HeldDisk) throws -> [String] { try held.stack().map(\.path) }

    @Test("the descriptor that names a new top is durable before the driver may write to it") func order() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let before = try files(held)
        let top = try held.makeTop()
        #expect(try files(held) == before)
        var isNamed = false
        try held.commitTop(top) { () throws(DiskError) in
            let after = fs.afterPowerCut(.nothing)
            isNamed = try HeldDisk.take("/disk", in: after, readOnly: true).stack().last?.path == top.path
        }
        #expect(isNamed)
        // The first cut ended the simulated host.
        try expectWhole(fs.afterPowerCut(.nothing), "after the switch")
    }

    @Test("a switch that the driver refuses leaves all as it was") func refused() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let before = try files(held)
        let top = try held.makeTop()
        #expect(throws: Self.failure) { try held.commitTop(top) { () throws(DiskError) in throw Self.failure } }
        #expect(try files(held) == before)
        held.abandonTop(top)
        #expect(try !fs.exists(top.path))
        held.release()
        try expectWhole(fs.afterPowerCut(.nothing), "after the refusal")
    }

    @Test("a switch that fails after it has happened, or nobody knows, keeps its file named")
    func failedAfterwards() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let first = try held.makeTop()
        try held.commitTop(first, isSwitched: { () throws(DiskError) in true }) { () throws(DiskError) in
            throw Self.failure
        }
        #expect(try files(held).last == first.path)
        let second = try held.makeTop()
        #expect(throws: Self.failure) {
            try held.commitTop(second, isSwitched: { () throws(DiskError) in throw Self.failure }) {
                () throws(DiskError) in throw Self.failure
            }
        }
        #expect(try files(held).last == second.path)
        held.abandonTop(second)
        #expect(try fs.exists(second.path))
        // Who takes the device over finds out.
        try held.adopt(Array(try files(held).dropLast()))
        #expect(try files(held).last == first.path)
        held.release()
        try expectWhole(fs.afterPowerCut(.nothing), "after the switches")
    }

    @Test("a disk whose power was cut before the driver went on in a new top was not closed")
    func cutBeforeSwitch() throws {
        let whole = try newDisk()
        let disk = try Disk.open("/disk", in: whole)
        let bytes = [UInt8](repeating: 7, count: 4096)
        try bytes.withUnsafeBytes { memory throws in try disk.write(at: 0, from: memory) }
        try disk.flush()
        let fs = whole.afterPowerCut(.everything)
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        try held.commitTop(try held.makeTop()) { () throws(DiskError) in }
        held.release()
        let again = try Disk.open("/disk", in: fs)
        #expect(again.repairedOnOpen)
        try again.close()
        let closed = try Disk.open("/disk", in: fs)
        #expect(!closed.repairedOnOpen)
        try closed.close()
        try expectWhole(fs, "the end")
    }

    @Test("a power cut anywhere in a snapshot or a deletion leaves the content", arguments: survivals)
    func cuts(_ survival: Survival) throws {
        let start = try newDisk()
        let body = { (fs: SimulatedFileSystem) throws(DiskError) in
            let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
            let top = try held.makeTop()
            try held.commitTop(top) { () throws(DiskError) in }
            // As after a merge by the driver: nothing is left in the child.
            switch try held.beginDeletion(of: top.guid) {
            case .merge(let pending): _ = try held.finishDeletion(pending)
            case .done: throw DiskError(.invalid, "no merge is needed", path: "")
            }
        }
        let clean = start.duplicate()
        clean.setPlan(nil)
        try body(clean)
        try expectWhole(clean, "the end")
        #expect(try HeldDisk.take("/disk", in: clean, readOnly: true).stack().count == 1)
        for number in 1...clean.changeCount {
            let fs = start.duplicate()
            fs.setPlan(.stop(atChange: number))
            do throws(DiskError) { try body(fs) } catch {}
            try expectWhole(fs.afterPowerCut(survival), "\(survival), call \(number)")
        }
    }

    @Test("a snapshot between a merge of the top and its record costs no file that anybody has")
    func snapshotBeforeTheRecord() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let base = try files(held)[0]
        let first = try held.makeTop()
        try held.commitTop(first) { () throws(DiskError) in }
        let merged = try files(held)[1]
        switch try held.beginDeletion(of: first.guid) {
        case .done: Issue.record("no merge is needed")
        case .merge(let pending):
            // The driver has merged the top into the base; a snapshot comes before that is on record.
            let second = try held.makeTop()
            try held.commitTop(second) { () throws(DiskError) in }
            _ = try held.finishDeletion(pending)
            #expect(try files(held) == [base, second.path])
            #expect(try fs.exists(second.path) && !fs.exists(merged))
            #expect(try held.snapshots().filter { !$0.isTop }.map(\.guid) == [second.guid])
        }
        try held.close()
        try expectWhole(fs.afterPowerCut(.nothing), "the record")
    }

    @Test("who takes a device over makes the descriptor what the driver has") func adopting() throws {
        let fs = try newDisk()
        var held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let base = try files(held)
        // The owner died between the descriptor and the switch: the driver never got the top.
        let top = try held.makeTop()
        try held.commitTop(top) { () throws(DiskError) in }
        held.release()
        held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        try held.adopt(base)
        #expect(try files(held) == base)
        #expect(try !fs.exists(top.path))
        #expect(try held.snapshots().count == 1)
        // It died when the driver had merged a middle level, before the descriptor: the state above stays.
        var states: [HeldDisk.NewTop] = []
        for _ in 0..<3 {
            states.append(try held.makeTop())
            try held.commitTop(states[states.count - 1]) { () throws(DiskError) in }
        }
        switch try held.beginDeletion(of: states[1].guid) {
        case .merge(let pending):
            let (parent, child) = (pending.parent, pending.child)
            #expect(parent == states[0].path && child == states[1].path)
        case .done: Issue.record("no merge is needed")
        }
        held.release()
        held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        try held.adopt(base + [states[0].path, states[2].path])
        #expect(try files(held) == base + [states[0].path, states[2].path])
        #expect(try held.snapshots().map(\.guid).contains(states[1].guid) == false)
        // Files that are not this disk's.
        for foreign in [base + ["/other"], Array((base + [states[0].path, states[2].path]).reversed())] {
            #expect { try held.adopt(foreign) } throws: { ($0 as? DiskError)?.code == .inUse }
        }
        held.release()
        try expectWhole(fs, "after all")
    }

    @Test("there is one owner, and the engine is none beside it") func oneOwner() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        #expect { try Disk.open("/disk", in: fs) } throws: { ($0 as? DiskError)?.code == .inUse }
        #expect { try HeldDisk.take("/disk", in: fs, readOnly: false) } throws: {
            ($0 as? DiskError)?.code == .inUse
        }
        held.release()
        try expectWhole(fs, "after the release")
    }

    @Test("a state that several build on waits, one that none builds on goes at once") func tree() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let first = try held.makeTop()
        try held.commitTop(first) { () throws(DiskError) in }
        let second = try held.makeTop()
        try held.commitTop(second) { () throws(DiskError) in }
        held.release()
        // A branch: the state `first` has two children then.
        try switchSnapshot(of: "/disk", to: first.guid, in: fs)
        let again = try HeldDisk.take("/disk", in: fs, readOnly: false)
        switch try again.beginDeletion(of: first.guid) {
        case .done(let next): #expect(next == nil)
        case .merge: Issue.record("two states need it")
        }
        #expect(try again.snapshots().first { $0.guid == first.guid }?.isTemporary == true)
        if case .merge = try again.beginDeletion(of: second.guid) { Issue.record("a leaf is no merge") }
        #expect { _ = try again.beginDeletion(of: second.guid) } throws: { ($0 as? DiskError)?.code == .notFound }
        again.release()
        try expectWhole(fs, "after the deletion")
    }
}
