import BlockIO
import DiskImage
import Geometry
import ImageFormat
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// Management under power cuts, full disks and failing media, at every call that changes something.
@Suite struct ManagementCrashTests {
    static let survivals: [Survival] = [.nothing, .everything, .prefix(seed: 1), .random(seed: 2), .random(seed: 3)]
    static let cluster = ClusterSize.smallest

    enum Kind: CaseIterable { case plain, version1, preallocated, raw, rawPreallocated }

    private func options(_ kind: Kind) -> CreateOptions {
        var options = CreateOptions(
            byteCount: 8 * Self.cluster.bytes, clusterSize: Self.cluster, version: kind == .version1 ? .v1 : .v2)
        options.isPreallocated = kind == .preallocated || kind == .rawPreallocated
        options.isRaw = kind == .raw || kind == .rawPreallocated
        return options
    }

    /// Runs `body` with the plan for N = 1, 2, ... until it gets through untouched; gives each run's end to `check`.
    private func atEveryCall(
        from state: SimulatedFileSystem, _ plan: (Int) -> FaultPlan,
        _ body: (SimulatedFileSystem) throws(DiskError) -> Void,
        check: (SimulatedFileSystem, _ number: Int, _ failure: DiskError?) throws -> Void
    ) throws {
        let clean = state.duplicate()
        clean.setPlan(nil)
        try body(clean)
        let calls = clean.changeCount
        #expect(calls > 0)
        for number in 1...calls {
            let fs = state.duplicate()
            fs.setPlan(plan(number))
            var failure: DiskError?
            do throws(DiskError) { try body(fs) } catch { failure = error }
            try check(fs, number, failure)
        }
    }

    private func expectWhole(_ path: String, in fs: SimulatedFileSystem, _ comment: String) throws {
        let report = try checkDisk(at: path, in: fs)
        #expect(report.isSound, "\(comment): \(report)")
        let disk = try Disk.open(path, in: fs)
        #expect(disk.byteCount == 8 * Self.cluster.bytes, "\(comment)")
        try disk.close()
    }

    @Test("a cut while a disk is made leaves no disk or a whole one", arguments: Kind.allCases) func create(kind: Kind)
        throws
    {
        var outcomes: Set<Bool> = []
        for survival in Self.survivals {
            try atEveryCall(from: SimulatedFileSystem(), FaultPlan.stop(atChange:)) { (fs) throws(DiskError) in
                try createDisk(at: "/disk", options: options(kind), in: fs)
            } check: { (fs, number, failure) throws in
                let after = fs.afterPowerCut(survival)
                do throws(DiskError) {
                    _ = try diskInfo(at: "/disk", in: after)
                } catch {
                    #expect([.notFound, .notADisk].contains(error.code), "\(survival), call \(number): \(error)")
                    outcomes.insert(false)
                    return
                }
                outcomes.insert(true)
                try expectWhole("/disk", in: after, "\(survival), call \(number)")
            }
        }
        #expect(outcomes.contains(false))
        // When it has returned, the disk is there for good.
        let fs = SimulatedFileSystem()
        try createDisk(at: "/disk", options: options(kind), in: fs)
        try expectWhole("/disk", in: fs.afterPowerCut(.nothing), "after the end")
    }

    @Test("a full disk or a failing medium while a disk is made leaves nothing", arguments: Kind.allCases)
    func createFails(kind: Kind) throws {
        let plans: [(Int) -> FaultPlan] = [
            { .outOfSpace(at: $0) }, { .outOfSpace(at: $0, isLasting: false) },
            {
                FaultPlan(
                    .fail(.ioError), at: $0,
                    of: [.write, .synchronize, .truncate, .reserve, .create, .createFolder, .synchronizeFolder])
            },
            { FaultPlan(.fail(.ioError), at: $0, of: [.rename]) },
        ]
        for (index, plan) in plans.enumerated() {
            try atEveryCall(from: SimulatedFileSystem(), plan) { (fs) throws(DiskError) in
                try createDisk(at: "/disk", options: options(kind), in: fs)
            } check: { (fs, number, failure) throws in
                fs.setPlan(nil)
                if let failure {
                    #expect([.outOfSpace, .io].contains(failure.code) && !failure.message.isEmpty)
                    #expect(try fs.list("/") == [], "plan \(index), call \(number): \(failure)")
                } else {
                    try expectWhole("/disk", in: fs, "plan \(index), call \(number)")
                }
            }
        }
    }

