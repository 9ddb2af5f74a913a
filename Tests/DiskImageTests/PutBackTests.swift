import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// A descriptor of other files is put in the place of the one that is served: whatever comes after, nothing that was
/// flushed is removed or written over.
@Suite struct PutBackTests: ServedDiskSuite {
    enum End: CaseIterable { case cut, kill, failedFlush, fullHost }

    private func newDisk(base: String) throws -> SimulatedFileSystem {
        let fs = try newDisk()
        let text = String(decoding: try fs.contents(of: Self.descriptor, limit: 1 << 20), as: UTF8.self)
        try fs.rename("/disk/root.hds", to: "/disk/" + base)
        try fs.replaceContents(of: Self.descriptor, with: [UInt8](text.replacing("root.hds", with: base).utf8))
        return fs
    }

    private func listed(_ fs: SimulatedFileSystem) throws -> [String] {
        guard try fs.exists("/disk/godwit.leftovers") else { return [] }
        let text = String(decoding: try fs.contents(of: "/disk/godwit.leftovers", limit: 1 << 20), as: UTF8.self)
        return text.split(separator: "\n").map(String.init)
    }

    /// Puts the descriptor back in place that was served, and looks whether what was flushed is there.
    private func expectServed(_ fs: SimulatedFileSystem, _ right: [UInt8], _ byte: UInt8, _ comment: String) throws {
        try fs.replaceContents(of: Self.descriptor, with: right)
        let disk = try open(fs)
        #expect(try disk.bytes(at: 0, count: 1) == [byte], "\(comment)")
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound, "\(comment)")
    }

    @Test("the top is nobody's leftover, however its owner ends", arguments: End.allCases)
    func owner(end: End) throws {
        var fs = try newDisk()
        let old = try contents(fs)
        var disk: Disk? = try open(fs)
        if end == .fullHost { try disk?.grow(to: 80 * Self.cluster.bytes) }
        _ = try disk.map { try $0.commitSnapshot(try $0.prepareSnapshot()) }
        try disk.map { try write($0, 7) }
        let right = try contents(fs)
        try fs.replaceContents(of: Self.descriptor, with: old)
        switch end {
        case .cut: fs = fs.afterPowerCut(.nothing)
        case .kill: disk = nil
        case .failedFlush:
            try [1].withUnsafeBytes { try disk?.write(at: 1 << 20, from: $0) }
            fs.setPlan(.ioError(at: 1, of: [.synchronize]))
            #expect(code { try disk?.close() } == .io)
            fs.setPlan(nil)
            #expect(try fs.contents(of: Self.served, limit: 1 << 20).starts(with: right))
            try fs.remove(Self.served)
        case .fullHost:
            disk?.maintenance.change { $0.isSizeUnrecorded = true }
            fs.setPlan(.outOfSpace(at: 1))
            #expect(code { try disk?.close() } != nil)
            fs.setPlan(nil)
        }
        disk = nil
        // Who takes the old one for the disk: nobody writes to it who can know better.
        if try fs.exists(Self.served), try fs.contents(of: Self.served, limit: 1 << 20) == right {
            #expect(code { try open(fs).close() } == .corrupt)
        } else {
            #expect(end == .cut || end == .failedFlush)
            try open(fs).close()
        }
        try expectServed(fs, right, 7, "\(end)")
    }

    /// Its owner was killed, so that nobody could store what it had served; the next one asks what it left.
    @Test("an old descriptor that is there after a kill is not written by, whatever changed in between")
    func killed() throws {
        let fs = try newDisk()
        var disk: Disk? = try open(fs)
        var old = [try contents(fs)]
        for round in 0..<3 {
            try disk.map { disk in
                let state = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
                try write(disk, UInt8(round + 1))
                old.append(try contents(fs))
                if round == 1 { try disk.deleteSnapshot(state) }
                // Its marks, too.
                #expect(try fs.contents(of: Self.served, limit: 1 << 20) == contents(fs), "\(round)")
            }
        }
        let right = try contents(fs)
        disk = nil
        for (number, bytes) in old.enumerated() where bytes != right {
            let copy = fs.duplicate()
            try copy.replaceContents(of: Self.descriptor, with: bytes)
            // One of an image that is gone is not found.
            let refusal = code { try open(copy).close() }
            #expect(refusal == .corrupt || number == 2 && refusal == .notFound, "\(number)")
            try expectServed(copy, right, 3, "\(number)")
        }
        // The right one is, at once and after changes.
        for _ in 0..<2 {
            let again = try open(fs)
            try write(again, 9, at: 1 << 20)
            try again.deleteSnapshot(try #require(try again.snapshots().first).guid)
        }
        let last = try open(fs)
        #expect(try last.bytes(at: 0, count: 1) == [3])
        try last.close()
        #expect(try !fs.exists(Self.served))
    }

    /// By ploop's own tools, of which no owner of ours has heard.
    @Test("a snapshot that was taken after a kill is no old descriptor") func foreignSnapshot() throws {
        let fs = try newDisk()
        var disk: Disk? = try open(fs)
        try disk.map { try write($0, 7) }
        let served = try fs.contents(of: Self.served, limit: 1 << 20)
        _ = try disk.map { try $0.commitSnapshot(try $0.prepareSnapshot()) }
        disk = nil
        try fs.replaceContents(of: Self.served, with: served)
        let again = try open(fs)
        #expect(try again.bytes(at: 0, count: 1) == [7])
        try again.close()
    }

    @Test("a power cut at any call of a change leaves no false alarm", arguments: 0..<6 as Range<UInt64>)
    func noFalseAlarm(seed: UInt64) throws {
        var number = 1
        var isStopped = true
        while isStopped {
            let fs = try newDisk()
            var disk: Disk? = try open(fs)
            try disk.map { try write($0, 1) }
            fs.setPlan(.stop(atChange: number))
            disk.map { try? maintain($0) }
            isStopped = fs.isStopped
            disk = nil
            for survival in [Survival.nothing, .everything, .prefix(seed: seed), .random(seed: seed)] {
                let again = try open(fs.afterPowerCut(survival))
                #expect(try again.bytes(at: 0, count: 1) != [0], "call \(number)")
                try again.close()
            }
            number += 1
        }
        #expect(number > 50)
    }

    @Test("the driver's top is nobody's leftover, either", arguments: [true, false])
    func heldOwner(isKnown: Bool) throws {
        let fs = try newDisk()
        let old = try contents(fs)
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let top = try held.makeTop()
        let failure = DiskError(.busy, "the driver says nothing", path: "")
        do throws(DiskError) {
            try held.commitTop(top, isSwitched: { () throws(DiskError) in throw failure }) { () throws(DiskError) in
                if !isKnown { throw failure }
            }
        } catch {
            #expect(!isKnown)
        }
        let right = try contents(fs)
        try fs.replaceContents(of: Self.descriptor, with: old)
        held.release()
        #expect(code { try open(fs).close() } == .corrupt)
        #expect(try fs.exists(top.path))
        try expectServed(fs, right, 0, "\(isKnown)")
    }

    @Test("what the driver has open is off the list once its owner's successor has looked")
    func adopted() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let top = try held.makeTop()
        try held.commitTop(top) { () throws(DiskError) in }
        let files = try held.stack().map(\.path)
        held.release()
        // Its owner died right after the switch.
        let name = String(top.path.dropFirst("/disk/".count))
        try fs.replaceContents(of: "/disk/godwit.leftovers", with: [UInt8]((name + "\n").utf8))
        let next = try HeldDisk.take("/disk", in: fs, readOnly: false)
        try next.adopt(files)
        #expect(try listed(fs) == [])
        next.release()
    }

    @Test("a new disk in the folder of one whose descriptor was moved away removes nothing of that")
    func created() throws {
        let fs = try newDisk(base: "base.hds")
        var disk: Disk? = try open(fs)
        _ = try disk.map { try $0.commitSnapshot(try $0.prepareSnapshot()) }
        try disk.map { try write($0, 7) }
        disk = nil
        let right = try contents(fs)
        try fs.rename(Self.descriptor, to: "/descriptor")
        let options = CreateOptions(byteCount: 64 * Self.cluster.bytes, clusterSize: Self.cluster)
        // What was served tells that there is a disk.
        #expect(code { try createDisk(at: "/disk", options: options, in: fs) } == .exists)
        try fs.remove(Self.served)
        try createDisk(at: "/disk", options: options, in: fs)
        try expectServed(fs, right, 7, "created")
    }

    private func snapshot(_ disk: Disk) throws -> String {
        let prepared = try disk.prepareSnapshot()
        do { return try disk.commitSnapshot(prepared).guid } catch {
            disk.abandonSnapshot(prepared)
            throw error
        }
    }

    /// Snapshots, a merge into the middle, and one of the top.
    private func maintain(_ disk: Disk) throws {
        let first = try snapshot(disk)
        try write(disk, 2)
        let second = try snapshot(disk)
        try write(disk, 3, at: 4096)
        try disk.deleteSnapshot(first)
        disk.abandonSnapshot(try disk.prepareSnapshot())
        try disk.deleteSnapshot(second)
    }

    @Test("after whatever failed nothing of the chain is on the list once that can be stored")
    func listAfterFailures() throws {
        var number = 1
        while true {
            let fs = try newDisk()
            let disk = try open(fs)
            try write(disk, 1)
            let before = fs.changeCount
            fs.setPlan(FaultPlan(.fail(.noSpace), at: number))
            _ = code { try maintain(disk) }
            fs.setPlan(nil)
            let isOver = fs.changeCount - before < number
            if disk.gate.failure == nil {
                disk.abandonSnapshot(try disk.prepareSnapshot())
                let names = try listed(fs)
                for delta in disk.gate.chain.deltas {
                    #expect(!names.map { "/disk/" + $0 }.hasSame(as: delta.path), "\(number)")
                }
            }
            try? disk.close()
            try open(fs).close()
            #expect(try checkDisk(at: "/disk", in: fs).findings.isEmpty, "\(number)")
            #expect(try listed(fs) == [], "\(number)")
            if isOver { break }
            number += 1
        }
        #expect(number > 30)
    }

    @Test(
        "a power cut anywhere in snapshots and merges leaves no file behind",
        arguments: [Survival.nothing, .everything, .prefix(seed: 1), .random(seed: 2), .random(seed: 3)])
    func noGarbage(survival: Survival) throws {
        var number = 1
        while true {
            let fs = try newDisk()
            var disk: Disk? = try open(fs)
            try disk.map { try write($0, 1) }
            fs.setPlan(.stop(atChange: number))
            _ = code { try disk.map { try maintain($0) } }
            disk = nil
            guard fs.isStopped else { break }
            let after = fs.afterPowerCut(survival)
            try open(after).close()
            #expect(try checkDisk(at: "/disk", in: after).findings.isEmpty, "\(survival), call \(number)")
            #expect(try listed(after) == [], "\(survival), call \(number)")
            number += 1
        }
        #expect(number > 30)
    }

    @Test("what goes stays on the list while another change puts a file there") func goesBeside() throws {
        let fs = try newDisk()
        let disk = try open(fs)
        _ = try snapshot(disk)
        let folder = try #require(disk.folder)
        let top = try #require(try folder.load().images.last?.file)
        try folder.lettingGo(of: top) { () throws(DiskError) in
            let prepared = try disk.prepareSnapshot()
            #expect((try? listed(fs)) == [top, prepared.file])
            disk.abandonSnapshot(prepared)
        }
        #expect(try listed(fs) == [top])
        // It did not go, so the next change takes it off.
        let prepared = try disk.prepareSnapshot()
        #expect(try listed(fs) == [prepared.file])
        disk.abandonSnapshot(prepared)
        try disk.close()
    }

    @Test("a merge of the top that is stopped leaves it off the list") func stoppedMerge() throws {
        let fs = try newDisk()
        let disk = try open(fs)
        let first = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        for index in UInt64(0)..<8 { try write(disk, 2, at: index * Self.cluster.bytes) }
        var looks = 0
        _ = try disk.deleteSnapshot(first) { _, _ in
            looks += 1
            return looks < 2
        }
        #expect(looks > 0)
        let names = try listed(fs)
        #expect(!names.contains { name in disk.gate.chain.deltas.contains { $0.path.isSame(as: "/disk/" + name) } })
        try disk.close()
    }

    // MARK: the descriptor that was served

    /// A disk whose descriptor was put back to an old one while it was in use. - Returns: both, the right one last.
    private func detached(_ fs: SimulatedFileSystem) throws -> (old: [UInt8], right: [UInt8], guid: String) {
        let old = try contents(fs)
        let disk = try open(fs)
        let guid = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        try write(disk, 7)
        let right = try contents(fs)
        try fs.replaceContents(of: Self.descriptor, with: old)
        let error = #expect(throws: DiskError.self) { try disk.close() }
        #expect(error?.code == .corrupt && error?.message.contains(".served") == true)
        return (old, right, guid)
    }

    @Test("while another chain was served last the disk is opened for reading only, and a check tells")
    func refused() throws {
        let fs = try newDisk()
        let (_, right, guid) = try detached(fs)
        for _ in 0..<2 {
            #expect(code { _ = try open(fs) } == .corrupt)
            #expect(code { try switchSnapshot(of: "/disk", to: guid, in: fs) } == .corrupt)
            #expect(code { _ = try checkDisk(at: "/disk", repair: true, in: fs) } == .corrupt)
            #expect(code { _ = try Disk.open("/disk/root.hds", in: fs) } == .corrupt)
            let report = try checkDisk(at: "/disk", in: fs)
            #expect(report.findings.contains { $0.kind == .mismatch && $0.message.contains(".served") })
            #expect(!report.isSound)
        }
        try Disk.open("/disk", in: fs, options: .readOnly).close()
        // Put back.
        try fs.rename(Self.served, to: Self.descriptor)
        try expectServed(fs, right, 7, "put back")
        #expect(try !fs.exists(Self.served))
    }

    @Test("who removes what was served last goes on with the old one, and one of the same chain is in nobody's way")
    func settled() throws {
        let fs = try newDisk()
        let (old, right, _) = try detached(fs)
        let served = try fs.contents(of: Self.served, limit: 1 << 20)
        #expect(served.starts(with: right))
        try fs.remove(Self.served)
        try open(fs).close()
        // A copy of it.
        try fs.replaceContents(of: Self.served, with: old)
        try open(fs).close()
        #expect(try !fs.exists(Self.served))
        // What a power cut has left of one.
        for bytes in [[], [60], [UInt8](repeating: 0, count: 4096)] as [[UInt8]] {
            try fs.replaceContents(of: Self.served, with: bytes)
            try open(fs).close()
            #expect(try !fs.exists(Self.served))
        }
    }

    @Test("a folder that has only what was served last is taken") func taken() throws {
        let fs = try newDisk(base: "base.hds")
        _ = try detached(fs)
        try fs.remove(Self.descriptor)
        #expect(code { try createDisk(at: "/disk", options: CreateOptions(byteCount: 1 << 20), in: fs) } == .exists)
        // Nor is any of its images by itself; and the folder says where the descriptor is.
        #expect(code { _ = try Disk.open("/disk/base.hds", in: fs) } == .corrupt)
        let error = #expect(throws: DiskError.self) { _ = try open(fs) }
        #expect(error?.code == .notADisk && error?.message.contains("DiskDescriptor.xml.served") == true)
    }

    enum Replacement: CaseIterable { case old, none, garbage, outside }

    @Test(
        "whatever is in the descriptor's place, the right one is kept, also without the lock",
        arguments: Replacement.allCases, [true, false])
    func left(replacement: Replacement, removesLock: Bool) throws {
        let fs = try newDisk()
        let old = try contents(fs)
        let disk = try open(fs)
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try write(disk, 7)
        let right = try contents(fs)
        let outside = String(decoding: right, as: UTF8.self).replacing(">root.hds<", with: ">../root.hds<")
        if removesLock { try fs.remove("/disk/godwit.lock") }
        switch replacement {
        case .old: try fs.replaceContents(of: Self.descriptor, with: old)
        case .none: try fs.remove(Self.descriptor)
        case .garbage: try fs.replaceContents(of: Self.descriptor, with: [60])
        case .outside: try fs.replaceContents(of: Self.descriptor, with: [UInt8](outside.utf8))
        }
        #expect(code { try disk.close() } == .corrupt)
        #expect(try fs.contents(of: Self.served, limit: 1 << 20).starts(with: right))
        try fs.rename(Self.served, to: Self.descriptor)
        try expectServed(fs, right, 7, "\(replacement)")
    }

    // MARK: what another tool changed

    /// As ploop's tools take a snapshot of a device: a file, the descriptor, the device's stack.
    private func snapshotByOther(_ fs: SimulatedFileSystem) throws -> [String] {
        let folder = DiskFolder(resolvedPath: "/disk", fs: fs)
        let name = try #require(GUID(typed: "{22222222-1111-1111-1111-111111111111}"))
        let file = "root.hds.{33333333-1111-1111-1111-111111111111}"
        let header = try DeltaFile.readHeader(of: try fs.open("/disk/root.hds", .read), path: "")
        let image = try fs.open("/disk/" + file, OpenMode(writable: true, creation: .exclusive))
        try NewImage.writeEmpty(header, to: image)
        try image.synchronize()
        try folder.updateDescriptor { descriptor throws(ImageError) in
            try descriptor.addSnapshot(name, newTopFile: file)
        }
        return ["/disk/root.hds", "/disk/" + file]
    }

    @Test("a snapshot that another tool took on the driver is what was served, also once the device is gone")
    func otherTool() throws {
        let fs = try newDisk()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let stack = Mutex<[String]>(["/disk/root.hds"])
        held.confirmBy { files in stack.withLock { $0.isSame(as: files) } }
        let files = try snapshotByOther(fs)
        stack.withLock { $0 = files }
        let right = try contents(fs)
        held.deviceWillGo()
        stack.withLock { $0 = [] }
        try held.close()
        #expect(try !fs.exists(Self.served) && contents(fs) == right)
    }

    @Test("a new top that can't be looked at becomes no part of the disk, and nothing else is in doubt")
    func unseen() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 4 << 20), in: fs)
        let disk = try Disk.open(path, in: fs)
        let before = try readFile(path + "/DiskDescriptor.xml")
        for isLoop in [true, false] {
            let prepared = try disk.prepareSnapshot()
            let top = prepared.delta.delta.path
            try fs.remove(top)
            if isLoop { try expectTool("ln", "-s", top, top) }
            #expect(code { _ = try disk.commitSnapshot(prepared) } != nil)
            #expect(try readFile(path + "/DiskDescriptor.xml") == before)
            disk.abandonSnapshot(prepared)
            if isLoop { try? fs.remove(top) }
        }
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try write(disk, 7)
        try disk.close()
        #expect(try !fs.exists(path + "/DiskDescriptor.xml.served"))
        let again = try Disk.open(path, in: fs)
        #expect(try again.bytes(at: 0, count: 1) == [7])
        try again.close()
    }
}