    private func withSource() throws -> (SimulatedFileSystem, [UInt8]) {
        let fs = SimulatedFileSystem()
        var content = [UInt8](repeating: 0, count: 8 * Self.cluster.byteCount)
        let file = try fs.open("/raw", OpenMode(writable: true, creation: .exclusive))
        try file.truncate(to: UInt64(content.count))
        for (start, count, seed) in [(1000, 40_000, UInt64(1)), (150_000, 70_000, 2)] {
            let part = pattern(count, seed: seed)
            content.replaceSubrange(start..<start + count, with: part)
            try file.writeBytes(part, at: UInt64(start))
        }
        try file.synchronize()
        try fs.synchronizeFolder("/")
        return (fs, content)
    }

    private func content(of path: String, in fs: SimulatedFileSystem) throws -> [UInt8] {
        _ = try exportImage(from: path, to: "/content", in: fs)
        defer { try? fs.remove("/content") }
        let file = try fs.open("/content", .read)
        return try file.readBytes(at: 0, count: Int(try file.size()))
    }

    private func importSource(_ fs: SimulatedFileSystem) throws(DiskError) {
        _ = try importImage(from: "/raw", to: "/disk", options: ImportOptions(clusterSize: Self.cluster), in: fs)
    }

    @Test("a cut while an image is imported leaves no disk or the whole content") func importCut() throws {
        let (state, expected) = try withSource()
        for survival in Self.survivals {
            try atEveryCall(from: state, FaultPlan.stop(atChange:)) { (fs) throws(DiskError) in
                try importSource(fs)
            } check: { (fs, number, _) throws in
                let after = fs.afterPowerCut(survival)
                guard (try? diskInfo(at: "/disk", in: after)) != nil else { return }
                try expectWhole("/disk", in: after, "\(survival), call \(number)")
                #expect(try content(of: "/disk", in: after) == expected, "\(survival), call \(number)")
            }
        }
    }

    @Test("a full disk while an image is imported or exported leaves nothing new") func transferFails() throws {
        let (state, expected) = try withSource()
        for isLasting in [true, false] {
            try atEveryCall(from: state, { .outOfSpace(at: $0, isLasting: isLasting) }) { (fs) throws(DiskError) in
                try importSource(fs)
            } check: { (fs, number, failure) throws in
                fs.setPlan(nil)
                if let failure {
                    #expect(failure.code == .outOfSpace)
                    #expect(try fs.list("/") == ["raw"], "call \(number)")
                } else {
                    #expect(try content(of: "/disk", in: fs) == expected)
                }
            }
            let imported = state.duplicate()
            try importSource(imported)
            try atEveryCall(from: imported, { .outOfSpace(at: $0, isLasting: isLasting) }) { (fs) throws(DiskError) in
                _ = try exportImage(from: "/disk", to: "/out", in: fs)
            } check: { (fs, number, failure) throws in
                fs.setPlan(nil)
                #expect(try fs.exists("/out") == (failure == nil), "call \(number)")
            }
        }
    }

    /// A disk with one snapshot, `base`, and other content in the top.
    private func withSnapshot() throws -> (SimulatedFileSystem, guid: String, old: [UInt8], new: [UInt8]) {
        let (fs, old) = try withSource()
        try importSource(fs)
        let disk = try Disk.open("/disk", in: fs)
        let prepared = try disk.prepareSnapshot()
        let guid = try disk.commitSnapshot(prepared).guid
        let change = pattern(50_000, seed: 9)
        try change.withUnsafeBytes { try disk.write(at: 4096, from: UnsafeRawBufferPointer(rebasing: $0[..<49_152])) }
        try disk.close()
        var new = old
        new.replaceSubrange(4096..<4096 + 49_152, with: change[..<49_152])
        #expect(try content(of: "/disk", in: fs) == new)
        return (fs, guid, old, new)
    }

    @Test("a cut while switching to a snapshot leaves the disk at one or the other") func switchCut() throws {
        let (state, guid, old, new) = try withSnapshot()
        for survival in Self.survivals {
            try atEveryCall(from: state, FaultPlan.stop(atChange:)) { (fs) throws(DiskError) in
                try switchSnapshot(of: "/disk", to: guid, in: fs)
            } check: { (fs, number, failure) throws in
                let after = fs.afterPowerCut(survival)
                try expectWhole("/disk", in: after, "\(survival), call \(number)")
                let found = try content(of: "/disk", in: after)
                #expect(found == old || (found == new && failure != nil), "\(survival), call \(number)")
            }
        }
    }

    @Test("a failed switch leaves the disk as it was") func switchFails() throws {
        let (state, guid, old, new) = try withSnapshot()
        try atEveryCall(from: state, { .outOfSpace(at: $0) }) { (fs) throws(DiskError) in
            try switchSnapshot(of: "/disk", to: guid, in: fs)
        } check: { (fs, number, failure) throws in
            fs.setPlan(nil)
            try expectWhole("/disk", in: fs, "call \(number)")
            #expect(try content(of: "/disk", in: fs) == (failure == nil ? old : new), "call \(number)")
            let found = try checkDisk(at: "/disk", in: fs)
            #expect(found.findings.isEmpty || failure != nil)
        }
    }

    @Test("a cut while an image is repaired loses nothing, and the next repair ends it") func repairCut() throws {
        let (state, old) = try withSource()
        try importSource(state)
        // Clusters 0, 1, 4, 5 and 6 have data. Shared: 2 and 7; nowhere: 3; behind the device: slot 9; a tail.
        var expected = old
        let size = Self.cluster.byteCount
        let file = try state.open("/disk/root.hds", .update)
        let table = try file.readBytes(at: 64, count: 32)
        for (slot, source) in [(2, 0), (7, 1)] {
            try file.writeBytes(Array(table[source * 4..<source * 4 + 4]), at: UInt64(64 + 4 * slot))
            expected.replaceSubrange(slot * size..<(slot + 1) * size, with: old[source * size..<(source + 1) * size])
        }
        try file.writeBytes(littleEndian(4711), at: 64 + 12)
        try file.writeBytes(littleEndian(1), at: 64 + 36)
        try file.writeBytes([1, 2, 3], at: try file.size() + 100)
        try file.synchronize()
        let found = try checkDisk(at: "/disk", in: state)
        #expect(
            found.images[0].counts == ["duplicate": 2, "beyondFile": 1, "slotBeyondDevice": 1, "tail": 1], "\(found)")
        for survival in Self.survivals {
            try atEveryCall(from: state, FaultPlan.stop(atChange:)) { (fs) throws(DiskError) in
                _ = try checkDisk(at: "/disk", repair: true, in: fs)
            } check: { (fs, number, _) throws in
                let after = fs.afterPowerCut(survival)
                let repaired = try checkDisk(at: "/disk", repair: true, in: after)
                #expect(repaired.isSound, "\(survival), call \(number): \(repaired)")
                #expect(try content(of: "/disk", in: after) == expected, "\(survival), call \(number)")
            }
        }
        try atEveryCall(from: state, { .outOfSpace(at: $0) }) { (fs) throws(DiskError) in
            _ = try checkDisk(at: "/disk", repair: true, in: fs)
        } check: { (fs, number, failure) throws in
            fs.setPlan(nil)
            #expect(failure == nil || failure?.code == .outOfSpace)
            #expect(try checkDisk(at: "/disk", repair: true, in: fs).isSound)
            #expect(try content(of: "/disk", in: fs) == expected, "call \(number)")
        }
    }
}
